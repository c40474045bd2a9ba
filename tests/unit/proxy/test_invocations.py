"""SageMaker's one path, by the shapes of the two APIs behind it."""

import json

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects.base import Answer, Api, Event
from llmwarden.proxy.framing import SPLITTERS, Framing
from tests.unit.proxy.shapes import asked, match, shape

PATH = "/invocations"


def reader(backend: str = "VLLM") -> Api:
    hit = match(PATH, backend=backend)
    assert hit is not None
    assert hit.takes_usage is (backend in {"VLLM", "TGI"})
    return hit.api


def streamed(name: str) -> tuple[Answer, set[Event]]:
    answer = Answer()
    pieces = SPLITTERS[Framing.SSE]().feed(shape(name))
    return answer, {reader().event(answer, payload, 0.0) for _, payload in pieces if payload is not None}


def test_answers_of_either() -> None:
    openai, _ = streamed("openai/chat_text.sse")
    assert openai.usage is not None
    assert openai.done
    answer, events = streamed("tgi/stream_details.sse")
    assert (answer.usage, Event.STRIP in events) == (Tokens(input=6, output=4), True)
    whole = Answer()
    reader().whole(whole, shape("openai/chat.json"))
    assert whole.usage is not None
    details = Answer()
    reader("TGI").whole(details, shape("tgi/details.json"))
    assert details.finish_reasons == ["length"]
    assert reader().strip(b'data:{"details":{"a":1}}\n\n') == b'data:{"details":null}\n\n'


def test_requests_of_either() -> None:
    chat = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":5}'
    read = asked(PATH, chat, backend="VLLM")
    assert (read.model, read.stream, read.max_tokens) == ("m", True, 5)
    wished = json.loads(reader().write_request(chat, read, model="n", usage=True))
    assert (wished["model"], wished["stream_options"]) == ("n", {"include_usage": True})
    native = b'{"inputs":"hi","stream":true}'
    read = asked(PATH, native, backend="TGI")
    assert (read.model, read.stream) == ("tgi", True)
    assert json.loads(reader("TGI").write_request(native, read, model=None, usage=True))["parameters"] == {
        "details": True
    }
    hit = match(PATH)
    assert hit is not None
    assert hit.api.read_request(b"[]", hit) is None
    assert match(PATH, method="GET") is None
