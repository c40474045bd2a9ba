"""Compares what an application measured for itself with what LLM Warden says of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOLERANCE_PERCENT = 5.0


@dataclass(frozen=True)
class Row:
    """One figure, in `unit`, as measured by the client and as LLM Warden has it; None is unknown."""

    name: str
    unit: str
    client: float | None
    warden: float | None

    @property
    def difference_percent(self) -> float | None:
        """How far LLM Warden's figure is from the client's, in percent of the latter; None where that makes no sense."""
        if self.client is None or self.warden is None:
            return None
        if self.client == self.warden:
            return 0.0
        return abs(self.warden - self.client) / abs(self.client) * 100 if self.client else None

    def agrees(self, tolerance_percent: float = TOLERANCE_PERCENT) -> bool:
        """Whether both are known and within the tolerance."""
        difference = self.difference_percent
        return difference is not None and difference <= tolerance_percent


def rows(
    client: Mapping[str, Any], status: Mapping[str, Any], prices: tuple[float, float], *, whole: bool
) -> list[Row]:
    """Return the figures that both sides have.

    `client` is an application's `GET /figures` as of the status' `asOf`, `status` an LLMService's. `whole`: the application is the only one that
    the service ever had, so that totals can be compared, with `prices` in dollars per million (input, output) tokens; else sums are
    compared per call. Quantiles are of the last minutes on both sides.
    """
    served, tokens = client["requests"].get("200", 0), client["tokens"]
    usage = status.get("usage", {})
    calls = usage.get("requests", 0) - usage.get("errors", 0)
    cost = _number(usage.get("cost", {}).get("amount"))
    own_cost = (tokens["input"] * prices[0] + tokens["output"] * prices[1]) / 1e6
    if whole:
        found = [
            Row("calls", "", served, calls),
            Row("input tokens", "", tokens["input"], _token(usage, "input")),
            Row("output tokens", "", tokens["output"], _token(usage, "output")),
            Row("cost", "m$", own_cost * 1e3, None if cost is None else cost * 1e3),
        ]
    else:
        found = [
            Row("input tokens per call", "", _ratio(tokens["input"], served), _ratio(_token(usage, "input"), calls)),
            Row("output tokens per call", "", _ratio(tokens["output"], served), _ratio(_token(usage, "output"), calls)),
            Row(
                "cost per call",
                "m$",
                _ratio(own_cost * 1e3, served),
                None if cost is None else _ratio(cost * 1e3, calls),
            ),
        ]
    latency = status.get("latency", {})
    for name, mine, theirs in (
        ("time to first token, p95", "ttftP95", "timeToFirstToken"),
        ("duration, p95", "durationP95", "requestDuration"),
    ):
        seconds, milliseconds = client[mine], latency.get(theirs, {}).get("p95Milliseconds")
        found.append(Row(name, "ms", None if seconds is None else seconds * 1000, milliseconds))
    return found


def _token(usage: Mapping[str, Any], kind: str) -> float:
    return float(usage.get("tokens", {}).get(kind, 0))


def _ratio(total: float, count: float) -> float | None:
    return total / count if count else None


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def table(found: list[Row]) -> str:
    """Return the rows as aligned text."""
    lines = [f"  {'':28} {'client':>10} {'status':>10} {'off by':>8}"]
    for row in found:
        difference = row.difference_percent
        off = "unknown" if difference is None else f"{difference:.1f} %"
        name = f"{row.name} [{row.unit}]" if row.unit else row.name
        lines.append(f"  {name:28} {_text(row.client):>10} {_text(row.warden):>10} {off:>8}")
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value < 100 else f"{value:.0f}"  # noqa: PLR2004 - digits that matter
