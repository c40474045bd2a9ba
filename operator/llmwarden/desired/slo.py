"""Objectives over time: what is recorded of them, and multi-window, multi-burn-rate alerts.

After the Google SRE workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts": a page when 2 % of the error budget burn in an hour (and the last
5 minutes still burn) or 5 % in 6 h (30 min), a ticket at 10 % in a day (2 h) or in three (6 h). Those windows are of an objective over 30
days; another objective's are scaled to its own, whole minutes, and not below what a few scrapes can tell.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from llmwarden import names
from llmwarden.desired import indicators, promql, vocabulary
from llmwarden.desired.alerting import Rule, alert, title
from llmwarden.desired.params import Params
from llmwarden.domain import durations, engine_objectives
from llmwarden.domain.objectives import AvailabilityObjective, Share

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


def measured(params: Params) -> tuple[Share, ...]:
    """Return the objectives that are a share of calls or of time, and that something measures."""
    engine = vocabulary.engine_of(params)
    return tuple(
        item
        for item in params.objectives
        if isinstance(item, Share) and engine_objectives.refusal(item, engine) is None
    )


def records(params: Params) -> list[dict[str, Any]]:
    """Record each objective's share of what is good over its window, its burn windows' share of bad ones, and what is left of its error budget."""
    found: list[dict[str, Any]] = []
    for objective in measured(params):
        labels = {"objective": objective.name}
        whose = {**labels, **_whose(params)} if isinstance(objective, AvailabilityObjective) else labels
        budget = _budget(objective)
        found += [
            {"record": names.RECORD_GOOD, "expr": indicators.good(params, objective, RATE), "labels": whose},
            {"record": names.RECORD_TOTAL, "expr": indicators.total(params, objective, RATE), "labels": whose},
            {
                "record": names.RECORD_RATIO,
                # Good and total are recorded one after another: a scrape that came between makes good a little more than all.
                "expr": f"clamp_max({_recorded(params, objective, objective.window_seconds)}, 1)",
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
                    "expr": f"clamp_min(1 - ({_share(params, objective, window)}), 0)",
                    "labels": {**labels, "window": promql.duration(window)},
                }
            )
    return found


def alerts(params: Params) -> list[Rule]:
    """Build the burn-rate alerts: per objective one page and one ticket."""
    return [
        _alert(params, objective, severity) for objective in measured(params) for severity in ("critical", "warning")
    ]


def _alert(params: Params, objective: Share, severity: str) -> Rule:
    budget = _budget(objective)
    parts = []
    pairs = [burn for burn in burns(objective.window_seconds) if burn.severity == severity]
    for burn in pairs:
        limit = min(burn.share * objective.window_seconds / burn.long * float(budget), CAP)
        calls = f"avg_over_time({names.RECORD_TOTAL}{{{_of(params, objective)}}}[{promql.duration(burn.long)}]) * {burn.long} >= {FEW_CALLS}"
        parts.append(
            f"({_bad(params, objective, burn.long)} > {limit:.6g}\n"
            f" and ignoring (window) {_bad(params, objective, burn.short)} > {limit:.6g}\n"
            f" and ignoring (window) {calls})"
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
        keep=promql.duration(fastest.short),
        severity=severity,
        labels={"objective": objective.name},
        summary=(
            f'{title(params)}: error budget of objective {objective.name} burns {{{{ printf "%.1f" $value }}}} times too fast '
            f"({objective.target_percent:f} % over {over})"
        ),
        description=(
            f"{speed} It is {objective.of} {'in which' if objective.of == 'time' else 'that'} {objective.bad}. Look at the dashboard for which "
            "model, pod or status it is and since when, and at the engine's queue and cache or the provider's status."
        ),
    )


def _budget(objective: Share) -> Decimal:
    """The share that may be bad, exactly."""
    return (100 - objective.target_percent) / 100


def _bad(params: Params, objective: Share, window: int) -> str:
    return f'{names.RECORD_BAD}{{{_of(params, objective)},window="{promql.duration(window)}"}}'


def _share(params: Params, objective: Share, window: int) -> str:
    """The share of good calls, or of good time, over a window."""
    if window > RAW or objective.of == "time":
        return _recorded(params, objective, window)
    text = promql.duration(window)
    return f"({indicators.good(params, objective, text)})\n/ ({indicators.total(params, objective, text)} > 0)"


def _recorded(params: Params, objective: Share, window: int) -> str:
    of, text = _of(params, objective), promql.duration(window)
    return (
        f"sum_over_time({names.RECORD_GOOD}{{{of}}}[{text}])\n"
        f"/ (sum_over_time({names.RECORD_TOTAL}{{{of}}}[{text}]) > 0)"
    )


def _whose(params: Params) -> dict[str, str]:
    """Labels that a rule gives to what it records: of an outage there is no series that has them."""
    metadata = params.service.metadata
    return {"namespace": metadata.namespace, names.LABEL_M_SERVICE: metadata.name}


def _of(params: Params, objective: Share) -> str:
    metadata = params.service.metadata
    return promql.selector(metadata.namespace, metadata.name, f'objective="{objective.name}"')


def _scaled(seconds: int, window_seconds: int) -> int:
    return round(seconds * window_seconds / REFERENCE / MINUTE) * MINUTE
