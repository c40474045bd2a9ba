"""The PrometheusRule for all LLMServices, in our own namespace: what is recorded and judged in the same way of each.

One rule over all services costs Prometheus what its series do; the same rule beside each service would cost that, and an evaluation and a copy for
each. What a rule must know of a service (its engine, thresholds, which alerts hold) the service's own rules record (`rules`).
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.manifests.alerts import defaults, objective_alerts, spending, vocabulary
from llmwarden.manifests.manifest import Manifest, ours
from llmwarden.manifests.monitors import API_VERSION
from llmwarden.manifests.params import ClusterParams

PREFIX: Final = "llmwarden/all"


def rules(params: ClusterParams) -> Manifest | None:
    """Build the PrometheusRule."""
    if not params.capabilities.rules:
        return None
    settings = params.settings
    # Groups are evaluated side by side, the rules of one after another.
    groups: list[dict[str, Any]] = [
        {"name": f"{PREFIX}/calls", "rules": [*vocabulary.calls(), *vocabulary.lost()]},
        # Of all rules for all services these read the most: every bucket, three times.
        {"name": f"{PREFIX}/latency", "interval": "1m", "rules": vocabulary.latency()},
        {"name": f"{PREFIX}/engines", "rules": vocabulary.engine_figures()},
        {"name": f"{PREFIX}/spending", "interval": "1m", "rules": spending.records()},
        {"name": f"{PREFIX}/alerts", "rules": [*defaults.alerts(settings), *objective_alerts.alerts(settings)]},
        # Over hours and days: once a minute is soon enough.
        {
            "name": f"{PREFIX}/slow-alerts",
            "interval": "1m",
            "rules": [*spending.alerts(settings), *defaults.alerts_over_days(settings)],
        },
        {"name": f"{PREFIX}/budgets", "rules": spending.budget_alerts(settings)},
    ]
    if settings.short_metric_names:
        groups.append({"name": f"{PREFIX}/short-names", "rules": vocabulary.short()})
    return {
        "apiVersion": API_VERSION,
        "kind": "PrometheusRule",
        "metadata": ours(names.RULES_SERVICES, "alerts", settings.namespace, settings.rule_labels),
        "spec": {"groups": groups},
    }
