"""Events that are recognised by their shape mean what they would mean decoded, and go on as they would."""

import json
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from llmwarden.proxy.dialects import anthropic, openai_chat, openai_responses, shape
from llmwarden.proxy.dialects.base import Answer, Api, Event
from llmwarden.proxy.framing import sse

CHAT = openai_chat.Chat("chat")
texts = st.text(max_size=12) | st.sampled_from([" token", '"', "\\", "\n", "é", "\u2028", ""])


def event(text: str, *, usage: bool, filler: str | None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None, **more}
    body: dict[str, object] = {"id": "chatcmpl-1", "model": "m", "choices": [choice]}
    if usage:
        body["usage"] = None
    if filler is not None:
        body["obfuscation"] = filler
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


def decoded(stream: bytes, api: Api = CHAT) -> tuple[Answer, bytes]:
    answer = Answer()
    out = []
    for raw, payload in sse.Splitter().feed(stream):
        kind = api.event(answer, payload, 1.0) if payload is not None else Event.KEEP
        out.append(api.strip(raw) if kind is Event.STRIP else raw)
    return answer, b"".join(out)


@settings(max_examples=500, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_a_shape_takes_only_what_means_the_same_and_passes_on_the_same_bytes(
    words: list[str],
    usage: bool,  # noqa: FBT001 - Hypothesis gives them by position
    filled: bool,  # noqa: FBT001 - the same
) -> None:
    first = event(" hello", usage=usage, filler="aB3" if filled else None)
    whole, kept_first = decoded(first)
    learned = shape.learn(first, whole.text, kept_first)
    assert learned is not None
    stream = b"".join(
        event(word, usage=usage, filler="x" * (index + 1) if filled else None) for index, word in enumerate(words)
    )
    count, size, end, kept = learned.take(stream)
    answer, expected = decoded(stream[:end])
    assert kept == expected
    assert count == answer.pieces
    assert size + 2 * count == answer.content_bytes
    if end < len(stream):  # it stopped at something that is not plain text
        word = words[count]
        assert not word or json.dumps(word, ensure_ascii=False) != f'"{word}"' or any(ord(sign) < 32 for sign in word)


def test_what_ends_a_choice_or_counts_is_not_taken() -> None:
    first = event(" hello", usage=True, filler=None)
    answer, kept = decoded(first)
    learned = shape.learn(first, answer.text, kept)
    assert learned is not None
    for other in (
        event("", usage=True, filler=None),
        event(" a", usage=True, filler=None, finish_reason="stop"),
        event(" a", usage=False, filler=None),
        b"data: [DONE]\n\n",
        first[:-1],
        first.replace(b"\n\n", b"\r\n\r\n"),
    ):
        assert learned.take(other)[0] == 0, other


def test_no_shape_where_the_text_is_not_beyond_doubt() -> None:
    twice = event(" hello", usage=False, filler=None).replace(b'"logprobs":null', b'"logprobs":{"content":" hello"}')
    assert shape.learn(twice, b'" hello"', twice) is None
    escaped = event("a\nb", usage=False, filler=None)
    assert shape.learn(escaped, b'"a\\nb"', escaped) is None


def named(body: dict[str, object]) -> bytes:
    data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    return b"event: %b\ndata: %b\n\n" % (str(body["type"]).encode(), data)


def tool_delta(part: str, index: int) -> bytes:
    """Anthropic's."""
    del index
    delta = {"type": "input_json_delta", "partial_json": part}
    return named({"type": "content_block_delta", "index": 1, "delta": delta})


def thinking_delta(part: str, index: int) -> bytes:
    """Anthropic's."""
    del index
    return named({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": part}})


def arguments_delta(part: str, index: int) -> bytes:
    """Responses'."""
    kind = "response.function_call_arguments.delta"
    more = {"sequence_number": index, "item_id": "fc_1", "output_index": 0}
    return named({"type": kind, **more, "delta": part, "obfuscation": "x" * (1 + index % 7)})


def text_delta(part: str, index: int) -> bytes:
    """Responses', as a server without padding writes it."""
    more = {"content_index": 0, "delta": part, "item_id": "msg_1", "logprobs": [], "output_index": 0}
    return named({**more, "sequence_number": index, "type": "response.output_text.delta"})


DELTAS: list[tuple[Api, Callable[[str, int], bytes]]] = [
    (anthropic.MESSAGES, tool_delta), (anthropic.MESSAGES, thinking_delta),
    (openai_responses.Responses(), arguments_delta), (openai_responses.Responses(), text_delta),
]  # fmt: skip
PARTS = texts | st.sampled_from(
    ['{"city', '": "', "Par\\nis", '"}', '"sequence_number":1', '"delta":"', '","delta":"', "\\"]
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(DELTAS), st.lists(PARTS, min_size=1, max_size=6), st.integers(0, 10**6))
def test_deltas_with_counts_and_escapes_are_taken_for_what_they_mean(
    which: tuple[Api, Callable[[str, int], bytes]], parts: list[str], number: int
) -> None:
    api, delta = which
    first = delta(" hello", 7)
    told, _ = decoded(first, api)
    learned = shape.learn(first, told.text, first, told.text_name)
    assert learned is not None
    stream = b"".join(delta(part, number + index) for index, part in enumerate(parts))
    count, size, end, kept = learned.take(stream)
    answer, _ = decoded(stream[:end], api)
    assert kept == stream[:end]
    assert (count, size + 2 * count) == (answer.pieces, answer.content_bytes)
    assert (answer.malformed, answer.error, answer.done) == (0, "", False)
    if end < len(stream):  # it stopped at what only the decoder reads: nothing, a control character
        assert not parts[count] or "\\u" in json.dumps(parts[count], ensure_ascii=False) or delta is thinking_delta


def test_a_tools_arguments_are_taken_with_their_quotes() -> None:
    learned = shape.learn(tool_delta("{", 0), b'"{"', tool_delta("{", 0), b'"partial_json":')
    assert learned is not None
    stream = b"".join(tool_delta(part, 0) for part in ('"city', '":', ' "Paris', '"}'))
    assert learned.take(stream)[0] == 4
    for other in (
        named({"type": "content_block_stop", "index": 1}),
        tool_delta("a", 0).replace(b'"index":1', b'"index":2'),
        tool_delta("a", 0)[:-1],
        tool_delta("a", 0).replace(b'"a"', b'"a\\"'),
        tool_delta("a", 0).replace(b'"a"', b'"\\x"'),
    ):
        assert learned.take(other)[0] == 0, other
