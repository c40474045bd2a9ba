"""A price that the ledger has not said is no unknown price: who waits for it, who passes, who is refused and with which reason."""

import asyncio
import signal
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import httpx
import msgspec
import pytest

from llmwarden import names
from llmwarden.contracts import ledger as wire
from tests.proxy.fakes import PICO, Ledger, Proxy, accounted, running, whole

DENY = {"on_unknown_price": "Deny", "on_ledger_loss": "Deny"}
NOT_SYNCED = whole(503, b'{"error":{"code":"not_synced","message":"the ledger has not yet read the LLMServices"}}')


def null(generation: str | None) -> bytes:
    """No price, of a generation."""
    return whole(200, msgspec.json.encode(wire.Price(names.CONTRACT, generation=generation)))


def answering(ledger: Ledger, answers: Iterator[bytes]) -> list[str]:
    """Let the ledger answer questions for prices so, and then as ever; returns a list that grows by each question's model."""
    asked: list[str] = []

    async def on_price(model: str) -> bytes | None:
        asked.append(model)
        return next(answers, None)

    ledger.on_price = on_price
    return asked


async def call(proxy: Proxy, model: str = "m-1") -> httpx.Response:
    """One call by a client that does not try again by itself."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.post(f"http://127.0.0.1:{proxy.port}/v1/chat/completions", json=body)


async def refusal(proxy: Proxy, model: str = "m-1") -> str:
    """Why a call is refused."""
    answer = await call(proxy, model)
    assert answer.status_code == 429
    return str(answer.json()["error"]["code"])


@pytest.mark.parametrize(
    "answer",
    [NOT_SYNCED, null("p0"), null("")],
    ids=["it restarts", "a replica that is behind", "a replica that does not know the service yet"],
)
async def test_a_call_waits_for_a_price_that_is_not_said_at_once(tmp_path: Path, answer: bytes) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", 1)
        ledger.block(25 * PICO, **DENY)
        ledger.interval = 30.0
        async with running(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            asked = answering(ledger, iter([answer, answer]))
            assert (await call(proxy)).status_code == 200
            assert asked == ["m-1"] * 3
            assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [NOT_SYNCED, null("p0")], ids=["it restarts", "a replica that is behind"])
async def test_what_is_not_said_in_time_is_refused_as_that_and_may_be_tried_again(
    tmp_path: Path, answer: bytes
) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.block(25 * PICO, **DENY)
        ledger.interval = 30.0
        async with running(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            answering(ledger, repeat(answer))
            first = await call(proxy)
            assert first.status_code == 429
            assert first.json()["error"]["code"] == "ledger_unavailable"
            assert "cannot say at the moment what model 'm-1' of shop/bot costs" in first.text
            assert first.headers["retry-after"] == "2"
            assert "x-should-retry" not in first.headers
            assert {await refusal(proxy) for _ in range(5)} == {"ledger_unavailable"}
            assert not server.requests


async def test_a_ledger_that_hangs_is_waited_for_once_and_not_by_every_call(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.block(25 * PICO, **DENY)
        ledger.interval = 30.0
        async with running(tmp_path, ledger=ledger) as (_, proxy):
            await ledger.until_followed()
            answered = asyncio.Event()

            async def hang(_: str) -> None:
                await answered.wait()

            ledger.on_price = hang
            assert await refusal(proxy) == "ledger_unavailable"
            async with asyncio.timeout(1.9):  # less than a single call waits
                for _ in range(10):
                    assert await refusal(proxy) == "ledger_unavailable"
            ledger.price("m-1", 1)
            answered.set()
            async with asyncio.timeout(10):
                while (await call(proxy)).status_code != 200:
                    await asyncio.sleep(0.05)


async def test_where_the_budget_allows_the_ledgers_loss_a_price_that_is_not_said_stops_nothing(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.block(25 * PICO, on_unknown_price="Deny", on_ledger_loss="Allow")
        ledger.interval = 30.0
        async with running(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            answering(ledger, repeat(NOT_SYNCED))
            assert (await call(proxy)).status_code == 200
            assert (await call(proxy)).status_code == 200
            assert len(server.requests) == 2


async def test_a_restart_has_the_prices_that_were_known_and_asks_for_no_others(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", PICO // 1000)
        ledger.block(25 * PICO, **DENY)
        ledger.interval = 30.0
        async with running(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            assert (await call(proxy)).status_code == 200
            assert await refusal(proxy, "weird") == "unknown_price"
            saved = proxy.journal / "prices.json"
            async with asyncio.timeout(10):
                while not saved.exists():
                    await asyncio.sleep(0.02)
            assert [item["model"] for item in msgspec.json.decode(saved.read_bytes())] == ["m-1"]
            proxy.send(signal.SIGKILL)
            await proxy.wait()
            await ledger.stop()
            await proxy.start()
            assert (await call(proxy)).status_code == 200
            assert len(server.requests) == 2
            assert await proxy.metric("llmwarden_cost_usd_total") == pytest.approx(0.012)
            # What had no price may have one now: nobody has said.
            assert await refusal(proxy, "weird") == "ledger_unavailable"


async def test_a_file_of_prices_that_is_damaged_is_as_if_there_were_none(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", 1)
        ledger.block(25 * PICO, **DENY)
        (tmp_path / "journal-dir").mkdir()
        (tmp_path / "journal-dir" / "prices.json").write_bytes(b'[{"service":"bot","model":"m-1"')
        async with running(tmp_path, ledger=ledger) as (_, proxy):
            await ledger.until_followed()
            assert (await call(proxy)).status_code == 200
