"""Alerts about money: budgets' thresholds and ends, how fast they burn, what is not counted, and spending unlike that of earlier days.

Budgets are judged by the ledger's figures, which are exact; the rest by the proxies' counters. A figure that is compared with earlier days
is recorded, so that a person can see both.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.domain import budgets
from llmwarden.domain.windows import CALENDAR_SECONDS
from llmwarden.manifests import promql
from llmwarden.manifests.alerts.alert import ANY, WINDOW, Rule, alert, recorded
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings

HOUR: Final = 3600
# After the Google SRE workbook's alerts on burn rates (slo.py): in its 30 days, 14.4 times the even rate for an hour and 6 times for six
# hours. Of a short window that would be more than all of it: then a quarter of the limit in an hour, and half of it in six.
FAST: Final = (HOUR, 5 * 60, 14.4, 0.25, "critical")
SLOW: Final = (6 * HOUR, 30 * 60, 6.0, 0.5, "warning")

SILENT_SECONDS: Final = 120  # without a report that the ledger took: four of the longest intervals
TIMES: Final = 3  # as much as at the same hour of earlier days
LEAST_PER_HOUR: Final = 1  # US dollars: below that, three times as much is no event
DOUBLE: Final = 2
FEW_CALLS: Final = 20  # an hour: below that one long call changes the average
RISE: Final = 0.2  # of a service's tokens
COSTLIER: Final = 1.5  # times what a token of the service cost the day before

UNUSUAL: Final = {
    "LLMSpendUnusual": "spending is three times as high as at this hour on earlier days",
    "LLMCostPerRequestDoubled": "a call costs twice as much as the day before",
    "LLMCostlierModelRising": "calls are moving to a more expensive model",
}
"""Alerts about spending unlike that of earlier days, as the status says them while they fire."""
DAYS: Final = 7
CALENDARS: Final = ("Day", "Week", "Month")  # an hour is too short to burn in
_MODEL: Final = names.LABEL_M_REQUEST_MODEL


def alerts(settings: Settings) -> list[Rule]:
    """Build the alerts on spending, and on what is not counted; for all services."""
    builders = (_uncosted, _unreachable, _unreported, _unlike_earlier, _per_request, _costlier)
    return [builder(settings) for builder in builders]


def budget_alerts(settings: Settings) -> list[Rule]:
    """Build the alerts on budgets, by what the ledger says of each and what `about` recorded of it; for all services."""
    exceeded = [_exceeded(settings, severity) for severity in ("critical", "warning")]
    return [_warning(settings), *exceeded, *(_burn(settings, pace) for pace in (FAST, SLOW))]


def about(params: Params) -> list[dict[str, Any]]:
    """Record of each budget that holds for a service what its alerts must know: the ledger's series have its key only."""
    records: list[dict[str, Any]] = []
    for budget in params.budgets:
        mine = {**_whose(params), "budget": budget.name, "kind": budget.scope}
        more = {"action": budget.action, "consequence": _consequence(budget), "window": str(budget.window)}
        if budget.window.calendar:
            more["calendar"] = budget.window.calendar
        records.append({"record": names.RECORD_BUDGET, "expr": "vector(1)", "labels": {**mine, **more}})
        records += [
            {
                "record": names.RECORD_BUDGET_WARN,
                "expr": f"vector({percent / 100})",
                "labels": {**mine, "threshold": str(percent)},
            }
            for percent in budget.warn_at
            if percent < 100  # noqa: PLR2004 - percent; at 100 it is exceeded, which is another alert
        ]
    return records


def _whose(params: Params) -> dict[str, str]:
    metadata = params.service.metadata
    return {"namespace": metadata.namespace, names.LABEL_M_SERVICE: metadata.name}


def records() -> list[dict[str, Any]]:
    """Record what spending is compared by; for all services."""
    calls = promql.rate(names.METRIC_REQUESTS, f'{ANY},{names.LABEL_M_ERROR}=""', "1h")
    by_model = f"{promql.BY}, {_MODEL}"
    counted = f'{ANY},{names.LABEL_M_TOKEN_TYPE}=~"input|output"'
    cost = promql.rate(names.METRIC_COST, ANY, "1h")
    tokens = promql.rate(names.METRIC_TOKENS, counted, "1h", by_model)
    # Each day under a label of its own: they are averaged, and a day that is not there counts for nothing.
    days = "\nor ".join(
        f'label_replace({names.RECORD_SPEND} offset {day}d, "day", "{day}", "", "")' for day in range(1, DAYS + 1)
    )
    return [
        {"record": names.RECORD_SPEND, "expr": f"{cost} * 3600"},
        {"record": names.RECORD_SPEND_SAME_HOUR, "expr": f"avg by ({promql.BY}) ({days})"},
        {"record": names.RECORD_COST_PER_REQUEST, "expr": f"{names.RECORD_SPEND} / ({calls} * 3600 >= {FEW_CALLS})"},
        {
            "record": names.RECORD_MODEL_SHARE,
            "expr": f"{tokens} / on ({promql.BY}) group_left () ({promql.rate(names.METRIC_TOKENS, counted, '1h')} > 0)",
        },
        {
            "record": names.RECORD_MODEL_COST_PER_TOKEN,
            "expr": f"{promql.rate(names.METRIC_COST, ANY, '1h', by_model)} / ({tokens} > 0)",
        },
    ]


