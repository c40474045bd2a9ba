"""Objectives over time: what is recorded of them, and multi-window, multi-burn-rate alerts.

After the Google SRE workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts": a page when 2 % of the error budget burn in an hour (and the last
5 minutes still burn) or 5 % in 6 h (30 min), a ticket at 10 % in a day (2 h) or in three (6 h). Those windows are of an objective over 30
days; another objective's are scaled to its own, whole minutes, and not below what a few scrapes can tell.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from llmwarden import names
from llmwarden.desired import promql
from llmwarden.desired.alerting import Rule, alert, title
from llmwarden.desired.params import Params
from llmwarden.domain import durations
from llmwarden.domain.objectives import ErrorsObjective, LatencyObjective

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86400
REFERENCE: Final = 30 * DAY  # the window that the workbook's figures are for
SHORTEST: Final = 2 * MINUTE  # a rate needs a few scrapes
SHORTEST_LONG: Final = 5 * MINUTE
RATE: Final = "5m"
RAW: Final = HOUR  # up to here a ratio is taken from the counters; above, from recorded rates at even distances, which are cheap over weeks
CAP: Final = 0.9  # a low target's budget cannot burn 14 times faster: even an outage would not page
FEW_CALLS: Final = 10  # in the long window; below that one bad call would be an alert

METRICS: Final = {
    "RequestDuration": names.METRIC_DURATION,
    "TimeToFirstToken": names.METRIC_TTFT,
    "TimePerOutputToken": names.METRIC_TPOT,
}

Measured = LatencyObjective | ErrorsObjective


@dataclass(frozen=True, slots=True)
class Burn:
    """A pair of windows, in seconds, and the share of the error budget that burns in the long one."""

    long: int
    short: int
    share: float
    severity: str


_REFERENCE_BURNS: Final = (
    Burn(HOUR, 5 * MINUTE, 0.02, "critical"),
    Burn(6 * HOUR, 30 * MINUTE, 0.05, "critical"),
    Burn(DAY, 2 * HOUR, 0.1, "warning"),
    Burn(3 * DAY, 6 * HOUR, 0.1, "warning"),
)


def burns(window_seconds: int) -> tuple[Burn, ...]:
    """Return the pairs of windows for an objective over so many seconds."""
    return tuple(
        Burn(
            max(_scaled(item.long, window_seconds), SHORTEST_LONG),
            max(_scaled(item.short, window_seconds), SHORTEST),
            item.share,
            item.severity,
        )
        for item in _REFERENCE_BURNS
    )


def measured(params: Params) -> tuple[Measured, ...]:
    """Return the objectives that are a share of calls."""
    return tuple(item for item in params.objectives if isinstance(item, LatencyObjective | ErrorsObjective))


def records(params: Params) -> list[dict[str, Any]]:
    """Record each objective's share of good calls over its window, its burn windows' share of bad ones, and what is left of its error budget."""
    found: list[dict[str, Any]] = []
    for objective in measured(params):
        labels = {"objective": objective.name}
        budget = _budget(objective)
        found += [
            {"record": names.RECORD_GOOD, "expr": _good(params, objective, RATE), "labels": labels},
            {"record": names.RECORD_TOTAL, "expr": _total(params, objective, RATE), "labels": labels},
            {
                "record": names.RECORD_RATIO,
                "expr": _recorded(params, objective, objective.window_seconds),
                "labels": labels,
            },
            {
                "record": names.RECORD_BUDGET_LEFT,
                "expr": f"1 - (1 - {names.RECORD_RATIO}{{{_of(params, objective)}}}) / {budget:f}",
                "labels": labels,
            },
        ]
        for window in sorted(
            {window for burn in burns(objective.window_seconds) for window in (burn.long, burn.short)}
        ):
            found.append(
                {
                    "record": names.RECORD_BAD,
                    "expr": f"1 - ({_share(params, objective, window)})",
                    "labels": {**labels, "window": _text(window)},
                }
            )
    return found


def alerts(params: Params) -> list[Rule]:
    """Build the burn-rate alerts: per objective one page and one ticket."""
    return [
        _alert(params, objective, severity) for objective in measured(params) for severity in ("critical", "warning")
    ]


def _alert(params: Params, objective: Measured, severity: str) -> Rule:
    budget = _budget(objective)
    parts = []
    pairs = [burn for burn in burns(objective.window_seconds) if burn.severity == severity]
    for burn in pairs:
        limit = min(burn.share * objective.window_seconds / burn.long * float(budget), CAP)
        calls = f"avg_over_time({names.RECORD_TOTAL}{{{_of(params, objective)}}}[{_text(burn.long)}]) * {burn.long} >= {FEW_CALLS}"
        parts.append(
            f"({_bad(params, objective, burn.long)} > {limit:.6g}\n"
            f" and ignoring (window) {_bad(params, objective, burn.short)} > {limit:.6g}\n"
            f" and ignoring (window) {calls})"
        )
    what = (
        "fail"
        if isinstance(objective, ErrorsObjective)
        else f"miss {objective.indicator} of {durations.human(objective.threshold_seconds)}"
    )
    fastest = pairs[0]
    over = durations.human_whole(objective.window_seconds)
    speed = (
        "A page: at this speed the error budget is gone long before its window ends."
        if severity == "critical"
        else ("A ticket: slow, but steady; the error budget will not last its window.")
    )
    joined = "\nor\n".join(parts)
    return alert(
        params,
        "LLMErrorBudgetBurn",
        f"max without (window) (\n{joined}\n) / {budget:f}",
        wait="",
        keep=_text(fastest.short),
        severity=severity,
        labels={"objective": objective.name},
        summary=(
            f'{title(params)}: error budget of objective {objective.name} burns {{{{ printf "%.1f" $value }}}} times too fast '
            f"({objective.target_percent:f} % over {over})"
        ),
        description=(
            f"{speed} It is calls that {what}. Look at the dashboard for which model, pod or status it is and since when, and at the engine's "
            "queue and cache or the provider's status."
        ),
    )


def _budget(objective: Measured) -> Decimal:
    """The share of calls that may be bad, exactly."""
    return (100 - objective.target_percent) / 100


def _bad(params: Params, objective: Measured, window: int) -> str:
    return f'{names.RECORD_BAD}{{{_of(params, objective)},window="{_text(window)}"}}'


def _share(params: Params, objective: Measured, window: int) -> str:
    """The share of good calls over a window."""
    if window > RAW:
        return _recorded(params, objective, window)
    text = _text(window)
    return f"({_good(params, objective, text)})\n/ ({_total(params, objective, text)} > 0)"


def _recorded(params: Params, objective: Measured, window: int) -> str:
    of, text = _of(params, objective), _text(window)
    return (
        f"sum_over_time({names.RECORD_GOOD}{{{of}}}[{text}])\n"
        f"/ (sum_over_time({names.RECORD_TOTAL}{{{of}}}[{text}]) > 0)"
    )


def _good(params: Params, objective: Measured, window: str) -> str:
    of = promql.selector(params.service.metadata.namespace, params.service.metadata.name)
    if isinstance(objective, LatencyObjective):
        matchers = f"{of},{promql.bound(objective.threshold_seconds)}"
        return promql.rate(f"{METRICS[objective.indicator]}_bucket", matchers, window)
    good = promql.rate(names.METRIC_REQUESTS, f'{of},{names.LABEL_M_ERROR}=""', window)
    # Where every call fails there is no series of good ones: that is none, not unknown.
    return f"({good}) or 0 * ({_total(params, objective, window)})"


def _total(params: Params, objective: Measured, window: str) -> str:
    of = promql.selector(params.service.metadata.namespace, params.service.metadata.name)
    metric = (
        f"{METRICS[objective.indicator]}_count" if isinstance(objective, LatencyObjective) else names.METRIC_REQUESTS
    )
    return promql.rate(metric, of, window)


def _of(params: Params, objective: Measured) -> str:
    metadata = params.service.metadata
    return promql.selector(metadata.namespace, metadata.name, f'objective="{objective.name}"')


def _scaled(seconds: int, window_seconds: int) -> int:
    return round(seconds * window_seconds / REFERENCE / MINUTE) * MINUTE


def _text(seconds: int) -> str:
    """A duration as PromQL reads it, exactly."""
    hours, minutes = divmod(seconds // MINUTE, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes or not hours else "")
