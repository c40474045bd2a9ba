"""TGI and SGLang through the real proxy, by Hugging Face's own client where there is one, against recorded answers (they need GPUs)."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GenerationError, HfHubHTTPError, OverloadedError, TextGenerationError

from tests.proxy.fakes import BUDGET, PICO, Proxy, Received, Server, accounted, post, running, talk
from tests.proxy.replay import RECORDED, Replay, Reply, body_of

TOKENS = "gen_ai_client_token_usage_tokens_total"
HEAD = ("x-prompt-tokens: 6", "x-generated-tokens: 3", "x-queue-time: 250", "x-time-per-token: 20")


class TGI:
    """What TGI answers by: the path, `stream`, and whether details are asked for."""

    async def __call__(self, request: Received, writer: Any) -> None:
        asked = request.json()
        if request.target == "/generate_stream" or asked.get("stream"):
            details = (asked.get("parameters") or {}).get("details")
            name: Reply | str = "stream_details.sse" if details else "stream.sse"
        elif request.target == "/":
            name = Reply("compat.json", headers=HEAD)
        else:
            name = Reply("whole.json", headers=HEAD)
        await Replay("tgi", {"": name})(request, writer)


@contextlib.asynccontextmanager
async def tgi(tmp_path: Path, handler: Any = None, **overrides: Any) -> AsyncIterator[tuple[Server, Proxy]]:
    async with running(tmp_path, handler or TGI(), route={"backend": "TGI"}, **overrides) as up:
        yield up


def client(proxy: Proxy) -> huggingface_hub.AsyncInferenceClient:
    return huggingface_hub.AsyncInferenceClient(model=proxy.url)


async def counted(proxy: Proxy, model: str = "tgi") -> tuple[float, float]:
    return (
        await proxy.metric(TOKENS, gen_ai_token_type="input", gen_ai_request_model=model),
        await proxy.metric(TOKENS, gen_ai_token_type="output", gen_ai_request_model=model),
    )


async def test_whole_answers_are_counted_by_their_head(tmp_path: Path) -> None:
    async with tgi(tmp_path) as (server, proxy):
        api = client(proxy)
        assert await api.text_generation("The", max_new_tokens=3) == " sky is blue"
        assert server.requests[0].target == "/"
        assert await counted(proxy) == (6, 3)
        answer = await talk(proxy.port, post(b'{"inputs":"The"}', path="/generate"))
        assert answer.endswith(b'{"generated_text":" sky is blue"}')
        assert await counted(proxy) == (12, 6)
        assert await proxy.metric("llmwarden_estimated_requests_total") == 0
        assert await proxy.metric("llmwarden_unmeasured_requests_total") == 0


async def test_a_stream_is_counted_and_the_client_sees_no_trace(tmp_path: Path) -> None:
    async with tgi(tmp_path) as (server, proxy):
        api = client(proxy)
        tokens = [token async for token in await api.text_generation("The", stream=True)]
        assert "".join(tokens) == " sky is blue</s>"
        assert server.requests[0].json()["parameters"]["details"] is True
        assert await counted(proxy) == (6, 4)
        assert await proxy.metric("gen_ai_server_time_to_first_token_seconds_count") == 1
        answer = await talk(proxy.port, post(b'{"inputs":"The"}', path="/generate_stream"))
        assert body_of(answer) == (RECORDED / "tgi" / "stream.sse").read_bytes()
        assert await counted(proxy) == (12, 8)


async def test_details_that_the_client_asked_for_stay(tmp_path: Path) -> None:
    async with tgi(tmp_path) as (_, proxy):
        api = client(proxy)
        parts = [part async for part in await api.text_generation("The", stream=True, details=True)]
        details = parts[-1].details
        assert details is not None
        assert (details.generated_tokens, details.input_length) == (4, 6)
        assert await counted(proxy) == (6, 4)


async def test_errors(tmp_path: Path) -> None:
    async with tgi(tmp_path, Replay("tgi", {"": Reply("overloaded.json", 429)})) as (server, proxy):
        api = client(proxy)
        with pytest.raises(OverloadedError):
            await api.text_generation("The")
        assert len(server.requests) == 1
        assert await proxy.metric("llmwarden_requests_total", http_status_code="429") == 1
        server.handler = Replay("tgi", {"": "error.sse"})
        with pytest.raises(GenerationError, match="CUDA"):
            [token async for token in await api.text_generation("The", stream=True)]
        assert await proxy.metric("llmwarden_requests_total", error_type="generation") == 1


async def test_a_budget_that_is_used_up_refuses_once(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("tgi", PICO)
        ledger.block(PICO, on_unknown_price="Deny")
        async with tgi(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            api = client(proxy)
            await api.text_generation("The", max_new_tokens=3)
            with pytest.raises(TextGenerationError, match="LLM Warden") as caught:
                await api.text_generation("The", max_new_tokens=3)
            cause = caught.value.__cause__
            assert isinstance(cause, HfHubHTTPError)
            assert cause.response.status_code == 429
            with pytest.raises(TextGenerationError, match="LLM Warden"):
                [token async for token in await api.text_generation("The", stream=True, max_new_tokens=3)]
            assert len(server.requests) == 1
            assert await proxy.metric("llmwarden_refused_requests_total", budget=BUDGET) == 2  # one attempt each


async def test_sglang(tmp_path: Path) -> None:
    route = {"backend": "SGLang"}
    async with running(tmp_path, Replay("sglang", {"/generate": "stream.sse"}), route=route) as (server, proxy):
        body = json.dumps({"text": "The capital is", "sampling_params": {"max_new_tokens": 5}, "stream": True}).encode()
        answer = await talk(proxy.port, post(body, path="/generate"))
        assert body_of(answer).endswith(b"data: [DONE]\n\n")
        assert server.requests[0].body == body
        assert await counted(proxy, "default") == (5, 5)
        assert await proxy.metric(TOKENS, gen_ai_token_type="cached_input") == 2
        server.handler = Replay("sglang", {"/generate": "abort.sse"})
        await talk(proxy.port, post(body, path="/generate"))
        assert await proxy.metric("llmwarden_requests_total", error_type="ServiceUnavailable") == 1
