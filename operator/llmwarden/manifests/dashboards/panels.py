"""The few kinds of panel that our dashboards are made of: each with a description, a unit and the dashboard's own datasource variable.

Panels are written as Grafana reads them, without what Grafana assumes anyway: a dashboard is stored once for each service. Tests hold them against
Grafana's own types.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Panel = dict[str, Any]
Query = tuple[str, str]  # PromQL and legend

SCHEMA_VERSION: Final = 39  # of Grafana 10.3: none of its migrations is due
SOURCE: Final = {"uid": "$ds"}
PLAIN: Final = "short"  # a number as it is, which is what Grafana assumes
INTERVAL: Final = "$__rate_interval"
HEIGHT: Final = 7  # of a panel; Grafana's grid has 24 columns
COLUMNS_OF_GRID: Final = 24
# Points in time of what is expensive to ask for at each (all buckets of all pods, all services): of a heatmap finer columns cannot be told apart, and
# behind a number the line is a few centimetres wide.
COLUMNS: Final = 150
THIRD, HALF, SIXTH = 8, 12, 4


def graph(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    span: int = THIRD,
    stacked: bool = False,
    coarse: bool = False,
) -> Panel:
    """Lines over time; `coarse` where a query reads much."""
    field: dict[str, Any] = {"unit": unit}
    if stacked:
        field["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 10}
    return _panel("timeseries", title, description, field, queries, span=span, coarse=coarse)


def repeated(variable: dict[str, Any], description: str, *queries: Query, unit: str = PLAIN, across: int) -> Panel:
    """One such panel for each value of a variable (`choices`), at most four `across`; the value's name is its title."""
    span = COLUMNS_OF_GRID // across
    made = _panel("timeseries", f"${variable['name']}", description, {"unit": unit}, queries, span=span)
    return {**made, "repeat": variable["name"]}


def figure(
    title: str, description: str, unit: str, expr: str, *, limits: tuple[float, float] | None = None, span: int = SIXTH
) -> Panel:
    """One number; `limits` are from where it is orange and red (or, falling, red and orange below)."""
    field: dict[str, Any] = {"unit": unit}
    if limits:
        field["thresholds"] = _thresholds(limits)
    return _panel("stat", title, description, field, ((expr, ""),), span=span, height=4, coarse=True)


def figures(title: str, description: str, *each: tuple[str, str, tuple[float, float] | None]) -> Panel:
    """Numbers side by side, one or two digits each: name with its unit, query, and from where it is orange and red."""
    queries = [(expr, name) for name, expr, _ in each]
    # Without a threshold Grafana takes 80 for one.
    field = {"unit": PLAIN, "thresholds": {"steps": [{"color": "green"}]}}
    made = _panel("stat", title, description, field, queries, span=COLUMNS_OF_GRID, height=4, coarse=True)
    made["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "thresholds", "value": _thresholds(limits)}],
        }
        for name, _, limits in each
        if limits
    ]
    return made


def bars(
    title: str, description: str, unit: str, *queries: Query, limits: tuple[float, float], span: int = THIRD
) -> Panel:
    """Shares of 0 to 1 side by side."""
    field = {"unit": unit, "min": 0, "max": 1, "thresholds": _thresholds(limits)}
    made = _panel("bargauge", title, description, field, queries, span=span)
    _each(made, instant=True)
    return made


def heat(variable: dict[str, Any], description: str, unit: str, matchers: str, *, across: int) -> Panel:
    """Histograms over time, one for each value of a variable: where calls are, not only their quantiles. Points are traces of single calls."""
    expr = f"sum by (le) (increase(${variable['name']}_bucket{{{matchers}}}[{INTERVAL}]))"
    made = repeated(variable, description, (expr, ""), unit=unit, across=across)
    _each(made, range=True, exemplar=True, format="heatmap")
    return {**made, "type": "heatmap", "maxDataPoints": COLUMNS, "options": {"yAxis": {"unit": unit}}}


def rows(title: str, description: str, *queries: Query, span: int = COLUMNS_OF_GRID) -> Panel:
    """A table with one row for each service, one column for each query."""
    made = _panel("table", title, description, {"unit": "short"}, queries, span=span, height=12)
    _each(made, instant=True, format="table")
    return {**made, "transformations": [{"id": "merge", "options": {}}]}


def row(title: str) -> Panel:
    """A section's heading."""
    return {"type": "row", "title": title, "gridPos": {"h": 1, "w": COLUMNS_OF_GRID}}


def placed(panels: Iterable[Panel]) -> list[Panel]:
    """Return panels in lines from left to right, as wide as they ask to be, with numbers, by which links name them."""
    numbered: list[Panel] = []
    x = y = height = 0
    for number, panel in enumerate(panels, start=1):
        size = panel["gridPos"]
        if x + size["w"] > COLUMNS_OF_GRID:
            x, y, height = 0, y + height, 0
        numbered.append({"id": number, **panel, "gridPos": {**size, "x": x, "y": y}})
        # What is repeated has its lines for itself: how many they are Grafana knows, and moves what is below.
        x, height = (COLUMNS_OF_GRID if "repeat" in panel else x + size["w"]), max(height, size["h"])
    return numbered


def source_variable() -> dict[str, Any]:
    """The Prometheus that a person chooses: never a fixed UID."""
    return {"type": "datasource", "name": "ds", "label": "Data source", "query": "prometheus"}


def constant(name: str, value: str) -> dict[str, Any]:
    """Words that many queries have in common, hidden: `$name` stands for them."""
    return {"type": "constant", "name": name, "query": value, "hide": 2}


def choices(name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """All values of a variable by their names, hidden: for a panel that is `repeated`."""
    return {
        "type": "custom",
        "name": name,
        "query": ",".join(f"{text} : {value}" for text, value in values.items()),
        "includeAll": True,
        "current": {"value": "$__all"},
        "hide": 2,
    }


def to_json(dashboard: dict[str, Any]) -> str:
    """Return a dashboard as Grafana reads it."""
    return json.dumps(dashboard, separators=(",", ":"), ensure_ascii=False)


def _panel(
    kind: str,
    title: str,
    description: str,
    field: dict[str, Any],
    queries: Sequence[Query],
    *,
    span: int,
    height: int = HEIGHT,
    coarse: bool = False,
) -> Panel:
    return {
        "type": kind,
        "title": title,
        "description": description,
        "gridPos": {"h": height, "w": span},
        "datasource": SOURCE,
        **({"maxDataPoints": COLUMNS} if coarse else {}),
        **({"fieldConfig": {"defaults": field}} if field != {"unit": PLAIN} else {}),
        "targets": [
            {
                **({"refId": chr(ord("A") + index)} if len(queries) > 1 else {}),  # the first is A
                "expr": expr,
                **({"legendFormat": legend} if legend else {}),
            }
            for index, (expr, legend) in enumerate(queries)
        ],
    }


def _each(panel: Panel, **more: Any) -> None:
    for target in panel["targets"]:
        target.update(more)


def _thresholds(limits: tuple[float, float]) -> dict[str, Any]:
    first, second = limits
    colours = ("green", "orange", "red") if first < second else ("red", "orange", "green")
    low, high = sorted(limits)
    steps = [{"color": colours[0]}, {"color": colours[1], "value": low}, {"color": colours[2], "value": high}]
    return {"steps": steps}
