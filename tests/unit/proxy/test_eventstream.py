"""Messages of the binary event stream however they are cut, as botocore reads them, and when they are damaged."""

import itertools
import json
import struct
import zlib
from pathlib import Path

from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.proxy.framing import eventstream
from llmwarden.proxy.framing.eventstream import BROKEN, CAP, Splitter
from tests.proxy.bedrock import message

RECORDED = Path(__file__).parents[2] / "proxy" / "recorded" / "bedrock"

NAMES = st.sampled_from(["messageStart", "contentBlockDelta", "chunk", "throttlingException", "initial-response"])
KINDS = st.sampled_from(["event", "exception"])
TEXT = st.text(alphabet='ab {}"\\é\n', max_size=20)
PAYLOADS = st.dictionaries(TEXT, TEXT, max_size=3)
# Every type of header that the format has; the parser must step over those it has no use for.
OTHERS = st.lists(
    st.sampled_from(
        [
            b"\x01a\x00",
            b"\x01b\x01",
            b"\x01c\x02\x05",
            b"\x01d\x03\x00\x05",
            b"\x01e\x04\x00\x00\x00\x05",
            b"\x01f\x05" + bytes(8),
            b"\x01g\x06\x00\x03abc",
            b"\x01h\x07\x00\x02hi",
            b"\x01i\x08" + bytes(8),
            b"\x01j\x09" + bytes(16),
        ]
    ),
    max_size=4,
    unique=True,
)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A message and its payload."""
    name, kind, body = draw(NAMES), draw(KINDS), json.dumps(draw(PAYLOADS)).encode()
    return message(name, body, kind=kind, more=b"".join(draw(OTHERS))), b'{"%b":%b}' % (name.encode(), body)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted({point % (len(data) + 1) for point in at}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds) if end > start]


def read(pieces: list[bytes]) -> tuple[bytes, list[bytes | None]]:
    splitter = Splitter()
    events = [item for piece in pieces for item in splitter.feed(piece)]
    rest, payload = splitter.rest()
    assert payload is None
    assert splitter.rest() == (b"", None)
    return b"".join(raw for raw, _ in events) + rest, [content for _, content in events]


@given(st.lists(messages(), max_size=6), st.lists(st.integers(0, 5000), max_size=20))
def test_cuts_change_neither_bytes_nor_messages(drawn: list[tuple[bytes, bytes]], at: list[int]) -> None:
    data = b"".join(raw for raw, _ in drawn)
    assert read(cut(data, at)) == (data, [payload for _, payload in drawn])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_any_bytes_pass_unchanged(data: bytes, at: list[int]) -> None:
    assert read(cut(data, at))[0] == data


@given(messages(), messages(), st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_byte_is_noticed_and_passes(
    first: tuple[bytes, bytes], second: tuple[bytes, bytes], at: int, flip: int
) -> None:
    at %= len(first[0])
    damaged = bytearray(first[0] + second[0])
    damaged[at] ^= flip
    raw, payloads = read([bytes(damaged)])
    assert raw == damaged
    assert payloads[0] == BROKEN
    # Behind a whole prelude the next message is found; behind a damaged one nothing is believed.
    assert payloads[1:] == ([second[1]] if at >= 12 else [])


def test_every_split_point_of_a_recorded_stream() -> None:
    for path in sorted(RECORDED.glob("*.eventstream")):
        data = path.read_bytes()
        whole = read([data])
        assert whole[0] == data
        assert None not in whole[1]
        assert BROKEN not in whole[1]
        for point in range(len(data)):
            assert read([data[:point], data[point:]]) == whole
        assert read([data[at : at + 1] for at in range(len(data))]) == whole


def test_botocore_reads_the_same() -> None:
    for path in sorted(RECORDED.glob("*.eventstream")):
        buffer = EventStreamBuffer()
        buffer.add_data(path.read_bytes())
        theirs = []
        for item in buffer:
            name = item.headers.get(":event-type") or item.headers[":exception-type"]
            theirs.append({name: json.loads(item.payload)})
        assert [json.loads(payload or b"") for payload in read([path.read_bytes()])[1]] == theirs
        assert theirs


def test_a_message_above_the_cap_passes_unread_in_pieces() -> None:
    large = message("chunk", b'{"bytes":"' + b"A" * CAP + b'"}')
    small = message("messageStop", b'{"stopReason":"end_turn"}')
    data = small + large + small
    for size in (1000, 65536, len(data)):
        raw, payloads = read([data[at : at + size] for at in range(0, len(data), size)])
        assert raw == data
        assert payloads[0] == payloads[-1] == b'{"messageStop":{"stopReason":"end_turn"}}'
        assert set(payloads[1:-1]) == {None}
    splitter = Splitter()
    splitter.feed(large[:CAP])
    assert len(splitter.rest()[0]) == 0  # nothing of it is held


def test_an_error_that_the_model_does_not_know() -> None:
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + struct.pack(">H", len(value)) + value
        for name, value in (
            (b":message-type", b"error"),
            (b":error-code", b"Internal"),
            (b":error-message", b"bo\xe4m"),
        )
    )
    prelude = struct.pack(">II", 16 + len(headers), len(headers))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    data = prelude + headers
    payloads = read([data + struct.pack(">I", zlib.crc32(data))])[1]
    assert json.loads(payloads[0] or b"") == {"error": {"code": "Internal", "message": "boäm"}}


def test_what_is_remembered_of_headers_is_bounded() -> None:
    for number in range(500):
        name = f"event{number}"
        assert read([message(name, b"") * 2])[1] == [b'{"%b":{}}' % name.encode()] * 2
        read([message("chunk", b"{}", more=b"\x01x\x06\x10\x00" + number.to_bytes(2, "big") * 2048)])
    assert len(eventstream._known) <= eventstream._KNOWN
    assert max(map(len, eventstream._known)) <= eventstream._KNOWN_SIZE


def test_lengths_that_cannot_be_are_not_followed() -> None:
    for total, headers in ((0, 0), (15, 0), (40, 30), (2**32 - 1, 2**32 - 1)):
        prelude = struct.pack(">II", total, headers)
        prelude += struct.pack(">I", zlib.crc32(prelude))
        assert read([prelude + b"x" * 50, b"y" * 50])[1] == [BROKEN, None]
