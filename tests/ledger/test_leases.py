"""Leases over the contract: what is granted, to whom, and what a doubled, late or forged report changes. Real HTTP, real database."""

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.ledger.test_http import DAILY, POD, Ledger, row, running
from tests.unit.ledger.objects import budget, service, shared, view_of

LIMIT = 1_000_000  # tokens
OTHER_POD = {"namespace": "shop", "name": "bot-1", "uid": "v"}
TOKENS = {"limit": {"tokens": LIMIT}}


def tokens(used: int) -> dict[str, Any]:
    return row(tokens={"input": used})


def view(**more: Any) -> Any:
    return view_of(service(budgets=({**budget(), **TOKENS, **more},)))


@pytest_asyncio.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with running(tmp_path) as made:
        made.core.configure(view())
        yield made


async def ask(ledger: Ledger, sequence: int, *rows: Any, journal: str = "j", **use: int) -> dict[str, Any]:
    """The answer's lease."""
    leases = [{"budget": DAILY, "balance": 0, "wanted": 0, **use}]
    token, pod = ("pod", POD) if journal == "j" else ("other-pod", OTHER_POD)
    answer = await ledger.report(*rows, token=token, pod=pod, journal=journal, sequence=sequence, leases=leases)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["leases"][0] if answer.json()["leases"] else {}
    return found


def held(ledger: Ledger) -> int:
    return sum(one.outstanding for one in ledger.store.lease_state())


async def test_a_budget_that_blocks_is_leased_and_others_are_not(ledger: Ledger) -> None:
    config = (await ledger.get("/v1/config", services="bot")).json()
    assert config["budgets"][DAILY]["leased"] is True
    for exceeded, leased in (
        ({"action": "Alert"}, False),
        ({"action": "Throttle"}, False),
        ({"action": "Fallback", "model": "m"}, False),
        ({"action": "Fallback", "model": "m", "ceiling": {"tokens": 2 * LIMIT}}, True),
    ):
        ledger.core.configure(view(onExceeded=exceeded))
        config = (await ledger.get("/v1/config", services="bot")).json()
        assert config["budgets"][DAILY].get("leased", False) is leased


async def test_what_is_granted_is_out_until_it_is_spent_or_returned(ledger: Ledger) -> None:
    grant = await ask(ledger, 1, wanted=1000)
    assert grant["granted"] == 1000
    assert held(ledger) == 1000
    # 300 are spent, 200 are returned, 500 are kept.
    assert (await ask(ledger, 2, tokens(300), balance=500))["granted"] == 0
    assert held(ledger) == 500
    # The last report ends it.
    await ledger.report(tokens(800), sequence=3, final=True)
    assert held(ledger) == 0
    assert ledger.core.standings.by_key[DAILY].spent == 800


async def test_a_doubled_or_late_report_changes_no_lease(ledger: Ledger) -> None:
    await ask(ledger, 1, wanted=1000)
    assert await ask(ledger, 1, wanted=1000) == {}
    await ask(ledger, 3, tokens(100), balance=900)
    assert await ask(ledger, 2, wanted=5000) == {}
    assert held(ledger) == 900


async def test_all_of_it_is_never_granted_twice(ledger: Ledger) -> None:
    total, balances = 0, {"j": 0, "k": 0}
    for sequence in range(1, 40):
        for journal, balance in list(balances.items()):
            grant = await ask(ledger, sequence, journal=journal, balance=balance, wanted=LIMIT - balance)
            balances[journal] += grant["granted"]
            total = sum(balances.values())
            assert held(ledger) == total <= LIMIT
    assert total > LIMIT * 98 // 100
    assert min(balances.values()) > LIMIT // 4  # the first to ask got half, while it was alone


async def test_a_call_that_waits_gets_what_it_needs_or_nothing_and_others_are_asked_to_give_back(
    ledger: Ledger,
) -> None:
    await ask(ledger, 1, wanted=400_000)
    await ask(ledger, 2, balance=400_000)
    short = await ask(ledger, 1, journal="k", wanted=700_000, needed=700_000)
    assert short["granted"] == 0
    assert short["retrySeconds"] > 0
    assert (await ask(ledger, 3, balance=400_000))["recall"] is True
    assert (await ask(ledger, 4, balance=0))["granted"] == 0
    assert (await ask(ledger, 2, journal="k", wanted=700_000, needed=700_000))["granted"] == 700_000
    assert (await ask(ledger, 5, wanted=10))["recall"] is False


