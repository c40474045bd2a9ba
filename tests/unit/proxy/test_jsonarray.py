"""A JSON array however it is cut."""

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmwarden.proxy.framing.jsonarray import CAP, Splitter

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.sampled_from('ab"\\{}[],\né😀'), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", '"', "}", "\\"]), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(["candidates", "]", '\\"']), VALUES, max_size=3)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted({min(point, len(data)) for point in at}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds) if end > start]


def read(pieces: list[bytes]) -> tuple[bytes, list[bytes]]:
    splitter = Splitter()
    events = [item for piece in pieces for item in splitter.feed(piece)]
    return b"".join(raw for raw, _ in events) + splitter.rest()[0], [
        content for _, content in events if content is not None
    ]


@given(
    st.lists(OBJECTS, max_size=4),
    st.sampled_from([b",", b"\n,\r\n", b" , "]),
    st.sampled_from([None, 2]),
    st.booleans(),
    st.lists(st.integers(0, 300), max_size=20),
)
def test_cuts_change_neither_bytes_nor_objects(
    objects: list[dict[str, Any]],
    comma: bytes,
    indent: int | None,
    ascii_only: bool,  # noqa: FBT001 - drawn
    at: list[int],
) -> None:
    parts = [json.dumps(item, indent=indent, ensure_ascii=ascii_only).encode() for item in objects]
    data = b"[" + comma.join(parts) + b"\n]\n"
    for pieces in ([data], cut(data, at)):
        out, events = read(pieces)
        assert out == data
        assert [json.loads(item) for item in events] == objects


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=10))
def test_what_is_no_json_passes_all_the_same(data: bytes, at: list[int]) -> None:
    whole_bytes, whole_events = read([data] if data else [])
    assert whole_bytes == data
    assert read(cut(data, at)) == (data, whole_events)


def test_every_byte_alone() -> None:
    data = b'[{"text": "a\\"}\\\\"}\n,\r\n{"b": [{}, "]"]}\n]'
    assert read([data[i : i + 1] for i in range(len(data))]) == (data, [b'{"text": "a\\"}\\\\"}', b'{"b": [{}, "]"]}'])


def test_an_object_that_stands_alone_is_an_event_and_one_that_is_cut_off_is_none() -> None:
    assert read([b'{"error": {"code": 400}}\n']) == (b'{"error": {"code": 400}}\n', [b'{"error": {"code": 400}}'])
    splitter = Splitter()
    assert splitter.feed(b'[{"a": 1},\n{"b"') == [(b'[{"a": 1}', b'{"a": 1}')]
    assert splitter.rest() == (b',\n{"b"', None)
    assert splitter.rest() == (b"", None)


def test_an_object_above_the_cap_passes_unread_and_the_next_is_read() -> None:
    data = b'[{"data":"' + b"x\\n" * CAP + b'"},\n{"next":1}]'
    splitter = Splitter()
    out = b""
    held = 0
    contents = []
    for start in range(0, len(data), 65536):
        for raw, content in splitter.feed(data[start : start + 65536]):
            out += raw
            contents.append(content)
        held = max(held, start + 65536 - len(out))
    assert out + splitter.rest()[0] == data
    assert [item for item in contents if item is not None] == [b'{"next":1}']
    assert held <= CAP + 2 * 65536


def test_the_work_of_what_comes_in_tiny_pieces_is_that_of_its_size() -> None:
    # Nothing that is held is copied or searched again until its end has come: the very objects that were fed are kept.
    pieces = [bytes([97 + number % 26]) * 7 for number in range(10_000)]
    splitter = Splitter()
    splitter.feed(begin := b'[{"data":"')
    for piece in pieces:
        assert splitter.feed(piece) == []
    assert len(splitter._carry) == 1 + len(pieces)
    assert all(held is fed for held, fed in zip(splitter._carry[1:], pieces, strict=True))
    [(raw, content)] = splitter.feed(end := b'"}')
    assert raw == begin + b"".join(pieces) + end
    assert content is not None
    assert splitter._carry == []
