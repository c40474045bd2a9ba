"""Alerts about money on a real `promtool test rules`: they fire, they do not, they clear."""

from pathlib import Path
from typing import Any

import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.domain import budgets, objectives
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.golden.alerts.promtool import Case, check, rules_for

WHOSE = 'namespace="shop",llmservice="bot"'
POD = f'{WHOSE},pod="a"'
BUDGET = f'{WHOSE},budget="monthly",kind="LLMService"'
USED, EXCEEDED = f"llmwarden_budget_used_ratio{{{BUDGET}}}", f"llmwarden_budget_exceeded{{{BUDGET}}}"
COST = "llmwarden_cost_usd_total"
TOKENS = "gen_ai_client_token_usage_tokens_total"
DAY = 1440  # minutes


def rule(
    window: dict[str, Any] | None = None, action: str = "Block", settings: Settings | None = None
) -> dict[str, Any]:
    service = parse(
        LLMService,
        {
            "metadata": {"name": "bot", "namespace": "shop", "uid": "u", "generation": 1},
            "spec": {
                "backend": {"type": "OpenAI"},
                "workload": {"selector": {"matchLabels": {"app": "bot"}}},
                "budgets": [
                    {
                        "name": "monthly",
                        "limit": {"amount": "100.00"},
                        "window": window or {"calendar": "Month"},
                        "warnAtPercent": [50, 80],
                        "onExceeded": {"action": action},
                    }
                ],
            },
        },
    )
    held = budgets.of_service(service)
    return rules_for(
        Params(service, settings or Settings(), Capabilities(rules=True), objectives.of_service(service), held)
    )


def fired(severity: str = "warning", **more: str) -> dict[str, str]:
    return {"namespace": "shop", "llmservice": "bot", "severity": severity, **more}


def of_budget(severity: str = "warning", **more: str) -> dict[str, str]:
    return fired(severity, budget="monthly", kind="LLMService", **more)


def spend(
    model: str, each_minute: float, minutes: int, then: float = 0.0, after: int = 0, *, back: int = 0, **labels: str
) -> dict[str, str]:
    """Dollars a minute, other dollars after that, and for `back` minutes those of the beginning again."""
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    series = f'{COST}{{{POD},gen_ai_request_model="{model}"{more}}}'
    end = each_minute * minutes
    again = end + then * after
    return {
        series: f"0+{each_minute}x{minutes}"
        + (f" {end}+{then}x{after}" if after else "")
        + (f" {again}+{each_minute}x{back}" if back else "")
    }


