"""The one test command: `python -m tests.run [TIER ...] [--update]`.

Runs the tiers in order, cheapest first, while what the dear ones need (the cluster's binaries, the image) is built
beside them at low priority. Every tier has a quota of seconds; going over it is a failure. A tier that cannot run here
is skipped with its reason; under `CI=true` that is a failure. Standard library only: it must start before anything else works.

Logs and JUnit files: `build/test-logs/`. Exit status 0 only if something ran, nothing failed and no quota was exceeded.
The last line is `N passed, N failed, N skipped`.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "test-logs"
PYTHON = sys.executable
HEARTBEAT_SECONDS = 30.0
TOTAL_QUOTA = 35 * 60.0  # the whole command, everything cold, two cores
GRACE_SECONDS = 90.0  # for fixtures to take a cluster down after an interrupt
TERMINATE_SECONDS = 10.0
LOW_PRIORITY = 10


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a tier. A command counts as one test; pytest's own tests are counted from its JUnit file."""

    name: str
    argv: tuple[str, ...]
    pytest: bool = False


@dataclass(frozen=True, slots=True)
class Preparation:
    """Something slow that is built in the background; `quota` in seconds."""

    name: str
    argv: tuple[str, ...]
    quota: float


@dataclass(frozen=True, slots=True)
class Tier:
    """A named group of steps with a quota in seconds, which the wait for its preparations does not count against."""

    name: str
    quota: float
    steps: tuple[Step, ...]
    needs: tuple[str, ...] = ()
    obstacle: Callable[[], str] = lambda: ""  # why it cannot run on this machine; "" when it can
    default: bool = True


@dataclass(slots=True)
class Result:
    """What came of one tier."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def _tests(*paths: str) -> Step:
    return Step("pytest", (PYTHON, "-m", "pytest", "-q", "--color=no", "--durations=5", *paths), pytest=True)


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (PYTHON, "-m", name, *arguments)


def _tool(name: str, *arguments: str) -> tuple[str, ...]:
    return (str(Path(PYTHON).parent / name), *arguments)


def _no_cluster() -> str:
    """Say why no control plane can run here."""
    if os.environ.get("KUBEBUILDER_ASSETS") or shutil.which("go") or os.geteuid() == 0:
        return ""
    return "no Go to build a Kubernetes with: install it (sudo apt-get install golang), or set KUBEBUILDER_ASSETS"


def _no_node() -> str:
    """Say why no cluster with a node can be had here."""
    if os.environ.get("CLUSTER") or os.geteuid() == 0:
        return ""
    return "a node needs root: sudo make test; or, with Docker and kind, CLUSTER=kind make test"


# In the order in which the tiers need them.
PREPARATIONS = (
    Preparation("promtool", _module("image", "promtool"), 300),
    Preparation("helm", _module("cluster", "build", "helm"), 900),
    Preparation("cluster", _module("cluster", "build"), 1500),
    # Its own cluster can pull nothing: there the monitoring programs' images are made too.
    Preparation(
        "images",
        (PYTHON, "-c", f"from demo import images; images.make(local={not os.environ.get('CLUSTER')})"),
        900,
    ),
)

TIERS = (
    Tier(
        "lint",
        300,
        (
            Step("ruff check", _tool("ruff", "check", ".")),
            Step("ruff format", _tool("ruff", "format", "--check", ".")),
            Step("mypy", _tool("mypy")),
            Step("import contracts", _tool("lint-imports")),
            Step("crds match their models", _module("llmwarden.api.crdgen", "--check")),
            Step("docs match their sources", _module("tools.docgen", "--check")),
        ),
    ),
    Tier("unit", 300, (_tests("tests/unit", "tests/proxy", "tests/ledger"),)),
    Tier("golden", 240, (_tests("tests/golden"),), needs=("promtool", "helm")),
    Tier("api", 480, (_tests("tests/api"),), needs=("cluster",), obstacle=_no_cluster),
    Tier("e2e", 900, (_tests("tests/e2e"),), needs=("cluster", "images"), obstacle=_no_node),
    Tier("engines", 900, (_tests("tests/engines"),), needs=("cluster", "images"), obstacle=_no_node),
    Tier("soak", 3600, (_tests("tests/soak"),), default=False),
)


def say(text: str = "") -> None:
    """Print one line at once: the output is a progress display."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, shortened."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            text = file.read().decode(errors="replace").replace("\r", "\n")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""


