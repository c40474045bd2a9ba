"""The dashboard over all LLMServices: which is expensive, slow, failing or near its budget. Reads recorded series only: fast at a thousand services."""

from typing import Any, Final

from llmwarden import names
from llmwarden.manifests import promql
from llmwarden.manifests.dashboards.panels import (
    SCHEMA_VERSION,
    SOURCE,
    bars,
    figure,
    graph,
    placed,
    row,
    rows,
    source_variable,
)
from llmwarden.manifests.manifest import DASHBOARD_OVERVIEW_UID

TOP: Final = 10
CHOSEN: Final = 'namespace=~"$namespace"'
BY: Final = promql.BY


def build() -> dict[str, Any]:
    """Build the dashboard."""
    requests, cost = f"{names.RECORD_REQUESTS}{{{CHOSEN}}}", f"{names.RECORD_COST}{{{CHOSEN}}}"
    service = f"{{{{namespace}}}}/{{{{{names.LABEL_M_SERVICE}}}}}"
    budget = f"max by ({BY}) ({names.METRIC_BUDGET_USED}{{{CHOSEN}}})"
    panels = [
        row("At a glance"),
        figure(
            "Services with traffic",
            "Of those chosen, in the last five minutes.",
            "short",
            f"count({requests} > 0) or vector(0)",
        ),
        figure("Requests a minute", "Of all of them.", "reqpm", f"60 * sum({requests}) or vector(0)"),
        figure(
            "Cost an hour",
            "At the rate of the last five minutes.",
            "currencyUSD",
            f"3600 * sum({cost}) or vector(0)",
        ),
        figure(
            "Budgets exceeded",
            "Services with a budget that is used up.",
            "short",
            f"count({budget} >= 1) or vector(0)",
            limits=(1, 2),
        ),
        figure(
            "Services that fail",
            "With more than 5 % of failed calls.",
            "short",
            f"count({names.RECORD_ERROR_RATIO}{{{CHOSEN}}} > 0.05) or vector(0)",
            limits=(1, 2),
        ),
        figure(
            "Firing alerts",
            "Of all services.",
            "short",
            f'count(ALERTS{{{CHOSEN},{names.LABEL_M_SERVICE}!="",alertstate="firing"}}) or vector(0)',
            limits=(1, 5),
        ),
        row("Services"),
        rows(
            "All services",
            "One line per service. Its own dashboard shows the reason.",
            (f"60 * sum by ({BY}) ({requests})", "requests per minute"),
            (f"max by ({BY}) ({names.RECORD_ERROR_RATIO}{{{CHOSEN}}})", "errors"),
            (f"max by ({BY}) ({names.RECORD_TTFT_P95}{{{CHOSEN}}})", "first token p95, s"),
            (f"max by ({BY}) ({names.RECORD_DURATION_P95}{{{CHOSEN}}})", "answer p95, s"),
            (f"3600 * sum by ({BY}) ({cost})", "$ per hour"),
            (budget, "budget used"),
        ),
        row("Top ten"),
        graph(
            "Most expensive",
            "US dollars per hour.",
            "currencyUSD",
            (f"topk({TOP}, 3600 * sum by ({BY}) ({cost}))", service),
            coarse=True,
        ),
        graph(
            "Slowest time to first token, p95",
            "Streams only.",
            "s",
            (f"topk({TOP}, max by ({BY}) ({names.RECORD_TTFT_P95}{{{CHOSEN}}}))", service),
            coarse=True,
        ),
        bars(
            "Closest to the end of a budget",
            "Used share of the service's budget that is closest to its end.",
            "percentunit",
            (f"topk({TOP}, {budget}) or vector(0)", service),
            limits=(0.8, 1.0),
        ),
    ]
    namespaces = {
        "type": "query",
        "name": "namespace",
        "label": "Namespace",
        "datasource": SOURCE,
        "query": f"label_values({names.RECORD_REQUESTS}, namespace)",
        "refresh": 2,  # when the time range changes
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
    }
    return {
        "uid": DASHBOARD_OVERVIEW_UID,
        "title": "LLM services",
        "description": "All LLMServices: which is expensive, slow, failing, or near the end of its budget.",
        "tags": ["llmwarden", "llm", "overview"],
        "editable": False,
        "schemaVersion": SCHEMA_VERSION,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source_variable(), namespaces]},
        "panels": placed(panels),
    }
