"""Tokens, estimated: against counts of a real tokenizer, and where there is no text to count."""

import base64
import json
import random
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.proxy.calls import estimate


class Text(msgspec.Struct):
    """A text, and its tokens as OpenAI's tiktoken counts them."""

    text: str
    o200k_base: int
    cl100k_base: int


RECORDED = Path(__file__).resolve().parents[2] / "proxy" / "recorded" / "estimate" / "texts.json"
TEXTS = msgspec.json.decode(RECORDED.read_bytes(), type=dict[str, Text])


@pytest.mark.parametrize("kind", TEXTS)
def test_is_near_what_a_tokenizer_counts(kind: str) -> None:
    item = TEXTS[kind]
    assert estimate.text(item.text.encode()) == pytest.approx(item.o200k_base, rel=0.2)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("kind", TEXTS)
def test_json_escapes_cost_nothing(kind: str, *, ascii_only: bool) -> None:
    plain = estimate.text(TEXTS[kind].text.encode())
    escaped = json.dumps(TEXTS[kind].text, ensure_ascii=ascii_only)[1:-1].encode()
    assert estimate.text(escaped) == pytest.approx(plain, abs=1)


def test_escaped_characters_outside_the_first_plane() -> None:
    assert estimate.text(b"\\ud83d\\ude00" * 20) == estimate.text("😀".encode() * 20)
    assert estimate.text(b"\\ud83d alone") > 0


def test_a_long_text_is_judged_by_samples_of_it() -> None:
    text = (TEXTS["english"].text + "\n").encode()
    one = estimate.text(text)
    drawn = estimate.prompt(text * 500)
    assert len(drawn.sample) <= estimate.SAMPLE
    assert drawn.tokens() == pytest.approx(500 * one, rel=0.05)
    assert estimate.prompt(text * 500, size=len(text) * 250).tokens() == pytest.approx(250 * one, rel=0.05)


def test_images_count_flat_whatever_their_bytes() -> None:
    data = base64.b64encode(random.Random(1).randbytes(300_000)).decode()  # noqa: S311 - no secret
    parts = [
        {"type": "text", "text": TEXTS["english"].text * 20},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()
    drawn = estimate.prompt(body)
    assert drawn.images == 2
    text = 20 * TEXTS["english"].o200k_base
    assert drawn.tokens() == pytest.approx(text + 2 * estimate.IMAGE_TOKENS, rel=0.15)


def test_a_chat_costs_its_words_and_a_little_per_message() -> None:
    messages = [{"role": "user", "content": TEXTS["english"].text}] * 10
    body = json.dumps({"messages": messages}, separators=(",", ":")).encode()
    assert estimate.prompt(body).tokens() == pytest.approx(10 * (TEXTS["english"].o200k_base + 4), rel=0.2)


def test_nothing_is_nothing_and_anything_is_something() -> None:
    assert estimate.text(b"") == 0
    assert estimate.text(b"a", 0) == 0
    assert estimate.prompt(b"").tokens() == 0
    assert estimate.text(b"\x80") == 1


@given(st.binary(max_size=3 * estimate.SAMPLE), st.integers(-5, 10**7))
def test_no_bytes_break_it(data: bytes, size: int) -> None:
    drawn = estimate.prompt(data, size)
    assert drawn.tokens() >= 0
    assert len(drawn.sample) <= estimate.SAMPLE


def test_a_large_body_of_many_short_strings_is_not_taken_apart() -> None:
    body = b'{"image":"' + b"A" * 2_000_000 + b'","x":[' + b'"",' * 1_000_000 + b'""]}'
    tracemalloc.start()
    try:
        drawn = estimate.prompt(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert drawn.images == 1
    assert peak < 2 * len(body)


@given(
    st.lists(
        st.sampled_from(
            [b"", b":", b"b c", b"x y " * 400, b"z" * 500, *(b"A" * size for size in (1023, 1024, 1025, 4000))]
        ),
        min_size=1,
        max_size=12,
    )
)
def test_binary_strings_are_found_wherever_they_stand(parts: list[bytes]) -> None:
    body = b'"'.join([b"{" + b" " * estimate.SAMPLE, b"A" * 5000, *parts, b"}"])
    long = [part for part in parts if part[:1] == b"A" and len(part) >= 1024]
    drawn = estimate.prompt(body)
    if drawn.images:  # by what was looked at of it
        assert drawn.images == 1 + len(long)
        assert drawn.size == len(body) - 5000 - sum(map(len, long))
