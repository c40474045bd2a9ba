"""Alerts on objectives: an error budget that burns, the 95th percentile above a threshold, and spending above a limit.

They are written once for all services. `about` records beside each service the thresholds that they compare with.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.domain import durations, indicators, money
from llmwarden.domain.indicators import LatencyIndicator
from llmwarden.domain.objectives import LatencyObjective, SpendObjective
from llmwarden.manifests import promql
from llmwarden.manifests.alerts import slo
from llmwarden.manifests.alerts.alert import ANY, FEW_CALLS, Rule, alert, recorded
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings

SPEND_WINDOW: Final = "15m"
SLOW_LIMIT: Final = 0.05  # more than so many slower than the threshold: the 95th percentile is above it
_KEY: Final = f"{promql.BY}, objective"


def about(params: Params) -> list[dict[str, Any]]:
    """Record of each objective what its alerts must know."""
    metadata = params.service.metadata
    whose = {"namespace": metadata.namespace, names.LABEL_M_SERVICE: metadata.name}
    records: list[dict[str, Any]] = []
    for objective in slo.measured(params):
        labels = {
            **whose,
            "objective": objective.name,
            "over": slo.over(objective.window_seconds),
            "target": f"{objective.target_percent:f}",
            "bad": f"{objective.of} {'in which' if objective.of == 'time' else 'that'} {objective.bad}",
        }
        if isinstance(objective, LatencyObjective):
            labels |= {
                "indicator": objective.indicator,
                "threshold": durations.human(objective.threshold_seconds),
            }
        records.append(
            {"record": names.RECORD_ERROR_BUDGET, "expr": f"vector({slo.budget(objective):f})", "labels": labels}
        )
    records += [
        {
            "record": names.RECORD_SPEND_LIMIT,
            "expr": f"vector({money.to_decimal(item.picodollars_per_hour)})",
            "labels": {**whose, "objective": item.name, "limit": money.human(item.picodollars_per_hour)},
        }
        for item in params.objectives
        if isinstance(item, SpendObjective)
    ]
    return records


def alerts(settings: Settings) -> list[Rule]:
    """Build the alerts for all services."""
    latencies = [_latency(settings, indicator) for indicator in indicators.LATENCIES]
    return [*latencies, _spend(settings), *(_burn(settings, severity) for severity in ("critical", "warning"))]


def _burn(settings: Settings, severity: str) -> Rule:
    target, over, bad = (recorded(names.RECORD_ERROR_BUDGET, label, "objective") for label in ("target", "over", "bad"))
    speed = (
        "Act now: at this speed the error budget is used up long before its window ends."
        if severity == "critical"
        else "Not urgent: the error budget burns slowly, but it will not last until its window ends."
    )
    return alert(
        settings,
        "LLMErrorBudgetBurn",
        f'{names.RECORD_BURNING}{{severity="{severity}"}}',
        wait="",
        severity=severity,
        summary=(
            f'the error budget of objective {{{{ $labels.objective }}}} burns {{{{ printf "%.1f" $value }}}} times too fast ({target} % over {over})'
        ),
        description=(
            f"{speed} What counts against it: {bad}. On the dashboard, find the model, pod or status that causes it, and since when. Then "
            "check the engine's queue and cache, or the provider's status page."
        ),
    )


def _latency(settings: Settings, indicator: LatencyIndicator) -> Rule:
    # The share of calls within the bucket decides, because it is exact; the quantile is what a person reads, so it is the value.
    slow = (
        f"(1 - {names.RECORD_GOOD} / {names.RECORD_TOTAL} > {SLOW_LIMIT}\n"
        f"  and {names.RECORD_TOTAL} * 300 >= {FEW_CALLS}\n"
        f'  and on ({_KEY}) {names.RECORD_ERROR_BUDGET}{{indicator="{indicator.name}"}})'
    )
    return alert(
        settings,
        indicator.alert,
        f"0 * {slow}\n+ on ({promql.BY}) group_left () {names.RECORD_PREFIX}{indicator.record}:p95_5m",
        wait="5m",
        severity="warning",
        summary=(
            f"the 95th percentile of {indicator.words} is {{{{ $value | humanizeDuration }}}}, "
            f"above {recorded(names.RECORD_ERROR_BUDGET, 'threshold', 'objective')}"
        ),
        description=(
            "More than 5 % of calls in the last 5 minutes were slower than the objective {{ $labels.objective }} allows. "
            "On the dashboard, find the model that became slow. Then check the engine's queue and cache if you run it yourself, "
            "or the provider's status page if you do not."
        ),
    )


def _spend(settings: Settings) -> Rule:
    limit = names.RECORD_SPEND_LIMIT
    spent = f"{promql.rate(names.METRIC_COST, ANY, SPEND_WINDOW)} * 3600"
    return alert(
        settings,
        "LLMSpendRateHigh",
        f"max by ({_KEY}) ((0 * {limit} + on ({promql.BY}) group_left () ({spent})) > {limit})",
        wait="5m",
        severity="warning",
        summary=f'spends ${{{{ printf "%.2f" $value }}}} an hour, above {recorded(limit, "limit", "objective")}',
        description=(
            "Spending of the last 15 minutes, extrapolated to an hour, is above the objective {{ $labels.objective }}. Find the model and the pod "
            "that spend. Check for retries and for longer prompts. A budget with action Block would stop such spending by itself."
        ),
    )
