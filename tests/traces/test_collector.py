"""What goes through a real Collector, configured as the operator does, and what does not."""

import asyncio
import json
import secrets
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.traces.collecting import Running, Sink, Span, attributes, collector, request, running, service

SECRET = "the customer's own words"
CONTENT = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.prompt.0.content",
    "gen_ai.completion.12.tool_calls.0.arguments",
    "traceloop.entity.input",
    "traceloop.entity.output",
    "llm.request.functions.0.description",
    "input.value",
    "output.value",
    "llm.input_messages.0.message.content",
    "llm.input_messages.0.message.contents.1.message_content.text",
    "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments",
    "llm.prompt_template.variables",
    "llm.invocation_parameters",
    "retrieval.documents.0.document.content",
    "reranker.query",
    "tool.parameters",
    "embedding.embeddings.0.embedding.text",
    "ai.prompt.messages",
    "ai.response.text",
    "ai.toolCall.args",
    "langfuse.observation.input",
    "http.request.body.text",
)
FIGURES = {
    "gen_ai.usage.input_tokens": 9,
    "gen_ai.usage.output_tokens": 3,
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.response.finish_reasons": "stop",
    "gen_ai.tool.name": "weather",
    "llm.token_count.prompt": 9,
    "llm.model_name": "gpt-4o-mini",
    "embedding.model_name": "e-3",
    "gen_ai.prompt.name": "greeting",
    "openinference.span.kind": "LLM",
    "traceloop.span.kind": "tool",
    "input.mime_type": "text/plain",
    "order.id": "4711",
}


def span(name: str, *, seconds: float = 0.1, trace: str = "", error: bool = False, **values: Any) -> Span:
    end = time.time_ns()
    return {
        "traceId": trace or secrets.token_hex(16),
        "spanId": secrets.token_hex(8),
        "name": name,
        "kind": 3,
        "startTimeUnixNano": str(end - int(seconds * 1e9)),
        "endTimeUnixNano": str(end),
        "attributes": attributes(values.pop("attributes", {})),
        "status": {"code": 2, "message": "timeout"} if error else {},
        **values,
    }


def call(name: str, cost: float = 0.001, **more: Any) -> Span:
    figures = {"gen_ai.request.model": "m", "gen_ai.usage.cost.amount": cost, "gen_ai.operation.name": "chat"}
    return span(name, attributes=figures, **more)


