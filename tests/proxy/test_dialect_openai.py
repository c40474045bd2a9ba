"""OpenAI's own SDK through the real proxy, before a provider that replays recorded shapes: the application notices nothing, the counts are
the provider's, and a refusal is the exception that the SDK has for it, at once."""

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.proxy.fakes import BUDGET, Proxy, Received, accounted, running
from tests.proxy.vendor import Vendor, counted

REQUESTS = "llmwarden_requests_total"
MESSAGES: Any = [{"role": "user", "content": "hi"}]


def client(proxy: Proxy, **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="sk-app", **more)


def by_model(request: Received) -> str:
    """Tests name the file that they want as the model."""
    return f"openai/{request.json()['model']}"


async def test_chats_stream_as_if_nothing_were_between(tmp_path: Path) -> None:
    async with running(tmp_path, Vendor(by_model)) as (server, proxy), client(proxy) as api:
        seen: dict[str, Any] = {}
        for name in ("chat_text", "chat_two_choices_logprobs", "chat_tools", "chat_refusal", "vllm_continuous_usage"):
            stream = await api.chat.completions.create(model=f"{name}.sse", messages=MESSAGES, stream=True)
            seen[name] = [item async for item in stream]
        assert all(request.json()["stream_options"] == {"include_usage": True} for request in server.requests)
        text = seen["chat_text"]
        assert [item.choices[0].delta.content for item in text] == ["", "Hel", "lo", None]
        assert all("usage" not in item.model_fields_set for item in text)  # nor the null that our wish brought
        two = seen["chat_two_choices_logprobs"]
        logged = [item.choices[0].logprobs.content for item in two if item.choices[0].logprobs]
        assert [content[0].token for content in logged if content] == ["Foo", "Bar", "!"]
        calls = [call for item in seen["chat_tools"] for call in item.choices[0].delta.tool_calls or ()]
        assert "".join(call.function.arguments for call in calls if call.index == 0) == '{"city":"Paris"}'
        assert "".join(item.choices[0].delta.refusal or "" for item in seen["chat_refusal"]) == "I'm sorry"
        assert [item.usage.completion_tokens for item in seen["vllm_continuous_usage"]] == [0, 1, 2, 3]
        assert await counted(proxy) == {
            "input": 79 + 9 + 149 + 79 + 15,
            "cached_input": 64,
            "output": 21 + 4 + 60 + 11 + 3,
            "reasoning": 8,
        }
        assert await proxy.metric("gen_ai_server_time_to_first_token_seconds_count") == 5
        assert await proxy.metric("llmwarden_estimated_requests_total") == 0
        assert await proxy.metric("llmwarden_proxy_malformed_events_total") == 0


