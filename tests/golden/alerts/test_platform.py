"""The platform's own alerts on a real `promtool test rules`: they fire, they do not, they clear."""

from pathlib import Path
from typing import Any

import pytest

from llmwarden.manifests.alerts import platform
from llmwarden.manifests.params import ClusterParams
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.golden.alerts.promtool import Case, check

WHOSE = {"account": "main", "gen_ai_provider_name": "OpenAI"}
LABELS = ",".join(f'{key}="{value}"' for key, value in WHOSE.items())
OURS = {"namespace": "llmwarden-system", **WHOSE}


def params(settings: Settings | None = None, *, accounts: bool = True, rules: bool = True) -> ClusterParams:
    return ClusterParams((), settings or Settings(), Capabilities(rules=rules), accounts=accounts)


def rule(settings: Settings | None = None) -> dict[str, Any]:
    made = platform.rules(params(settings))
    assert made is not None
    return made


def drifting(verdict: str, values: str, ledger: str = "a") -> tuple[str, str]:
    return f'llmwarden_provider_cost_drift{{{LABELS},verdict="{verdict}",pod="ledger-{ledger}"}}', values


def figures(metric: str, provider: float, ledger: float) -> dict[str, str]:
    sides = (("provider", provider), ("ledger", ledger))
    return {
        f'llmwarden_provider_{metric}{{{LABELS},source="{side}",pod="ledger-a"}}': f"{value}x60"
        for side, value in sides
    }


