"""The PrometheusRule of an LLMService: what only its own spec can say.

Its objectives are recorded and burn; what rules for all services (`shared_rules`) must know of it is recorded as figures with labels. A threshold is
compared with a bucket's bound, never interpolated.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.manifests.alerts import defaults, objective_alerts, slo, spending, vocabulary
from llmwarden.manifests.manifest import Manifest, beside, dashboard_uid
from llmwarden.manifests.monitors import API_VERSION
from llmwarden.manifests.params import Params

# Intervals of their own: an objective over weeks must read sums at even distances, whatever the default is.
EVERY: Final = "30s"
SELDOM_SECONDS: Final = 240  # below the five minutes after which Prometheus takes a series for gone
MINUTE: Final = "1m"


def rules(params: Params) -> Manifest | None:
    """Build the PrometheusRule."""
    if not params.capabilities.rules:
        return None
    metadata = params.service.metadata
    group = f"llmwarden/{metadata.namespace}/{metadata.name}"
    groups: list[dict[str, Any]] = [
        {"name": f"{group}/spec", "interval": MINUTE, "rules": _spec(params)},
        {"name": f"{group}/objectives", "interval": EVERY, "rules": [*slo.rates(params), *slo.quick(params)]},
        {
            "name": f"{group}/objectives-slow",
            "interval": f"{SELDOM_SECONDS}s",
            "rules": [*slo.slow(params), *slo.whole(params)],
        },
        {"name": f"{group}/gpus", "interval": MINUTE, "rules": defaults.gpu_records(params)},
    ]
    return {
        "apiVersion": API_VERSION,
        "kind": "PrometheusRule",
        "metadata": beside(params.service, names.PREFIX_ALERTS + metadata.name, "alerts", params.settings.rule_labels),
        "spec": {"groups": [item for item in groups if item["rules"]]},
    }


def _spec(params: Params) -> list[dict[str, Any]]:
    metadata = params.service.metadata
    engine = vocabulary.engine_of(params)
    return [
        {
            "record": names.RECORD_SPEC,
            "expr": "vector(1)",
            "labels": {
                "namespace": metadata.namespace,
                names.LABEL_M_SERVICE: metadata.name,
                "dashboard": dashboard_uid(metadata.namespace, metadata.name),
                "alerts": f",{','.join(defaults.wanted(params))},",
                **({"engine": engine.type} if engine is not None else {}),
            },
        },
        *objective_alerts.about(params),
        *spending.about(params),
    ]
