"""Objects and a clock for the ledger's tests."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmwarden.contracts import ledger as wire
from llmwarden.domain.cost import Rates
from llmwarden.ledger import view
from llmwarden.ledger.core import Core
from llmwarden.ledger.pods import Injected
from llmwarden.ledger.store import Batch, Delta, Issued, Lending, Merged
from llmwarden.ledger.store.counts import Counts
from llmwarden.serving.auth import Caller

NOW = dt.datetime(2026, 11, 20, 16, 20, tzinfo=dt.UTC)
BUCKET = int(NOW.timestamp()) // 900 * 900


@dataclass
class FakeClock:
    now: dt.datetime = NOW

    def __call__(self) -> dt.datetime:
        return self.now


class _Every(frozenset[str]):
    """Has every service, and names one."""

    def __contains__(self, name: object) -> bool:
        return True


class EveryPod:
    """In place of the API server: every pod was injected for `services`, and may ask for any other as well.

    `created` says when pods were created, by UID, in seconds since the epoch; one that is not in it long ago.
    """

    def __init__(self, *services: str) -> None:
        self.services = _Every(services or ("bot",))
        self.created: dict[str, int] = {}

    async def injected(self, caller: Caller) -> Injected:
        return Injected(self.services, self.created.get(caller.pod_uid, 0))


def granting(key: str, amount: int) -> Lending:
    """Grant so much of a budget to each journal that reports."""
    return Lending([key], lambda ground: {(key, merged.journal_id): amount for merged in ground.merged})


def service(
    name: str = "bot",
    namespace: str = "shop",
    *,
    kind: str = "OpenAI",
    labels: Mapping[str, str] | None = None,
    budgets: tuple[Mapping[str, Any], ...] = (),
) -> dict[str, Any]:
    return {
        "apiVersion": "llmwarden.io/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels or {})},
        "spec": {
            "backend": {"type": kind},
            "workload": {"selector": {"matchLabels": {"app": name}}},
            "budgets": [*budgets],
        },
    }


def budget(name: str = "daily", amount: str = "1.00", action: str = "Block", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "limit": {"amount": amount},
        "window": {"calendar": "Day"},
        "warnAtPercent": [50],
        "onExceeded": {"action": action},
        **more,
    }


def shared(
    kind: str, name: str, selector: Mapping[str, str], amount: str = "10.00", namespace: str = ""
) -> dict[str, Any]:
    key = "selector" if kind == "LLMBudget" else "namespaceSelector"
    return {
        "apiVersion": "llmwarden.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "spec": {
            key: {"matchLabels": dict(selector)},
            "limit": {"amount": amount},
            "window": {"calendar": "Month"},
            "onExceeded": {"action": "Alert"},
        },
    }


def model_price(
    name: str, models: list[str], *entries: tuple[str, str, str], provider: str = "OpenAI"
) -> dict[str, Any]:
    return {
        "apiVersion": "llmwarden.io/v1alpha1",
        "kind": "ModelPrice",
        "metadata": {"name": name},
        "spec": {
            "provider": provider,
            "models": models,
            "prices": [
                {"from": start, "inputPerMillionTokens": given, "outputPerMillionTokens": taken}
                for start, given, taken in entries
            ],
        },
    }


def view_of(
    *items: Mapping[str, Any],
    namespaces: Mapping[str, Mapping[str, str]] | None = None,
    departed: Mapping[str, Mapping[str, str]] | None = None,
    providers: Mapping[str, str] | None = None,
) -> view.View:
    def keyed(kind: str) -> dict[view.ObjectName, Mapping[str, Any]]:
        return {
            (item["metadata"].get("namespace", ""), item["metadata"]["name"]): item
            for item in items
            if item["kind"] == kind
        }

    return view.build(
        {key: view.read_service(item) for key, item in keyed("LLMService").items()},
        namespace_budgets={key: view.read_namespace_budget(item) for key, item in keyed("LLMBudget").items()},
        cluster_budgets={key: view.read_cluster_budget(item) for key, item in keyed("ClusterLLMBudget").items()},
        model_prices={key: view.read_price(item) for key, item in keyed("ModelPrice").items()},
        namespace_labels=namespaces or {"shop": {}},
        departed=departed,
        providers=providers,
    )


def spend(core: Core, name: str, picodollars: int, *, namespace: str = "shop", bucket: int = BUCKET) -> None:
    """Let a service spend so much, as a committed report would: one token at that price."""
    price = wire.Picodollars(input=1, output=1, cached_input=1, cache_write=1)
    core.history.prices[Issued("openai", "m", "one")] = Rates(price)
    row = wire.Row(
        service=name,
        provider="openai",
        model="m",
        price_id="one",
        bucket=bucket,
        requests=1,
        errors=0,
        tokens=wire.Tokens(input=picodollars),
    )
    report = wire.Report(
        contract=1, journal="j", sequence=1, pod=wire.PodRef(namespace, f"{name}-0", f"uid-{name}"), rows=(row,)
    )
    delta = Delta(f"{namespace}/{name}", "openai", "m", "one", bucket, Counts(requests=1, input=picodollars))
    core.merged([(report, int(core.clock().timestamp()))], Batch((Merged((delta,)),)))