CASES = {
    "thresholds: the highest that is reached, alone": Case(
        "LLMBudgetWarning",
        {USED: "0.1x5 0.6x5 0.85x5 1.0x5"},
        {
            "4m": [],
            "8m": [of_budget(threshold="50")],
            "14m": [of_budget(threshold="80")],
            "20m": [],
        },
    ),
    "used up by the ledger's word, before the last cent": Case(
        "LLMBudgetExceeded",
        {USED: "0.9x5 0.97x10 0x10", EXCEEDED: "0x6 1x9 0x10"},
        {"4m": [], **{at: [of_budget("critical", action="Block")] for at in ("12m", "19m")}, "23m": []},
    ),
    "two per cent of a month in an hour": Case(
        "LLMBudgetBurn",
        {USED: "0+0.0004x120 0.048+0x30"},
        {"20m": [], "90m": [of_budget("critical", window="1h")], "140m": []},
    ),
    "five per cent of a month in six hours": Case(
        "LLMBudgetBurn",
        {USED: "0+0.00016x400"},
        {"120m": [], "390m": [of_budget(window="6h")]},
    ),
    "an even pace is no alert": Case("LLMBudgetBurn", {USED: "0+0.0000232x900"}, {"890m": []}),
    "a window's end is no burning": Case("LLMBudgetBurn", {USED: "0.95x200 0x200"}, {"205m": [], "390m": []}),
    "tokens without a price": Case(
        "LLMUsageUncosted",
        {f"llmwarden_uncosted_tokens_total{{{POD}}}": "0x5 50+50x10 550x30"},
        {"4m": [], "12m": [fired()], "44m": []},
    ),
    "proxies that cannot report": Case(
        "LLMLedgerUnreachable",
        {
            'llmwarden_proxy_ledger_last_report_timestamp_seconds{namespace="shop",pod="a"}': "0+60x5 300x10 960+60x10",
            "llmwarden_requests_in_flight{" + POD + "}": "0x30",
        },
        {"5m": [], "12m": [fired("critical")], "20m": []},
    ),
    "somebody else's proxy cannot report": Case(
        "LLMLedgerUnreachable",
        {
            'llmwarden_proxy_ledger_last_report_timestamp_seconds{namespace="shop",pod="b"}': "0x30",
            "llmwarden_requests_in_flight{" + POD + "}": "0x30",
        },
        {"20m": []},
    ),
    "a pod that was lost": Case(
        "LLMUsageUnreported",
        {f"llmwarden_ledger_unreported_pods_total{{{WHOSE}}}": "0x5 1x100"},
        {"4m": [], "10m": [fired()], "90m": []},
    ),
    "three times what it was at this hour yesterday": Case(
        "LLMSpendUnusual",
        spend("m", 0.02, DAY + 60, 0.2, 120, back=180),
        {f"{DAY + 55}m": [], f"{DAY + 160}m": [fired()], f"{DAY + 300}m": []},
    ),
    "the same as yesterday": Case("LLMSpendUnusual", spend("m", 0.2, DAY + 180), {f"{DAY + 170}m": []}),
    "cents are no event": Case("LLMSpendUnusual", spend("m", 0.0001, DAY + 60, 0.001, 120), {f"{DAY + 160}m": []}),
    "calls that cost twice as much": Case(
        "LLMCostPerRequestDoubled",
        {
            **spend("m", 0.1, DAY, 0.4, 180, back=180),
            f'llmwarden_requests_total{{{POD},error_type=""}}': f"0+10x{DAY + 360}",
        },
        {f"{DAY - 10}m": [], f"{DAY + 150}m": [fired()], f"{DAY + 300}m": []},
    ),
    "twice the calls at the same price": Case(
        "LLMCostPerRequestDoubled",
        {
            **spend("m", 0.1, DAY, 0.4, 180),
            f'llmwarden_requests_total{{{POD},error_type=""}}': f"0+10x{DAY} {10 * DAY}+40x180",
        },
        {f"{DAY + 150}m": []},
    ),
}


def tokens(model: str, values: str) -> dict[str, str]:
    return {f'{TOKENS}{{{POD},gen_ai_request_model="{model}",gen_ai_token_type="output"}}': values}


COSTLIER = {
    **spend("small", 0.01, DAY + 60, 0.005, 120, back=180),
    **spend("large", 0.0, DAY + 60, 0.5, 120, back=180),
    **tokens("small", f"0+1000x{DAY + 60} {1000 * (DAY + 60)}+500x120 {1000 * (DAY + 120)}+1000x180"),
    **tokens("large", f"0x{DAY + 60} 0+500x120 60000x180"),
}
CASES |= {
    "half of the tokens move to a dearer model": Case(
        "LLMCostlierModelRising",
        COSTLIER,
        {f"{DAY + 50}m": [], f"{DAY + 170}m": [fired(gen_ai_request_model="large")], f"{DAY + 310}m": []},
    ),
    "they move to one that is as cheap": Case(
        "LLMCostlierModelRising",
        {**COSTLIER, **spend("large", 0.0, DAY + 60, 0.005, 120)},
        {f"{DAY + 170}m": []},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_alerts_about_money(name: str, tmp_path: Path) -> None:
    assert not check(rule(), CASES[name], tmp_path)


def test_a_short_window_burns_by_larger_shares_and_a_rolling_one_not_at_all(tmp_path: Path) -> None:
    day = rule({"calendar": "Day"})
    burning = Case("LLMBudgetBurn", {USED: "0+0.005x120"}, {"90m": [of_budget("critical", window="1h")]})
    calm = Case("LLMBudgetBurn", {USED: "0+0.003x120"}, {"90m": []})
    assert not check(day, burning, tmp_path)
    assert not check(day, calm, tmp_path)
    for window in ({"rolling": "24h"}, {"calendar": "Hour"}):
        assert not check(rule(window), Case("LLMBudgetBurn", burning.series, {"90m": []}), tmp_path)


def test_an_alerting_budget_is_a_warning_only(tmp_path: Path) -> None:
    case = Case("LLMBudgetExceeded", {USED: "1.2x9", EXCEEDED: "1x9"}, {"5m": [of_budget(action="Alert")]})
    assert not check(rule(action="Alert"), case, tmp_path)
