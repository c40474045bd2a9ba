"""From rounds to medians, and from medians to ratios and a verdict."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

Outcome = dict[str, Any]  # go/drive/load.go, with `disturbed`: the share of the proxy's core that others took


@dataclass
class Figures:
    """All outcomes of a run, by (subject, workload), one a round; memory in MiB and starts in seconds by subject."""

    outcomes: dict[tuple[str, str], list[Outcome]] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    loaded: dict[str, float] = field(default_factory=dict)
    starts: dict[str, list[float]] = field(default_factory=dict)

    def add(self, subject: str, workload: str, outcome: Outcome) -> None:
        """Note one outcome."""
        self.outcomes.setdefault((subject, workload), []).append(outcome)

    def _median(self, subject: str, workload: str, figure: Callable[[Outcome], float | None]) -> float | None:
        values = [value for item in self.outcomes.get((subject, workload), []) if (value := figure(item)) is not None]
        return statistics.median(values) if values else None

    def cpu_per_request(self, subject: str, workload: str) -> float | None:
        """Microseconds of CPU."""
        return self._median(
            subject, workload, lambda item: item["cpu_us"] / item["requests"] if item["requests"] else None
        )

    def cpu_per_chunk(self, subject: str, workload: str) -> float | None:
        """Microseconds of CPU, the streams' share of requests included."""
        return self._median(subject, workload, lambda item: item["cpu_us"] / item["chunks"] if item["chunks"] else None)

    def per_second(self, subject: str, workload: str) -> float | None:
        """Requests per second."""
        return self._median(subject, workload, lambda item: item["requests"] / item["seconds"])

    def time(self, subject: str, workload: str, kind: str, quantile: str) -> float | None:
        """Milliseconds; `kind` is `latency_ms` or `ttft_ms`."""
        return self._median(subject, workload, lambda item: (item[kind] or {}).get(quantile))

    def added(self, subject: str, workload: str, kind: str, quantile: str) -> float | None:
        """Milliseconds more than without a proxy."""
        through, direct = (self.time(name, workload, kind, quantile) for name in (subject, "direct"))
        return through - direct if through is not None and direct is not None else None

    def errors(self) -> int:
        """Answers that were wrong or did not come."""
        return sum(item["errors"] for items in self.outcomes.values() for item in items)

    def disturbed(self) -> float:
        """The median share of the proxy's core that others took while it was measured."""
        shares = [item["disturbed"] for items in self.outcomes.values() for item in items]
        return statistics.median(shares) if shares else 0.0


@dataclass(frozen=True)
class Judgement:
    """One target: what was measured, and whether it is at most (or, with `least`, at least) the bound."""

    what: str
    value: float
    bound: float
    least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the target is reached."""
        return self.value >= self.bound if self.least else self.value <= self.bound


_STREAMS: Final = ("burst", "paced", "crowd")
_P99: Final = 2.0  # milliseconds


def judge(figures: Figures) -> list[Judgement]:
    """The targets, as far as they were measured (`--only` leaves some out)."""
    found: list[Judgement] = []

    def ratio(what: str, ours: float | None, theirs: float | None, bound: float, *, least: bool = False) -> None:
        if ours is not None and theirs:
            found.append(Judgement(what, ours / theirs, bound, least))

    for workload in ("short", "best"):
        ours = figures.cpu_per_request("ours", workload)
        ratio(f"CPU per request, {workload}: ours / Go", ours, figures.cpu_per_request("go", workload), 0.8)
        ratio(f"CPU per request, {workload}: ours / Envoy", ours, figures.cpu_per_request("envoy", workload), 1.0)
    ratio(
        "CPU per request: ours (short) / LiteLLM",
        figures.cpu_per_request("ours", "short"),
        figures.cpu_per_request("litellm", "slow"),
        1 / 200,
    )
    for workload in _STREAMS:
        ours, theirs = (figures.cpu_per_chunk(name, workload) for name in ("ours", "go"))
        ratio(f"CPU per chunk, {workload}: ours / Go", ours, theirs, 1.0)
    ours, theirs = (figures.per_second(name, "best") for name in ("ours", "go"))
    ratio("best requests/s: ours / Go", ours, theirs, 1.2, least=True)
    ours, theirs = (figures.added(name, "short", "latency_ms", "p50") for name in ("ours", "go"))
    ratio("added p50, short: ours / Go", ours, theirs, 1.0)
    for workload in ("paced", "crowd"):
        ours, theirs = (figures.time(name, workload, "ttft_ms", "p99") for name in ("ours", "ours-off"))
        ratio(f"TTFT p99, {workload}: ours / ours without measuring", ours, theirs, 1.25)
    for workload, kind in (
        ("short", "latency_ms"),
        ("prompt", "latency_ms"),
        ("paced", "ttft_ms"),
        ("crowd", "ttft_ms"),
    ):
        ours, theirs = (figures.added(name, workload, kind, "p99") for name in ("ours", "go"))
        if ours is not None and theirs is not None and theirs < _P99:
            found.append(Judgement(f"added p99, {workload} (ms; Go's is {theirs:.2f})", ours, _P99))
    if "ours" in figures.idle:
        found.append(Judgement("resident memory idle (MiB)", figures.idle["ours"], 48))
        found.append(Judgement("resident memory after the load (MiB)", figures.loaded["ours"], 64))
    if figures.starts.get("ours"):
        found.append(Judgement("start to ready (s)", statistics.median(figures.starts["ours"]), 0.7))
    return found


_COLUMNS: Final = (
    "proxy",
    "added p50 / p99 ms",
    "prompt p50 / p99",
    "TTFT paced p50 / p99",
    "TTFT crowd p50 / p99",
    "µs/request",
    "µs/request at best",
    "µs/128 KB prompt",
    "µs/chunk burst",
    "µs/chunk paced",
    "µs/chunk crowd",
    "best requests/s",
    "MiB idle / loaded",
)


def table(figures: Figures, subjects: Iterable[str]) -> list[str]:
    """The figures as a Markdown table; times are what the proxy adds."""
    rows = [list(_COLUMNS)]
    for name in subjects:
        short = "slow" if name == "litellm" else "short"
        rows.append(
            [
                name,
                _pair(figures, name, "short", "latency_ms"),
                _pair(figures, name, "prompt", "latency_ms"),
                _pair(figures, name, "paced", "ttft_ms"),
                _pair(figures, name, "crowd", "ttft_ms"),
                _number(figures.cpu_per_request(name, short)),
                _number(figures.cpu_per_request(name, "best")),
                _number(figures.cpu_per_request(name, "prompt")),
                *(_number(figures.cpu_per_chunk(name, workload)) for workload in _STREAMS),
                _number(figures.per_second(name, short if name == "litellm" else "best"), 0),
                f"{figures.idle[name]:.0f} / {figures.loaded[name]:.0f}" if name in figures.loaded else "-",
            ]
        )
    widths = [max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def _pair(figures: Figures, name: str, workload: str, kind: str) -> str:
    take = figures.time if name == "direct" else figures.added
    values = [take(name, workload, kind, quantile) for quantile in ("p50", "p99")]
    if any(value is None for value in values):
        return "-"
    text = " / ".join(f"{value:.2f}" for value in values)
    return f"({text})" if name == "direct" else text


def _number(value: float | None, digits: int = 1) -> str:
    return f"{value:,.{digits}f}" if value else "-"
