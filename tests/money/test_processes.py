"""Budgets that hold, with real processes: a ledger, proxies, many calls at once, and what breaks between them."""

import asyncio
import resource
from pathlib import Path

from tests import postgresql
from tests.money import scenarios
from tests.money.stand import Stand, cost, hard

BODY = 150  # bytes of a request of the stand, at most


async def test_fault_08_a_hundred_calls_at_once_never_pass_the_limit_and_leave_nothing_over(tmp_path: Path) -> None:
    found = await scenarios.edge(tmp_path, calls=100, rounds=6)
    assert found.spent <= found.limit
    assert found.limit - found.spent <= max(found.limit * 2 // 100, scenarios.reservation(BODY, 400))
    assert found.refused


async def test_without_max_tokens_a_call_reserves_the_cap_and_the_overshoot_is_bounded_by_what_exceeds_it(
    tmp_path: Path,
) -> None:
    """The stated bound: what a call uses above the cap (here 40 tokens of output) can pass the limit, by those under way."""
    each = cost(10, 100)
    async with Stand(tmp_path, pods=2, budget=hard(20 * each), limits={"unboundedOutputTokens": 40}) as stand:
        answers = [
            answer
            for _ in range(4)
            for answer in await asyncio.gather(*(stand.call(stand.pods[n % 2], written=100) for n in range(10)))
        ]
        spent = await stand.settled()
        allowed = sum(answer.status_code == 200 for answer in answers)
        assert spent == allowed * each
        assert allowed < len(answers)
        assert spent - 20 * each <= stand.provider.most * cost(0, 60)


async def test_fault_06_killed_at_random_points_everything_is_counted_once(tmp_path: Path) -> None:
    kills = await scenarios.killed(tmp_path, times=6)
    assert not kills.refused  # onLedgerLoss: Allow


async def test_a_ledger_that_is_away_is_no_unknown_price_whoever_is_killed(tmp_path: Path) -> None:
    """Every life of a proxy asks for a price that it never had, in the middle of it all."""
    kills = await scenarios.killed(tmp_path, times=8, seed=7, loss="Deny")
    assert set(kills.refused) <= {"ledger_unavailable"}


async def test_on_postgresql_also_when_the_database_goes_away(tmp_path: Path) -> None:
    kills = await scenarios.killed(tmp_path, times=5, seed=3, pods=2, server=postgresql.shared())
    assert not kills.refused


async def test_fault_11_the_ledgers_clock_jumps_an_hour_and_back_and_no_sum_changes(tmp_path: Path) -> None:
    each = cost(10, 10)
    async with Stand(tmp_path, pods=2, budget=hard(30 * each)) as stand:
        allowed = 0
        for jump in (0, 3600, 0, -3600, 0):
            stand.ledger.jump(jump)
            await asyncio.sleep(1.2)
            for _ in range(4):
                for pod in stand.pods:
                    allowed += (await stand.call(pod, max_tokens=10)).status_code == 200
        usage = await stand.ledger.usage()
        while usage.services["shop/bot"].total.requests < allowed:
            await asyncio.sleep(0.2)
            usage = await stand.ledger.usage()
        total = usage.services["shop/bot"].total
        assert total.requests == allowed == sum(stand.provider.served.values())
        assert total.picodollars == allowed * each


async def test_fault_10_reports_doubled_reordered_and_lost_change_no_total(tmp_path: Path) -> None:
    found, _ = await scenarios.on_a_bad_road(tmp_path, times=2)
    assert found.spent <= found.limit
    assert found.allowed


async def test_a_changed_limit_reaches_running_proxies_within_five_seconds(tmp_path: Path) -> None:
    each = cost(10, 10)
    async with Stand(tmp_path, pods=2, budget=hard(1000 * each)) as stand:
        first, second = stand.pods
        assert (await stand.call(first, max_tokens=10)).status_code == 200
        await stand.settled()
        stand.say(hard(each // 2))
        for pod in (first, second):
            assert await scenarios.until_answered(stand, pod, 429, max_tokens=10) < 5
        stand.say(hard(1000 * each))
        for pod in (first, second):
            assert await scenarios.until_answered(stand, pod, 200, max_tokens=10) < 5


async def test_fault_04_and_05_without_the_ledger_calls_go_on_or_end_with_the_lease(tmp_path: Path) -> None:
    each = cost(10, 10)
    allow, deny = hard(1000 * each), {**hard(1000 * each), "onLedgerLoss": "Deny"}
    async with Stand(tmp_path, pods=1, budget=deny) as stand:
        [pod] = stand.pods
        for _ in range(5):
            assert (await stand.call(pod, max_tokens=10)).status_code == 200
        await stand.ledger.kill()
        answers = [await stand.call(pod, max_tokens=10) for _ in range(300)]
        codes = [answer.status_code for answer in answers]
        last = codes.index(429)  # to the end of the lease
        assert set(codes[last:]) == {429}
        assert answers[-1].json()["error"]["code"] == "ledger_unavailable"
        stand.say(allow)
        await stand.ledger.start()
        await stand.follows(pod, '"onLedgerLoss":"Allow"')
        await scenarios.until_answered(stand, pod, 200, seconds=20, max_tokens=10)
        await stand.settled()
        await stand.ledger.kill()
        assert [(await stand.call(pod, max_tokens=10)).status_code for _ in range(300)] == [200] * 300
        await stand.ledger.start()
        served = sum(stand.provider.served.values())
        assert await stand.settled(served * each) == served * each


async def test_fault_27_a_ledger_with_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """No file of the ledger's may grow for a while, which is what its disk being full looks like to SQLite."""
    each = cost(10, 10)
    async with Stand(tmp_path, pods=2, budget=hard(1000 * each)) as stand:
        for pod in stand.pods:
            assert (await stand.call(pod, max_tokens=10)).status_code == 200
        await stand.settled()
        _, most = resource.prlimit(stand.ledger.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(stand.ledger.pid, resource.RLIMIT_FSIZE, (0, most))
        answers = [await stand.call(pod, max_tokens=10) for _ in range(20) for pod in stand.pods]
        await asyncio.sleep(3)
        assert await stand.ledger.spent() == 2 * each
        resource.prlimit(stand.ledger.pid, resource.RLIMIT_FSIZE, (most, most))
        served = sum(stand.provider.served.values())
        spent = await stand.settled(served * each)
        assert spent == served * each
        assert spent == (2 + sum(answer.status_code == 200 for answer in answers)) * each
