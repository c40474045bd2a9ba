"""The fuzz targets in the test command: Hypothesis builds messages from likely and unlikely pieces, for a bounded number of examples."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import CUTS, TARGETS

CORPUS = Path(__file__).parent / "corpus"
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\n\r", b""])
FIELDS = st.sampled_from(
    [b"Host: a"] * 4
    + [
        b"Content-Length: 3",
        b"Content-Length: 0",
        b"Content-Length: 03",
        b"Content-Length: +3",
        b"Content-Length: 3, 3",
        b"content-length:5",
        b"Content-Length : 3",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding:chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:\tchunked ",
        b"Transfer-Encoding: xchunked",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: upgrade",
        b"Connection: content-length, host",
        b"Upgrade: h2c",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b"X: y",
        b"X:",
        b"X: a\x00b",
        b"X: \xff\xfe",
        b": nameless",
        b"no colon",
        b" folded",
        b"\tfolded",
        b"X\x0bY: z",
        b"Trailer: X",
    ]
)
STARTS = st.sampled_from(
    [b"GET / HTTP/1.1", b"POST /v1/x HTTP/1.1"] * 4
    + [
        b"HEAD / HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"DELETE /a?b HTTP/1.0",
        b"GET http://h/p HTTP/1.1",
        b"CONNECT a:1 HTTP/1.1",
        b"PUT /\xc3\xa9 HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"get / HTTP/1.1",
        b"GET / HTTP/1.2",
        b"GET / HTTP/2.0",
        b"GET /",
        b"",
        b"PRI * HTTP/2.0",
    ]
)
STATUSES = st.sampled_from(
    [b"HTTP/1.1 200 OK"] * 6
    + [
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 Not Modified",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 103 Early Hints",
        b"HTTP/1.1 101 Switching Protocols",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 200",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 999 \xff",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.1  200 OK",
        b"junk",
    ]
)
BODIES = st.sampled_from(
    [
        b"",
        b"abc",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
        b"3\r\nabc\r\n00\r\n\r\n",
        b"A\r\n0123456789\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\nabc",
        b"3\r\nab",
        b"0\r\n\r\n",
        b"0\r\n",
    ]
)


@st.composite
def messages(draw: st.DrawFn, starts: st.SearchStrategy[bytes]) -> bytes:
    """A few messages, each nearly as it should be."""
    out = draw(st.binary(min_size=CUTS, max_size=CUTS))
    for _ in range(draw(st.integers(1, 3))):
        lines = [draw(starts), b"Host: a", *draw(st.lists(FIELDS, max_size=4))]
        if draw(st.booleans()):
            lines.remove(b"Host: a")
        out += b"".join(line + draw(ENDS) for line in lines) + draw(ENDS) + draw(BODIES)
    return out


EVENTS = st.sampled_from(
    [
        b"data: {}\n\n",
        b"data: x\r\n\r\n",
        b": ping\n\n",
        b"event: e\rdata: y\r\r",
        b"data\n",
        b"\n",
        b"\r",
        b'{"a":"\\"]}"}\n',
        b"[",
        b"]",
        b'{"a":[1,{"b":"}"}]},',
        b'"\\',
        b"\x00\x00\x00\x10\x00\x00\x00\x00\x05\xc2\x48\xeb\x7d\x98\xc8\xff",
        b"\xef\xbb\xbf",
        b" ",
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages(STARTS))
def test_whatever_a_client_sends(data: bytes) -> None:
    TARGETS["requests"](data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages(STATUSES))
def test_whatever_an_upstream_answers(data: bytes) -> None:
    TARGETS["answers"](data)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=CUTS, max_size=CUTS), st.lists(EVENTS | st.binary(max_size=40), max_size=12))
def test_however_a_stream_is_framed(cuts: bytes, parts: list[bytes]) -> None:
    TARGETS["framings"](cuts + b"".join(parts))


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_stays_found(name: str) -> None:
    """The corpus: what atheris starts from, and every input that ever failed."""
    files = sorted((CORPUS / name).iterdir())
    assert files
    for file in files:
        TARGETS[name](file.read_bytes())
