"""Models on our own GPUs, with real processes: calls gated at the present rate, hours closed and trued up, and what dies between."""

import asyncio
import datetime as dt
import signal
import time
from pathlib import Path

import httpx
import pytest

from llmwarden.contracts import ledger as wire
from llmwarden.domain import gpuhours
from tests import postgresql
from tests.money.stand import Stand, hard
from tests.unit.ledger.objects import service
from tests.unit.ledger.test_gpu import OLD, gpu_price

DOLLAR = 10**12
HOUR = gpuhours.WINDOW_SECONDS
DAY = 24 * HOUR
PODS = 2


class SelfHosted(Stand):
    """A stand whose provider is an engine in the proxies' pods, on a GPU each at $3.60 an hour; its clock begins ten minutes into an hour."""

    def __init__(self, directory: Path, limit: int, database: str | None = None) -> None:
        budget = hard(
            limit, window={"rolling": "24h"}
        )  # a calendar day would end within the test, an hour before midnight
        super().__init__(
            directory, pods=PODS, budget=budget, database=database, route={"mode": "Port", "backend": "VLLM"}
        )
        self.hour = int(time.time()) // HOUR * HOUR
        if (self.hour + HOUR) % DAY == 0:
            self.hour -= HOUR  # the next one is looked at, too, and the budget is a day's
        self.turn(600)
        self.ledger.say(service(kind="VLLM", budgets=(budget,)), gpu_price((OLD, "3.60")))

    def turn(self, seconds: float) -> None:
        """Set the ledger's clock to so many seconds into the hour."""
        self.ledger.jump(self.hour + seconds - time.time())

    async def tell(self, seconds: float) -> None:
        """Tell, as the operator does, that the pods held their GPUs from the hour's begin until then; until the ledger has it."""
        since, until = (dt.datetime.fromtimestamp(self.hour + at, dt.UTC) for at in (0, seconds))
        pods = [
            {
                "service": "shop/bot", "uid": f"pod-{number}", "name": "bot-1", "resource": "nvidia.com/gpu", "product": "NVIDIA-L4",
                "gpus": 1, "since": since.isoformat(), "until": until.isoformat(),
            }
            for number in range(PODS)
        ]  # fmt: skip
        async with asyncio.timeout(30):
            while True:
                try:
                    answer = await self.client.post(
                        f"{self.ledger.url}/v1/gpus",
                        json={"contract": 1, "pods": pods},
                        headers={"Authorization": "Bearer operator"},
                    )
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
                    continue
                assert answer.status_code == 200, answer.text
                return

    async def used(self) -> wire.ServiceUsage:
        return (await self.ledger.usage()).services["shop/bot"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_tokens_are_charged_and_what_is_idle_is_what_the_gpus_cost(tmp_path: Path, kind: str) -> None:
    database = postgresql.shared().database() if kind == "postgresql" else None
    async with SelfHosted(tmp_path, 50 * DOLLAR, database) as stand:
        await stand.tell(590)
        for pod in stand.pods:
            await stand.follows(pod, "+1000000+1000000")  # $3.60 by 3.6 million tokens
        answers = 0
        for turn in range(6):
            done = await asyncio.gather(
                *(stand.call(pod, read=20_000, written=3_000, max_tokens=3_000) for pod in stand.pods for _ in range(3))
            )
            answers += sum(answer.status_code == 200 for answer in done)
            if turn == 2:
                stand.pods[0].send(signal.SIGKILL)
                await stand.pods[0].wait()
                await stand.pods[0].start()
                await stand.ledger.kill()
                await stand.ledger.start()
                await stand.tell(595)
        assert answers == 36
        async with asyncio.timeout(60):
            while (await stand.used()).total.requests < 36:
                await asyncio.sleep(0.2)
        # Gated and counted at the first rate, a dollar a million, until the hour is over.
        open_hour = await stand.used()
        assert open_hour.total.picodollars == 36 * 23_000 * 1_000_000
        stand.turn(HOUR + gpuhours.GRACE_SECONDS + 10)
        await stand.tell(HOUR)
        async with asyncio.timeout(60):
            while (gpu := (await stand.used()).gpu) is None or not gpu.picodollars:
                await asyncio.sleep(0.2)
        found = await stand.used()
        assert found.gpu is not None
        assert found.gpu.picodollars == PODS * 36 * DOLLAR // 10
        assert found.total.picodollars + found.gpu.idle == found.gpu.picodollars
        # Some seconds of calls in an hour of two GPUs: nearly all of it was idle, and none of it was free.
        assert 0 < found.total.picodollars < found.gpu.picodollars // 50
        assert (found.total.tokens.input, found.total.tokens.output) == (36 * 20_000, 36 * 3_000)
        assert found.total.uncosted_tokens == 0
        assert await stand.ledger.spent() == found.total.picodollars
        # Proxies are told the new rate.
        for pod in stand.pods:
            await stand.follows(pod, f"+{found.gpu.input_picodollars}+{found.gpu.output_picodollars}")


async def test_a_hard_budget_holds_at_the_present_rate(tmp_path: Path) -> None:
    each = 2_000 * 1_000_000
    async with SelfHosted(tmp_path, 10 * each) as stand:
        await stand.tell(590)
        for pod in stand.pods:
            await stand.follows(pod, "+1000000+1000000")
        answers = [
            answer
            for _ in range(5)
            for answer in await asyncio.gather(
                *(stand.call(pod, read=100, written=1_900, max_tokens=1_900) for pod in stand.pods for _ in range(2))
            )
        ]
        spent = await stand.settled(each)
        allowed = sum(answer.status_code == 200 for answer in answers)
        assert {answer.status_code for answer in answers} == {200, 429}
        assert spent == allowed * each
        assert spent <= 10 * each
