"""The Grafana dashboard of an LLMService, as a ConfigMap that Grafana's sidecar loads. The datasource is a variable."""

import json
from typing import Any, Final

from llmwarden import names
from llmwarden.desired import promql
from llmwarden.desired.manifest import Manifest, beside, dashboard_uid
from llmwarden.desired.params import Params

SCHEMA_VERSION: Final = 39  # of Grafana 10.4 and later
WIDTH, HEIGHT = 8, 7  # of a panel; Grafana's grid has 24 columns
INTERVAL: Final = "$__rate_interval"

Query = tuple[str, str]  # PromQL and legend


def dashboard(params: Params) -> Manifest:
    """Build the ConfigMap."""
    service = params.service
    namespace, name = service.metadata.namespace, service.metadata.name
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": beside(service, names.PREFIX_DASHBOARD + name, "dashboard", params.settings.dashboard_labels),
        # The key becomes a file's name beside those of all other namespaces.
        "data": {f"llmwarden-{namespace}-{name}.json": json.dumps(_model(namespace, name), indent=1, sort_keys=True)},
    }


def _model(namespace: str, name: str) -> dict[str, Any]:
    return {
        "uid": dashboard_uid(namespace, name),
        "title": f"LLM service {namespace}/{name}",
        "description": f"LLMService {name} in namespace {namespace}: traffic, latency, tokens, cost and budgets.",
        "tags": ["llmwarden", "llm"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "hide": 0,
                    "refresh": 1,
                    "current": {},
                }
            ]
        },
        "annotations": {"list": []},
        "links": [],
        "panels": _panels(promql.selector(namespace, name)),
    }


def _panels(of: str) -> list[dict[str, Any]]:
    service, kind = names.LABEL_M_SERVICE, names.LABEL_M_TOKEN_TYPE
    panels = [
        _graph(
            "Requests per minute",
            "Calls that came in, by the status that the client got.",
            "reqpm",
            (
                f"60 * sum by ({names.LABEL_M_STATUS}) (rate({names.METRIC_REQUESTS}{{{of}}}[{INTERVAL}]))",
                f"{{{{{names.LABEL_M_STATUS}}}}}",
            ),
        ),
        _graph(
            "Time to first token",
            "From a streamed call's arrival to its first token of content.",
            "s",
            (promql.quantile(0.5, names.METRIC_TTFT, of, INTERVAL), "p50"),
            (promql.quantile(0.95, names.METRIC_TTFT, of, INTERVAL), "p95"),
        ),
        _graph(
            "Latency",
            "From a call's arrival to the end of its answer.",
            "s",
            (promql.quantile(0.5, names.METRIC_DURATION, of, INTERVAL), "p50"),
            (promql.quantile(0.95, names.METRIC_DURATION, of, INTERVAL), "p95"),
        ),
        _graph(
            "Tokens per second",
            "By kind; cached_input and cache_write are parts of input, reasoning is a part of output.",
            "short",
            (f"sum by ({kind}) (rate({names.METRIC_TOKENS}{{{of}}}[{INTERVAL}]))", f"{{{{{kind}}}}}"),
        ),
        _graph(
            "Error rate",
            "Share of calls that failed.",
            "percentunit",
            (promql.error_ratio(of, INTERVAL), "errors"),
        ),
        _graph(
            "Time per output token",
            "Between tokens of an answer.",
            "s",
            (promql.quantile(0.95, names.METRIC_TPOT, of, INTERVAL), "p95"),
        ),
        _stat(
            "Cost, last 24 hours",
            "By the proxies' prices; the exact sum is in the LLMService's status.",
            "currencyUSD",
            f"sum by ({service}) (increase({names.METRIC_COST}{{{of}}}[24h]))",
        ),
        _stat(
            "Uncosted tokens, last 24 hours",
            "Tokens of models whose price is unknown: they are not in the cost.",
            "short",
            f"sum by ({service}) (increase({names.METRIC_UNCOSTED}{{{of}}}[24h]))",
        ),
        _gauge(
            "Budget used",
            "Share of each budget that is spent in its present window; shared budgets count all their services.",
            f"max by (kind, budget) ({names.METRIC_BUDGET_USED}{{{of}}})",
            "{{kind}} {{budget}}",
        ),
    ]
    for index, panel in enumerate(panels):
        panel["id"] = index + 1
        panel["gridPos"] = {"x": index % 3 * WIDTH, "y": index // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT}
    return panels


def _panel(kind: str, title: str, description: str, unit: str, *queries: Query) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": source, "expr": expr, "legendFormat": legend}
            for index, (expr, legend) in enumerate(queries)
        ],
    }


def _graph(title: str, description: str, unit: str, *queries: Query) -> dict[str, Any]:
    panel = _panel("timeseries", title, description, unit, *queries)
    panel["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return panel


def _stat(title: str, description: str, unit: str, expr: str) -> dict[str, Any]:
    panel = _panel("stat", title, description, unit, (expr, ""))
    panel["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none"}
    return panel


def _gauge(title: str, description: str, expr: str, legend: str) -> dict[str, Any]:
    panel = _panel("bargauge", title, description, "percentunit", (expr, legend))
    panel["fieldConfig"]["defaults"]["max"] = 1
    panel["fieldConfig"]["defaults"]["thresholds"] = {
        "mode": "absolute",
        "steps": [
            {"color": "green", "value": None},
            {"color": "orange", "value": 0.8},
            {"color": "red", "value": 1},
        ],
    }
    panel["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal"}
    return panel
