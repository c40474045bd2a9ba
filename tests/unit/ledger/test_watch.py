"""Of what is watched only what the ledger reads is kept: small, and the same where nothing of it has changed."""

import copy
import json
import tracemalloc
from collections.abc import Collection, Mapping
from typing import Any, cast

import pytest
import yaml

from llmwarden.kube import Client
from llmwarden.ledger.store import Remembered
from llmwarden.ledger.view import View
from llmwarden.ledger.watch import Watch
from tests.unit.ledger.objects import budget, model_price, service, shared

SERVICES = 400
MOST_BYTES = 2048  # of a service: 20 MiB for ten thousand. As it came it takes six times as much
FULL = """
metadata: {name: bot, namespace: shop, labels: {team: support}}
spec:
  backend:
    type: OpenAI
    url: https://api.openai.com
    credentialsSecretRef: {name: openai, key: api-key}
  workload:
    selector: {matchLabels: {app: support-bot}}
    interception: {type: Env}
    rollout: None
  budgets:
    - name: daily
      limit: {amount: "25.00", currency: USD}
      window: {calendar: Day, timeZone: Asia/Seoul}
      warnAtPercent: [50, 80]
      onExceeded: {action: Block}
      onUnknownPrice: Deny
      onLedgerLoss: Allow
    - name: monthly
      limit: {amount: "400.00"}
      window: {calendar: Month}
      onExceeded: {action: Fallback, model: gpt-4o-mini, ceiling: {amount: "440.00"}}
  objectives:
    - {name: first-token, latency: {indicator: TimeToFirstToken, threshold: 1s}, targetPercent: "99", window: 28d}
    - {name: latency, latency: {indicator: RequestDuration, threshold: 10s}, targetPercent: "95", window: 28d}
    - {name: errors, errors: {}, targetPercent: "95", window: 28d}
    - {name: spend-rate, spend: {perHour: "50.00"}}
  tracing: {samplePercent: 100, captureContent: false}
"""


class Told:
    """A watch that events are given to, as if an API server had sent them."""

    def __init__(self) -> None:
        self.departed: list[Mapping[str, Remembered]] = []
        self.watch = Watch(cast("Client", None), lambda _: None, self._departed)

    def _departed(self, present: Mapping[str, Remembered], _: Collection[str]) -> Mapping[str, Remembered]:
        self.departed.append(present)
        return {}

    def tell(self, kind: str, item: Mapping[str, Any], event: str = "ADDED") -> bool:
        """Say that; returns whether it is a change for the ledger."""
        self.watch._dirty.clear()
        self.watch._informers[kind]._take({"type": event, "object": json.loads(json.dumps(item))})
        return self.watch._dirty.is_set()

    def view(self) -> View:
        return self.watch._view()


@pytest.fixture
def told() -> Told:
    return Told()


def test_all_kinds_come_together(told: Told) -> None:
    told.tell("LLMService", service(labels={"team": "support"}, budgets=(budget(),)))
    told.tell("LLMBudget", shared("LLMBudget", "team", {"team": "support"}, namespace="shop"))
    told.tell("ClusterLLMBudget", shared("ClusterLLMBudget", "retail", {"center": "retail"}))
    told.tell("ModelPrice", model_price("own", ["m"], ("2026-01-01T00:00:00Z", "1", "1")))
    told.tell("Namespace", {"metadata": {"name": "shop", "labels": {"center": "retail"}}})
    found = told.view()
    assert found.services["shop/bot"].budgets == (
        "LLMService/shop/bot/daily",
        "LLMBudget/shop/team",
        "ClusterLLMBudget/retail",
    )
    assert [price.metadata.name for price in found.prices] == ["own"]
    assert told.watch.namespaces == {"shop": {"center": "retail"}}
    assert told.departed == [{"shop/bot": Remembered({"team": "support"}, "openai")}]
    told.tell("LLMService", service(), "DELETED")
    assert told.view().services == {}


def test_only_what_is_read_is_a_change(told: Told) -> None:
    first = service(budgets=(budget(),))
    assert told.tell("LLMService", first)
    held = told.view().budgets["LLMService/shop/bot/daily"].budget
    written = copy.deepcopy(first)
    written["status"] = {"conditions": [{"type": "Ready"}]}
    written["metadata"] |= {"resourceVersion": "7", "managedFields": [{}], "annotations": {"a": "b"}}
    assert not told.tell("LLMService", written, "MODIFIED")
    assert told.view().budgets["LLMService/shop/bot/daily"].budget is held
    edited = copy.deepcopy(written)
    edited["spec"]["budgets"][0]["limit"]["amount"] = "2.00"
    assert told.tell("LLMService", edited, "MODIFIED")
    assert told.view().budgets["LLMService/shop/bot/daily"].budget.limit == 2 * 10**12
    edited["metadata"]["labels"] = {"team": "sales"}
    assert told.tell("LLMService", edited, "MODIFIED")


def test_what_is_kept_of_a_service_is_small(told: Told) -> None:
    base = yaml.safe_load(FULL)
    told.tell("LLMService", base)  # imports and what all share
    assert told.view().invalid == {}
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(SERVICES):
            base["metadata"] |= {"name": f"bot-{number}", "namespace": f"shop-{number % 10}", "uid": f"uid-{number}"}
            told.tell("LLMService", base)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(told.view().budgets) == 2 * SERVICES + 2
    assert (after - before) / SERVICES < MOST_BYTES