async def send(url: str, body: bytes, method: str = "POST", **headers: str) -> tuple[int, dict[str, str], str]:
    """An HTTP request, as a program or a browser makes it: status, headers in lower case, body."""

    def exchange() -> tuple[int, dict[str, str], str]:
        asked = urllib.request.Request(  # noqa: S310 - loopback
            url, data=body or None, method=method, headers={"Content-Type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - loopback
                return (
                    answer.status,
                    {key.lower(): value for key, value in answer.headers.items()},
                    answer.read().decode(),
                )
        except urllib.error.HTTPError as error:
            return error.code, {key.lower(): value for key, value in error.headers.items()}, error.read().decode()

    return await asyncio.to_thread(exchange)


async def deliver(base: str, resource: dict[str, Any], *spans: Span, **headers: str) -> dict[str, str]:
    status, answered, said = await send(f"{base}/v1/traces", request(resource, *spans), **headers)
    assert status == 200, said
    return answered


BOT = {"service.namespace": "shop", "service.name": "bot"}
CHAT = {"service.namespace": "shop", "service.name": "chat"}


@pytest.mark.parametrize("content", ["Redact", "Keep"])
async def test_what_people_wrote_is_taken_out_by_default_and_figures_stay(content: str, tmp_path: Path) -> None:
    said = dict.fromkeys(CONTENT, SECRET)
    event = {"name": "gen_ai.user.message", "timeUnixNano": "1", "attributes": attributes({"content": SECRET})}
    old = {"name": "gen_ai.content.prompt", "timeUnixNano": "1", "attributes": attributes({"gen_ai.prompt": SECRET})}
    failure = {"name": "exception", "timeUnixNano": "1", "attributes": attributes({"exception.type": "Timeout"})}
    async with Sink.listening() as sink, running(collector(sink.exporter(), content=content), tmp_path) as run:
        sent = span("chat", attributes={**said, **FIGURES}, events=[event, old, failure])
        await deliver(run.http, BOT, sent, span("without events", attributes=said))
        await sink.until("chat", "without events")
    (kept, bare) = sorted(sink.spans, key=lambda each: str(each["name"]))
    assert kept["attributes"].items() >= FIGURES.items()
    assert len(kept["events"]) == 3
    assert "Timeout" in sink.text
    found = {key for key in CONTENT if key in kept["attributes"] or key in bare["attributes"]}
    assert (found, SECRET in sink.text) == ((set(), False) if content == "Redact" else (set(CONTENT), True))


async def test_errors_slow_and_dear_calls_are_kept_and_a_share_of_the_rest(tmp_path: Path) -> None:
    settings = {"percent": 0, "slowerThanSeconds": 10, "dearerThan": "0.10"}
    chat = service("shop", "chat", keep={"slowerThan": "2s", "dearerThan": "1"})
    loud = service("shop", "loud", keep={"percent": 100})
    async with (
        Sink.listening() as sink,
        running(collector(sink.exporter(), sampling=settings), tmp_path, chat, loud) as run,
    ):
        trace = secrets.token_hex(16)
        await deliver(
            run.http,
            BOT,
            span("run of a dear call", trace=trace, seconds=1),
            call("dear", 0.11, trace=trace),
            call("plain"),
            call("under both", 0.09, seconds=9),
            call("slow", seconds=11),
            call("failed", error=True),
            span("a tool may take long", seconds=60),
        )
        await deliver(
            run.http, CHAT, call("slow for chat", seconds=3), call("cheap for chat", 0.5), call("dear for chat", 1.5)
        )
        await deliver(
            run.http, {"service.namespace": "shop", "service.name": "loud"}, call("of a service that keeps all")
        )
        expected = {
            *("run of a dear call", "dear", "slow", "failed"),
            *("slow for chat", "dear for chat", "of a service that keeps all"),
        }
        await sink.until(*expected)
        # A later trace is judged later: when it has come, whatever else was to come has come too.
        await deliver(run.http, BOT, call("last", error=True))
        await sink.until("last")
    assert sink.named() == {*expected, "last"}


async def test_a_share_is_a_share(tmp_path: Path) -> None:
    async with Sink.listening() as sink, running(collector(sink.exporter(), sampling={"percent": 25}), tmp_path) as run:
        await deliver(run.http, BOT, *(call("one of many") for _ in range(400)), call("last", error=True))
        await sink.until("last")
        await asyncio.sleep(1)
    assert 50 < sum(span["name"] == "one of many" for span in sink.spans) < 150


async def test_keys_of_backends_come_from_the_environment_and_are_in_no_file(tmp_path: Path) -> None:
    secret = {"name": "backend", "key": "token"}
    headers = [
        {"name": "Authorization", "prefix": "Bearer ", "secret": secret},
        {"name": "X-Scope-OrgID", "value": "te$nant"},
    ]
    async with Sink.listening() as sink:
        settings = collector(sink.exporter(headers=headers))
        async with running(settings, tmp_path, environment={"EXPORTER_0_HEADER_0": "k$y-1"}) as run:
            await deliver(run.http, BOT, call("one"))
            await sink.until("one")
    assert sink.headers[0]["authorization"] == "Bearer k$y-1"
    assert sink.headers[0]["x-scope-orgid"] == "te$nant"
    assert "k$y-1" not in (tmp_path / "collector.yaml").read_text()


async def scrape(run: Running) -> str:
    return (await send(run.span_metrics, b"", "GET"))[2]


def series(text: str) -> list[tuple[str, float]]:
    lines = [line for line in text.splitlines() if line.startswith("llmwarden_traces_calls_total{")]
    return [(line, float(line.rsplit(" ", 1)[1])) for line in lines]


async def test_spans_are_counted_before_any_is_dropped(tmp_path: Path) -> None:
    async with Sink.listening() as sink, running(collector(sink.exporter(), sampling={"percent": 0}), tmp_path) as run:
        await deliver(run.http, BOT, *(call("chat m") for _ in range(7)), call("chat m", error=True))
        async with asyncio.timeout(20):
            # A series begins at zero, so that its first calls are an increase.
            counted: list[tuple[str, float]] = []
            while sum(count for _, count in counted) < 8:
                text = await scrape(run)
                counted = series(text)
                await asyncio.sleep(0.1)
    labels = (
        'gen_ai_request_model="m"',
        'service_name="bot"',
        'service_namespace="shop"',
        'gen_ai_operation_name="chat"',
    )
    assert all(label in line for line, _ in counted for label in labels), counted
    assert sorted(count for _, count in counted) == [1, 7]
    assert "llmwarden_traces_duration_seconds_bucket{" in text


async def test_browsers_may_send_where_an_origin_is_allowed_and_are_not_believed(tmp_path: Path) -> None:
    pages = service("shop", "pages", browserOrigins=["https://shop.example.com"])
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,traceparent"}
    async with Sink.listening() as sink, running(collector(sink.exporter()), tmp_path, pages) as run:
        url = f"{run.browser}/v1/traces"
        _, allowed, _ = await send(url, b"", "OPTIONS", Origin="https://shop.example.com", **preflight)
        assert allowed["access-control-allow-origin"] == "https://shop.example.com"
        assert "traceparent" in allowed["access-control-allow-headers"].lower()
        _, refused, _ = await send(url, b"", "OPTIONS", Origin="https://elsewhere.example.com", **preflight)
        assert "access-control-allow-origin" not in refused

        claimed = {"gen_ai.usage.cost.amount": 1e6, "gen_ai.request.model": "m", "http.route": "/cart"}
        answered = await deliver(
            run.browser, {"service.name": "page", "service.namespace": "bank"}, span("click", attributes=claimed),
            Origin="https://shop.example.com",
        )  # fmt: skip
        assert answered["access-control-allow-origin"] == "https://shop.example.com"
        await sink.until("click")
        # Inside, no page of anybody's may read the answers.
        _, inside, _ = await send(
            f"{run.http}/v1/traces", b"", "OPTIONS", Origin="https://shop.example.com", **preflight
        )
        assert "access-control-allow-origin" not in inside
        status, _, _ = await send(url, json.dumps({"resourceSpans": "x" * (1 << 21)}).encode())
        assert status >= 400
    (click,) = sink.spans
    assert click["attributes"] == {"http.route": "/cart"}
    assert click["resource"] == {"service.name": "page", "llmwarden.source": "browser"}


async def test_a_browsers_errors_do_not_keep_its_traces(tmp_path: Path) -> None:
    pages = service("shop", "pages", browserOrigins=["https://shop.example.com"])
    async with (
        Sink.listening() as sink,
        running(collector(sink.exporter(), sampling={"percent": 0}), tmp_path, pages) as run,
    ):
        await deliver(run.browser, {"service.name": "page"}, span("anybody's error", error=True))
        await deliver(run.http, BOT, call("our error", error=True))
        await sink.until("our error")
        await asyncio.sleep(1)
    assert sink.named() == {"our error"}
