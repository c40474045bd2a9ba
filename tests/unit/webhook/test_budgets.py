"""Which budgets a proxy is told of for the time before its ledger has answered."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from llmwarden import names
from llmwarden.contracts import sidecar
from llmwarden.settings import Settings
from llmwarden.webhook.admission import World, review
from llmwarden.webhook.budgets import Budgets, read_cluster_budget, read_namespace_budget
from tests.unit.webhook.services import known, service
from tests.unit.webhook.test_admission import pod, request

DENY: dict[str, Any] = {
    "limit": {"amount": "25.00"},
    "window": {"calendar": "Day"},
    "onExceeded": {"action": "Block"},
    "onLedgerLoss": "Deny",
}


def shared(kind: str, name: str, selector: Mapping[str, Any], namespace: str = "", **policy: Any) -> dict[str, Any]:
    field = "selector" if kind == "LLMBudget" else "namespaceSelector"
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"kind": kind, "metadata": metadata, "spec": {**DENY, field: selector, **policy}}


def told(
    bot: dict[str, Any], *budgets: dict[str, Any], labels: Mapping[str, str] | None = None
) -> tuple[sidecar.Budget, ...]:
    """What the contract of a pod of `bot` says, where the cluster holds these budgets."""
    made = Budgets()
    for item in budgets:
        key = (item["metadata"].get("namespace", ""), item["metadata"]["name"])
        if item["kind"] == "LLMBudget":
            made.take_namespaced(key, None, read_namespace_budget(item))
        else:
            made.take_cluster(key, None, read_cluster_budget(item))
    world = World(None, known(bot).candidates, lambda _: labels, "CA", budgets=lambda of: made.over(of, labels))
    answers = [review(request(pod(app="bot")), world, Settings()) for _ in range(2)]
    assert answers[0] == answers[1]
    patch = json.loads(base64.b64decode(answers[0].review["response"]["patch"]))
    [containers] = [operation["value"] for operation in patch if operation["path"] == "/spec/initContainers"]
    [value] = [entry["value"] for entry in containers[0]["env"] if entry["name"] == names.PROXY_ENV]
    return sidecar.decode(value.replace("$$", "$")).routes[0].budgets


def keys(found: tuple[sidecar.Budget, ...]) -> list[str]:
    assert {budget.on_ledger_loss for budget in found} <= {"Deny"}
    return [budget.key for budget in found]


def test_own_and_shared_budgets_that_deny_are_told_in_order() -> None:
    bot = service("bot", spec={"budgets": [{"name": "day", **DENY}]})
    bot["metadata"]["labels"] = {"team": "web"}
    budgets = [
        shared("LLMBudget", "web", {"matchLabels": {"team": "web"}}, "shop"),
        shared("LLMBudget", "sales", {"matchLabels": {"team": "sales"}}, "shop"),
        shared("LLMBudget", "web", {}, "elsewhere"),
        shared("ClusterLLMBudget", "prod", {"matchLabels": {"stage": "prod"}}),
        shared("ClusterLLMBudget", "dev", {"matchLabels": {"stage": "dev"}}),
    ]
    expected = ["ClusterLLMBudget/prod", "LLMBudget/shop/web", "LLMService/shop/bot/day"]
    assert keys(told(bot, *budgets, labels={"stage": "prod"})) == expected
    assert keys(told(bot, *reversed(budgets), labels={"stage": "prod"})) == expected
    # A namespace that is newer than our copy: what may hold, holds.
    assert "ClusterLLMBudget/dev" in keys(told(bot, *budgets, labels=None))


@pytest.mark.parametrize(
    ("policy", "matters"),
    [
        ({}, True),
        ({"onExceeded": {"action": "Throttle"}}, True),
        ({"onExceeded": {"action": "Fallback", "model": "small"}}, True),
        ({"onExceeded": {"action": "Alert"}}, False),
        ({"onLedgerLoss": "Allow", "onExceeded": {"action": "Alert"}}, False),
        ({"limit": {"tokens": 5}}, True),
        ({"limit": {"amount": "nothing"}}, False),  # it can never work: its condition says so
        ({"limit": 7}, False),
    ],
)
def test_only_a_budget_that_stops_calls_matters_wherever_it_stands(
    policy: dict[str, Any],
    matters: bool,  # noqa: FBT001 - a table of cases
) -> None:
    own = service("bot", spec={"budgets": [{"name": "day", **DENY, **policy}]})
    assert keys(told(own)) == ["LLMService/shop/bot/day"] * matters
    team = shared("LLMBudget", "team", {}, "shop", **policy)
    assert keys(told(service("bot"), team)) == ["LLMBudget/shop/team"] * matters
    platform = shared("ClusterLLMBudget", "all", {}, **policy)
    assert keys(told(service("bot"), platform, labels={})) == ["ClusterLLMBudget/all"] * matters


def test_a_budget_that_is_gone_is_told_no_more() -> None:
    made, item = Budgets(), shared("LLMBudget", "team", {}, "shop")
    made.take_namespaced(("shop", "team"), None, read_namespace_budget(item))
    made.take_namespaced(("shop", "team"), read_namespace_budget(item), None)
    made.take_cluster(("", "all"), None, read_cluster_budget(shared("ClusterLLMBudget", "all", {})))
    made.take_cluster(("", "all"), None, None)
    [bot] = known(service("bot")).candidates("shop", {"app": "bot"})
    assert list(made.over(bot, {})) == []
