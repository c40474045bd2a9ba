"""Text Generation Inference's shapes (tests/proxy/recorded/tgi)."""

import json

import pytest

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects import tgi
from llmwarden.proxy.dialects.base import Answer, Asked, Event
from llmwarden.proxy.framing import SPLITTERS, Framing
from llmwarden.proxy.seam import Header
from tests.unit.proxy.shapes import asked, match, shape

HEAD: list[Header] = [
    (b"x-prompt-tokens", b"x-prompt-tokens", b"6"),
    (b"x-generated-tokens", b"x-generated-tokens", b"3"),
    (b"x-queue-time", b"x-queue-time", b"250"),
]


def streamed(name: str) -> tuple[Answer, list[Event], bytes]:
    """The answer, what becomes of its events, and what a client sees that did not ask for details."""
    answer, splitter, seen = Answer(), SPLITTERS[Framing.SSE](), b""
    events = []
    for at, (raw, payload) in enumerate(splitter.feed(shape(name))):
        event = tgi.GENERATE.event(answer, payload, float(at)) if payload is not None else Event.KEEP
        events.append(event)
        seen += tgi.GENERATE.strip(raw) if event is Event.STRIP else raw
    return answer, events, seen


def test_details_count_and_leave_no_trace() -> None:
    answer, events, seen = streamed("tgi/stream_details.sse")
    assert answer.usage == Tokens(input=6, output=4)
    assert answer.finish_reasons == ["eos_token"]
    assert (answer.pieces, answer.first_content, answer.last_content) == (3, 0.0, 3.0)
    assert events.count(Event.STRIP) == 1
    assert seen == shape("tgi/stream.sse")


def test_without_details_there_is_no_count() -> None:
    answer, events, _ = streamed("tgi/stream.sse")
    assert (answer.usage, answer.pieces, set(events)) == (None, 3, {Event.KEEP})


def test_an_error_is_an_event() -> None:
    answer, _, _ = streamed("tgi/error.sse")
    assert (answer.error, answer.pieces) == ("generation", 1)


@pytest.mark.parametrize("name", ["whole", "compat"])
def test_a_whole_answer_is_counted_in_its_head(name: str) -> None:
    answer = Answer()
    tgi.head(answer, HEAD)
    tgi.GENERATE.whole(answer, shape(f"tgi/{name}.json"))
    assert (answer.usage, answer.queue_seconds) == (Tokens(input=6, output=3), 0.25)


def test_what_was_made_and_not_chosen_counts() -> None:
    answer = Answer()
    tgi.head(answer, HEAD)
    tgi.GENERATE.whole(answer, shape("tgi/details.json"))
    assert (answer.usage, answer.finish_reasons) == (Tokens(input=6, output=5), ["length"])


def test_a_head_that_tells_nothing_is_no_count() -> None:
    answer = Answer()
    tgi.head(answer, [(b"x-prompt-tokens", b"", b"-1"), (b"x-generated-tokens", b"", b"1e3")])
    tgi.GENERATE.whole(answer, shape("tgi/overloaded.json"))
    assert (answer.usage, answer.error) == (None, "overloaded")


def test_paths_by_backend() -> None:
    for path, stream in (("/generate", False), ("/generate_stream", True), ("/", None)):
        hit = match(path, backend="TGI")
        assert hit is not None
        assert (hit.stream, hit.takes_usage) == (stream, path != "/generate")
    assert match("/", backend="OpenAI") is None
    assert match("/info", backend="TGI") is None
    unknown = match("/generate", backend="OpenAICompatible")
    assert unknown is not None
    assert not unknown.takes_usage


def ask(body: bytes, path: str = "/generate_stream") -> Asked:
    return asked(path, body, backend="TGI")


def test_requests() -> None:
    read = ask(
        b'{"inputs":"hi","parameters":{"max_new_tokens":5,"best_of":2,"temperature":0.5,"top_p":0.9,"seed":1,"adapter_id":"mine"}}'
    )
    assert (read.model, read.stream, read.wants_usage, read.has_options) == ("mine", True, False, True)
    assert (read.max_tokens, read.choices, read.temperature, read.top_p, read.seed) == (5, 2, 0.5, 0.9, 1)
    plain = ask(b'{"inputs":"hi"}', "/")
    assert (plain.model, plain.stream, plain.wants_usage, plain.max_tokens) == ("tgi", False, True, None)
    assert ask(b'{"inputs":"hi","stream":true}', "/").stream
    assert ask(b'{"inputs":"![](data:image/png;base64,aGk=) what?"}').unbounded == "media"
    hit = match("/generate", backend="TGI")
    assert hit is not None
    assert hit.api.read_request(b'{"text":"hi"}', hit) is None


def test_asking_for_details_keeps_all_else() -> None:
    bare = b'{"inputs":"hi"}'
    assert json.loads(tgi.GENERATE.write_request(bare, ask(bare), model=None, usage=True)) == {
        "inputs": "hi",
        "parameters": {"details": True},
    }
    body = b'{"inputs":"hi","parameters":{"seed":18446744073709551615,"details":false}}'
    assert json.loads(tgi.GENERATE.write_request(body, ask(body), model="other", usage=True)) == {
        "inputs": "hi",
        "parameters": {"seed": 18446744073709551615, "details": True, "adapter_id": "other"},
    }
    null = b'{"inputs":"hi","parameters":null}'
    assert json.loads(tgi.GENERATE.write_request(null, ask(null), model=None, usage=True))["parameters"] == {
        "details": True
    }
    assert tgi.GENERATE.write_request(body, ask(body), model=None, usage=False) == body


def test_refusals_are_tgis() -> None:
    refusal = tgi.DIALECT.refusal("insufficient_quota", "used up", budget="b", retry_after=None)
    assert (refusal.status, json.loads(refusal.body)) == (
        429,
        {"error": "used up", "error_type": "insufficient_quota"},
    )
    waiting = tgi.DIALECT.refusal("budget_busy", "wait", budget="b", retry_after=3)
    assert json.loads(waiting.body)["error_type"] == "overloaded"
