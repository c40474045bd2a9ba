"""Alerts of single objectives (beside their burn rates) on a real `promtool test rules`: they fire, they do not, they clear."""

from pathlib import Path
from typing import Any

import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.domain import objectives
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.golden.alerts.promtool import Case, check, rules_for

WHOSE = 'namespace="shop",llmservice="bot",pod="a"'
SHARE = {"targetPercent": "95", "window": "28d"}
OBJECTIVES: list[dict[str, Any]] = [
    {"name": "answer", "latency": {"indicator": "RequestDuration", "threshold": "10s"}, **SHARE},
    {"name": "first", "latency": {"indicator": "TimeToFirstToken", "threshold": "1s"}, **SHARE},
    {"name": "token", "latency": {"indicator": "TimePerOutputToken", "threshold": "50ms"}, **SHARE},
    {"name": "spend", "spend": {"perHour": "30.00"}},
]


def rule(settings: Settings | None = None) -> dict[str, Any]:
    service = parse(
        LLMService,
        {
            "metadata": {"name": "bot", "namespace": "shop", "uid": "u", "generation": 1},
            "spec": {
                "backend": {"type": "OpenAI"},
                "workload": {"selector": {"matchLabels": {"app": "bot"}}},
                "objectives": OBJECTIVES,
            },
        },
    )
    return rules_for(Params(service, settings or Settings(), Capabilities(rules=True), objectives.of_service(service)))


def fired(objective: str) -> list[dict[str, str]]:
    return [{"namespace": "shop", "llmservice": "bot", "objective": objective, "severity": "warning"}]


def calls(metric: str, bound: str, good: str, every: str) -> dict[str, str]:
    return {
        f'{metric}_bucket{{{WHOSE},le="{bound}"}}': good,
        f'{metric}_bucket{{{WHOSE},le="+Inf"}}': every,
        f"{metric}_count{{{WHOSE}}}": every,
    }


# Ten minutes of slow calls, one in five, and then none.
SLOW = ("0+8x20 160+10x60", "0+10x20 200+10x60")
CASES = [
    case
    for name, objective, metric, bound in (
        ("LLMLatencyHigh", "answer", "gen_ai_client_operation_duration_seconds", "10.0"),
        ("LLMTimeToFirstTokenHigh", "first", "gen_ai_server_time_to_first_token_seconds", "1.0"),
        ("LLMTimePerOutputTokenHigh", "token", "gen_ai_server_time_per_output_token_seconds", "0.05"),
    )
    for case in (
        Case(name, calls(metric, bound, *SLOW), {"3m": [], "15m": fired(objective), "40m": []}),
        Case(name, calls(metric, bound, "0+97x60", "0+100x60"), {"15m": [], "50m": []}),
        # Spelled as other clients of Prometheus spell a whole number.
        *(
            [Case(name, calls(metric, bound.removesuffix(".0"), *SLOW), {"15m": fired(objective)})]
            if bound.endswith(".0")
            else []
        ),
        # A slow call among too few is nobody's alarm.
        Case(name, calls(metric, bound, "0x60", "0x5 1x55"), {"8m": [], "15m": []}),
    )
] + [
    Case(
        "LLMSpendRateHigh",
        {f"llmwarden_cost_usd_total{{{WHOSE}}}": "0+1x40 40+0x60"},
        {"3m": [], "30m": fired("spend"), "80m": []},
    ),
    Case("LLMSpendRateHigh", {f"llmwarden_cost_usd_total{{{WHOSE}}}": "0+0.4x60"}, {"50m": []}),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.alert}-{number}" for number, case in enumerate(CASES)])
def test_it_fires_and_clears_and_is_silent_otherwise(case: Case, tmp_path: Path) -> None:
    assert not check(rule(), case, tmp_path)
