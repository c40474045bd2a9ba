"""Gemini's shapes (tests/proxy/recorded/gemini)."""

import json
from typing import Any

import msgspec
import pytest

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects.base import Answer, Event
from llmwarden.proxy.dialects.gemini import DIALECT
from llmwarden.proxy.framing import SPLITTERS, Framing
from tests.unit.proxy.shapes import api, asked, match, shape, streamed, whole

GENERATE = "/v1beta/models/gemini-2.5-flash:generateContent"
STREAM = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
EMBED = "/v1beta/models/gemini-embedding-001:embedContent"
BATCH = "/v1beta/models/gemini-embedding-001:batchEmbedContents"
VERTEX = "/v1/projects/p/locations/europe-west4/publishers/google/models/"
INTERACTIONS = "/v1beta/interactions"


def array(name: str, *, size: int) -> Answer:
    """A stream without `alt=sse`, in pieces of some bytes."""
    answer, splitter, data = Answer(), SPLITTERS[Framing.JSON_ARRAY](), shape(name)
    for start in range(0, len(data), size):
        for _, payload in splitter.feed(data[start : start + size]):
            if payload is not None:
                api(STREAM).event(answer, payload, float(start))
    return answer


def test_output_has_the_thoughts_in_it_and_input_what_came_from_a_cache() -> None:
    answer, events = streamed(STREAM, "gemini/text.sse")
    assert answer.usage == Tokens(input=2014, cached_input=1792, output=18 + 78, reasoning=78)
    assert (answer.model, answer.id, answer.finish_reasons, answer.partial) == (
        "gemini-2.5-flash",
        "-fYmau3DCcjhvdIP77P7kAo",
        ["STOP"],
        False,
    )
    # A thought is content; an empty text with a signature is none.
    assert (answer.pieces, answer.first_content, answer.last_content) == (3, 0.0, 2.0)
    assert set(events) == {Event.KEEP}


def test_a_call_of_a_function_is_content() -> None:
    answer, _ = streamed(STREAM, "gemini/tools.sse")
    assert (answer.pieces, answer.tool_call_ids) == (1, ["fc_81"])
    assert answer.usage == Tokens(input=96, output=54, reasoning=40)


def test_vertex_counts_only_at_the_end() -> None:
    answer, _ = streamed(STREAM, "gemini/vertex.sse")
    assert (answer.usage, answer.tier, answer.partial) == (Tokens(input=1, output=9), "priority", False)
    cut = Answer()
    for _, payload in SPLITTERS[Framing.SSE]().feed(shape("gemini/vertex.sse"))[:2]:
        assert payload is not None
        api(STREAM).event(cut, payload, 0.0)
    assert (cut.usage, cut.pieces) == (None, 2)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_may_be_one_array(size: int) -> None:
    answer = array("gemini/array.json", size=size)
    assert answer.usage == Tokens(input=7, output=9)
    assert (answer.pieces, answer.finish_reasons, answer.malformed) == (3, ["MAX_TOKENS"], 0)


def test_whole_answers() -> None:
    answer = whole(GENERATE, "gemini/whole.json")
    assert answer.usage == Tokens(input=25 + 60, output=152, reasoning=140, input_audio=16)
    assert (answer.tier, answer.finish_reasons, answer.error) == ("flex", ["STOP"], "")
    assert answer.content_bytes == len('"Thinking it over."') + len('"It is sunny."')


def test_a_prompt_that_was_blocked_costs_its_input() -> None:
    answer = whole(GENERATE, "gemini/blocked.json")
    assert (answer.usage, answer.finish_reasons, answer.error) == (Tokens(input=11), ["PROHIBITED_CONTENT"], "")


def test_errors() -> None:
    assert whole(GENERATE, "gemini/error_429.json").error == "RESOURCE_EXHAUSTED"
    assert whole(GENERATE, "gemini/error_429_array.json").error == "RESOURCE_EXHAUSTED"
    assert array("gemini/error_429_array.json", size=9).error == "RESOURCE_EXHAUSTED"
    answer, _ = streamed(STREAM, "gemini/error.sse")
    assert (answer.error, answer.partial, answer.usage) == ("UNAVAILABLE", True, Tokens(input=4, output=1))


