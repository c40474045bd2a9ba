"""Values that several tests build on."""

import datetime as dt
from typing import Any

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.contracts import ledger as wire
from llmwarden.injection.pods import PodView
from llmwarden.snapshot import Capabilities, Figures, Quantiles, Snapshot, Source

NOW = dt.datetime(2026, 11, 21, 12, 0, tzinfo=dt.UTC)


def service_json(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    item = {
        "apiVersion": names.API_VERSION,
        "kind": "LLMService",
        "metadata": {
            "name": "bot",
            "namespace": "shop",
            "uid": "u1",
            "generation": 3,
            "creationTimestamp": "2026-11-21T10:00:00Z",
        },
        "spec": {
            "backend": {"type": "OpenAI"},
            "workload": {"selector": {"matchLabels": {"app": "bot"}}},
            **spec,
        },
    }
    return {**item, "status": status} if status is not None else item


def service(status: dict[str, Any] | None = None, **spec: Any) -> LLMService:
    return parse(LLMService, service_json(status, **spec))


def pod(name: str = "bot-1", state: str = "Metered", **changes: Any) -> PodView:
    base: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "state": state,
        "created": NOW - dt.timedelta(hours=1),
        "since": NOW - dt.timedelta(hours=1),
        "ready": True,
    }
    return PodView(**{**base, **changes})


FRESH = Source(asked=True, fresh=True, as_of=NOW)
FIGURES = Figures(
    scraped=True,
    ttft=Quantiles(0.1, 0.4567, 0.9),
    duration=Quantiles(1.0, 2.345, 5.0),
    requests_per_second=0.5,
    error_ratio=0.0123,
    output_tokens_per_second=12.34,
)
DAILY = "LLMService/shop/bot/daily"


def usage(**changes: Any) -> wire.ServiceUsage:
    totals = wire.UsageTotals(
        requests=100,
        errors=2,
        tokens=wire.Tokens(input=10_000, output=5_000),
        picodollars=1_230_000_000_000,
    )
    base: dict[str, Any] = {"last24h": totals, "last_hour": totals, "total": totals, "budgets": (DAILY,)}
    return wire.ServiceUsage(**{**base, **changes})


def budget(spent: int = 10, limit: int = 25, state: wire.BudgetState = "Open") -> wire.BudgetUsage:
    return wire.BudgetUsage(
        unit="USD",
        limit=limit * names.PICODOLLARS,
        spent=spent * names.PICODOLLARS,
        state=state,
        action="Block",
        window_start=NOW,
        resets_at=NOW + dt.timedelta(hours=12),
    )


def snapshot(status: dict[str, Any] | None = None, *, spec: dict[str, Any] | None = None, **changes: Any) -> Snapshot:
    item = service(status, **(spec or {}))
    base: dict[str, Any] = {
        "service": item,
        "object": service_json(status),
        "pods": (pod(),),
        "capabilities": Capabilities(pod_monitors=True, rules=True),
        "prometheus": FRESH,
        "figures": FIGURES,
        "ledger": FRESH,
        "usage": usage(),
        "budgets": {DAILY: budget()},
    }
    return Snapshot(**{**base, **changes})
