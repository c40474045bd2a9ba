"""llama.cpp's native shapes (tests/proxy/recorded/llamacpp)."""

import json

import pytest

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects.base import Answer, Api
from llmwarden.proxy.framing import SPLITTERS, Framing
from tests.unit.proxy.shapes import asked, match, shape


def reader(path: str = "/completion") -> Api:
    hit = match(path, backend="LlamaCpp")
    assert hit is not None
    return hit.api


def streamed(name: str) -> Answer:
    answer = Answer()
    for at, (_, payload) in enumerate(SPLITTERS[Framing.SSE]().feed(shape(name))):
        if payload is not None:
            reader().event(answer, payload, float(at))
    return answer


def test_the_last_event_counts() -> None:
    answer = streamed("llamacpp/completion.sse")
    assert answer.usage == Tokens(input=9, cached_input=5, output=4)
    assert (answer.pieces, answer.first_content, answer.finish_reasons) == (4, 0.0, ["limit"])
    assert (answer.model, answer.error) == ("tiny.gguf", "")


def test_whole_answers() -> None:
    answer = Answer()
    reader().whole(answer, shape("llamacpp/completion.json"))
    assert (answer.usage, answer.content_bytes) == (Tokens(input=9, cached_input=5, output=4), len('" a website!"'))
    two = Answer()
    one = shape("llamacpp/completion.json")
    reader().whole(two, b"[" + one + b"," + one + b"]")
    assert two.usage == Tokens(input=18, cached_input=10, output=8)
    embedded = Answer()
    reader("/embedding").whole(embedded, b'[{"index":0,"embedding":[[0.1]]}]')
    assert embedded.usage is None


def test_an_error_may_come_in_a_stream() -> None:
    answer = streamed("llamacpp/error.sse")
    assert (answer.error, answer.usage, answer.pieces) == ("server_error", None, 1)


@pytest.mark.parametrize(
    ("prompts", "choices"), [("a", 1), ([1, 2], 1), (["a", 7], 1), (["a", "b"], 2), ([["x"], [1]], 2), ([], 1)]
)
def test_prompts(prompts: object, choices: int) -> None:
    read = asked("/completion", json.dumps({"prompt": prompts, "n_predict": 7}).encode(), backend="LlamaCpp")
    assert (read.choices, read.max_tokens, read.model) == (choices, 7, "default")


def test_requests_and_paths() -> None:
    body = b'{"model":"m","prompt":{"prompt_string":"x","multimodal_data":["aGk="]},"n_predict":-1,"stream":true}'
    read = asked("/completion", body, backend="LlamaCpp")
    assert (read.model, read.stream, read.max_tokens, read.unbounded) == ("m", True, None, "media")
    infill = asked("/infill", b'{"input_prefix":"a","input_suffix":"b"}', backend="LlamaCpp")
    assert infill.input_bytes == 6
    assert asked("/embedding", b'{"content":"a"}', backend="LlamaCpp").max_tokens == 0
    assert match("/completion", backend="VLLM") is None
    openai = match("/v1/completions", backend="LlamaCpp")
    assert openai is not None
    assert openai.takes_usage