class Children:
    """Every process that we started, so that an interrupt leaves none behind. Each leads a session of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def start(self, argv: Sequence[str], log: Path, *, low_priority: bool = False) -> subprocess.Popen[bytes]:
        """Start `argv` in the repository root with its output appended to `log`; raises OSError."""
        prefix = ("nice", "-n", str(LOW_PRIORITY)) if low_priority and shutil.which("nice") else ()
        with self._lock, log.open("ab") as output:
            if self._closed:
                message = "interrupted"
                raise OSError(message)
            child = subprocess.Popen(
                (*prefix, *argv),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            self._running.add(child)
        return child

    def forget(self, child: subprocess.Popen[bytes]) -> None:
        """Note that `child` has ended."""
        with self._lock:
            self._running.discard(child)

    def end(self, child: subprocess.Popen[bytes]) -> None:
        """End a child: interrupt first, so that fixtures clean up; then terminate; then kill its whole group."""
        for number, patience in (
            (signal.SIGINT, GRACE_SECONDS),
            (signal.SIGTERM, TERMINATE_SECONDS),
            (signal.SIGKILL, 10.0),
        ):
            if child.poll() is not None:
                break
            try:
                # Only the leader is interrupted: it ends what it started. The kill at the end takes the group.
                if number == signal.SIGKILL:
                    os.killpg(child.pid, number)
                else:
                    child.send_signal(number)
                child.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self.forget(child)

    def close(self) -> None:
        """End all of them and start no more."""
        with self._lock:
            self._closed = True
            children = list(self._running)
        enders = [threading.Thread(target=self.end, args=(child,)) for child in children]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()


class Preparer:
    """Builds the preparations one after another in a thread, so that tests that need none of them run meanwhile."""

    def __init__(self, children: Children, wanted: Sequence[Preparation]) -> None:
        self._children = children
        self._wanted = tuple(wanted)
        self._done = {item.name: threading.Event() for item in wanted}
        self._errors: dict[str, str] = {}
        self._current = ""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        for item in self._wanted:
            self._current = item.name
            log = LOGS / f"prepare-{item.name}.log"
            started = time.monotonic()
            try:
                child = self._children.start(item.argv, log, low_priority=True)
                status = child.wait(item.quota)
                self._children.forget(child)
                if status:
                    self._errors[item.name] = f"exit status {status}: {last_line(log)}"
            except subprocess.TimeoutExpired:
                self._children.end(child)
                self._errors[item.name] = f"not done after its {item.quota:.0f} s: {last_line(log)}"
            except OSError as error:
                self._errors[item.name] = str(error)
            seconds = time.monotonic() - started
            say(f"  (prepared {item.name} in {seconds:.0f} s{self._failure(item.name)})")
            self._done[item.name].set()

    def _failure(self, name: str) -> str:
        return f": FAILED, see build/test-logs/prepare-{name}.log" if name in self._errors else ""

    def wait(self, name: str) -> str:
        """Wait for a preparation, showing what it is at; returns why it failed, or nothing."""
        while not self._done[name].wait(HEARTBEAT_SECONDS):
            say(f"  waiting for {name}: {self._current}: {last_line(LOGS / f'prepare-{self._current}.log')}")
        return self._errors.get(name, "")


def run_step(tier: Tier, step: Step, deadline: float, children: Children, result: Result) -> None:
    """Run one step until `deadline` (monotonic seconds) and add what came of it to `result`."""
    label = f"{tier.name}-{step.name.replace(' ', '-')}"
    log, junit = LOGS / f"{label}.log", LOGS / f"{label}.xml"
    argv = (*step.argv, f"--junitxml={junit}") if step.pytest else step.argv
    try:
        child = children.start(argv, log)
    except OSError as error:
        result.failed += 1
        result.notes.append(f"FAILED {step.name}: {error}")
        return
    beat = time.monotonic() + HEARTBEAT_SECONDS
    overdue = False
    while True:
        now = time.monotonic()
        try:
            status = child.wait(max(0.01, min(deadline, beat) - now))
            break
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                overdue = True
                children.end(child)
                status = child.returncode
                break
            beat = time.monotonic() + HEARTBEAT_SECONDS
            say(f"  {step.name}: {last_line(log)}")
    children.forget(child)
    before = result.failed
    if step.pytest:
        count_junit(junit, status, result)
    elif status == 0:
        result.passed += 1
    else:
        result.failed += 1
        result.notes.append(f"FAILED {step.name} (exit status {status})")
    if overdue:
        result.failed += 1
        result.notes.append(f"FAILED {step.name}: over the tier's quota of {tier.quota:.0f} s")
    if result.failed > before:
        tail(log)


def count_junit(junit: Path, status: int, result: Result) -> None:
    """Add the tests of a JUnit file to `result`, with each failure's and each skip's reason."""
    nothing_collected = 5
    try:
        cases = list(ET.parse(junit).getroot().iter("testcase"))  # noqa: S314 - written by our own pytest just now
    except (OSError, ET.ParseError) as error:
        result.failed += 1
        result.notes.append(f"FAILED pytest left no result (exit status {status}): {error}")
        return
    failed = 0
    reasons: dict[str, int] = {}
    for case in cases:
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skip = case.find("skipped")
        if bad is not None:
            failed += 1
            message = (bad.get("message") or "").strip().splitlines()
            result.notes.append(f"FAILED {name}: {message[0][:200] if message else ''}")
        elif skip is not None:
            result.skipped += 1
            reason = (skip.get("message") or "no reason given").strip()
            reasons[reason] = reasons.get(reason, 0) + 1
        else:
            result.passed += 1
    result.failed += failed
    result.notes.extend(f"skipped {count}: {reason[:200]}" for reason, count in reasons.items())
    if status not in (0, nothing_collected) and not failed:
        result.failed += 1
        result.notes.append(f"FAILED pytest ended with exit status {status} though no test failed")


def tail(log: Path, lines: int = 60) -> None:
    """Show the end of a failed step's log."""
    text = log.read_text(errors="replace").splitlines()[-lines:]
    say(f"  ---- end of {log.relative_to(ROOT)}")
    for line in text:
        say(f"  | {line}")


