"""What is to be reached, what was, and what a larger size would take: the table and its judgement."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.operator.run import Result

# By services; between two of them the bound is on the line that joins them.
_MEMORY: Final = {100: 120.0, 1_000: 150.0, 5_000: 250.0, 10_000: 400.0}
_CORES: Final = {100: 0.02, 1_000: 0.05, 5_000: 0.15, 10_000: 0.25}
_EDIT_SECONDS: Final = 1.0
_CONVERGE_MS: Final = 10.0
_LINEAR: Final = 1.3  # times what a service takes at a smaller size
_READY_SECONDS: Final = 30.0
_STORED_KB: Final = {"resource": 10.0, "rules": 15.0, "dashboard": 15.0}
_WRITES_A_SECOND: Final = 10.0
_LEAST_FOR_LINEAR: Final = 1_000  # below, what ticks take while services are made weighs too much
OPERATOR: Final = "operator"
API_SERVER: Final = "kube-apiserver"


@dataclass(frozen=True)
class Judgement:
    """A figure and its bound. `of_time`: it depends on who else uses the machine, so a loaded one cannot judge it."""

    what: str
    value: float
    bound: float
    of_time: bool = False

    @property
    def holds(self) -> bool:
        """Whether it keeps the bound."""
        return self.value <= self.bound


def bound(by_services: dict[int, float], services: int) -> float:
    """The bound for a number of services."""
    points = sorted(by_services.items())
    if services <= points[0][0]:
        return points[0][1]
    for (below, low), (above, high) in itertools.pairwise(points):
        if services <= above:
            return low + (high - low) * (services - below) / (above - below)
    return points[-1][1] * services / points[-1][0]


def memory(result: Result) -> float:
    """MiB of the operator while nothing but ticks goes on: the most of all looks, of this process and its successor."""
    found: list[float] = [
        result.parts[name]["memory"]["resident"]
        for name in ("rest", "restart", "moving", "long")
        if name in result.parts
    ]
    return max(found)


def judge(results: list[Result]) -> list[Judgement]:
    """All judgements over what was measured."""
    found: list[Judgement] = []
    for result in results:
        found += _of_size(result)
    found += _linear(results)
    return found


def _of_size(result: Result) -> list[Judgement]:
    size, parts = result.services, result.parts
    found: list[Judgement] = []

    def add(what: str, value: float, limit: float, *, of_time: bool = False) -> None:
        found.append(Judgement(f"{size:,}: {what}", value, limit, of_time))

    if "rest" in parts:
        add("memory, MiB", memory(result), round(bound(_MEMORY, size)))
        add("cores at rest, figures stand still", parts["rest"]["cores"], round(bound(_CORES, size), 3))
    if "moving" in parts:
        share = f"{parts['moving']['share']:.0%}"
        add(f"cores at rest, {share} of figures move", parts["moving"]["cores"], round(bound(_CORES, size), 3))
        add("an edit, p99, s", parts["moving"]["edits"]["p99"], _EDIT_SECONDS, of_time=True)
    if "converge" in parts:
        add("CPU to converge, ms a service", parts["converge"]["operator_ms_a_service"], _CONVERGE_MS)
    if "restart" in parts:
        add("restart until ready, s", parts["restart"]["ready_seconds"], _READY_SECONDS, of_time=True)
        add("restart, writes", sum(parts["restart"]["writes"].values()), 0)
    if "long" in parts:
        add("status writes a second, all figures move", parts["long"]["status_writes_a_second"], _WRITES_A_SECOND)
    for what, limit in _STORED_KB.items() if "stored" in parts else ():
        add(f"stored, {what}, kB", parts["stored"][what]["mean"], limit)
    return found


def _linear(results: list[Result]) -> list[Judgement]:
    sizes = {
        result.services: result.parts["converge"]["operator_ms_a_service"]
        for result in results
        if "converge" in result.parts and result.services >= _LEAST_FOR_LINEAR
    }
    if len(sizes) < 2:  # noqa: PLR2004 - nothing to compare
        return []
    smallest, largest = min(sizes), max(sizes)
    ratio = round(sizes[largest] / sizes[smallest], 2)
    return [Judgement(f"CPU of a service to converge at {largest:,} against {smallest:,}", ratio, _LINEAR)]


# The table -----------------------------------------------------------------------------------------------------------

Row = tuple[str, Callable[[Result], float], str]


def _rows(results: list[Result]) -> list[Row]:
    def of(*path: str) -> Callable[[Result], float]:
        def value(result: Result) -> float:
            found: Any = result.parts
            for name in path:
                found = found[name]
            return float(found)

        return value

    share = next((f"{result['moving']['share']:.0%}" for result in results if "moving" in result.parts), "a share")
    return [
        ("operator's memory, MiB: the most at rest", memory, "{:.0f}"),
        ("- converged: resident", of("rest", "memory", "resident"), "{:.0f}"),
        ("- converged: proportional", of("rest", "memory", "proportional"), "{:.0f}"),
        ("- converged: peak so far", of("rest", "memory", "peak"), "{:.0f}"),
        ("- converged: glibc's heap", of("rest", "memory", "heap"), "{:.0f}"),
        ("- of which unused", of("rest", "memory", "heap_free"), "{:.0f}"),
        ("- after a restart", of("restart", "memory", "resident"), "{:.0f}"),
        ("- after the long run", of("long", "memory", "resident"), "{:.0f}"),
        ("cores at rest: figures stand still", of("rest", "cores"), "{:.3f}"),
        (f"cores at rest: {share} move at each tick", of("moving", "cores"), "{:.3f}"),
        ("cores: all move at each tick", of("long", "cores"), "{:.3f}"),
        ("edit while ticks run, s: p50", of("moving", "edits", "p50"), "{:.2f}"),
        ("edit while ticks run, s: p99", of("moving", "edits", "p99"), "{:.2f}"),
        ("CPU to converge, s: operator", of("converge", "cpu", OPERATOR), "{:.1f}"),
        ("CPU to converge, s: API server", of("converge", "cpu", API_SERVER), "{:.1f}"),
        ("CPU to converge, ms a service: operator", of("converge", "operator_ms_a_service"), "{:.1f}"),
        ("CPU to converge, ms a service: API server", of("converge", "api_server_ms_a_service"), "{:.1f}"),
        ("time to converge, s", of("converge", "seconds"), "{:.0f}"),
        ("restart: ready, s", of("restart", "ready_seconds"), "{:.1f}"),
        ("restart: all looked at, s", of("restart", "passed_seconds"), "{:.1f}"),
        ("restart: writes", lambda result: sum(result["restart"]["writes"].values()), "{:.0f}"),
        ("stored, kB: resource", of("stored", "resource", "mean"), "{:.1f}"),
        ("stored, kB: rules", of("stored", "rules", "mean"), "{:.1f}"),
        ("stored, kB: dashboard", of("stored", "dashboard", "mean"), "{:.1f}"),
        ("all figures move: status writes/s", of("long", "status_writes_a_second"), "{:.1f}"),
        ("- of a service, least", of("long", "least_of_a_service"), "{:.0f}"),
        ("- of a service, most", of("long", "most_of_a_service"), "{:.0f}"),
        ("- age of the oldest figures, s", of("long", "oldest_figures_seconds"), "{:.0f}"),
        ("API server's memory, MiB", of("rest", "api_server_memory"), "{:.0f}"),
    ]


def extrapolated(results: list[Result], size: int) -> Callable[[Callable[[Result], float]], float] | None:
    """Give what puts a figure on the line through the two largest measured sizes; None where fewer were measured."""
    if len(results) < 2:  # noqa: PLR2004 - a line has two points
        return None
    low, high = sorted(results, key=lambda result: result.services)[-2:]

    def at(value: Callable[[Result], float]) -> float:
        slope = (value(high) - value(low)) / (high.services - low.services)
        return value(high) + slope * (size - high.services)

    return at


_ABSENT: Final = "-"
_ON_A_LINE: Final = ("memory", "cores", "CPU to converge, s", "- converged", "- of which", "- after", "restart: ")


def table(results: list[Result], beyond: list[int]) -> list[str]:
    """The table as Markdown; a size that was not measured is extrapolated where that means something, in brackets."""
    heads = [f"{result.services:,}" for result in results] + [f"({size:,})" for size in beyond]
    lines = ["| services | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for title, value, form in _rows(results):
        cells = [_cell(value, result, form) for result in results]
        for size in beyond:
            at = extrapolated(results, size)
            told = at is not None and any(word in title for word in _ON_A_LINE)
            try:
                cells.append(f"({form.format(at(value))})" if at is not None and told else _ABSENT)
            except (KeyError, TypeError):
                cells.append(_ABSENT)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _cell(value: Callable[[Result], float], result: Result, form: str) -> str:
    try:
        return form.format(value(result))
    except (KeyError, TypeError, ValueError):
        return _ABSENT
