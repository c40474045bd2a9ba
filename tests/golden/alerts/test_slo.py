"""Burn-rate alerts on a real `promtool test rules`: they fire, they do not, they clear."""

from pathlib import Path
from typing import Any

import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.domain import objectives
from llmwarden.manifests.alerts.slo import burns
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.golden.alerts.promtool import Case, check, rules_for

DAY = 86400


def rule(*wanted: dict[str, Any]) -> dict[str, Any]:
    service = parse(
        LLMService,
        {
            "metadata": {"name": "bot", "namespace": "shop", "uid": "u", "generation": 1},
            "spec": {
                "backend": {"type": "OpenAI"},
                "workload": {"selector": {"matchLabels": {"app": "bot"}}},
                "objectives": list(wanted),
            },
        },
    )
    return rules_for(Params(service, Settings(), Capabilities(rules=True), objectives.of_service(service)))


ERRORS = {"name": "errors", "errors": {}, "targetPercent": "99", "window": "30d"}
LATENCY = {
    "name": "fast",
    "latency": {"indicator": "RequestDuration", "threshold": "10s"},
    "targetPercent": "95",
    "window": "30d",
}
GOOD = 'llmwarden_requests_total{namespace="shop",llmservice="bot",pod="a",http_status_code="200",error_type=""}'
BAD = 'llmwarden_requests_total{namespace="shop",llmservice="bot",pod="a",http_status_code="500",error_type="500"}'


def fired(objective: str, severity: str) -> dict[str, str]:
    return {"namespace": "shop", "llmservice": "bot", "objective": objective, "severity": severity}


def test_windows_are_scaled_to_the_objectives_own() -> None:
    assert [(item.long, item.short) for item in burns(30 * DAY)] == [
        (3600, 300),
        (6 * 3600, 1800),
        (DAY, 7200),
        (3 * DAY, 6 * 3600),
    ]
    # A week: 14 minutes for an hour. The short ones are not below what a few scrapes can tell.
    assert [(item.long, item.short) for item in burns(7 * DAY)] == [
        (840, 120),
        (5040, 420),
        (20160, 1680),
        (60480, 5040),
    ]
    assert all(item.long >= 300 and item.short >= 120 for item in burns(3600))


@pytest.mark.parametrize(
    ("name", "series", "fires"),
    [
        (
            "20 % of errors burn a 1 % budget 20 times too fast: a page within the hour, and it clears once they end",
            {GOOD: "0+96x120 11616+120x600", BAD: "0+24x120 2880+0x600"},
            {"60m": [fired("errors", "critical")], "150m": []},
        ),
        ("1 % of errors is what is allowed", {GOOD: "0+99x600", BAD: "0+1x600"}, {"60m": [], "400m": []}),
        ("no errors at all, and no series of them", {GOOD: "0+10x120"}, {"90m": []}),
        (
            "every call fails, and there is no series of good ones",
            {BAD: "0+10x120"},
            {"90m": [fired("errors", "critical")]},
        ),
        ("one bad call of three in an hour is nobody's page", {GOOD: "0x30 1x60 2x60", BAD: "0x20 1x130"}, {"60m": []}),
    ],
)
def test_a_page(name: str, series: dict[str, str], fires: dict[str, list[dict[str, str]]], tmp_path: Path) -> None:
    # Tickets of the same name are tested below: their windows are days.
    made = rule(ERRORS)
    for group in made["spec"]["groups"]:
        group["rules"] = [item for item in group["rules"] if item.get("labels", {}).get("severity") != "warning"]
    assert not check(made, Case("LLMErrorBudgetBurn", series, fires), tmp_path), name


def test_a_ticket_for_what_burns_slowly(tmp_path: Path) -> None:
    # A day without errors, then 4 % bad: four times too fast is no page, but 10 % of the budget in a day or in three.
    series = {GOOD: "0+100x1500 150096+96x1300", BAD: "0x1500 4+4x1300"}
    expected = {"1860m": [], "2700m": [fired("errors", "warning")]}
    assert not check(rule(ERRORS), Case("LLMErrorBudgetBurn", series, expected), tmp_path)


def test_a_latency_objective_counts_calls_beyond_its_threshold(tmp_path: Path) -> None:
    made = rule(LATENCY)
    for group in made["spec"]["groups"]:
        group["rules"] = [item for item in group["rules"] if item.get("labels", {}).get("severity") != "warning"]
    metric = "gen_ai_client_operation_duration_seconds"
    labels = 'namespace="shop",llmservice="bot",pod="a"'
    series = {
        f'{metric}_bucket{{{labels},le="10.0"}}': "0+10x90",
        f'{metric}_bucket{{{labels},le="+Inf"}}': "0+100x90",
        f"{metric}_count{{{labels}}}": "0+100x90",
    }
    assert not check(made, Case("LLMErrorBudgetBurn", series, {"60m": [fired("fast", "critical")]}), tmp_path)
    fast = {**series, f'{metric}_bucket{{{labels},le="10.0"}}': "0+99x90"}
    assert not check(made, Case("LLMErrorBudgetBurn", fast, {"60m": []}), tmp_path)


def test_a_low_target_pages_at_an_outage_all_the_same(tmp_path: Path) -> None:
    made = rule({**ERRORS, "targetPercent": "80"})
    for group in made["spec"]["groups"]:
        group["rules"] = [item for item in group["rules"] if item.get("labels", {}).get("severity") != "warning"]
    # 14.4 times 20 % would be more than all calls.
    assert not check(
        made, Case("LLMErrorBudgetBurn", {BAD: "0+10x120"}, {"90m": [fired("errors", "critical")]}), tmp_path
    )