def present(step: Step) -> Step | None:
    """Leave out folders that do not exist; None when nothing of a pytest step is left."""
    if not step.pytest:
        return step
    kept = tuple(part for part in step.argv if not part.startswith("tests/") or (ROOT / part).exists())
    return Step(step.name, kept, pytest=True) if any(part.startswith("tests/") for part in kept) else None


def run_tier(tier: Tier, children: Children, preparer: Preparer, extra: tuple[str, ...]) -> Result:
    """Run one tier; never raises for what its tests do."""
    result = Result(tier.name)
    strict = os.environ.get("CI", "").lower() in {"true", "1"}

    def cannot(reason: str) -> Result:
        if strict:
            result.failed += 1
            result.notes.append(f"FAILED cannot run, which CI=true forbids: {reason}")
        else:
            result.skipped += 1
            result.notes.append(f"skipped the tier: {reason}")
        return result

    obstacle = tier.obstacle()
    if obstacle:
        return cannot(obstacle)
    steps = [step for step in map(present, tier.steps) if step is not None]
    if not steps:
        return cannot("it has no tests yet")
    for need in tier.needs:
        problem = preparer.wait(need)
        if problem:
            result.failed += 1
            result.notes.append(f"FAILED to prepare {need}: {problem}")
            tail(LOGS / f"prepare-{need}.log", 30)
            return result
    started = time.monotonic()
    for step in steps:
        argv = (*step.argv, *extra) if step.pytest else step.argv
        run_step(tier, Step(step.name, argv, step.pytest), started + tier.quota, children, result)
    result.seconds = time.monotonic() - started
    if not result.passed and not result.failed:
        return cannot("all of its tests were skipped" if result.skipped else "it has no tests yet")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tiers that the arguments name, or all that run by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", description=__doc__.splitlines()[0] if __doc__ else "")
    by_name = {tier.name: tier for tier in TIERS}
    parser.add_argument("tiers", nargs="*", metavar="TIER", help=f"of {', '.join(by_name)}; default: all but soak")
    parser.add_argument("--update", action="store_true", help="rewrite golden files instead of comparing with them")
    parser.add_argument("-k", default="", help="pytest's -k: only tests whose names match")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.tiers if name not in by_name]
    if unknown:
        parser.error(f"no such tier: {', '.join(unknown)}; there are {', '.join(by_name)}")
    chosen = [tier for tier in TIERS if (tier.name in options.tiers if options.tiers else tier.default)]
    extra = (("--update",) if options.update else ()) + (("-k", options.k) if options.k else ())

    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    children = Children()
    needed = {need for tier in chosen if not tier.obstacle() for need in tier.needs}
    preparer = Preparer(children, [item for item in PREPARATIONS if item.name in needed])
    started = time.monotonic()
    results: list[Result] = []
    # A polite `kill` must clean up as Ctrl-C does.
    # Said for SIGINT too: a shell starts its background jobs with it ignored, and Python keeps it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        preparer.start()
        for tier in chosen:
            say(f"== {tier.name}")
            result = run_tier(tier, children, preparer, extra)
            say(
                f"   {result.passed} passed, {result.failed} failed, {result.skipped} skipped in {result.seconds:.0f} s"
            )
            results.append(result)
    except KeyboardInterrupt:
        say("interrupted: ending what was started (up to two minutes)")
        children.close()
        return 130
    finally:
        children.close()
    return summarise(results, time.monotonic() - started, complete=not options.tiers)


def summarise(results: Sequence[Result], seconds: float, *, complete: bool) -> int:
    """Print the table and the closing line; returns the exit status."""
    say()
    say(f"{'tier':<10}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for result in results:
        say(f"{result.name:<10}{result.passed:>8}{result.failed:>8}{result.skipped:>9}{result.seconds:>9.0f}")
        for note in result.notes:
            say(f"    {note}")
    passed, failed, skipped = (sum(getattr(one, kind) for one in results) for kind in ("passed", "failed", "skipped"))
    say(f"{seconds:.0f} s in all; logs in build/test-logs/")
    if complete and seconds > TOTAL_QUOTA:
        failed += 1
        say(f"FAILED the whole command took more than its {TOTAL_QUOTA:.0f} s")
    if not passed and not failed:
        say("nothing ran: that is no success")
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
