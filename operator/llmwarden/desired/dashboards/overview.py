"""The dashboard over all LLMServices: which is dear, slow, failing or near its budget. Reads recorded series only: fast at a thousand services."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard as models

from llmwarden import names
from llmwarden.desired import promql
from llmwarden.desired.dashboards.panels import SOURCE, bars, figure, finish, graph, row, rows, source_variable
from llmwarden.desired.manifest import DASHBOARD_OVERVIEW_UID

TOP: Final = 10
CHOSEN: Final = 'namespace=~"$namespace"'
BY: Final = promql.BY


def build() -> models.Dashboard:
    """Build the dashboard."""
    requests, cost = f"llmservice:requests:rate5m{{{CHOSEN}}}", f"llmservice:cost_usd:rate5m{{{CHOSEN}}}"
    service = f"{{{{namespace}}}}/{{{{{names.LABEL_M_SERVICE}}}}}"
    budget = f"max by ({BY}) ({names.METRIC_BUDGET_USED}{{{CHOSEN}}})"
    made = (
        builders.Dashboard("LLM services")
        .uid(DASHBOARD_OVERVIEW_UID)
        .description("All LLMServices: which is dear, slow, failing, or near the end of its budget.")
        .tags(["llmwarden", "llm", "overview"])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh("1m")
        .time("now-6h", "now")
        .timezone("")
        .with_variable(source_variable())
        .with_variable(
            builders.QueryVariable("namespace")
            .label("Namespace")
            .datasource(SOURCE)
            .query("label_values(llmservice:requests:rate5m, namespace)")
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(multi=True)
            .include_all(include_all=True)
            .all_value(".*")
        )
        .with_row(row("At a glance"))
        .with_panel(
            figure(
                "Services with traffic",
                "Of those chosen, in the last five minutes.",
                "short",
                f"count({requests} > 0) or vector(0)",
            )
        )
        .with_panel(figure("Requests a minute", "Of all of them.", "reqpm", f"60 * sum({requests}) or vector(0)"))
        .with_panel(
            figure(
                "Cost an hour",
                "At the rate of the last five minutes.",
                "currencyUSD",
                f"3600 * sum({cost}) or vector(0)",
            )
        )
        .with_panel(
            figure(
                "Budgets exceeded",
                "Services with a budget that is used up.",
                "short",
                f"count({budget} >= 1) or vector(0)",
                limits=(1, 2),
            )
        )
        .with_panel(
            figure(
                "Services that fail",
                "With more than 5 % of failed calls.",
                "short",
                f"count(llmservice:errors:ratio5m{{{CHOSEN}}} > 0.05) or vector(0)",
                limits=(1, 2),
            )
        )
        .with_panel(
            figure(
                "Alerts that fire",
                "Of all services.",
                "short",
                f'count(ALERTS{{{CHOSEN},{names.LABEL_M_SERVICE}!="",alertstate="firing"}}) or vector(0)',
                limits=(1, 5),
            )
        )
        .with_row(row("Services"))
        .with_panel(
            rows(
                "All services",
                "One line for each. Open a service's own dashboard for why.",
                (f"60 * sum by ({BY}) ({requests})", "requests a minute"),
                (f"max by ({BY}) (llmservice:errors:ratio5m{{{CHOSEN}}})", "errors"),
                (f"max by ({BY}) (llmservice:ttft_seconds:p95_5m{{{CHOSEN}}})", "first token p95, s"),
                (f"max by ({BY}) (llmservice:request_duration_seconds:p95_5m{{{CHOSEN}}})", "answer p95, s"),
                (f"3600 * sum by ({BY}) ({cost})", "$ an hour"),
                (budget, "budget used"),
            ).with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        )
        .with_row(row("The first ten"))
        .with_panel(
            graph(
                "Dearest",
                "Dollars an hour.",
                "currencyUSD",
                (f"topk({TOP}, 3600 * sum by ({BY}) ({cost}))", service),
                coarse=True,
            )
        )
        .with_panel(
            graph(
                "Slowest to the first token, p95",
                "Of streams.",
                "s",
                (f"topk({TOP}, max by ({BY}) (llmservice:ttft_seconds:p95_5m{{{CHOSEN}}}))", service),
                coarse=True,
            )
        )
        .with_panel(
            bars(
                "Nearest the end of a budget",
                "Of the budget nearest its end.",
                "percentunit",
                (f"topk({TOP}, {budget}) or vector(0)", service),
                limits=(0.8, 1.0),
            )
        )
    )
    return finish(made)