def test_embeddings() -> None:
    assert whole(EMBED, "gemini/embed.json").usage is None
    assert whole(BATCH, "gemini/embed_batch.json").usage == Tokens(input=8)
    predict = VERTEX + "text-embedding-005:predict"
    assert whole(predict, "gemini/predict.json").usage == Tokens(input=10)
    request = asked(EMBED, b'{"content":{"parts":[{"text":"hello"}]}}')
    assert (request.model, request.max_tokens, request.input_bytes) == ("gemini-embedding-001", 0, 28)


def test_interactions() -> None:
    answer, _ = streamed(INTERACTIONS, "gemini/interaction.sse")
    assert answer.usage == Tokens(input=20, output=51, reasoning=40)
    assert (answer.model, answer.id, answer.finish_reasons, answer.tier, answer.done) == (
        "gemini-3-flash",
        "v1_abc",
        ["requires_action"],
        "priority",
        True,
    )
    assert (answer.pieces, answer.tool_call_ids) == (2, ["call_7"])
    assert whole(INTERACTIONS, "gemini/interaction.json").usage == Tokens(input=20, output=51, reasoning=40)
    later = whole(INTERACTIONS, "gemini/interaction_background.json")
    assert (later.usage, later.deferred, later.model) == (None, "v1_bg", "deep-research-pro")


@pytest.mark.parametrize(
    ("path", "model", "stream", "alias"),
    [
        (GENERATE, "gemini-2.5-flash", False, False),
        ("/models/gemini-2.5-flash:streamGenerateContent", "gemini-2.5-flash", True, False),
        ("/v1/tunedModels/mine-1:generateContent", "mine-1", False, True),
        (VERTEX + "gemini-3-pro:streamGenerateContent", "gemini-3-pro", True, False),
        ("/v1/projects/p/locations/l/endpoints/123:generateContent", "123", False, True),
        ("/gw/v1beta/MODELS/gemini-x:GENERATECONTENT", "gemini-x", False, False),
    ],
)
def test_the_path_names_the_model(path: str, model: str, *, stream: bool, alias: bool) -> None:
    hit = match(path, backend="Gemini")
    assert hit is not None
    assert (hit.model, hit.stream, hit.alias, hit.api.operation) == (model, stream, alias, "generate_content")


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/models/gemini-2.5-flash:countTokens",
        "/v1beta/models/gemini-2.5-flash:batchGenerateContent",
        "/v1beta/models",
        "/v1beta/cachedContents",
        "/v1beta/interactions/v1_abc/cancel",
        VERTEX + "imagen-4:predict",
    ],
)
def test_what_makes_nothing_passes(path: str) -> None:
    assert match(path, backend="Gemini") is None


def test_other_vendors_models_on_vertex_are_theirs() -> None:
    hit = match("/v1/projects/p/locations/l/publishers/anthropic/models/claude-x@1:streamRawPredict", backend="Gemini")
    assert hit is not None
    assert hit.api.operation == "chat"
    poll = match("/v1beta/interactions/v1_abc", method="GET")
    assert poll is not None
    assert poll.poll == "v1_abc"


def body(**fields: Any) -> bytes:
    return json.dumps({"contents": [{"role": "user", "parts": [{"text": "hi"}]}], **fields}).encode()


