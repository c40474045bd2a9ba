"""Whatever JSON comes where these dialects expect their own: nothing is raised, nothing is counted that no provider said."""

import functools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwarden.proxy.dialects.base import MOST_TOKENS, Answer, Event
from tests.unit.proxy.shapes import RECORDED, match

PATHS = [
    ("/v1beta/models/m:generateContent", "Gemini", "gemini"),
    ("/v1beta/models/m:streamGenerateContent", "Gemini", "gemini"),
    ("/v1beta/models/m:batchEmbedContents", "Gemini", "gemini"),
    ("/v1beta/models/text-embedding:predict", "Gemini", "gemini"),
    ("/v1beta/interactions", "Gemini", "gemini"),
    ("/api/chat", "Ollama", "ollama"),
    ("/api/generate", "Ollama", "ollama"),
    ("/api/embed", "Ollama", "ollama"),
    ("/generate", "TGI", "tgi"),
    ("/generate_stream", "TGI", "tgi"),
    ("/generate", "SGLang", "sglang"),
    ("/encode", "SGLang", "sglang"),
    ("/generate", "OpenAICompatible", "sglang"),
    ("/completion", "LlamaCpp", "llamacpp"),
]
REQUEST = {
    "model": "m",
    "inputs": "hi",
    "text": ["hi"],
    "prompt": "hi",
    "input": "hi",
    "stream": True,
    "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
    "generationConfig": {"maxOutputTokens": 5, "candidateCount": 2},
    "generation_config": {"max_output_tokens": 5},
    "tools": [{"functionDeclarations": [{"name": "f"}]}],
    "messages": [{"role": "user", "content": "hi", "images": [], "tool_calls": [{"id": "a"}]}],
    "options": {"num_predict": 4, "temperature": 0.5},
    "parameters": {"max_new_tokens": 5, "best_of": 2, "details": False},
    "sampling_params": {"max_new_tokens": 5, "n": 2},
}
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@functools.cache
def documents(folder: str) -> list[Any]:
    """Every JSON document in the recorded shapes of a folder."""
    found: list[Any] = []
    for file in sorted((RECORDED / folder).iterdir()):
        text = file.read_text()
        lines = [text] if file.suffix == ".json" else text.splitlines()
        for line in lines:
            start = line.removeprefix("data:").strip()
            if start[:1] in {"{", "["} and start != "[DONE]":
                found.append(json.loads(start))
    return found


def changed(draw: st.DrawFn, value: Any) -> Any:
    """The same with something else in some places."""
    if draw(st.integers(0, 11)) == 0:
        return draw(VALUES)
    if isinstance(value, dict):
        return {key: changed(draw, item) for key, item in value.items() if draw(st.integers(0, 11))}
    if isinstance(value, list):
        return [changed(draw, item) for item in value]
    return value


@st.composite
def bodies(draw: st.DrawFn, originals: list[Any]) -> bytes:
    body = json.dumps(changed(draw, draw(st.sampled_from(originals))), ensure_ascii=draw(st.booleans())).encode()
    return body[: draw(st.integers(0, len(body)))] if draw(st.integers(0, 9)) == 0 else body


@pytest.mark.parametrize(("path", "backend", "folder"), PATHS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_answers_of_any_json(path: str, backend: str, folder: str, data: st.DataObject) -> None:
    hit = match(path, backend=backend)
    assert hit is not None
    answer = Answer()
    for at, payload in enumerate(data.draw(st.lists(bodies(documents(folder)), min_size=1, max_size=3))):
        assert isinstance(hit.api.event(answer, payload, float(at)), Event)
        hit.api.whole(answer, payload)
        assert isinstance(hit.api.strip(b"data: " + payload + b"\n\n"), bytes)
    usage = answer.usage
    if usage is not None:
        parts = (usage.input, usage.cached_input, usage.output, usage.reasoning, usage.input_audio, usage.output_audio)
        assert all(0 <= part <= 6 * MOST_TOKENS for part in parts)
        assert usage.cached_input + usage.input_audio <= usage.input
        assert usage.reasoning + usage.output_audio <= usage.output


@pytest.mark.parametrize(("path", "backend", "folder"), PATHS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_requests_of_any_json(path: str, backend: str, folder: str, data: st.DataObject) -> None:
    hit = match(path, backend=backend)
    assert hit is not None
    body = data.draw(bodies([REQUEST, *documents(folder)]))
    request = hit.api.read_request(body, hit)
    if request is None:
        return
    assert request.max_tokens is None or request.max_tokens >= 0
    assert request.choices >= 1
    assert request.input_bytes <= len(body) + 64 * 16
    assert hit.api.write_request(body, request, model=None, usage=False) == body
    rewritten = hit.api.write_request(body, request, model="other", usage=not request.wants_usage)
    assert isinstance(json.loads(rewritten), dict)


@pytest.mark.parametrize(("path", "backend", "folder"), PATHS)
def test_bodies_nested_beyond_the_decoders_depth(path: str, backend: str, folder: str) -> None:
    hit = match(path, backend=backend)
    assert hit is not None
    names = {name for item in [REQUEST, *documents(folder)] if isinstance(item, dict) for name in item}
    for name in sorted(names):
        body = b'{"inputs":"x","%b":%b%b}' % (name.encode(), b"[" * 30_000, b"]" * 30_000)
        assert hit.api.read_request(body, hit) is None
        answer = Answer()
        hit.api.event(answer, body, 0.0)
        hit.api.whole(answer, body)
        assert answer.malformed >= 1