# What is not counted.


def _uncosted(settings: Settings) -> Rule:
    return alert(
        settings,
        "LLMUsageUncosted",
        f"sum by ({promql.BY}) (increase({names.METRIC_UNCOSTED}{{{ANY}}}[15m])) > 0",
        wait="",
        severity="warning",
        summary='{{ printf "%.0f" $value }} tokens in 15 minutes have no price',
        description=(
            "Some model has no price, so its tokens do not count towards any budget in dollars. The condition CostKnown names the models. To fix "
            "it, the platform team adds a ModelPrice. Past usage is then priced too, from the date that the ModelPrice gives."
        ),
    )


def _unreachable(settings: Settings) -> Rule:
    pods = f"max by ({promql.BY}, pod) ({names.METRIC_IN_FLIGHT}{{{ANY}}})"
    last = f"max by (namespace, pod) ({names.METRIC_LAST_REPORT})"
    return alert(
        settings,
        "LLMLedgerUnreachable",
        f"count by ({promql.BY}) ({pods} and on (namespace, pod) (time() - {last} > {SILENT_SECONDS}))",
        wait="2m",
        severity="critical",
        summary="{{ $value }} of its pods cannot report their usage",
        description=(
            "Their proxies keep the last configuration, and spend what the ledger has already granted. After that, onLedgerLoss decides whether "
            "calls go on. No usage is lost while the pods live: they report it later. Check the ledger's pod and database, and the network "
            "policies between the namespaces."
        ),
    )


def _unreported(settings: Settings) -> Rule:
    return alert(
        settings,
        "LLMUsageUnreported",
        f"sum by ({promql.BY}) (increase({names.METRIC_LEDGER_UNREPORTED}{{{ANY}}}[1h])) > 0",
        wait="",
        severity="warning",
        summary='{{ printf "%.0f" $value }} of its pods were lost without a last report',
        description=(
            "A node died, or pods were deleted by force. Their usage since the last report (at most one reporting interval) is missing from all "
            "figures."
        ),
    )


# Spending unlike that of earlier days.


def _unlike_earlier(settings: Settings) -> Rule:
    return alert(
        settings,
        "LLMSpendUnusual",
        f"({names.RECORD_SPEND} > {TIMES} * {names.RECORD_SPEND_SAME_HOUR})\nand ({names.RECORD_SPEND} - {names.RECORD_SPEND_SAME_HOUR} > {LEAST_PER_HOUR})",
        wait="15m",
        severity="warning",
        summary='spends ${{ printf "%.2f" $value }} an hour, three times as much as at this hour on earlier days',
        description=(
            f"The last hour is compared with the same hour of up to {DAYS} days before. Find the model and the pod that spend more. Check for "
            "retries and for longer prompts. kubectl llm cost shows spending by label, model and hour."
        ),
    )


def _per_request(settings: Settings) -> Rule:
    before = f"avg_over_time({names.RECORD_COST_PER_REQUEST}[1d] offset 1h)"
    return alert(
        settings,
        "LLMCostPerRequestDoubled",
        f"{names.RECORD_COST_PER_REQUEST} > {DOUBLE} * {before}",
        wait="15m",
        severity="warning",
        summary='a call costs ${{ printf "%.4f" $value }}, twice as much as the day before',
        description=(
            "Each call became more expensive: longer prompts or answers, a prompt cache that is no longer hit, or a more expensive model or "
            "service tier. The dashboard shows tokens per call by kind, and the share of each model."
        ),
    )


def _costlier(settings: Settings) -> Rule:
    share, each = names.RECORD_MODEL_SHARE, names.RECORD_MODEL_COST_PER_TOKEN
    before = f"sum by ({promql.BY}) ({share} offset 1d * on ({promql.BY}, {_MODEL}) ({each} offset 1d))"
    return alert(
        settings,
        "LLMCostlierModelRising",
        f"({share} - (({share} offset 1d) or 0 * {share}) > {RISE})\n"
        f"and on ({promql.BY}, {_MODEL}) ({each} > on ({promql.BY}) group_left () ({COSTLIER} * {before}))",
        wait="15m",
        severity="warning",
        summary=(
            f"{{{{ $labels.{_MODEL} }}}}, more expensive than the models of a day ago, has gained "
            "{{ $value | humanizePercentage }} of its tokens"
        ),
        description=(
            "Calls are moving to a model whose tokens cost at least 1.5 times what this service's tokens cost on average the day before. If nobody "
            "decided that, look for a changed default in the application. A budget with action Fallback would use a cheaper model."
        ),
    )


