"""Events that are recognised by their shape mean what they would mean decoded, and go on as they would."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from llmwarden.proxy.dialects import openai_chat, shape
from llmwarden.proxy.dialects.base import Answer, Event
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


def decoded(stream: bytes) -> tuple[Answer, bytes]:
    answer = Answer()
    out = []
    for raw, payload in sse.Splitter().feed(stream):
        kind = CHAT.event(answer, payload, 1.0) if payload is not None else Event.KEEP
        out.append(CHAT.strip(raw) if kind is Event.STRIP else raw)
    return answer, b"".join(out)


@settings(max_examples=500)
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
