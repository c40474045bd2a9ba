"""Events however they are cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llmwarden.proxy.framing.sse import CAP, Splitter, payload

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.sampled_from(
    [
        b"data: a",
        b"event: data: a",
        b"data:b",
        b"data",
        b": comment",
        b"event: x",
        b"id: 1",
        b"data:  two",
        b'data: {"x":"\xc3\xa9"}',
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    out = b""
    for _ in range(draw(st.integers(0, 6))):
        end = draw(ENDS)
        lines = draw(st.lists(LINES, min_size=1, max_size=3))
        out += b"".join(line + end for line in lines) + end
    return out + draw(st.sampled_from([b"", b"data: tail", b"\n", b"\r"]))


def cut(data: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted({min(point, len(data)) for point in at}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds) if end > start]


def read(pieces: list[bytes]) -> tuple[bytes, list[bytes]]:
    splitter = Splitter()
    events = [item for piece in pieces for item in splitter.feed(piece)]
    return b"".join(raw for raw, _ in events) + splitter.rest()[0], [
        content for _, content in events if content is not None
    ]


@given(streams(), st.lists(st.integers(0, 200), max_size=20))
def test_cuts_change_neither_bytes_nor_events(data: bytes, at: list[int]) -> None:
    whole_bytes, whole_events = read([data] if data else [])
    cut_bytes, cut_events = read(cut(data, at))
    assert whole_bytes == cut_bytes == data
    assert cut_events == whole_events


def test_every_byte_alone() -> None:
    data = b"data: a\r\ndata: b\r\n\r\n: ping\n\ndata: [DONE]\n\n"
    assert read([data[i : i + 1] for i in range(len(data))]) == (data, [b"a\nb", b"[DONE]"])


def test_payloads() -> None:
    assert payload(b"data: x\n\n") == b"x"
    assert payload(b"data:x\r\n\r\n") == b"x"
    assert payload(b"data:  x\n\n") == b" x"
    assert payload(b"data: a\ndata: b\n\n") == b"a\nb"
    assert payload(b"event: e\ndata\n\n") == b""
    assert payload(b"event: e\ndata: x\n\n") == b"x"
    assert payload(b"event: e\ndata: x\ndata: y\n\n") == b"x\ny"
    assert payload(b"event: e\r\ndata: x\r\n\r\n") == b"x"
    assert payload(b"event: e\n\n") is None
    assert payload(b"event: data: x") is None
    assert payload(b"\xef\xbb\xbfdata: x\n\n") == b"x"
    assert payload(b": only a comment\n\n") is None


def test_an_event_above_the_cap_passes_unread_and_the_next_is_read() -> None:
    huge = b"data: " + b"x" * (10 * CAP) + b"\n\n"
    data = huge + b"data: next\n\n"
    splitter = Splitter()
    held = 0
    out = b""
    contents = []
    for start in range(0, len(data), 65536):
        for raw, content in splitter.feed(data[start : start + 65536]):
            out += raw
            contents.append(content)
        held = max(held, start + 65536 - len(out))
    assert out + splitter.rest()[0] == data
    assert [item for item in contents if item is not None] == [b"next"]
    assert held <= CAP + 2 * 65536


def test_the_work_of_what_comes_in_tiny_pieces_is_that_of_its_size() -> None:
    # Nothing that is held is copied or searched again until its end has come: the very objects that were fed are kept.
    pieces = [bytes([97 + number % 26]) * 7 for number in range(10_000)]
    splitter = Splitter()
    splitter.feed(begin := b"data: ")
    for piece in pieces:
        assert splitter.feed(piece) == []
    assert len(splitter._carry) == 1 + len(pieces)
    assert all(held is fed for held, fed in zip(splitter._carry[1:], pieces, strict=True))
    [(raw, content)] = splitter.feed(end := b"\n\n")
    assert raw == begin + b"".join(pieces) + end
    assert content is not None
    assert splitter._carry == []
