"""What a pod that lies can hold of a budget that others share: over real HTTP, on a real database. Nobody is believed a balance."""

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llmwarden import names
from llmwarden.domain.leases import HoldLimits
from llmwarden.ledger.lease_metrics import LeaseState
from tests.ledger.test_http import Ledger, row, running
from tests.unit.ledger.objects import service, shared, view_of

LIMIT = 1_000_000  # tokens
ALL = "ClusterLLMBudget/all"
POD, SERVICE, NAMESPACE = LIMIT // 10, LIMIT // 5, LIMIT // 4  # floors, by default
PODS = {
    "pod": {"namespace": "shop", "name": "bot-0", "uid": "u"},
    "other-pod": {"namespace": "shop", "name": "bot-1", "uid": "v"},
    "web-pod": {"namespace": "web", "name": "bot-0", "uid": "w"},
}


def everybodys(limit: int = LIMIT) -> dict[str, Any]:
    made = shared("ClusterLLMBudget", "all", {})
    made["spec"] |= {"limit": {"tokens": limit}, "onExceeded": {"action": "Block"}}
    return made


@asynccontextmanager
async def opened(tmp_path: Path, database: str = "") -> AsyncIterator[Ledger]:
    async with running(tmp_path, database=database) as made:
        made.core.standings.desk.holders.reload(made.store.lease_state())
        made.registry.register(LeaseState(made.core))
        made.core.configure(view_of(service(), service("bot", "web"), everybodys(), namespaces={"shop": {}, "web": {}}))
        yield made


async def ask(
    ledger: Ledger, who: str, sequence: int, *rows: Any, journal: str = "", key: str = ALL, **use: int
) -> dict[str, Any]:
    """The lease that is answered."""
    pod = PODS.get(who, {"namespace": "shop", "name": who, "uid": who})
    leases = [{"budget": key, "balance": 0, "wanted": 0, **use}]
    answer = await ledger.report(
        *rows, token=who, pod=pod, journal=journal or f"j-{who}", sequence=sequence, leases=leases
    )
    assert answer.status_code == 200, answer.text
    (lease,) = answer.json()["leases"]
    return dict(lease)


def held(ledger: Ledger, namespace: str = "shop") -> int:
    return sum(one.outstanding for one in ledger.store.lease_state() if one.namespace == namespace)


@pytest.mark.parametrize("claimed", [10**18, LIMIT, 1, -1, -(10**18)])
async def test_a_balance_that_nobody_granted_is_none(tmp_path: Path, claimed: int) -> None:
    async with opened(tmp_path) as ledger:
        for sequence in range(3):
            await ask(ledger, "pod", sequence, balance=claimed)
            assert held(ledger) == 0
        assert (await ask(ledger, "web-pod", 1, wanted=POD, needed=POD))["granted"] == POD


async def test_a_balance_shrinks_by_what_its_journal_says_and_grows_by_grants_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        assert (await ask(ledger, "pod", 1, wanted=1000))["granted"] == 1000
        await ask(ledger, "pod", 2, balance=400)
        assert held(ledger) == 400
        await ask(ledger, "pod", 3, balance=1000)  # as it was before, as a replayed journal says
        assert held(ledger) == 400
        # Another journal of the same pod has no part in it.
        await ask(ledger, "pod", 1, journal="another", balance=400)
        assert held(ledger) == 400
        assert (await ask(ledger, "pod", 4, balance=400, wanted=100))["granted"] == 100
        assert held(ledger) == 500


