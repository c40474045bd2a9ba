"""`make bench-datapath`: interleaved rounds, one core for the proxy, the other for everything else.

Exit status: 0 every target holds, 1 one does not, 2 something did not work, 3 the machine was too loaded to judge.
"""

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.datapath import figures, machine, subjects, tools, workloads
from benchmarks.datapath.subjects import Around, Ours, Subject
from benchmarks.datapath.workloads import Workload
from image import compile as compiling
from llmwarden import names
from llmwarden.serving import pki

_ROOT: Final = Path(__file__).resolve().parents[2]
_ROUNDS: Final = 7
_STARTS: Final = 5
_MOST_DISTURBED: Final = 0.08  # of the proxy's core, taken by others in the median measurement
_SETTLE_SECONDS: Final = 1.5  # for a configuration to arrive, and start-up's work to end
# The same code twice: how far two equal proxies differ in the same run.
_BASELINES: Final = ("baseline", "baseline-again")
_PLAIN: Final = ("direct", "ours", *_BASELINES, "ours-off", "go", "envoy", "litellm")
_TLS: Final = ("ours-tls", "go-tls")


def say(sentence: str) -> None:
    """Print a line at once."""
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


class Driver:
    """The load generator and mock upstream, a process on its core."""

    def __init__(self, core: int) -> None:
        environment = {**os.environ, "GOMAXPROCS": "1", "GODEBUG": "asyncpreemptoff=1"}
        self._process = subprocess.Popen(
            ["taskset", "-c", str(core), str(tools.go_program("drive"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.address: str = self._read()["address"]

    def measure(self, order: dict[str, Any]) -> figures.Outcome:
        """Run one order."""
        if self._process.stdin is None:
            message = "the load generator has no input"
            raise RuntimeError(message)
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            message = "the load generator died"
            raise RuntimeError(message)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def _child(core: int, command: list[str], cwd: Path) -> Iterator[dict[str, Any]]:
    """A process on the driver's core that says in its first line, as JSON, where it listens."""
    process = subprocess.Popen(["taskset", "-c", str(core), *command], stdout=subprocess.PIPE, text=True, cwd=cwd)
    try:
        yield json.loads(process.stdout.readline() if process.stdout is not None else "{}")
    finally:
        process.kill()
        process.wait()


def _certificates(directory: Path) -> tuple[Path, Path]:
    """A CA's certificate, and the mock's certificate with its key, as files."""
    now = dt.datetime.now(dt.UTC)
    authority = pki.make_ca(now)
    leaf = pki.make_leaf(authority, ["localhost"], now)
    ca, pair = directory / "ca.pem", directory / "mock.pem"
    ca.write_text(authority.certificate, encoding="ascii")
    pair.write_text(leaf.certificate + leaf.key, encoding="ascii")
    return ca, pair


def _code(sources: Path, *, interpreted: bool) -> Path:
    return sources if interpreted else compiling.compiled(sources)


class Bench:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self._options = options
        self._stack = stack
        # As it ships; compiled before this process leaves one of the cores.
        self._source = _code(_ROOT / "operator", interpreted=options.interpreted == "all")
        self._baseline = _code(options.baseline or _ROOT / "operator", interpreted=bool(options.interpreted))
        self._driver_core, self._core = options.cores
        self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmwarden-bench-")))
        self._running: dict[str, Subject] = {}
        self._seed = 0
        self.figures = figures.Figures()
        os.sched_setaffinity(0, {self._driver_core})  # not on the proxy's core, whatever we do meanwhile
        self._driver = Driver(self._driver_core)
        stack.callback(self._driver.stop)

    def run(self) -> None:
        """Start what is compared, measure in rounds, note what it cost."""
        wanted = [
            name
            for name in (*_PLAIN, *_TLS)
            if name in (self._options.only or (*_PLAIN, *_TLS)) and (name not in _BASELINES or self._options.baseline)
        ]
        plain, over_tls = self._around()
        makers: dict[str, Callable[[], Subject]] = {
            "ours": lambda: Ours("ours", self._core, self._directory, plain, self._source),
            "ours-off": lambda: Ours("ours-off", self._core, self._directory, plain, self._source, measuring=False),
            "go": lambda: subjects.go("go", self._core, self._directory, plain),
            "envoy": lambda: subjects.envoy("envoy", self._core, self._directory, plain),
            "litellm": lambda: subjects.litellm("litellm", self._core, self._directory, plain),
            "ours-tls": lambda: Ours("ours-tls", self._core, self._directory, over_tls, self._source),
            "baseline": lambda: Ours("baseline", self._core, self._directory, plain, self._baseline),
            "baseline-again": lambda: Ours("baseline-again", self._core, self._directory, plain, self._baseline),
            "go-tls": lambda: subjects.go("go-tls", self._core, self._directory, over_tls),
        }
        if "ours" in wanted:
            for _ in range(_STARTS - 1):
                trial = makers["ours"]()
                self.figures.starts.setdefault("ours", []).append(trial.started)
                trial.stop()
        for name in wanted:
            if name == "direct":
                continue
            say(f"starting {name}")
            subject = self._running[name] = makers[name]()
            self._stack.callback(subject.stop)
            if isinstance(subject, Ours):
                self.figures.starts.setdefault(name, []).append(subject.started)
            time.sleep(_SETTLE_SECONDS)
            self.figures.idle[name] = subject.memory()
            subject.pause()
        for number in range(1, self._options.rounds + 1):
            begun = time.monotonic()
            for name in wanted:
                self._measure(name, first=number == 1)
            say(f"round {number} of {self._options.rounds}: {time.monotonic() - begun:.0f} s")
        self._check_telemetry()

    def _around(self) -> tuple[Around, Around]:
        surroundings = [sys.executable, "-m", "benchmarks.datapath.surroundings", str(self._directory)]
        found = self._stack.enter_context(_child(self._driver_core, surroundings, _ROOT))
        ca, pair = _certificates(self._directory)
        secure = self._stack.enter_context(
            _child(self._driver_core, [str(tools.go_program("drive")), "-certificate", str(pair)], _ROOT)
        )
        token = self._directory / "token"
        token.write_text(found["token"], encoding="ascii")
        self._collector = found["collector"]

        def around(upstream: str) -> Around:
            return Around(upstream, ca, found["ledger"], found["ca"], token, found["collector"])

        port = secure["address"].rpartition(":")[2]
        return around(f"http://{self._driver.address}"), around(f"https://localhost:{port}")

    def _loads(self, name: str) -> tuple[Workload, ...]:
        loads: tuple[Workload, ...] = workloads.OVER_TLS if name in _TLS else workloads.ALL
        if name == "litellm":
            loads = (workloads.SLOW,)
        chosen = self._options.workloads
        return tuple(load for load in loads if not chosen or load.name in chosen)

    def _measure(self, name: str, *, first: bool) -> None:
        subject = self._running.get(name)
        pids = []
        target = self._driver.address
        if subject is not None:
            subject.resume()
            pids, target = [subject.pid], subject.address
        exact = name != "litellm"
        for load in self._loads(name):
            self._seed += 1
            if first:  # connections, caches and the adaptive interpreter are warm before anything counts
                self._driver.measure(load.order(target, [], seed=self._seed, exact=exact) | {"seconds": 0.4})
            watch = machine.Watch(self._core)
            before = _clock(pids)
            outcome = self._driver.measure(load.order(target, pids, seed=self._seed, exact=exact))
            outcome["disturbed"] = watch.others(_clock(pids) - before)
            self.figures.add(name, load.name, outcome)
            if outcome["errors"]:
                say(f"{name}, {load.name}: {outcome['errors']} errors, the first: {outcome['first_error']}")
        if subject is not None:
            self.figures.loaded[name] = max(self.figures.loaded.get(name, 0.0), subject.memory())
            subject.pause()

    def _check_telemetry(self) -> None:
        """What was measured as "everything on" must have been on: a span for every call, and its cost."""
        measuring = [item for name, item in self._running.items() if isinstance(item, Ours) and name != "ours-off"]
        for item in measuring:
            item.resume()
        if not measuring:
            return
        time.sleep(_SETTLE_SECONDS)
        calls, dropped, cost = (
            sum(item.metric(metric) for item in measuring)
            for metric in (names.METRIC_REQUESTS, names.METRIC_SPANS_DROPPED, names.METRIC_COST)
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{self._collector}/", timeout=10) as answer:
            received = json.loads(answer.read())
        say(
            f"{calls:,.0f} calls were measured, ${cost:,.2f} charged; "
            f"the collector decoded {received['spans']:,} spans, {dropped:,.0f} were dropped"
        )
        if not cost or received["bad"] or received["spans"] + dropped < calls:
            message = "not everything was on: calls, spans and costs do not agree"
            raise RuntimeError(message)


def _clock(pids: list[int]) -> float:
    """CPU seconds of processes: the kernel's per-process CPU clock (clock_getcpuclockid(3))."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def _report(bench: Bench, options: argparse.Namespace, obstacles: list[str]) -> int:
    found = bench.figures
    present = [name for name in (*_PLAIN, *_TLS) if any(key[0] == name for key in found.outcomes)]
    say("")
    for line in figures.table(found, present):
        say(line)
    say("")
    for name, starts in found.starts.items():
        say(f"start to ready, {name}: {' '.join(f'{item:.2f}' for item in sorted(starts))} s")
    judgements = figures.judge(found)
    disturbed = found.disturbed()
    if disturbed > _MOST_DISTURBED:
        obstacles.append(f"others took {disturbed:.0%} of the proxy's core during the median measurement")
    width = max((len(item.what) for item in judgements), default=0)
    for item in judgements:
        sign = "≥" if item.least else "≤"
        mark = "?" if obstacles else ("holds" if item.holds else "MISSED")
        say(f"{item.what.ljust(width)}  {item.value:8.4f} {sign} {item.bound:<6.4g} {mark}")
    _write(options, bench, judgements, obstacles)
    if found.errors():
        say(f"{found.errors()} answers were wrong")
        return 2
    if obstacles:
        say("not judged, the machine is loaded: " + "; ".join(obstacles))
        return 3
    return 0 if all(item.holds for item in judgements) else 1


def _write(
    options: argparse.Namespace, bench: Bench, judgements: list[figures.Judgement], obstacles: list[str]
) -> None:
    found = bench.figures
    document = {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": {"processor": _processor(), "kernel": platform.release(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "interpreted": options.interpreted,
        "obstacles": obstacles,
        "judgements": [asdict(item) | {"holds": item.holds} for item in judgements],
        "memory_mib": {name: {"idle": found.idle[name], "loaded": found.loaded.get(name)} for name in found.idle},
        "starts_seconds": found.starts,
        "outcomes": {f"{subject}/{workload}": items for (subject, workload), items in found.outcomes.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1), encoding="utf-8")
    say(f"written: {options.output}")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> int:
    """Parse, look at the machine, run, report."""
    parser = argparse.ArgumentParser(prog="benchmarks.datapath", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help=f"interleaved rounds (default {_ROUNDS})")
    parser.add_argument("--only", nargs="+", choices=(*_PLAIN, *_TLS), help="these proxies only")
    parser.add_argument("--workloads", nargs="+", choices=[item.name for item in workloads.ALL], help="these only")
    parser.add_argument("--baseline", type=Path, help="another checkout's operator folder, as two more proxies")
    parser.add_argument(
        "--interpreted",
        nargs="?",
        const="all",
        choices=("all", "baseline"),
        help="as written, not compiled as it ships",
    )
    parser.add_argument("--anyway", action="store_true", help="measure on a loaded machine too; nothing is judged then")
    parser.add_argument("--cores", nargs=2, type=int, default=(0, 1), metavar=("DRIVER", "PROXY"), help="default: 0 1")
    parser.add_argument("--output", type=Path, default=_ROOT / "build" / "bench" / "datapath.json")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:  # noqa: PLR2004 - one for the proxy, one for the rest
        say("not judged: two cores are needed")
        return 3
    tools.go_program("drive")
    obstacles = machine.obstacles(tuple(options.cores))
    if obstacles:
        say("the machine is loaded: " + "; ".join(obstacles))
        if not options.anyway:
            say("nothing was measured; --anyway measures, for what it is worth")
            return 3
    with ExitStack() as stack:
        bench = Bench(options, stack)
        try:
            bench.run()
        except RuntimeError as error:
            say(str(error))
            return 2
        return _report(bench, options, obstacles)


if __name__ == "__main__":
    raise SystemExit(main())
