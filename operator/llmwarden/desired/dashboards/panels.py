"""The few kinds of panel that our dashboards are made of: each with a description, a unit and the dashboard's own datasource variable."""

from typing import Final, TypeAlias

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models

SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
INTERVAL: Final = "$__rate_interval"
HEIGHT: Final = 7  # of a panel; Grafana's grid has 24 columns
# Points in time of what is dear to ask for at each (all buckets of all pods, all services): of a heatmap finer columns cannot be told apart, and
# behind a number the line is a few centimetres wide.
COLUMNS: Final = 150
THIRD, HALF, SIXTH = 8, 12, 4

Query = tuple[str, str]  # PromQL and legend
PanelBuilder: TypeAlias = Builder[models.Panel]


def graph(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    span: int = THIRD,
    stacked: bool = False,
    coarse: bool = False,
) -> PanelBuilder:
    """Lines over time; `coarse` where a query reads much."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(span)
        .height(HEIGHT)
        .fill_opacity(10)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
            .calcs([])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
    )
    if coarse:
        panel = panel.max_data_points(COLUMNS)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    for index, (expr, legend) in enumerate(queries):
        panel = panel.with_target(_query(index, expr, legend).range())
    return panel


def figure(
    title: str, description: str, unit: str, expr: str, *, limits: tuple[float, float] | None = None, span: int = SIXTH
) -> PanelBuilder:
    """One number; `limits` are from where it is orange and red (or, falling, red and orange below)."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(4)
        .max_data_points(COLUMNS)
        .graph_mode(common_models.BigValueGraphMode.AREA)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
        .no_value("no data")
        .with_target(_query(0, expr, "").range())
    )
    return panel.thresholds(_thresholds(limits)) if limits else panel


def bars(
    title: str, description: str, unit: str, *queries: Query, limits: tuple[float, float], span: int = THIRD
) -> PanelBuilder:
    """Shares of 0 to 1 side by side."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .max(1)
        .span(span)
        .height(HEIGHT)
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
        .thresholds(_thresholds(limits))
        .no_value("none")
    )
    for index, (expr, legend) in enumerate(queries):
        panel = panel.with_target(_query(index, expr, legend).instant())
    return panel


def heat(title: str, description: str, unit: str, metric: str, matchers: str, *, span: int = HALF) -> PanelBuilder:
    """A histogram over time: where calls are, not only their quantiles."""
    expr = f"sum by (le) (increase({metric}_bucket{{{matchers}}}[{INTERVAL}]))"
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .span(span)
        .height(HEIGHT)
        .calculate(calculate=False)
        .max_data_points(COLUMNS)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .steps(64)
            .exponent(0.5)
            .fill("dark-orange")
            .reverse(reverse=False)
        )
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .unit(unit)
        .show_tooltip()
        .exemplars_color("rgba(255,0,255,0.7)")
        .with_target(
            _query(0, expr, "{{le}}").range().exemplar(exemplar=True).format(prometheus_models.PromQueryFormat.HEATMAP)
        )
    )


def rows(title: str, description: str, *queries: Query, span: int = 24) -> table.Panel:
    """A table with one row for each service, one column for each query."""
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("short")
        .span(span)
        .height(12)
        .show_header(show_header=True)
    )
    for index, (expr, legend) in enumerate(queries):
        query = _query(index, expr, legend).instant().format(prometheus_models.PromQueryFormat.TABLE)
        panel = panel.with_target(query)
    return panel


def row(title: str) -> dashboard.Row:
    """A section's heading."""
    return dashboard.Row(title)


def finish(builder: dashboard.Dashboard) -> models.Dashboard:
    """Build, and number the panels, which Grafana wants and its SDK leaves out."""
    built = builder.build()
    for number, panel in enumerate(built.panels or (), start=1):
        panel.id_val = number
    return built


def source_variable() -> dashboard.DatasourceVariable:
    """The Prometheus that a person chooses: never a fixed UID."""
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _query(index: int, expr: str, legend: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .ref_id(chr(ord("A") + index))
        .datasource(SOURCE)
        .expr(expr)
        .legend_format(legend)
        .editor_mode(prometheus_models.QueryEditorMode.CODE)
    )


def _thresholds(limits: tuple[float, float]) -> dashboard.ThresholdsConfig:
    first, second = limits
    colours = ("green", "orange", "red") if first < second else ("red", "orange", "green")
    low, high = sorted(limits)
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps(
            [
                models.Threshold(value=None, color=colours[0]),
                models.Threshold(value=low, color=colours[1]),
                models.Threshold(value=high, color=colours[2]),
            ]
        )
    )
