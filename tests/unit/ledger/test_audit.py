"""The audit trail: what is recorded, how often, and for how long it stays."""

import asyncio
import datetime as dt
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from llmwarden.contracts.audit import Entry
from llmwarden.domain.differences import difference, manager
from llmwarden.ledger import changes, view
from llmwarden.ledger.audit import MOST_DIFFERENT, TOGETHER_SECONDS, Trail
from llmwarden.ledger.store import Store
from llmwarden.ledger.store import audit as table

NOW = dt.datetime(2026, 12, 1, 12, 0, tzinfo=dt.UTC)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> dt.datetime:
        return NOW + dt.timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


async def alone(work: Callable[[], object]) -> object:
    return work()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trail(clock: Clock) -> Trail:
    return Trail(clock.now, clock.monotonic)


def entries(store: Store, **asked: Any) -> list[Entry]:
    found, _ = table.read(store.database, NOW - dt.timedelta(days=1), NOW + dt.timedelta(days=1), **asked)
    return list(found)


def test_entries_are_written_and_read_newest_first(database: str, trail: Trail, clock: Clock) -> None:
    store = Store(database)
    trail.record("Changed", "limit.amount: 1 → 2", namespace="shop", about="LLMBudget/shop/day", by="kubectl (Update)")
    clock.seconds = 1
    trail.record("Refused", "a token", by="shop:default")
    asyncio.run(trail.flush(store.database, alone, everything=True))
    first, second = entries(store)
    assert (first.kind, first.at) == ("Refused", NOW + dt.timedelta(seconds=1))
    assert second == Entry(
        at=NOW, kind="Changed", text="limit.amount: 1 → 2", namespace="shop", object="LLMBudget/shop/day", by="kubectl (Update)"
    )  # fmt: skip
    assert entries(store, namespace="shop") == [second]
    assert entries(store, kinds=["Refused"]) == [first]
    assert table.read(store.database, NOW, NOW + dt.timedelta(hours=1), most=1) == ((first,), True)
    store.close()


def test_what_happens_again_is_counted(database: str, trail: Trail, clock: Clock) -> None:
    store = Store(database)
    for _ in range(5):
        trail.record("Refused", "a token")
    asyncio.run(trail.flush(store.database, alone))
    assert entries(store) == []  # it may happen again
    assert [entry.count for entry in trail.pending()] == [5]
    clock.seconds = TOGETHER_SECONDS
    trail.record("Refused", "a token")
    asyncio.run(trail.flush(store.database, alone, everything=True))
    assert [entry.count for entry in entries(store)] == [1, 5]
    assert trail.pending() == []
    store.close()


def test_a_flood_is_one_entry_and_leaves_other_kinds_alone(database: str, trail: Trail) -> None:
    store = Store(database)
    for number in range(10_000):
        trail.record("Refused", f"a token {number}")
    trail.record("Changed", "the limit")
    asyncio.run(trail.flush(store.database, alone, everything=True))
    written = entries(store, most=100_000)
    assert len(written) == MOST_DIFFERENT + 2
    assert sum(entry.count for entry in written if entry.kind == "Refused") == 10_000
    assert [entry.text for entry in written if entry.kind == "Changed"] == ["the limit"]
    store.close()


def test_two_replicas_that_see_one_change_write_it_once(database: str, clock: Clock) -> None:
    store = Store(database)
    for _ in range(2):
        trail = Trail(clock.now, clock.monotonic)
        trail.record("Changed", "the limit", mark="LLMBudget/u/2")
        asyncio.run(trail.flush(store.database, alone, everything=True))
    assert len(entries(store)) == 1
    store.close()


def test_old_entries_and_the_oldest_of_too_many_go(database: str) -> None:
    store = Store(database)
    made = [
        table.Marked(f"m{number}", Entry(at=NOW - dt.timedelta(hours=number), kind="Refused", text=str(number)))
        for number in reversed(range(10))
    ]
    made.append(table.Marked("c", Entry(at=NOW - dt.timedelta(hours=5), kind="Changed", text="the limit")))
    table.append(store.database, made)
    assert table.prune(store.database, NOW - dt.timedelta(hours=7, minutes=30), most=3) == 7
    assert sorted(entry.text for entry in entries(store)) == ["0", "1", "2", "the limit"]
    store.close()


def test_each_entry_is_a_json_line(trail: Trail, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(logging.getLogger("llmwarden.audit"), "propagate", True)
    with caplog.at_level(logging.INFO, "llmwarden.audit"):
        trail.record("WrittenOff", "2 tokens\nof nobody", namespace="shop", by="ada")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in line
    assert json.loads(line) == {
        "at": NOW.isoformat().replace("+00:00", "Z"),
        "kind": "WrittenOff",
        "text": "2 tokens\nof nobody",
        "namespace": "shop",
        "by": "ada",
    }


def budget(amount: str, **spec: Any) -> view.ReadBudget:
    return view.read_namespace_budget(
        {
            "metadata": {"name": "day", "namespace": "shop"},
            "spec": {"selector": {}, "limit": {"amount": amount}, "window": {"calendar": "Day"}, **spec},
        }
    )


def test_a_change_is_told_by_the_fields_that_changed() -> None:
    assert changes.described(budget("25"), budget("50")) == 'limit.amount: "25" → "50"'
    assert changes.described(budget("25"), budget("25")) == ""
    assert changes.described(None, budget("25")).startswith("created; ")
    assert changes.described(budget("25"), None).startswith("deleted; it was ")
    assert "onExceeded.action" in changes.described(budget("25"), budget("25", onExceeded={"action": "Block"}))


def test_of_a_service_only_its_budgets_are_audited() -> None:
    def service(**spec: Any) -> view.ReadService:
        whole = {"backend": {"type": "OpenAI"}, "workload": {"selector": {"matchLabels": {"app": "bot"}}}, **spec}
        return view.read_service({"metadata": {"name": "bot", "namespace": "shop"}, "spec": whole})

    def day(amount: str) -> list[dict[str, Any]]:
        return [{"name": "day", "limit": {"amount": amount}, "window": {"calendar": "Day"}}]

    assert changes.described(None, service()) == ""
    assert changes.described(service(), service(backend={"type": "Anthropic"})) == ""
    assert "budgets[day]" in changes.described(service(budgets=day("1")), service(budgets=day("2")))


def test_the_manager_is_who_wrote_the_spec_last() -> None:
    managed = [
        {"manager": "argocd", "operation": "Apply", "time": "2026-12-01T10:00:00Z"},
        {"manager": "kubectl-edit", "operation": "Update", "time": "2026-12-01T11:00:00Z"},
        {"manager": "llmwarden", "operation": "Apply", "time": "2026-12-01T12:00:00Z", "subresource": "status"},
    ]
    assert manager({"metadata": {"managedFields": managed}}) == "kubectl-edit (Update)"
    assert manager({"metadata": {}}) == ""


def test_a_difference_of_many_fields_is_short() -> None:
    text = difference({}, {f"f{number}": number for number in range(20)})
    assert text.endswith("; and 12 more")