async def test_a_budget_that_is_too_near_its_end_for_its_calls_counts_as_used_up(ledger: Ledger) -> None:
    await ask(ledger, 1, tokens(LIMIT - 100))
    assert (
        ledger.metric(
            "llmwarden_budget_exceeded", budget="daily", namespace="shop", llmservice="bot", kind="LLMService"
        )
        == 0
    )
    no = await ask(ledger, 2, tokens(LIMIT - 100), wanted=500, needed=500)
    assert (no["granted"], no["retrySeconds"]) == (0, 0)
    assert (
        ledger.metric(
            "llmwarden_budget_exceeded", budget="daily", namespace="shop", llmservice="bot", kind="LLMService"
        )
        == 1
    )
    usage = (await ledger.get("/v1/usage", token="operator")).json()
    assert usage["budgets"][DAILY]["state"] == "Exceeded"
    # Proxies are told what is so: a smaller call still fits.
    assert (await ledger.get("/v1/config", services="bot")).json()["budgets"][DAILY]["state"] == "Warned"
    assert (await ask(ledger, 3, tokens(LIMIT - 100), wanted=60, needed=60))["granted"] == 60
    ledger.core.configure(view(limit={"tokens": 10 * LIMIT}))
    usage = (await ledger.get("/v1/usage", token="operator")).json()
    assert usage["budgets"][DAILY]["state"] == "Open"


async def test_a_pod_gets_no_lease_of_what_does_not_hold_for_it_and_claims_none(ledger: Ledger) -> None:
    elsewhere = shared("ClusterLLMBudget", "all", {"team": "web"})
    elsewhere["spec"]["onExceeded"] = {"action": "Block"}
    spec = {**budget(), **TOKENS}
    ledger.core.configure(
        view_of(
            service(budgets=(spec,)),
            service("other", "web"),
            elsewhere,
            namespaces={"shop": {}, "web": {"team": "web"}},
        )
    )
    for key in ("ClusterLLMBudget/all", "LLMService/web/other/x", "nonsense"):
        leases = [{"budget": key, "balance": 10**15, "wanted": 10**15}]
        answer = await ledger.report(sequence=1, journal=f"j-{key}", leases=leases)
        assert (answer.status_code, answer.json()["leases"]) == (200, [])
    assert held(ledger) == 0
    await ask(ledger, 1, balance=10**15)
    assert held(ledger) == 0  # nor a balance of its own that nobody granted


async def test_a_restart_keeps_what_is_out(ledger: Ledger, tmp_path: Path) -> None:
    await ask(ledger, 1, tokens(10), wanted=LIMIT // 4)
    before = held(ledger)
    ledger.stop.set()
    ledger.core.stop()
    await ledger.server
    ledger.store.close()
    async with running(tmp_path) as again:
        # Before it has read the budgets it grants nothing: the proxy takes that for no answer.
        assert await ask(again, 2, tokens(10), balance=before, wanted=10) == {}
        again.core.configure(view())
        assert held(again) == before
        grant = await ask(again, 1, journal="k", wanted=LIMIT, needed=LIMIT - before - 10)
        assert grant["granted"] == LIMIT - before - 10


async def test_at_a_windows_end_what_is_out_counts_against_the_new_one(ledger: Ledger) -> None:
    await ask(ledger, 1, tokens(LIMIT // 2), wanted=LIMIT // 4)
    out = held(ledger)
    ledger.clock.now += dt.timedelta(days=1)
    grant = await ask(ledger, 1, journal="k", wanted=LIMIT, needed=LIMIT - out)
    assert grant["granted"] == LIMIT - out


async def test_reports_come_sooner_near_an_end(ledger: Ledger) -> None:
    far = await ledger.report(sequence=1, leases=[{"budget": DAILY, "balance": 0, "wanted": 10}])
    assert far.json()["reportIntervalSeconds"] == 5
    near = await ledger.report(
        tokens(LIMIT * 9 // 10), sequence=2, leases=[{"budget": DAILY, "balance": 0, "wanted": 10}]
    )
    assert near.json()["reportIntervalSeconds"] == 1