async def test_usage_that_the_application_asked_for_is_there(tmp_path: Path) -> None:
    async with running(tmp_path, Vendor(by_model)) as (_, proxy), client(proxy) as api:
        stream = await api.chat.completions.create(
            model="chat_text.sse", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        items = [item async for item in stream]
        assert [item.usage and item.usage.total_tokens for item in items] == [None, None, None, None, 100]
        assert "usage" in items[0].model_fields_set


async def test_whole_answers_and_tools(tmp_path: Path) -> None:
    async with running(tmp_path, Vendor(by_model)) as (_, proxy), client(proxy) as api:
        answer = await api.chat.completions.create(
            model="chat.json",
            messages=MESSAGES,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        )
        assert answer.choices[0].message.tool_calls is not None
        assert answer.usage is not None
        assert answer.usage.total_tokens == 160
        done = await api.completions.create(model="completion.json", prompt="Say this")
        assert done.choices[0].text == "\n\nThis is indeed a test"
        vectors = await api.embeddings.create(model="embeddings.json", input="hi", encoding_format="float")
        assert vectors.data[0].embedding == [0.0023064255, -0.009327292]
        assert await counted(proxy) == {
            "input": 100 + 5 + 8,
            "cached_input": 20,
            "input_audio": 30,
            "output": 60 + 7,
            "output_audio": 40,
        }
        for operation in ("chat", "text_completion", "embeddings"):
            assert await proxy.metric(REQUESTS, gen_ai_operation_name=operation, http_status_code="200") == 1


async def test_responses(tmp_path: Path) -> None:
    def pick(request: Received) -> str:
        return "openai/responses_background_done.json" if request.method == "GET" else by_model(request)

    async with running(tmp_path, Vendor(pick)) as (_, proxy), client(proxy) as api:
        stream = await api.responses.create(model="responses.sse", input="hi", stream=True)
        kinds = [item.type async for item in stream]
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        assert await counted(proxy) == {"input": 36, "cached_input": 12, "output": 87, "reasoning": 40}
        answer = await api.responses.create(model="responses.json", input="hi")
        assert answer.output_text == "Hi there"
        begun = await api.responses.create(model="responses_queued.json", input="hi", background=True)
        assert begun.status == "queued"
        assert (await counted(proxy))["input"] == 2 * 36
        for _ in range(2):
            assert (await api.responses.retrieve(begun.id)).output_text == "Hi there"
        assert await counted(proxy) == {"input": 3 * 36, "cached_input": 3 * 12, "output": 3 * 87, "reasoning": 3 * 40}
        stream = await api.responses.create(model="responses_failed.sse", input="hi", stream=True)
        assert [item.type async for item in stream][-1] == "response.failed"
        assert await proxy.metric(REQUESTS, error_type="server_error", http_status_code="200") == 1


async def test_azure(tmp_path: Path) -> None:
    async with running(tmp_path, Vendor(lambda _: "openai/azure.sse"), route={"backend": "AzureOpenAI"}) as (
        server,
        proxy,
    ):
        async with openai.AsyncAzureOpenAI(
            azure_endpoint=proxy.url, api_key="k", api_version="2025-01-01-preview"
        ) as api:
            stream = await api.chat.completions.create(model="mine", messages=MESSAGES, stream=True)
            items = [item async for item in stream]
        assert server.requests[0].target == "/openai/deployments/mine/chat/completions?api-version=2025-01-01-preview"
        assert items[0].choices == []  # Azure's own first event, with what its filter says
        assert items[0].model_extra is not None
        assert "prompt_filter_results" in items[0].model_extra
        assert len(items) == 5
        assert await counted(proxy) == {"input": 8, "output": 9}
        assert (
            await proxy.metric(REQUESTS, gen_ai_request_model="mine", gen_ai_response_model="gpt-4o-mini-2024-07-18")
            == 1
        )


async def test_errors_keep_their_class_and_their_retries(tmp_path: Path) -> None:
    def pick(request: Received) -> str | tuple[object, ...]:
        if request.json().get("stream"):
            return "openai/error_stream.sse"
        return 429, "openai/error_429.json", "x-ratelimit-remaining-requests: 0", "x-ratelimit-reset-requests: 2s"

    async with running(tmp_path, Vendor(pick)) as (server, proxy), client(proxy, max_retries=1) as api:
        with pytest.raises(openai.RateLimitError) as caught:
            await api.chat.completions.create(model="m", messages=MESSAGES)
        assert caught.value.code == "rate_limit_exceeded"
        assert len(server.requests) == 2
        assert await proxy.metric("llmwarden_retried_requests_total", by="header") == 1
        assert await proxy.metric("llmwarden_upstream_rate_limit_remaining", limit="requests") == 0
        assert await proxy.metric("llmwarden_upstream_rate_limit_reset_timestamp_seconds", limit="requests") > 1.7e9
        stream = await api.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="The server had an error"):
            [item async for item in stream]
        assert await proxy.metric(REQUESTS, error_type="server_error", http_status_code="200") == 1
        assert await counted(proxy) == {}


async def test_a_refusal_is_an_exception_after_one_attempt(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.block(0)
        async with running(tmp_path, Vendor(by_model), ledger=ledger) as (server, proxy), client(proxy) as api:
            await ledger.until_followed()
            for call in (
                api.chat.completions.create(model="chat.json", messages=MESSAGES),
                api.chat.completions.create(model="chat_text.sse", messages=MESSAGES, stream=True),
                api.responses.create(model="responses.json", input="hi"),
                api.embeddings.create(model="embeddings.json", input="hi"),
            ):
                with pytest.raises(openai.RateLimitError) as caught:
                    await call
                assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
                assert "is used up" in str(caught.value)
                assert caught.value.response.headers["x-llmwarden-budget"] == BUDGET
            assert server.requests == []
            assert await proxy.metric("llmwarden_refused_requests_total") == 4


async def test_what_is_not_understood_passes_and_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path, Vendor(lambda _: "openai/embeddings.json")) as (server, proxy), client(proxy) as api:
        await api.images.generate(model="gpt-image-1", prompt="a cat")
        await api.models.list()
        assert [request.target for request in server.requests] == ["/v1/images/generations", "/v1/models"]
        assert await proxy.metric("llmwarden_unmeasured_requests_total", reason="path") == 1
        assert await proxy.metric("llmwarden_unmeasured_requests_total", reason="method") == 1
        assert await proxy.metric(REQUESTS) == 0
