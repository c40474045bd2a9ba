"""Lines of JSON however they are cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llmwarden.proxy.framing.ndjson import CAP, Splitter

LINES = st.sampled_from([b'{"a":1}', b'{"b":"\\n \xc3\xa9"}', b"", b"  ", b"not json", b'{"done":true}'])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(LINES, max_size=6))
    ends = draw(st.sampled_from([b"\n", b"\r\n"]))
    return b"".join(line + ends for line in lines) + draw(st.sampled_from([b"", b'{"tail":', b"\r"]))


def cut(data: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted({min(point, len(data)) for point in at}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds) if end > start]


def read(pieces: list[bytes]) -> tuple[bytes, list[bytes]]:
    splitter = Splitter()
    events = [item for piece in pieces for item in splitter.feed(piece)]
    return b"".join(raw for raw, _ in events) + splitter.rest()[0], [
        content for _, content in events if content is not None
    ]


@given(streams(), st.lists(st.integers(0, 80), max_size=20))
def test_cuts_change_neither_bytes_nor_lines(data: bytes, at: list[int]) -> None:
    whole_bytes, whole_lines = read([data] if data else [])
    cut_bytes, cut_lines = read(cut(data, at))
    assert whole_bytes == cut_bytes == data
    assert cut_lines == whole_lines
    assert whole_lines == [line for line in (item.strip() for item in data.split(b"\n")[:-1]) if line]


def test_every_byte_alone() -> None:
    data = b'{"a":1}\r\n\n{"b":2}\n{"c"'
    assert read([data[i : i + 1] for i in range(len(data))]) == (data, [b'{"a":1}', b'{"b":2}'])


def test_the_last_line_may_lack_its_end() -> None:
    splitter = Splitter()
    assert splitter.feed(b'{"a":1}\n{"b":2}') == [(b'{"a":1}\n', b'{"a":1}')]
    assert splitter.rest() == (b'{"b":2}', b'{"b":2}')
    assert splitter.rest() == (b"", None)


def test_a_line_above_the_cap_passes_unread_and_the_next_is_read() -> None:
    data = b'{"context":"' + b"x" * (2 * CAP) + b'"}\n{"next":1}\n'
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