def test_requests_in_either_spelling() -> None:
    camel = {"maxOutputTokens": 50, "candidateCount": 2, "temperature": 0.5, "topP": 0.9, "seed": 7}
    snake = {"max_output_tokens": 50, "candidate_count": 2, "temperature": 0.5, "top_p": 0.9, "seed": 7}
    for request in (asked(STREAM, body(generationConfig=camel)), asked(STREAM, body(generation_config=snake))):
        assert (request.model, request.stream, request.wants_usage) == ("gemini-2.5-flash", True, True)
        assert (request.max_tokens, request.choices, request.temperature) == (50, 2, 0.5)
        assert (request.top_p, request.seed, request.unbounded) == (0.9, 7, "")
    one = asked(GENERATE, b'{"contents":{"parts":[{"text":"hi"}]}}')
    assert (one.input_bytes > 0, len(one.prefixes)) == (True, 2)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"cachedContent": "cachedContents/x"}, "stored_input"),
        ({"cached_content": "cachedContents/x"}, "stored_input"),
        ({"contents": [{"parts": [{"inline_data": {"data": "aGk=", "mime_type": "image/png"}}]}]}, "media"),
        ({"systemInstruction": {"parts": [{"fileData": {"fileUri": "u"}}]}}, "media"),
        ({"generationConfig": {"responseModalities": ["IMAGE"]}}, "media"),
        ({"tools": [{"functionDeclarations": [{"name": "f"}]}]}, ""),
        ({"tools": {"function_declarations": [{"name": "f"}]}}, ""),
        ({"tools": [{"googleSearch": {}}]}, "server_tools"),
        ({"tools": [{"functionDeclarations": [], "codeExecution": {}}]}, "server_tools"),
        ({"tools": "?"}, "unreadable"),
        ({"contents": "hello"}, "unreadable"),
    ],
)
def test_what_bounds_a_request(fields: dict[str, Any], why: str) -> None:
    assert asked(GENERATE, body(**fields)).unbounded == why


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"background": True}, "background"),
        ({"previous_interaction_id": "v1_a"}, "stored_input"),
        ({"tools": [{"type": "function", "name": "f"}]}, ""),
        ({"tools": [{"type": "google_search"}]}, "server_tools"),
        ({"input": [{"type": "image", "data": "aGk="}]}, "media"),
        ({"generation_config": []}, "unreadable"),
    ],
)
def test_what_bounds_an_interaction(fields: dict[str, Any], why: str) -> None:
    request = asked(INTERACTIONS, json.dumps({"model": "models/m", "input": "hi", **fields}).encode())
    assert (request.model, request.unbounded) == ("m", why)


def test_no_bytes_are_a_request() -> None:
    for path in (GENERATE, EMBED, INTERACTIONS):
        hit = match(path)
        assert hit is not None
        assert hit.api.read_request(b"[1]", hit) is None
        assert hit.api.read_request(b"\xff", hit) is None


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (b"/v1beta/models/gemini-a:generateContent?key=k", b"/v1beta/models/gemini-b:generateContent?key=k"),
        (
            b"/v1beta/models/gemini-a%3AstreamGenerateContent?alt=sse",
            b"/v1beta/models/gemini-b%3AstreamGenerateContent?alt=sse",
        ),
        (b"/v1/tunedModels/t:generateContent", b"/v1/models/gemini-b:generateContent"),
        (
            b"/v1/projects/p/locations/l/endpoints/1:generateContent",
            b"/v1/projects/p/locations/l/publishers/google/models/gemini-b:generateContent",
        ),
    ],
)
def test_a_fallback_changes_the_path(target: bytes, wanted: bytes) -> None:
    assert api(GENERATE).write_target(target, "gemini-b") == wanted


def test_a_fallback_changes_the_body_where_it_names_a_model() -> None:
    request = asked(GENERATE, body())
    assert api(GENERATE).write_request(body(), request, model="gemini-b", usage=False) == body()
    batch = json.dumps({"requests": [{"model": "models/a", "content": {}}]}).encode()
    changed = api(BATCH).write_request(batch, asked(BATCH, batch), model="b", usage=False)
    assert json.loads(changed) == {"requests": [{"model": "models/b", "content": {}}]}
    interaction = b'{"model":"a","input":"hi"}'
    assert json.loads(
        api(INTERACTIONS).write_request(interaction, asked(INTERACTIONS, interaction), model="b", usage=False)
    ) == {"model": "b", "input": "hi"}


def test_refusals_and_errors_are_googles() -> None:
    refusal = DIALECT.refusal("insufficient_quota", "used up", budget="b", retry_after=None)
    error = msgspec.json.decode(refusal.body)["error"]
    assert (refusal.status, error["code"], error["status"]) == (429, 429, "RESOURCE_EXHAUSTED")
    assert error["details"][0]["reason"] == "INSUFFICIENT_QUOTA"
    assert (b"x-should-retry", b"false") in refusal.headers
    assert (b"Retry-After", b"9") in DIALECT.refusal("x", "m", budget="b", retry_after=9).headers
    assert msgspec.json.decode(DIALECT.error_body(504, "timeout", "m"))["error"]["status"] == "DEADLINE_EXCEEDED"


def test_absurd_counts_are_none() -> None:
    answer = Answer()
    api(GENERATE).whole(answer, b'{"usageMetadata":{"promptTokenCount":99999999999}}')
    assert (answer.usage, answer.malformed) == (None, 1)
