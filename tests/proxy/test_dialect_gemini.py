"""Gemini through the real proxy, by Google's own SDK, against recorded answers (a paid provider cannot be had)."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.auth import credentials
from google.genai import errors, types

from tests.proxy.fakes import BUDGET, PICO, Proxy, Server, accounted, post, running, talk
from tests.proxy.replay import RECORDED, Replay, Reply, body_of

TOKENS = "gen_ai_client_token_usage_tokens_total"
MODEL = "gemini-2.5-flash"
REPLIES: dict[str, Reply | str] = {
    ":generateContent": "whole.json",
    ":streamGenerateContent": "text.sse",
    ":batchEmbedContents": "embed_batch.json",
    ":countTokens": "embed.json",
    "/interactions": "interaction.json",
}


class _Credentials(credentials.AnonymousCredentials):
    """Vertex AI wants some; no token is fetched for these."""

    def refresh(self, request: Any) -> None:  # noqa: ARG002 - the base class's
        self.token = "t"


@contextlib.asynccontextmanager
async def gemini(
    tmp_path: Path, replies: dict[str, Reply | str] | None = None, **overrides: Any
) -> AsyncIterator[tuple[Server, Proxy]]:
    route = {"backend": "Gemini"}
    async with running(tmp_path, Replay("gemini", {**REPLIES, **(replies or {})}), route=route, **overrides) as up:
        yield up


def client(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, **options: Any) -> genai.Client:
    """The SDK as an application has it: pointed to the proxy by its environment, nothing said in code."""
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", proxy.url)
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    return genai.Client(http_options=types.HttpOptions(**options) if options else None)


async def counted(proxy: Proxy, model: str = MODEL) -> dict[str, float]:
    kinds = ("input", "cached_input", "output", "reasoning", "input_audio")
    labels = {"gen_ai_provider_name": "gcp.gemini", "gen_ai_request_model": model}
    return {kind: value for kind in kinds if (value := await proxy.metric(TOKENS, gen_ai_token_type=kind, **labels))}


async def test_generate_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gemini(tmp_path) as (server, proxy):
        api = client(proxy, monkeypatch)
        answer = await api.aio.models.generate_content(model=MODEL, contents="hi")
        assert answer.text == "It is sunny."
        usage = answer.usage_metadata
        assert usage is not None
        assert server.requests[0].target.endswith(f"/models/{MODEL}:generateContent")
        assert server.requests[0].headers["x-goog-api-key"] == "k"
        read = (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0)
        made = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
        assert await counted(proxy) == {"input": read, "output": made, "reasoning": 140, "input_audio": 16}
        assert await proxy.metric("llmwarden_requests_total", http_status_code="200", error_type="") == 1
        assert await proxy.metric("llmwarden_unmeasured_requests_total") == 0


async def test_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gemini(tmp_path) as (server, proxy):
        api = client(proxy, monkeypatch)
        chunks = [item async for item in await api.aio.models.generate_content_stream(model=MODEL, contents="hi")]
        assert "".join(item.text or "" for item in chunks) == "Let's break it down: 1+1 = 2."
        last = chunks[-1].usage_metadata
        assert last is not None
        assert server.requests[0].target.endswith("?alt=sse")
        assert (last.prompt_token_count, last.cached_content_token_count, last.candidates_token_count) == (
            2014,
            1792,
            18,
        )
        assert await counted(proxy) == {"input": 2014, "cached_input": 1792, "output": 96, "reasoning": 78}
        assert await proxy.metric("gen_ai_server_time_to_first_token_seconds_count") == 1
        assert await proxy.metric("llmwarden_estimated_requests_total") == 0


async def test_a_stream_as_one_array_passes_byte_for_byte(tmp_path: Path) -> None:
    replies: dict[str, Reply | str] = {":streamGenerateContent": Reply("array.json", streamed=True)}
    async with gemini(tmp_path, replies) as (_, proxy):
        body = json.dumps({"contents": [{"parts": [{"text": "count"}]}]}).encode()
        answer = await talk(proxy.port, post(body, path=f"/v1beta/models/{MODEL}:streamGenerateContent"))
        assert body_of(answer) == (RECORDED / "gemini" / "array.json").read_bytes()
        assert await counted(proxy) == {"input": 7, "output": 9}
        assert await proxy.metric("gen_ai_server_time_to_first_token_seconds_count") == 1


async def test_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gemini(tmp_path, {":streamGenerateContent": "tools.sse"}) as (server, proxy):
        tool = types.Tool(function_declarations=[types.FunctionDeclaration(name="get_weather")])
        config = types.GenerateContentConfig(tools=[tool])
        api = client(proxy, monkeypatch)
        chunks = [
            item
            async for item in await api.aio.models.generate_content_stream(model=MODEL, contents="hi", config=config)
        ]
        calls = [call for item in chunks for call in item.function_calls or ()]
        assert [(call.name, call.args) for call in calls] == [("get_weather", {"city": "Köln"})]
        assert "tools" in server.requests[0].json()
        assert await counted(proxy) == {"input": 96, "output": 54, "reasoning": 40}


async def test_embeddings_and_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gemini(tmp_path) as (_, proxy):
        api = client(proxy, monkeypatch)
        embedded = await api.aio.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])
        assert len(embedded.embeddings or ()) == 2
        assert await counted(proxy, "gemini-embedding-001") == {"input": 8}
        await api.aio.models.count_tokens(model=MODEL, contents="hi")
        assert await proxy.metric("llmwarden_unmeasured_requests_total", reason="path") == 1


async def test_interactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gemini(tmp_path) as (server, proxy):
        api = client(proxy, monkeypatch)
        answer = await api.aio.interactions.create(model="gemini-3-flash", input="hi")
        assert getattr(answer, "status", "") == "completed"
        assert server.requests[0].target.endswith("/interactions")
        assert await counted(proxy, "gemini-3-flash") == {"input": 20, "output": 51, "reasoning": 40}


async def test_errors_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies: dict[str, Reply | str] = {
        ":generateContent": Reply("error_429.json", 429),
        ":streamGenerateContent": "error.sse",
    }
    async with gemini(tmp_path, replies) as (server, proxy):
        api = client(proxy, monkeypatch)
        with pytest.raises(errors.ClientError) as caught:
            await api.aio.models.generate_content(model=MODEL, contents="hi")
        assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")
        with pytest.raises(errors.APIError):
            [item async for item in await api.aio.models.generate_content_stream(model=MODEL, contents="hi")]
        assert len(server.requests) == 2
        assert await proxy.metric("llmwarden_requests_total", http_status_code="429") == 1
        assert await proxy.metric("llmwarden_requests_total", error_type="UNAVAILABLE") == 1


async def test_a_budget_that_is_used_up_refuses_once_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price(MODEL, PICO)
        ledger.block(PICO, on_unknown_price="Deny")
        async with gemini(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            api = client(proxy, monkeypatch)
            [item async for item in await api.aio.models.generate_content_stream(model=MODEL, contents="hi")]
            with pytest.raises(errors.ClientError) as caught:
                await api.aio.models.generate_content(model=MODEL, contents="hi")
            assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")
            assert "LLM Warden" in (caught.value.message or "")
            with pytest.raises(errors.ClientError) as caught:
                [item async for item in await api.aio.models.generate_content_stream(model=MODEL, contents="hi")]
            assert caught.value.status == "RESOURCE_EXHAUSTED"
            assert len(server.requests) == 1
            assert await proxy.metric("llmwarden_refused_requests_total", budget=BUDGET) == 2  # one attempt each
            # Where it is told to try again the SDK does so at every 429, whatever that says.
            retries = types.HttpRetryOptions(attempts=3, initial_delay=0.01, max_delay=0.02, jitter=0.0)
            insistent = client(proxy, monkeypatch, retry_options=retries)
            with pytest.raises(errors.ClientError):
                await insistent.aio.models.generate_content(model=MODEL, contents="hi")
            assert await proxy.metric("llmwarden_refused_requests_total", budget=BUDGET) == 5


async def test_an_upstream_that_is_gone_is_named_as_google_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gemini(tmp_path) as (server, proxy):
        await server.stop()
        api = client(proxy, monkeypatch)
        with pytest.raises(errors.ServerError) as caught:
            await api.aio.models.generate_content(model=MODEL, contents="hi")
        assert (caught.value.code, caught.value.status) == (502, "UNAVAILABLE")


async def test_vertex_ai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies: dict[str, Reply | str] = {":streamGenerateContent": "vertex.sse"}
    async with gemini(tmp_path, replies) as (server, proxy):
        monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", proxy.url)
        api = genai.Client(
            enterprise=True,
            project="p",
            location="europe-west4",
            credentials=_Credentials(),  # type: ignore[no-untyped-call]
            http_options=types.HttpOptions(base_url=proxy.url),
        )
        chunks = await asyncio.to_thread(lambda: list(api.models.generate_content_stream(model=MODEL, contents="hi")))
        assert "".join(item.text or "" for item in chunks) == "Hello! How can I help?"
        assert f"/publishers/google/models/{MODEL}:streamGenerateContent" in server.requests[0].target
        assert await counted(proxy) == {"input": 1, "output": 9}