async def test_two_reports_of_a_journal_in_one_batch_do_not_give_back_what_the_first_returned(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ask(ledger, "pod", 1, wanted=1000)
        use = {"budget": ALL, "wanted": 0}
        twice = [{**use, "balance": 0}, {**use, "balance": 1000}]
        answer = await ledger.report(token="pod", pod=PODS["pod"], journal="j-pod", sequence=2, leases=twice)
        assert answer.status_code == 200
        assert held(ledger) <= 1000
        await ask(ledger, "pod", 3, balance=0)
        await ask(ledger, "pod", 4, balance=1000)
        assert held(ledger) == 0


async def test_all_that_is_free_is_not_given_to_who_only_says_that_it_needs_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        greedy = await ask(ledger, "pod", 1, wanted=LIMIT, needed=LIMIT)
        assert greedy["granted"] == 0
        assert (await ask(ledger, "pod", 2, wanted=LIMIT))["granted"] == POD
        # Whatever it holds, the others' calls are answered at once, and not told to wait for it.
        for who in ("other-pod", "web-pod"):
            lease = await ask(ledger, who, 1, wanted=POD, needed=POD)
            assert lease["granted"] == POD
        config = (await ledger.get("/v1/config", services="bot")).json()
        assert config["budgets"][ALL]["state"] == "Open"


async def test_many_journals_of_one_pod_hold_together_what_one_may(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        for number in range(8):
            await ask(ledger, "pod", 1, journal=f"j{number}", wanted=LIMIT)
        assert held(ledger) == POD


async def test_many_pods_of_a_namespace_hold_together_what_it_may(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        for number in range(12):
            await ask(ledger, f"crowd-{number}", 1, wanted=LIMIT)
        assert held(ledger) == NAMESPACE
        # With rows they are known to be of one service, which may hold less.
        for number in range(12):
            await ask(ledger, f"crowd-{number}", 2, row(tokens={"input": 1}), balance=0)
        for number in range(12):
            await ask(ledger, f"crowd-{number}", 3, row(tokens={"input": 1}), wanted=LIMIT)
        assert SERVICE <= held(ledger) <= SERVICE + 4 * 12
        assert (await ask(ledger, "web-pod", 1, wanted=POD, needed=POD))["granted"] == POD


async def test_who_spends_may_hold_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        assert (await ask(ledger, "pod", 1, wanted=LIMIT))["granted"] == POD
        grown = row(tokens={"input": POD})
        await ask(ledger, "pod", 2, grown, balance=0)
        ledger.clock.now += dt.timedelta(seconds=3)  # what a service used lately is looked up every few seconds
        assert (await ask(ledger, "pod", 3, grown, wanted=LIMIT))["granted"] > POD
        assert POD < held(ledger) <= POD + 4 * POD
        # Lately, not ever.
        ledger.clock.now += dt.timedelta(seconds=3 * HoldLimits().window_seconds)
        await ask(ledger, "pod", 4, grown, balance=0)
        assert (await ask(ledger, "pod", 5, grown, wanted=LIMIT))["granted"] == POD


async def test_an_honest_service_gets_all_that_is_free_in_calls_that_it_makes(tmp_path: Path) -> None:
    """No shared budget refuses while it has room: each call needs a little, and what is used makes room for more."""
    async with opened(tmp_path) as ledger:
        await ask(ledger, "web-pod", 1, wanted=LIMIT, needed=0)  # a hoarder, which gets its floor
        hoard = held(ledger, "web")
        call, used, balance, sequence = LIMIT // 50, 0, 0, 0
        while used + call <= LIMIT - hoard:
            sequence += 1
            lease = await ask(
                ledger, "pod", sequence, row(tokens={"input": used}), balance=balance, wanted=call, needed=call
            )
            assert lease["granted"] == call, (used, lease)
            used += call
        assert used > LIMIT * 4 // 5


async def test_a_budget_that_nobody_shares_is_not_bounded(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        ledger.core.configure(view_of(service(), everybodys(), namespaces={"shop": {}}))
        assert (await ask(ledger, "pod", 1, wanted=LIMIT, needed=LIMIT))["granted"] == LIMIT


async def test_who_leased_much_and_spent_little_is_shown(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        labels = {"namespace": "shop", "llmservice": "", "budget": "all", "kind": "ClusterLLMBudget"}
        assert ledger.metric(names.METRIC_LEASE_UNUSED, **labels) is None
        await ask(ledger, "pod", 1, wanted=LIMIT)
        assert ledger.metric(names.METRIC_LEASE_UNUSED, **labels) == POD / LIMIT
        await ask(ledger, "pod", 2, row(tokens={"input": POD - 1}), balance=1)
        assert ledger.metric(names.METRIC_LEASE_UNUSED, **labels) is None


async def test_after_a_restart_nothing_is_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ask(ledger, "pod", 1, wanted=LIMIT)
    async with opened(tmp_path) as ledger:
        assert held(ledger) == POD
        assert (await ask(ledger, "pod", 2, balance=POD, wanted=LIMIT))["granted"] == 0
        assert (await ask(ledger, "pod", 1, journal="new", wanted=LIMIT))["granted"] == 0
        await ask(ledger, "pod", 3, balance=10**18)
        assert held(ledger) == POD


async def test_only_the_platform_lets_balances_of_a_restored_database_be_believed(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        now = int(ledger.clock().timestamp())
        ledger.store.believe_until = now + 60
        await ask(ledger, "pod", 1, balance=1000)
        assert held(ledger) == 1000
        await ask(ledger, "pod", 2, balance=10**18)
        assert held(ledger) == LIMIT  # more than there is cannot have been granted
        ledger.store.believe_until = now
        await ask(ledger, "web-pod", 1, balance=1000)
        assert held(ledger, "web") == 0
