"""Budgets that hold, with real processes: ledger, proxies, many calls at once at the budget's edge."""

import asyncio
from pathlib import Path

import httpx

from tests.money.stand import Stand, cost, hard


async def test_a_hundred_calls_at_once_never_pass_the_limit_and_leave_nothing_over(tmp_path: Path) -> None:
    """Ten proxies; every call may cost four times what it does cost, so that much is reserved and given back."""
    each = cost(50, 100)
    limit = 60 * each + each // 2
    refused = allowed = 0
    async with Stand(tmp_path, pods=10, budget=hard(limit)) as stand:

        async def one(number: int) -> httpx.Response:
            return await stand.call(stand.pods[number % 10], read=50, written=100, max_tokens=400)

        for _ in range(6):  # again and again: what the first ones reserved and did not use is for the next
            for answer in await asyncio.gather(*(one(number) for number in range(100))):
                if answer.status_code == 200:
                    allowed += 1
                else:
                    assert answer.status_code == 429, answer.text
                    assert answer.json()["error"]["code"] == "insufficient_quota"
                    assert answer.headers["x-should-retry"] == "false"
                    refused += 1
        spent = await stand.settled()
        assert spent == sum(stand.provider.served.values()) * each == allowed * each
        assert spent <= limit
        largest = cost(200, 400)  # what one call reserves: its bytes and max_tokens
        assert limit - spent <= max(limit * 2 // 100, largest)
        assert refused
