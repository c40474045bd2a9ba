"""The one test command: `python -m tests.run [TIER ...] [--update]`.

Runs the tiers in two lanes side by side: those that only compute, cheapest first, and those on the node cluster, which mostly wait; the
latter lane helps with the former's tiers once its own are done.
What the expensive ones need (the cluster's binaries, the image, the cluster itself) is made meanwhile at low priority, and taken away at the
end unless it was there before. Every tier has a quota of seconds, longer where the machine is busy with other work at the start
(tests/machine.py); going over it is a failure. A tier that cannot run here is skipped with its
reason; under `CI=true` that is a failure. Standard library only: it must start before anything else works.

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
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests import machine, processes
from tests.preparing import HEARTBEAT_SECONDS, Preparation, Preparer
from tests.processes import Children, last_line, say, tail

PYTHON = sys.executable
COMPUTING = "computing"  # the lane of tiers that need no cluster with a node
TOTAL_QUOTA = 60 * 60.0  # the whole command, everything cold, two cores: two thirds of what CI gives it
# For tests that mostly wait: in processes side by side, each with ports and a PostgreSQL of its own. The other lane has two cores' other half.
SIDE_BY_SIDE = ("-n", "3", "--dist", "worksteal")
BUSY = 1.2  # a slowness above which it is said
JOIN_SECONDS = 1.0  # a thread is waited for in pieces, so that Ctrl-C is heard


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a tier. A command counts as one test; pytest's own tests are counted from its JUnit file."""

    name: str
    argv: tuple[str, ...]
    pytest: bool = False


@dataclass(frozen=True, slots=True)
class Tier:
    """A named group of steps with a quota in seconds, which the wait for its preparations does not count against."""

    name: str
    quota: float
    steps: tuple[Step, ...]
    needs: tuple[str, ...] = ()
    obstacle: Callable[[], str] = lambda: ""  # why it cannot run on this machine; "" when it can
    default: bool = True
    lane: str = COMPUTING  # tiers of a lane run one after another, lanes side by side


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
    return Step("pytest", (PYTHON, "-m", "pytest", "-q", "--color=no", "--durations=10", *paths), pytest=True)


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
    if not OWN_CLUSTER or os.geteuid() == 0:
        return ""
    return "a node needs root: sudo make test; or, with Docker and kind, CLUSTER=kind make test"


def _no_own_node() -> str:
    """Say why our own cluster with a node cannot run here."""
    return _no_node() if OWN_CLUSTER else "our own node cluster only (CLUSTER unset)"


OWN_CLUSTER = os.environ.get("CLUSTER", "local") in {"", "local"}

# In the order in which the tiers need them.
PREPARATIONS = (
    # The process tier's proxies run as they ship: tests/proxy/fakes.py takes the compiled tree where there is one.
    Preparation("compiled", _module("image", "compile"), 600),
    Preparation("promtool", _module("image", "promtool"), 300),
    Preparation("helm", _module("cluster", "build", "helm"), 900),
    Preparation("cluster", _module("cluster", "build"), 1500),
    # Its own cluster can pull nothing: there the monitoring programs' images are made too.
    Preparation(
        "images", (PYTHON, "-c", f"from demo import images; images.make(local={OWN_CLUSTER})"), 900,
    ),
    # One for all tiers that want one: to bring it up and to take it down costs a minute.
    Preparation(
        "node",
        _module("cluster", "up"),
        600,
        low_priority=False,  # all that runs on it would inherit that
        standing=_module("cluster", "status"),
        undo=() if os.environ.get("E2E_KEEP") else _module("cluster", "down"),
    ),
    Preparation("vllm", (PYTHON, "-c", "from demo import engines; engines.vllm()"), 1200),
    Preparation("traces", _module("tests.traces.programs"), 1200),
)  # fmt: skip
NODE = ("cluster", "images", "node") if OWN_CLUSTER else ("cluster", "images")

MANY_SERVICES = Step(
    "many services",
    ("env", "LLMWARDEN_TEST_SERVICES=10000", *_tests("tests/api/test_operator_faults.py").argv, "-k", "many"),
    pytest=True,
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
            Step("lines of pages", _module("tools.linelength")),
            Step("docs match their sources", _module("tools.docgen", "--check")),
        ),
    ),
    Tier("unit", 300, (_tests("tests/unit", "tests/fuzz", "-n", "2", "--dist", "worksteal"),)),
    # Our programs as processes of their own, talking over real sockets.
    Tier(
        "process",
        900,
        (_tests("tests/proxy", "tests/ledger", "tests/money", "tests/webhook", *SIDE_BY_SIDE),),
        needs=("compiled",),
    ),
    Tier(
        "api",
        900,
        # Each worker has a control plane of its own.
        (_tests("tests/cluster/test_control_plane.py", "tests/api", "-n", "2", "--dist", "worksteal"),),
        needs=("helm", "cluster"),
        obstacle=_no_cluster,
    ),
    # A Collector, Jaeger, Phoenix and the SDKs of applications around our proxy; and our own spans, of a real reconcile.
    Tier("traces", 300, (_tests("tests/traces"),), needs=("helm", "traces", "cluster"), obstacle=_no_cluster),
    Tier("golden", 300, (_tests("tests/golden"),), needs=("promtool", "helm")),
    # Not before the other lane's node is up: the machine is compared before and after.
    Tier("node", 180, (_tests("tests/cluster/test_node.py"),), needs=("cluster", "node"), obstacle=_no_own_node),
    Tier("e2e", 900, (_tests("tests/e2e"),), needs=NODE, obstacle=_no_node, lane="waiting"),
    Tier("engines", 900, (_tests("tests/engines"),), needs=(*NODE, "vllm"), obstacle=_no_own_node, lane="waiting"),
    Tier("soak", 7200, (_tests("tests/soak"), MANY_SERVICES), default=False),
)


