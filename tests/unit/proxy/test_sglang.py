"""SGLang's native shapes (tests/proxy/recorded/sglang)."""

import json

import pytest

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects.base import Answer, Api
from llmwarden.proxy.framing import SPLITTERS, Framing
from tests.unit.proxy.shapes import asked, match, shape


def reader(backend: str = "SGLang", path: str = "/generate") -> Api:
    hit = match(path, backend=backend)
    assert hit is not None
    return hit.api


def streamed(name: str, api: Api | None = None) -> Answer:
    answer = Answer()
    for at, (_, payload) in enumerate(SPLITTERS[Framing.SSE]().feed(shape(name))):
        if payload is not None:
            (api or reader()).event(answer, payload, float(at))
    return answer


@pytest.mark.parametrize(
    ("name", "output", "size", "reason"),
    [("stream", 5, len('" Paris. It is"'), "length"), ("incremental", 3, len('" Paris"') + 2, "stop")],
)
def test_text_may_be_all_so_far_or_the_last_piece(name: str, output: int, size: int, reason: str) -> None:
    answer = streamed(f"sglang/{name}.sse")
    assert answer.usage == Tokens(input=5, cached_input=2, output=output)
    assert (answer.finish_reasons, answer.done, answer.id) == ([reason], True, "a1")
    assert (answer.pieces, answer.first_content, answer.content_bytes) == (4 if name == "stream" else 3, 0.0, size)


def test_a_stream_that_is_cut_off_is_counted_up_to_there() -> None:
    answer = Answer()
    for _, payload in SPLITTERS[Framing.SSE]().feed(shape("sglang/stream.sse"))[:3]:
        assert payload is not None
        reader().event(answer, payload, 0.0)
    assert (answer.usage, answer.done) == (Tokens(input=5, cached_input=2, output=4), False)


def test_several_prompts_end_each_on_its_own() -> None:
    answer = streamed("sglang/batch.sse")
    assert answer.usage == Tokens(input=12, cached_input=2, output=5)
    assert sorted(answer.finish_reasons) == ["length", "stop"]


def test_whole_answers() -> None:
    answer = Answer()
    reader().whole(answer, shape("sglang/whole.json"))
    assert (answer.usage, answer.finish_reasons) == (Tokens(input=5, cached_input=2, output=2), ["stop"])
    several = Answer()
    reader().whole(several, shape("sglang/list.json"))
    assert (several.usage, several.finish_reasons) == (Tokens(input=11, cached_input=2, output=5), ["stop", "length"])
    encoded = Answer()
    reader(path="/encode").whole(encoded, shape("sglang/encode.json"))
    assert encoded.usage == Tokens(input=4)


def test_errors_come_under_200() -> None:
    assert streamed("sglang/error.sse").error == "error"
    aborted = streamed("sglang/abort.sse")
    assert (aborted.error, aborted.usage) == ("ServiceUnavailable", Tokens(input=5, cached_input=2, output=1))


def test_where_nothing_says_which_server_it_is_the_body_does() -> None:
    either = reader("OpenAICompatible")
    assert streamed("sglang/stream.sse", either).usage == Tokens(input=5, cached_input=2, output=5)
    assert streamed("tgi/stream_details.sse", either).usage == Tokens(input=6, output=4)
    body = b'{"inputs":"hi","parameters":{"max_new_tokens":3}}'
    request = asked("/generate", body, backend="OpenAICompatible")
    assert (request.model, request.max_tokens) == ("tgi", 3)
    assert json.loads(either.write_request(body, request, model="a", usage=False))["parameters"]["adapter_id"] == "a"
    native = asked("/generate", b'{"text":"hi"}', backend="OpenAICompatible")
    assert (native.model, native.max_tokens) == ("default", 128)
    changed = either.write_request(b'{"text":"hi"}', native, model="a", usage=False)
    assert json.loads(changed) == {"text": "hi", "lora_path": "a"}
    whole = Answer()
    either.whole(whole, shape("tgi/details.json"))
    assert whole.finish_reasons == ["length"]


def test_requests() -> None:
    params = {"max_new_tokens": 7, "n": 3, "temperature": 0.1, "top_p": 0.2, "sampling_seed": 5}
    read = asked(
        "/generate",
        json.dumps({"text": ["a", "b"], "sampling_params": params, "stream": True}).encode(),
        backend="SGLang",
    )
    assert (read.model, read.stream, read.max_tokens, read.choices) == ("default", True, 7, 6)
    assert (read.temperature, read.top_p, read.seed, read.unbounded) == (0.1, 0.2, 5, "")
    ids = asked("/generate", b'{"input_ids":[1,2,3],"sampling_params":{"max_new_tokens":null}}', backend="SGLang")
    assert (ids.choices, ids.max_tokens, ids.input_bytes) == (1, None, 7)
    each = b'{"input_ids":[[1],[2]],"sampling_params":[{"max_new_tokens":5},{"max_new_tokens":9}]}'
    assert asked("/generate", each, backend="SGLang").max_tokens == 9
    assert asked("/generate", b'{"text":"a","image_data":"u"}', backend="SGLang").unbounded == "media"
    assert asked("/generate", b'{"text":"a","session_params":{"id":"s"}}', backend="SGLang").unbounded == "stored_input"
    assert asked("/encode", b'{"text":"a"}', backend="SGLang").max_tokens == 0


def test_other_servers_have_their_own_generate() -> None:
    tgi, ollama = match("/generate", backend="TGI"), match("/api/generate", backend="Ollama")
    assert tgi is not None
    assert tgi.head is not None
    assert ollama is not None
    assert ollama.api.operation == "text_completion"
    assert match("/encode", backend="OpenAICompatible") is None
