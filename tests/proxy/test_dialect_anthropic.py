"""Anthropic's own SDK through the real proxy, before a provider that replays recorded shapes."""

import asyncio
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.proxy.fakes import Proxy, Received, accounted, running
from tests.proxy.vendor import Vendor, counted

REQUESTS = "llmwarden_requests_total"
MESSAGES: Any = [{"role": "user", "content": "hi"}]
ROUTE = {"backend": "Anthropic"}


def client(proxy: Proxy, **more: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=proxy.url, api_key="sk-app", **more)


def by_model(request: Received) -> str:
    """Tests name the file that they want as the model."""
    return f"anthropic/{request.json()['model']}"


async def ask(api: anthropic.AsyncAnthropic, model: str, **more: Any) -> Any:
    return await api.messages.create(model=model, max_tokens=100, messages=MESSAGES, **more)


async def test_streams_with_caches_thinking_and_tools(tmp_path: Path) -> None:
    async with running(tmp_path, Vendor(by_model), route=ROUTE) as (server, proxy), client(proxy) as api:
        async with api.messages.stream(model="text.sse", max_tokens=100, messages=MESSAGES) as stream:
            text = [item async for item in stream.text_stream]
            message = await stream.get_final_message()
        assert "".join(text) == 'Hello, "world"\né!'
        assert message.usage.output_tokens == 12
        assert await counted(proxy) == {
            "input": 2260,
            "cached_input": 2051,
            "cache_write": 188,
            "cache_write_1h": 88,
            "output": 12,
        }
        async with api.messages.stream(model="thinking_tool.sse", max_tokens=100, messages=MESSAGES) as stream:
            message = await stream.get_final_message()
        assert [block.type for block in message.content] == ["thinking", "tool_use"]
        assert message.content[1].input == {"location": "Paris"}  # type: ignore[union-attr]
        totals = await counted(proxy)
        assert (totals["input"], totals["output"], totals["reasoning"]) == (2260 + 377, 12 + 65, 20)
        assert await proxy.metric("gen_ai_server_time_to_first_token_seconds_count") == 2
        assert "stream_options" not in server.requests[0].json()


async def test_whole_answers(tmp_path: Path) -> None:
    async with running(tmp_path, Vendor(by_model), route=ROUTE) as (_, proxy), client(proxy) as api:
        message = await ask(api, "message.json")
        assert message.stop_reason == "tool_use"
        assert await counted(proxy) == {
            "input": 3145,
            "cached_input": 1000,
            "cache_write": 50,
            "output": 503,
            "reasoning": 100,
        }


async def test_an_error_event_under_200_is_an_error_and_its_tokens_are_estimated(tmp_path: Path) -> None:
    async with running(tmp_path, Vendor(by_model), route=ROUTE) as (_, proxy), client(proxy) as api:
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            async with api.messages.stream(model="overloaded.sse", max_tokens=100, messages=MESSAGES) as stream:
                [item async for item in stream]
        assert await proxy.metric(REQUESTS, error_type="overloaded_error", http_status_code="200") == 1
        assert await proxy.metric("llmwarden_estimated_requests_total") == 1
        assert await counted(proxy) == {"input": 9, "output": 2}


async def test_errors_keep_their_class_and_their_retries(tmp_path: Path) -> None:
    limits = ("anthropic-ratelimit-requests-remaining: 0", "anthropic-ratelimit-requests-reset: 2100-01-01T00:00:00Z")
    handler = Vendor(lambda _: (429, "anthropic/rate_limit.json", *limits))
    async with running(tmp_path, handler, route=ROUTE) as (server, proxy), client(proxy, max_retries=1) as api:
        with pytest.raises(anthropic.RateLimitError, match="rate limit"):
            await ask(api, "m")
        assert len(server.requests) == 2
        assert await proxy.metric("llmwarden_retried_requests_total", by="header") == 1
        assert await proxy.metric("llmwarden_upstream_rate_limit_remaining", limit="requests") == 0
        assert (
            await proxy.metric("llmwarden_upstream_rate_limit_reset_timestamp_seconds", limit="requests") == 4102444800
        )


async def test_a_refusal_says_that_money_is_used_up_and_is_not_tried_again(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.block(0)
        async with running(tmp_path, Vendor(by_model), ledger=ledger, route=ROUTE) as (server, proxy):
            await ledger.until_followed()
            async with client(proxy) as api:
                for more in ({}, {"stream": True}):
                    with pytest.raises(anthropic.APIStatusError) as caught:
                        await ask(api, "message.json", **more)
                    assert type(caught.value).__name__ == "PaymentRequiredError"
                    assert caught.value.status_code == 402
                    assert "is used up" in str(caught.value)
            assert server.requests == []
            assert await proxy.metric("llmwarden_refused_requests_total") == 2
            assert await proxy.metric(REQUESTS, http_status_code="402") == 2


async def test_every_dialect_is_measured_and_refused_on_every_route(tmp_path: Path) -> None:
    """No endpoint is a way around a budget: an engine may speak several dialects."""
    async with accounted(tmp_path) as ledger:
        ledger.price("message.json", 1)
        ledger.block(10**6)
        async with running(tmp_path, Vendor(by_model), ledger=ledger, route={"backend": "VLLM"}) as (_, proxy):
            await ledger.until_followed()
            async with client(proxy) as api:
                await ask(api, "message.json")
            assert (await counted(proxy))["input"] == 3145
            ledger.budgets.clear()
            ledger.block(0)
            await ledger.until_followed()
            async with client(proxy) as api:
                with pytest.raises(anthropic.APIStatusError, match="is used up"):
                    await ask(api, "message.json")
            async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="k") as other:
                with pytest.raises(openai.RateLimitError, match="is used up"):
                    await other.chat.completions.create(model="m", messages=MESSAGES)


async def test_counting_tokens_is_free_and_never_refused(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.block(0)
        handler = Vendor(lambda _: "anthropic/count_tokens.json")
        async with running(tmp_path, handler, ledger=ledger, route=ROUTE) as (_, proxy), client(proxy) as api:
            await ledger.until_followed()
            count = await api.messages.count_tokens(model="claude", messages=MESSAGES)
            assert count.input_tokens == 14
            assert await proxy.metric(REQUESTS) == 0
            assert await proxy.metric("llmwarden_unmeasured_requests_total", reason="path") == 1


async def test_an_error_of_ours_speaks_the_calls_dialect_whatever_the_backend(tmp_path: Path) -> None:
    async def lost(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with running(tmp_path, lost, route={"backend": "VLLM"}) as (_, proxy), client(proxy, max_retries=0) as api:
        with pytest.raises(anthropic.InternalServerError) as caught:
            await ask(api, "m")
        assert caught.value.status_code == 502
        assert caught.value.body["error"]["type"] == "api_error"  # type: ignore[index]
        assert "LLM Warden" in str(caught.value)