# Budgets.

_KEY: Final = f"{promql.BY}, budget, kind"
_WHICH: Final = (
    '{{ if eq $labels.kind "LLMBudget" }}the namespace\'s {{ else if eq $labels.kind "ClusterLLMBudget" }}the platform\'s {{ end }}'
    "budget {{ $labels.budget }}"
)
_THEN: Final = recorded(names.RECORD_BUDGET, "consequence", "budget", "kind")


def _about(matchers: str = "") -> str:
    """One series for each budget, whatever was recorded: with two, the alerts of all services would fail."""
    return f"topk by ({_KEY}) (1, {names.RECORD_BUDGET}{{{matchers}}})"


def _ratio(metric: str = names.METRIC_BUDGET_USED) -> str:
    # max: during a restart two ledgers may be scraped at once.
    return f"max by ({_KEY}) ({metric})"


def _burn(settings: Settings, pace: tuple[int, int, float, float, str]) -> Rule:
    """Build a burn-rate alert for the budgets of calendar windows that are long enough for it.

    The used share is read as a counter: its fall at a window's end is a reset. A rolling window's share falls with every quarter of an
    hour that leaves it, so there is no such alert for one.
    """
    long, short, times, most, severity = pace
    spans = (f"{long // HOUR}h", f"{short // 60}m")
    lengths = {calendar: CALENDAR_SECONDS[calendar] for calendar in CALENDARS}

    def burning(calendar: str, length: int) -> str:
        share = min(times * long / length, most)
        parts = [
            f"max by ({_KEY}) (increase({names.METRIC_BUDGET_USED}[{span}])) > {limit:.6g}"
            for span, limit in zip(spans, (share, share * short / long), strict=True)
        ]
        return "\n and ".join((*parts, f'on ({_KEY}) {names.RECORD_BUDGET}{{calendar="{calendar}"}}'))

    even = recorded(
        names.RECORD_BUDGET,
        "calendar",
        "budget",
        "kind",
        words={calendar: f"{long / length:.1%}" for calendar, length in lengths.items()},
    )
    return alert(
        settings,
        "LLMBudgetBurn",
        "\nor ".join(f"({burning(*item)})" for item in lengths.items()),
        wait="2m",
        severity=severity,
        labels={"window": spans[0]},
        summary=f"{{{{ $value | humanizePercentage }}}} of {_WHICH} was spent in {spans[0]}",
        description=(
            f"At an even pace it would have been {even}. Spending was still as fast in the last {spans[1]}. "
            f"When the budget is used up: {_THEN} kubectl get llm -o wide shows when that will be at the present rate."
        ),
    )


def _warning(settings: Settings) -> Rule:
    reached = f"topk by ({_KEY}) (1, {names.RECORD_BUDGET_WARN} <= on ({_KEY}) group_left () {_ratio()})"
    return alert(
        settings,
        "LLMBudgetWarning",
        # The highest threshold that is reached, alone; at 100 % it is exceeded.
        f"0 * {reached}\n+ on ({_KEY}) group_left () ({_ratio()} < 1)",
        wait="",
        severity="warning",
        summary=f"{{{{ $value | humanizePercentage }}}} of {_WHICH} is used",
        description=(
            f"At least {{{{ $labels.threshold }}}} % of the budget is used in its present window. When it is used up: {_THEN} "
            "kubectl get llm -o wide shows when that will be at the present rate."
        ),
    )


def _exceeded(settings: Settings, severity: str) -> Rule:
    """Build the alert for budgets that do something, or for those that only say so. Its label `action` is what the route asks for."""
    of = f'action{"!=" if severity == "critical" else "="}"Alert"'
    return alert(
        settings,
        "LLMBudgetExceeded",
        # Not a ratio of 1: calls reserve what they can cost at most, so the last of a budget is seldom spent.
        f"({_ratio()} and {_ratio(names.METRIC_BUDGET_EXCEEDED)} == 1)\n* on ({_KEY}) group_left (action) {_about(of)}",
        wait="",
        # The errors that it made are in their alerts' windows for so long after it, and a ledger that restarts is not scraped for a moment:
        # either would page for what this alert has explained.
        keep=WINDOW,
        severity=severity,
        summary=f"{_WHICH} is used up ({{{{ $value | humanizePercentage }}}} spent)",
        description=(
            f"{_THEN} If less than 100 % is spent, the rest is too small for the calls that arrive. The budget opens again when its window "
            f"({recorded(names.RECORD_BUDGET, 'window', 'budget', 'kind')}) ends. If the spending is wanted, raise the limit."
        ),
    )


def _consequence(budget: budgets.Budget) -> str:
    match budget.action:
        case "Block":
            return "Calls are refused."
        case "Throttle":
            return "Calls are slowed down, and refused once the limit is reached."
        case "Fallback":
            return f"Calls are sent to {budget.fallback_model}."
        case "Alert":
            return "Calls go on; only this alert is sent."
