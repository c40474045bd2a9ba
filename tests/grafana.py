"""What Grafana asks Prometheus for a dashboard: every query of every panel, variables filled in, repeated panels once for each value."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One query: of which panel, and as what (`instant`: a moment, else a range; `points`: at most so many, 0 where the panel's width says)."""

    title: str
    expr: str
    instant: bool
    points: int


def asked(dashboard: dict[str, Any], interval: str, **chosen: str) -> Iterator[Asked]:
    """Yield all queries. `interval` is $__rate_interval, `chosen` what a person chose of variables with choices of Prometheus'."""
    constants = {"__rate_interval": interval, **chosen}
    choices: dict[str, dict[str, str]] = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "constant":
            constants[variable["name"]] = variable["query"]
        elif variable["type"] == "custom":
            pairs = (item.partition(" : ") for item in variable["query"].split(","))
            choices[variable["name"]] = {text: value for text, _, value in pairs}
    for panel in dashboard["panels"]:
        name = panel.get("repeat")
        for text, value in choices[name].items() if name else (("", ""),):
            values = {**constants, name: value} if name else constants
            title = panel["title"].replace(f"${name}", text)
            for target in panel.get("targets", ()):
                expr = _filled(target["expr"], values)
                yield Asked(title, expr, bool(target.get("instant")), int(panel.get("maxDataPoints") or 0))


def _filled(expr: str, values: dict[str, str]) -> str:
    # The longest first: of two names one may begin with the other.
    for name in sorted(values, key=len, reverse=True):
        expr = expr.replace(f"${name}", values[name])
    return expr