OPERATOR = 'namespace="llmwarden-system",pod="operator-1"'
TOKENS, COST = figures("tokens", 1_200_000, 1_000_000), figures("cost_usd", 10.5, 12.0)
CASES = {
    "traffic goes around, as both replicas say, until a day agrees": Case(
        "LLMCostDrift",
        TOKENS
        | dict([drifting("ProviderHasMore", "0x5 1x10 0x10"), drifting("ProviderHasMore", "0x5 1x10 0x10", "b")]),
        {"3m": [], "8m": [{**OURS, "verdict": "ProviderHasMore", "severity": "critical"}], "20m": []},
    ),
    "a price that is wrong is a warning": Case(
        "LLMCostDrift",
        COST | TOKENS | dict([drifting("LedgerDearer", "1x10"), drifting("ProviderHasMore", "0x10")]),
        {"5m": [{**OURS, "verdict": "LedgerDearer", "severity": "warning"}]},
    ),
    "a provider that answered lately": Case(
        "LLMProviderUnread", {f"llmwarden_provider_read_timestamp_seconds{{{LABELS}}}": "0+600x20"}, {"3h": []}, "10m"
    ),
    "a namespace that holds much of a shared budget and spends little, and one that did so for a moment": Case(
        "LLMBudgetHoarded",
        {
            'llmwarden_ledger_lease_unused_ratio{namespace="shop",llmservice="",budget="all",kind="ClusterLLMBudget",pod="ledger-a"}': (
                "0.2x40 0x20"
            ),
            'llmwarden_ledger_lease_unused_ratio{namespace="web",llmservice="",budget="all",kind="ClusterLLMBudget",pod="ledger-a"}': (
                "0.2x10 0x50"
            ),
            'llmwarden_ledger_lease_unused_ratio{namespace="calm",llmservice="",budget="all",kind="ClusterLLMBudget",pod="ledger-a"}': (
                "0.04x60"
            ),
        },
        {
            "12m": [],
            "20m": [
                {
                    "namespace": "llmwarden-system",
                    "holder": "shop",
                    "budget": "all",
                    "kind": "ClusterLLMBudget",
                    "severity": "warning",
                }
            ],
            "50m": [],
        },
    ),
    "a namespace whose quota fills, and which is given more": Case(
        "LLMLedgerQuota",
        {
            'llmwarden_ledger_quota_used_ratio{namespace="shop",pod="ledger-a"}': "0.5x5 0.9x5 0.4x30",
            'llmwarden_ledger_quota_used_ratio{namespace="web",pod="ledger-a"}': "0.5x40",
        },
        {
            "4m": [],
            "8m": [{"namespace": "llmwarden-system", "tenant": "shop", "severity": "warning"}],
            "20m": [],
        },
    ),
    "two namespaces whose pods report more than their quota": Case(
        "LLMLedgerRowsFolded",
        {
            'llmwarden_ledger_folded_rows_total{namespace="shop",pod="ledger-a"}': "0x5 100x30",
            'llmwarden_ledger_folded_rows_total{namespace="web",pod="ledger-b"}': "0x5 7x30",
            'llmwarden_ledger_folded_rows_total{namespace="calm",pod="ledger-b"}': "5x40",
        },
        {
            "4m": [],
            "10m": [
                {"namespace": "llmwarden-system", "tenant": tenant, "severity": "warning"} for tenant in ("shop", "web")
            ],
            "30m": [],
        },
    ),
    "a watch that fails, and works again": Case(
        "LLMWatchFailing",
        {
            f'llmwarden_watch_errors_total{{{OPERATOR},resource="pods.v1"}}': "0x5 0+2x10 20x20",
            f'llmwarden_watch_errors_total{{{OPERATOR},resource="services.v1"}}': "0x5 0+1x30",
            f'llmwarden_watch_up{{{OPERATOR},resource="pods.v1"}}': "1x5 0x10 1x10",
            f'llmwarden_watch_up{{{OPERATOR},resource="services.v1"}}': "1x30",
        },
        {
            "8m": [],
            "12m": [
                {"namespace": "llmwarden-system", "pod": "operator-1", "resource": "pods.v1", "severity": "critical"}
            ],
            "18m": [],
        },
    ),
    "forged usage, as both replicas say, of two namespaces, until it is written off": Case(
        "LLMUsageQuarantined",
        {
            f'llmwarden_ledger_quarantined_{what}{{namespace="{namespace}",llmservice="bot",pod="ledger-{ledger}"}}': values
            for ledger in "ab"
            for what, namespace, values in (
                ("tokens", "shop", "0x5 1000x10 0x10"),
                ("requests", "shop", "0x5 3x10 0x10"),
                ("requests", "web", "0x5 7x15 0x10"),
                ("tokens", "web", "0x30"),
            )
        },
        {
            "4m": [],
            "8m": [
                {"namespace": "llmwarden-system", "service_namespace": name, "llmservice": "bot", "severity": "warning"}
                for name in ("shop", "web")
            ],
            "18m": [
                {
                    "namespace": "llmwarden-system",
                    "service_namespace": "web",
                    "llmservice": "bot",
                    "severity": "warning",
                }
            ],
            "25m": [],
        },
    ),
    "a provider that was never read": Case(
        "LLMProviderUnread",
        {f"llmwarden_provider_read_timestamp_seconds{{{LABELS}}}": "0x160 96600x20"},
        {"1380m": [], "1520m": [{**OURS, "severity": "warning"}], "1700m": []},
        "10m",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_alert(name: str, tmp_path: Path) -> None:
    assert check(rule(), CASES[name], tmp_path) == ""


def test_bills_are_watched_only_where_there_are_accounts_and_nothing_without_the_api() -> None:
    made = platform.rules(params(accounts=False))
    assert made is not None
    assert [item["alert"] for item in made["spec"]["groups"][0]["rules"]] == [
        "LLMWatchFailing",
        "LLMLedgerQuota",
        "LLMLedgerRowsFolded",
        "LLMUsageQuarantined",
        "LLMBudgetHoarded",
    ]
    assert platform.rules(params(rules=False)) is None


def test_each_alert_says_what_it_means_and_where_to_read_on() -> None:
    (group,) = rule()["spec"]["groups"]
    assert len(group["rules"]) == 10
    for alert in group["rules"]:
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{alert['alert']}.md"
    assert len({alert["annotations"]["summary"] for alert in group["rules"]}) == len(group["rules"])