def run_step(tier: Tier, step: Step, deadline: float, children: Children, result: Result) -> None:
    """Run one step until `deadline` (monotonic seconds) and add what came of it to `result`."""
    label = f"{tier.name}-{step.name.replace(' ', '-')}"
    log, junit = processes.LOGS / f"{label}.log", processes.LOGS / f"{label}.xml"
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
            say(f"  {tier.name}, {step.name}: {last_line(log)}")
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


def present(step: Step) -> Step | None:
    """Leave out folders that do not exist; None when nothing of a pytest step is left."""
    if not step.pytest:
        return step
    kept = tuple(part for part in step.argv if not part.startswith("tests/") or (processes.ROOT / part).exists())
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
            tail(processes.LOGS / f"prepare-{need}.log", 30)
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

    shutil.rmtree(processes.LOGS, ignore_errors=True)
    processes.LOGS.mkdir(parents=True)
    children = Children()
    needed = {need for tier in chosen if not tier.obstacle() for need in tier.needs}
    preparer = Preparer(children, [item for item in PREPARATIONS if item.name in needed])
    slowness = machine.slowness()
    if slowness > BUSY:
        say(f"this machine is busy with other work: quotas are {slowness:.1f} times as long")
    chosen = [replace(tier, quota=tier.quota * slowness) for tier in chosen]
    started = time.monotonic()
    results: list[Result] = []
    waiting = Waiting(chosen)
    lanes = [
        threading.Thread(target=run_lane, args=(lane, waiting, children, preparer, extra), kwargs={"results": results})
        for lane in dict.fromkeys(tier.lane for tier in chosen)
    ]
    # A polite `kill` must clean up as Ctrl-C does.
    # Said for SIGINT too: a shell starts its background jobs with it ignored, and Python keeps it so.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        preparer.start()
        for lane in lanes:
            lane.start()
        for lane in lanes:
            while lane.is_alive():
                lane.join(JOIN_SECONDS)
    except KeyboardInterrupt:
        say("interrupted: ending what was started (up to two minutes)")
        return 130
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # once only: a second one must not stop the undoing
        children.close()
        preparer.undo()
        for number, handler in before.items():
            signal.signal(number, handler)
    results.sort(key=lambda result: [tier.name for tier in chosen].index(result.name))
    limit = TOTAL_QUOTA * slowness if not options.tiers else None
    return summarise(results, time.monotonic() - started, limit)


class Waiting:
    """Tiers that have not begun, by lane. Threads share it."""

    def __init__(self, tiers: Sequence[Tier]) -> None:
        """Take all of them, in their order."""
        self._tiers = list(tiers)
        self._lock = threading.Lock()

    def next(self, lane: str) -> Tier | None:
        """Take a lane's next tier; after its own, one of those that only compute, which may stand beside anything. None: no more."""
        with self._lock:
            for wanted in (lane, COMPUTING):
                for tier in self._tiers:
                    if tier.lane == wanted:
                        self._tiers.remove(tier)
                        return tier
            return None


def run_lane(
    lane: str,
    waiting: Waiting,
    children: Children,
    preparer: Preparer,
    extra: tuple[str, ...],
    *,
    results: list[Result],
) -> None:
    """Run the tiers of a lane one after another, adding to `results`."""
    while not children.closed and (tier := waiting.next(lane)) is not None:
        say(f"== {tier.name}")
        result = run_tier(tier, children, preparer, extra)
        say(
            f"== {tier.name}: {result.passed} passed, {result.failed} failed, {result.skipped} skipped in {result.seconds:.0f} s"
        )
        results.append(result)


def summarise(results: Sequence[Result], seconds: float, limit: float | None) -> int:
    """Print the table and the closing line; returns the exit status. `limit`: seconds that the whole may take."""
    say()
    say(f"{'tier':<10}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for result in results:
        say(f"{result.name:<10}{result.passed:>8}{result.failed:>8}{result.skipped:>9}{result.seconds:>9.0f}")
        for note in result.notes:
            say(f"    {note}")
    passed, failed, skipped = (sum(getattr(one, kind) for one in results) for kind in ("passed", "failed", "skipped"))
    say(f"{seconds:.0f} s in all; logs in build/test-logs/")
    if limit is not None and seconds > limit:
        failed += 1
        say(f"FAILED the whole command took more than its {limit:.0f} s")
    if not passed and not failed:
        say("nothing ran: that is no success")
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
