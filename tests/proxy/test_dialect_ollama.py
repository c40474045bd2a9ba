"""Ollama through the real proxy, by its own SDK, against recorded answers (its server cannot be had from a package registry)."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.proxy.fakes import BUDGET, PICO, Proxy, Server, accounted, running
from tests.proxy.replay import Replay, Reply

TOKENS = "gen_ai_client_token_usage_tokens_total"
MODEL = "llama3.2"
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
REPLIES: dict[str, Reply | str] = {
    "/api/chat": "chat.ndjson",
    "/api/generate": "generate.ndjson",
    "/api/embed": "embed.json",
    "/api/embeddings": "embeddings.json",
}


@contextlib.asynccontextmanager
async def serving(
    tmp_path: Path, replies: dict[str, Reply | str] | None = None, **overrides: Any
) -> AsyncIterator[tuple[Server, Proxy]]:
    route = {"backend": "Ollama"}
    async with running(tmp_path, Replay("ollama", {**REPLIES, **(replies or {})}), route=route, **overrides) as up:
        yield up


def client(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> ollama.AsyncClient:
    """The SDK as an application has it: pointed to the proxy by its environment."""
    monkeypatch.setenv("OLLAMA_HOST", proxy.url)
    return ollama.AsyncClient()


async def counted(proxy: Proxy, model: str = MODEL) -> tuple[float, float]:
    labels = {"gen_ai_provider_name": "ollama", "gen_ai_request_model": model}
    return (
        await proxy.metric(TOKENS, gen_ai_token_type="input", **labels),
        await proxy.metric(TOKENS, gen_ai_token_type="output", **labels),
    )


async def test_chat_streamed_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies: dict[str, Reply | str] = {}
    async with serving(tmp_path, replies) as (server, proxy):
        api = client(proxy, monkeypatch)
        parts = [part async for part in await api.chat(model=MODEL, messages=MESSAGES, stream=True)]
        assert "".join(part.message.content or "" for part in parts) == "The sky is blue"
        assert (parts[-1].prompt_eval_count, parts[-1].eval_count, parts[-1].done_reason) == (26, 282, "stop")
        assert await counted(proxy) == (26, 282)
        assert await proxy.metric("gen_ai_server_time_to_first_token_seconds_count") == 1
        server.handler = Replay("ollama", {"/api/chat": "chat.json"})
        answer = await api.chat(model=MODEL, messages=MESSAGES)
        assert answer.message.content == "Hello! How are you today?"
        assert server.requests[1].json()["stream"] is False
        assert await counted(proxy) == (26 + (answer.prompt_eval_count or 0), 282 + (answer.eval_count or 0))
        assert await proxy.metric("llmwarden_estimated_requests_total") == 0


async def test_thinking_and_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, {"/api/chat": "thinking_tool.ndjson"}) as (_, proxy):
        api = client(proxy, monkeypatch)
        parts = [part async for part in await api.chat(model=MODEL, messages=MESSAGES, stream=True, think=True)]
        calls = [call for part in parts for call in part.message.tool_calls or ()]
        assert [(call.function.name, call.function.arguments) for call in calls] == [("get_weather", {"city": "Tokyo"})]
        assert "".join(part.message.thinking or "" for part in parts) == "The user asks."
        assert await counted(proxy) == (26, 282)


async def test_generate_and_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as (_, proxy):
        api = client(proxy, monkeypatch)
        parts = [part async for part in await api.generate(model=MODEL, prompt="hi", stream=True)]
        assert (parts[-1].eval_count, parts[-1].context) == (282, [1, 2, 3])
        assert await counted(proxy) == (26, 282)
        embedded = await api.embed(model="all-minilm", input="hi")
        assert await counted(proxy, "all-minilm") == (embedded.prompt_eval_count, 0)
        assert await proxy.metric("llmwarden_estimated_requests_total") == 0
        await api.embeddings(model="old", prompt="The older way reports no counts.")
        assert (await counted(proxy, "old"))[0] > 4
        assert await proxy.metric("llmwarden_estimated_requests_total") == 1
        await api.list()
        assert await proxy.metric("llmwarden_unmeasured_requests_total") == 1


async def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies: dict[str, Reply | str] = {"/api/chat": "error.ndjson", "/api/generate": Reply("not_found.json", 404)}
    async with serving(tmp_path, replies) as (_, proxy):
        api = client(proxy, monkeypatch)
        with pytest.raises(ollama.ResponseError, match="CUDA"):
            [part async for part in await api.chat(model=MODEL, messages=MESSAGES, stream=True)]
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            await api.generate(model="nope", prompt="hi")
        assert caught.value.status_code == 404
        # An error under 200 is an error.
        assert await proxy.metric("llmwarden_requests_total", http_status_code="200", error_type="error") == 1
        assert await proxy.metric("llmwarden_requests_total", http_status_code="404") == 1


async def test_a_stream_that_breaks_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, {"/api/chat": Reply("error.ndjson", then_lost=True)}) as (_, proxy):
        api = client(proxy, monkeypatch)
        with pytest.raises(ollama.ResponseError):
            [part async for part in await api.chat(model=MODEL, messages=MESSAGES, stream=True)]
        await proxy.until("llmwarden_estimated_requests_total", 1)
        read, made = await counted(proxy)
        assert read > 5
        assert made == 1


async def test_a_budget_that_is_used_up_refuses_once_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price(MODEL, PICO)
        ledger.block(PICO, on_unknown_price="Deny")
        async with serving(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            api = client(proxy, monkeypatch)
            [part async for part in await api.chat(model=MODEL, messages=MESSAGES, stream=True)]
            with pytest.raises(ollama.ResponseError, match="LLM Warden") as caught:
                await api.chat(model=MODEL, messages=MESSAGES)
            assert caught.value.status_code == 429
            stream = await api.chat(model=MODEL, messages=MESSAGES, stream=True)
            with pytest.raises(ollama.ResponseError, match="LLM Warden"):
                await anext(aiter(stream))
            assert len(server.requests) == 1
            assert await proxy.metric("llmwarden_refused_requests_total", budget=BUDGET) == 2  # one attempt each
