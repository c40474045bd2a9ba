"""`make bench-operator`, or `python -m benchmarks.operator [--services 100 1000 5000]`: the operator's table, size by size.

Exit status: 0 every target holds, 1 one does not, 2 something did not work, 3 the machine was too loaded to judge.
"""

import argparse
import datetime as dt
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.datapath import machine
from benchmarks.operator import figures, processes
from benchmarks.operator.run import Result, Run
from cluster.errors import ClusterError
from tests.api.support import obstacle

_ROOT: Final = Path(__file__).resolve().parents[2]
# API server, etcd and operator. Measured with the large children of before; smaller ones need less.
_MIB: Final = 1_500.0
_MIB_A_SERVICE: Final = 1.0
_MOST_OTHERS: Final = 0.15  # cores that others took while a time was measured


def say(sentence: str) -> None:
    """Print a line at once."""
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.operator", description=__doc__)
    add = parser.add_argument
    add("--services", nargs="+", type=int, default=[100, 1_000, 5_000], help="sizes (default 100 1000 5000)")
    add("--namespaces", type=int, default=50, help="that the services are spread over (default 50)")
    add("--pods", type=int, default=0, help="pods of each service, without a node (default 0)")
    add(
        "--shared", action="store_true", help="an LLMBudget in each namespace, and a ClusterLLMBudget over half of them"
    )
    add("--share", type=float, default=0.1, help="of the services whose figures move at each tick (default 0.1)")
    add("--edits", type=int, default=200, help="edits whose latency is taken (default 200)")
    add("--ticks", type=int, default=6, help="ticks over which CPU at rest is taken (default 6)")
    add("--tick-seconds", type=float, default=30.0, help="between two ticks (default 30, as the product has it)")
    add("--long-seconds", type=float, default=0.0, help="of the run in which all figures move (default: by size)")
    add("--beside", choices=["prometheus-operator"], help="another operator on the same API server, from the beginning")
    add("--profile", choices=["stacks", "allocations"], help="where the operator's time or memory goes; costs much")
    add("--anyway", action="store_true", help="on a loaded machine too, and where memory seems too small; not judged")
    add("--output", type=Path, default=_ROOT / "build" / "bench" / "operator.json")
    return parser


def main() -> int:
    """Parse, look at the machine, run, report."""
    options = _parser().parse_args()
    reason = obstacle()
    if reason:
        say(reason)
        return 2
    obstacles = machine.obstacles((0, 1)) if (os.cpu_count() or 1) > 1 else ["two cores are needed"]
    if obstacles:
        say("the machine is loaded: " + "; ".join(obstacles))
        if not options.anyway:
            say("nothing was measured; --anyway measures, for what it is worth")
            return 3
    results: list[Result] = []
    beyond: list[int] = []
    for size in sorted(options.services):
        needed = _MIB + _MIB_A_SERVICE * size
        if processes.available() < needed and not options.anyway:
            say(f"{size:,} services need about {needed:,.0f} MiB; {processes.available():,.0f} are there: not measured")
            beyond.append(size)
            continue
        say(f"{size:,} services in {min(options.namespaces, size)} namespaces")
        try:
            results.append(Run(size, options, say).measure())
        except ClusterError as error:
            say(str(error))
            return 2
        _write(options, results, obstacles)
    return _report(results, beyond, options, obstacles)


def _report(results: list[Result], beyond: list[int], options: argparse.Namespace, obstacles: list[str]) -> int:
    say("")
    for line in figures.table(results, beyond):
        say(line)
    say("")
    for result in results:
        for part in ("moving", "restart", "long"):
            others = _others(result, part)
            if others > _MOST_OTHERS:
                obstacles.append(f"at {result.services:,} others took {others:.2f} cores ({part})")
    judgements = figures.judge(results)
    width = max((len(item.what) for item in judgements), default=0)
    for item in judgements:
        mark = "?" if obstacles and item.of_time else ("holds" if item.holds else "MISSED")
        say(f"{item.what.ljust(width)}  {item.value:10.4g} ≤ {item.bound:<8.4g} {mark}")
    if beyond:
        say(
            f"in brackets: extrapolated from the two largest sizes measured ({', '.join(map(str, beyond))} did not fit)"
        )
    _write(options, results, obstacles, judgements)
    say(f"written: {options.output}")
    if any("fault" in result.parts for result in results):
        return 2
    if obstacles:
        say("not judged, the machine is loaded: " + "; ".join(obstacles))
        return 3
    return 0 if all(item.holds for item in judgements) else 1


def _others(result: Result, part: str) -> float:
    found = result.parts.get(part, {})
    used = found.get("edits", found).get("cpu", {})
    return float(used.get("others", 0.0)) if isinstance(used, dict) else 0.0


def _write(
    options: argparse.Namespace,
    results: list[Result],
    obstacles: list[str],
    judgements: list[figures.Judgement] | None = None,
) -> None:
    document = {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": {"kernel": platform.release(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "obstacles": obstacles,
        "judgements": [asdict(item) | {"holds": item.holds} for item in judgements or []],
        "results": [asdict(result) for result in results],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
