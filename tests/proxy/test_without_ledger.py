"""A proxy whose ledger has never answered: its contract says which budgets are hard (money.md, *Without the ledger*)."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ports import free_port
from tests.proxy.fakes import PICO, Proxy, accounted, post, running, talk

DENY = {"key": "LLMService/shop/bot/daily", "onLedgerLoss": "Deny"}
CALLS: dict[str, tuple[str, str, bytes]] = {
    "OpenAI": ("OpenAI", "/v1/chat/completions", b'{"model":"m-1","messages":[]}'),
    "Anthropic": ("Anthropic", "/v1/messages", b'{"model":"m-1","max_tokens":5,"messages":[]}'),
    "Gemini": ("Gemini", "/v1beta/models/m-1:generateContent", b'{"contents":[]}'),
    "Ollama": ("Ollama", "/api/chat", b'{"model":"m-1","messages":[]}'),
    "Bedrock": ("OpenAI", "/model/m-1/converse", b'{"messages":[]}'),
    "an unreadable body": ("OpenAI", "/v1/responses", b"\xff"),
}


async def call(proxy: Proxy) -> httpx.Response:
    """One call by a client that does not try again by itself."""
    body = {"model": "m-1", "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.post(f"{proxy.url}/v1/chat/completions", json=body)


async def until(proxy: Proxy, status: int) -> None:
    async with asyncio.timeout(30):
        while (await call(proxy)).status_code != status:
            await asyncio.sleep(0.05)


class Closed(Proxy):
    """A proxy whose ledger's port is closed."""

    def contract(self) -> dict[str, Any]:
        (self.directory / "token").write_text("token")
        ledger = {"url": f"http://127.0.0.1:{free_port()}", "tokenFile": str(self.directory / "token")}
        return {**super().contract(), "ledger": ledger}


@pytest.mark.parametrize("dialect", CALLS)
async def test_fault_05_a_hard_budget_refuses_every_call_until_the_ledger_has_answered(
    tmp_path: Path, dialect: str
) -> None:
    backend, path, body = CALLS[dialect]
    key = tmp_path / "key"
    key.write_text("sk-ours")
    route = {"backend": backend, "budgets": [DENY], "credentialFile": str(key)}
    async with accounted(tmp_path) as ledger:
        ledger.refuse = True
        async with running(tmp_path, ledger=ledger, route=route) as (server, proxy):
            await proxy.until("llmwarden_proxy_ledger_errors_total", 1)
            answers = await asyncio.gather(*(talk(proxy.port, post(body, path=path)) for _ in range(50)))
            assert {answer.split(b" ", 2)[1] for answer in answers} == {b"503"}
            head, _, text = answers[0].partition(b"\r\n\r\n")
            assert b"Retry-After: 2\r\n" in head + b"\r\n"
            assert "onLedgerLoss of budget 'daily' of shop/bot is Deny" in json.dumps(json.loads(text))
            assert not server.requests
            ledger.refuse = False
            await until(proxy, 200)


async def test_a_call_at_the_very_start_waits_for_the_configuration(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", 1)
        ledger.block(25 * PICO)
        answered = asyncio.Event()
        answer = ledger._server.handler

        async def later(request: Any, writer: Any) -> None:
            await answered.wait()
            await answer(request, writer)

        ledger._server.handler = later
        async with running(tmp_path, ledger=ledger, route={"budgets": [DENY]}) as (server, proxy):
            waiting = asyncio.create_task(call(proxy))
            await asyncio.sleep(0)
            answered.set()
            assert (await waiting).status_code == 200
            assert len(server.requests) == 1
            assert (await ledger.total(1)).tokens.input == 9


async def test_a_ledger_that_does_not_know_the_service_has_said_nothing(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        bot = ledger.services.pop("bot")
        async with running(tmp_path, ledger=ledger, route={"budgets": [DENY]}) as (server, proxy):
            await ledger.until_followed()
            assert (await call(proxy)).status_code == 503
            assert not server.requests
            ledger.services["bot"] = bot
            ledger.change()
            await until(proxy, 200)


async def test_a_restart_has_the_last_configuration_and_needs_no_contract_for_it(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", 1)
        ledger.block(25 * PICO)
        async with running(tmp_path, ledger=ledger, route={"budgets": [DENY]}) as (_, proxy):
            await ledger.until_followed()
            assert (await call(proxy)).status_code == 200
            ledger.refuse = True
            proxy.send(signal.SIGKILL)
            await proxy.wait()
            await proxy.start()
            assert (await call(proxy)).status_code == 200  # it is not leased, and the loss is a moment old


async def test_a_closed_port_is_no_answer_either(tmp_path: Path) -> None:
    async with running(tmp_path) as (server, _):
        (tmp_path / "closed").mkdir()
        proxy = Closed(tmp_path / "closed", f"http://127.0.0.1:{server.port}", route={"budgets": [DENY]})
        try:
            await proxy.start()
            await proxy.until("llmwarden_proxy_ledger_errors_total", 1)
            assert [(await call(proxy)).status_code for _ in range(3)] == [503] * 3
            assert not server.requests
        finally:
            await proxy.stop()


async def test_an_old_contract_and_a_budget_that_allows_pass_as_before(tmp_path: Path) -> None:
    for number, budgets in enumerate(([], [{**DENY, "onLedgerLoss": "Allow"}])):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with accounted(directory) as ledger:
            ledger.refuse = True
            async with running(directory, ledger=ledger, route={"budgets": budgets}) as (_, proxy):
                assert (await call(proxy)).status_code == 200
