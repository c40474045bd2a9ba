"""Fault 21 where money is concerned: an upstream that hangs holds no part of the budget beyond its deadline."""

import asyncio
from pathlib import Path

from tests.money import scenarios
from tests.money.stand import Stand, cost, hard

BODY = 150  # bytes of a request of the stand, at most
OUTPUT = 400


async def test_fault_21_a_call_that_hung_gives_its_reservation_back(tmp_path: Path) -> None:
    one = scenarios.reservation(BODY, OUTPUT)
    async with Stand(tmp_path, pods=1, budget=hard(one * 3 // 2), limits={"responseSeconds": 1.0}) as stand:
        [pod] = stand.pods
        stand.provider.seconds = 60
        hung = asyncio.create_task(stand.call(pod, max_tokens=OUTPUT))
        async with asyncio.timeout(10):
            while not stand.provider.under_way:
                await asyncio.sleep(0.02)
        stand.provider.seconds = 0
        assert (await stand.call(pod, max_tokens=OUTPUT)).status_code == 429  # the budget holds one of them, not two
        answer = await hung
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "timeout"
        assert await scenarios.until_answered(stand, pod, 200, seconds=10, max_tokens=OUTPUT) < 10
        assert await stand.settled(cost(10, 10)) == cost(10, 10)  # nothing was produced by what hung
