"""Ollama's shapes (tests/proxy/recorded/ollama)."""

import json

import pytest

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects.base import Answer
from llmwarden.proxy.dialects.ollama import DIALECT
from llmwarden.proxy.framing import SPLITTERS, Framing
from tests.unit.proxy.shapes import api, asked, match, shape, whole

CHAT, GENERATE, EMBED = "/api/chat", "/api/generate", "/api/embed"


def streamed(path: str, name: str) -> Answer:
    answer, splitter = Answer(), SPLITTERS[Framing.NDJSON]()
    pieces = [*splitter.feed(shape(name)), splitter.rest()]
    for at, payload in enumerate(payload for _, payload in pieces if payload is not None):
        api(path).event(answer, payload, float(at))
    return answer


def test_the_last_line_counts() -> None:
    answer = streamed(CHAT, "ollama/chat.ndjson")
    assert answer.usage == Tokens(input=26, output=282)
    assert (answer.pieces, answer.first_content, answer.last_content, answer.done) == (4, 0.0, 3.0, True)
    assert (answer.model, answer.finish_reasons) == ("llama3.2", ["stop"])
    assert answer.queue_seconds == pytest.approx(0.001334875)


def test_thoughts_and_calls_of_tools_are_content() -> None:
    answer = streamed(CHAT, "ollama/thinking_tool.ndjson")
    assert (answer.pieces, answer.first_content, answer.tool_call_ids) == (3, 0.0, ["call_x1"])


def test_generate() -> None:
    answer = streamed(GENERATE, "ollama/generate.ndjson")
    assert (answer.pieces, answer.finish_reasons, answer.usage) == (2, ["length"], Tokens(input=26, output=282))
    loaded = whole(GENERATE, "ollama/load.json")
    assert (loaded.usage, loaded.finish_reasons) == (Tokens(), ["load"])


def test_an_error_may_come_as_a_line() -> None:
    answer = streamed(CHAT, "ollama/error.ndjson")
    assert (answer.error, answer.done, answer.pieces, answer.usage) == ("error", False, 1, None)
    assert whole(CHAT, "ollama/not_found.json").error == "error"


def test_whole_answers_and_embeddings() -> None:
    answer = whole(CHAT, "ollama/chat.json")
    assert (answer.usage, answer.content_bytes) == (Tokens(input=26, output=298), len('"Hello! How are you today?"'))
    assert whole(EMBED, "ollama/embed.json").usage == Tokens(input=8)
    assert whole("/api/embeddings", "ollama/embeddings.json").usage is None


def test_requests_stream_unless_they_say_otherwise() -> None:
    request = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]}
    read = asked(CHAT, json.dumps(request).encode())
    assert (read.model, read.stream, read.max_tokens, read.wants_usage) == ("llama3.2", True, None, True)
    options = {"num_predict": 9, "temperature": 0, "top_p": 0.5, "seed": 3}
    read = asked(CHAT, json.dumps({**request, "stream": False, "options": options}).encode())
    assert (read.stream, read.max_tokens, read.temperature, read.top_p, read.seed) == (False, 9, 0.0, 0.5, 3)
    assert asked(CHAT, json.dumps({**request, "options": {"num_predict": -1}}).encode()).max_tokens is None
    assert asked(CHAT, json.dumps({**request, "messages": "?"}).encode()).unbounded == "unreadable"
    pictures = [{"role": "user", "content": "what?", "images": ["aGk="]}]
    assert asked(CHAT, json.dumps({**request, "messages": pictures}).encode()).unbounded == "media"
    assert asked(GENERATE, b'{"model":"m","prompt":"p","images":["aGk="]}').unbounded == "media"
    embed = asked(EMBED, b'{"model":"m","input":["a","b"]}')
    assert (embed.stream, embed.max_tokens, embed.input_bytes) == (False, 0, 9)


def test_paths() -> None:
    for path in (CHAT, GENERATE, EMBED, "/gateway/API/Chat"):
        hit = match(path, backend="OpenAICompatible")
        assert hit is not None
    older = match("/api/embeddings", backend="Ollama")
    assert older is not None
    assert older.api is api(EMBED)  # not OpenAI's
    assert match("/api/tags", backend="Ollama") is None
    assert match("/api/pull", backend="Ollama") is None
    assert match("/api/chat", backend="Ollama", method="GET") is None
    openai = match("/v1/chat/completions", backend="Ollama")
    assert openai is not None
    assert openai.takes_usage
    assert json.loads(
        api(CHAT).write_request(b'{"model":"a","stream":true}', asked(CHAT, b'{"model":"a"}'), model="b", usage=False)
    ) == {"model": "b", "stream": True}


def test_refusals_are_ollamas() -> None:
    refusal = DIALECT.refusal("insufficient_quota", "used up", budget="b", retry_after=None)
    assert (refusal.status, json.loads(refusal.body)) == (429, {"error": "used up"})
