"""The PrometheusRule of an LLMService: what its objectives need recorded, and its alerts.

Every alert carries the service's namespace (by which AlertmanagerConfig routes), its name and a severity; its summary has the
figure, its description says what to do. A threshold is compared with a bucket's bound, never interpolated.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.desired import defaults, indicators, promql, slo, spending, vocabulary
from llmwarden.desired.alerting import FEW_CALLS, WINDOW, alert, of, title
from llmwarden.desired.manifest import Manifest, beside
from llmwarden.desired.monitors import API_VERSION
from llmwarden.desired.params import Params
from llmwarden.domain import durations, money
from llmwarden.domain.objectives import LatencyObjective, SpendObjective

SPEND_WINDOW: Final = "15m"
SLOW_LIMIT: Final = 0.05  # more than so many slower than the threshold: the 95th percentile is above it

_ALERTS: Final = {
    "RequestDuration": ("LLMLatencyHigh", "95th percentile of latency"),
    "TimeToFirstToken": ("LLMTimeToFirstTokenHigh", "95th percentile of the time to first token"),
    "TimePerOutputToken": ("LLMTimePerOutputTokenHigh", "95th percentile of the time per output token"),
}


def rules(params: Params) -> Manifest | None:
    """Build the PrometheusRule."""
    if not params.capabilities.rules:
        return None
    metadata = params.service.metadata
    group = f"llmwarden/{metadata.namespace}/{metadata.name}"
    groups: list[dict[str, Any]] = [
        {"name": f"{group}/vocabulary", "rules": vocabulary.records(params)},
        {"name": f"{group}/spending", "interval": "1m", "rules": spending.records(params)},
        {"name": f"{group}/alerts", "rules": _alerts(params)},
    ]
    recorded = slo.records(params)
    if recorded:
        # An interval of its own: an objective over weeks must read sums at even distances, whatever the default is.
        groups.append({"name": f"{group}/objectives", "interval": "30s", "rules": recorded})
    return {
        "apiVersion": API_VERSION,
        "kind": "PrometheusRule",
        "metadata": beside(params.service, names.PREFIX_ALERTS + metadata.name, "alerts", params.settings.rule_labels),
        "spec": {"groups": groups},
    }


def _alerts(params: Params) -> list[dict[str, Any]]:
    found = defaults.alerts(params)
    for objective in params.objectives:
        if isinstance(objective, LatencyObjective):
            found.append(_latency(params, objective))
        elif isinstance(objective, SpendObjective):
            found.append(_spend(params, objective))
    found += slo.alerts(params)
    return found + spending.alerts(params)


def _latency(params: Params, objective: LatencyObjective) -> dict[str, Any]:
    metric = indicators.METRICS[objective.indicator]
    name, what = _ALERTS[objective.indicator]
    every = promql.rate(f"{metric}_count", of(params), WINDOW)
    good = promql.rate(f"{metric}_bucket", of(params, promql.bound(objective.threshold_seconds)), WINDOW)
    # The quantile is what a person reads; the share of calls within the bucket is what decides: it is exact.
    expr = (
        f"{promql.quantile(0.95, metric, of(params), WINDOW)}\n"
        f"and (1 - ({good}) / ({every}) > {SLOW_LIMIT})\n"
        f"and ({every} * 300 >= {FEW_CALLS})"
    )
    threshold = durations.human(objective.threshold_seconds)
    return alert(
        params,
        name,
        expr,
        wait="5m",
        severity="warning",
        labels={"objective": objective.name},
        summary=f"{title(params)}: {what} is {{{{ $value | humanizeDuration }}}}, above {threshold}",
        description=(
            f"More than 5 % of calls in the last 5 minutes were slower than the objective {objective.name} allows. "
            "Look at the dashboard for the model that became slow, at the engine's queue and cache if you run it yourself, "
            "and at the provider's status if you do not."
        ),
    )


def _spend(params: Params, objective: SpendObjective) -> dict[str, Any]:
    limit = money.to_decimal(objective.picodollars_per_hour)
    return alert(
        params,
        "LLMSpendRateHigh",
        f"{promql.rate(names.METRIC_COST, of(params), SPEND_WINDOW)} * 3600 > {limit}",
        wait="5m",
        severity="warning",
        labels={"objective": objective.name},
        summary=f'{title(params)}: spends ${{{{ printf "%.2f" $value }}}} an hour, above {money.human(objective.picodollars_per_hour)}',
        description=(
            f"Spending of the last 15 minutes, by the hour, is above the objective {objective.name}. Look for the model and the pod that "
            "spend, for retries, and for prompts that grew; a budget with action Block would end it by itself."
        ),
    )
