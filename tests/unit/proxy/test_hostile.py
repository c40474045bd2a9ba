"""What no dialect may be broken by: bytes that come from anybody."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwarden.proxy.dialects.base import Answer, Event
from llmwarden.proxy.seam import Request
from tests.proxy.bedrock import chunk
from tests.unit.proxy.shapes import RECORDED, api, match
from tests.unit.proxy.support import rows, service

PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/model/amazon.nova-micro-v1:0/converse",
    "/model/amazon.nova-micro-v1:0/converse-stream",
    "/model/anthropic.claude-3-haiku-20240307-v1:0/invoke",
    "/model/meta.llama3-8b-instruct-v1:0/invoke-with-response-stream",
    "/v1beta/models/gemini-2.5-flash:generateContent",
    "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
    "/v1beta/models/gemini-embedding-001:embedContent",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/generate",
    "/generate_stream",
]
NESTED = b"[" * 100_000 + b"]" * 100_000
NAMES = sorted(
    {"model", "messages", "contents", "input", "prompt", "choices", "usage", "candidates", "content", "type", "error"}
    | {"delta", "message", "response", "tools", "system", "output", "stream", "n", "usageMetadata", "metadata", "item"}
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)


def understand(path: str, data: bytes) -> None:
    hit = match(path)
    assert hit is not None, path
    request = hit.api.read_request(data, hit)
    if request is not None:
        hit.api.write_request(data, request, model="other", usage=request.stream and not request.wants_usage)
    answer = Answer()
    assert isinstance(hit.api.event(answer, data, 1.0), Event)
    hit.api.whole(answer, data)
    hit.api.strip(b"data: " + data + b"\n\n")


@pytest.mark.parametrize("path", PATHS)
@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_any_json(path: str, value: Any) -> None:
    understand(path, json.dumps(value).encode())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "data",
    [
        NESTED,
        b'{"x":' + NESTED + b"}",
        b'{"messages":' + NESTED + b"}",
        b'{"choices":[{"delta":{"tool_calls":' + NESTED + b"}}]}",
        b'{"message":{"content":' + NESTED + b"}}",
        b'{"model":"\xff"}',
        b"",
        b"\x00",
        b"[DONE]",
        b'{"model":1e999,"n":1e400}',
    ],
    ids=range(10),
)
def test_what_is_nested_deeply_or_is_no_json(path: str, data: bytes) -> None:
    understand(path, data)


@pytest.mark.parametrize("path", PATHS)
def test_another_vendors_answer(path: str) -> None:
    for shape in RECORDED.rglob("*"):
        if shape.suffix in {".json", ".sse", ".ndjson"}:
            understand(path, shape.read_bytes())


def test_a_stream_that_ends_in_every_event_is_bounded() -> None:
    answer = Answer()
    for _ in range(1000):
        api("/v1/chat/completions").event(answer, b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}', 0.0)
    assert len(answer.finish_reasons) == 128


def test_events_after_the_last_one_are_passed_on(tmp_path: Path) -> None:
    metered = service(tmp_path, "Bedrock")
    target = b"/model/anthropic.claude-3/invoke-with-response-stream"
    call = metered.open(Request(b"POST", target, [], time.perf_counter(), length=2))
    assert call is not None
    call.admit(b"{}")
    call.answered(200, [(b"content-type", b"Content-Type", b"application/vnd.amazon.eventstream")])
    metrics = {"inputTokenCount": 3, "outputTokenCount": 4}
    last = chunk({"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics})
    more = chunk({"type": "ping"})
    assert call.feed(last) == last
    time.sleep(1.1)  # until the journal would hear of a stream's progress again
    assert call.feed(more) == more
    assert [row.requests for row in rows(metered)] == [1]
