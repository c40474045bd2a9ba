"""Bytes that a client gets are the upstream's, however they are cut; but for usage that only we asked for."""

import itertools
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmwarden.proxy.calls.call import MeteredCall
from llmwarden.proxy.calls.service import MeteredService
from llmwarden.proxy.seam import Forward, Request
from tests.unit.proxy.shapes import RECORDED, shape
from tests.unit.proxy.support import SSE, rows, service, stream

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
STREAMS = sorted(
    f"{folder}/{path.name}" for folder in PATHS for path in (RECORDED / folder).iterdir() if path.suffix == ".sse"
)
# What a client that did not ask for usage gets of a server that was asked for it: written without our parser.
NULL = re.compile(rb',"usage":null')
USAGE = re.compile(rb'data: [^\n]*"choices":\[\][^\n]*"usage":\{[^\n]*\n\n')


def path_of(name: str) -> str:
    return "/v1/responses" if "responses" in name else PATHS[name.partition("/")[0]]


def begin(metered: MeteredService, name: str, body: bytes) -> MeteredCall:
    call = metered.open(Request(b"POST", path_of(name).encode(), [], time.perf_counter(), length=len(body)))
    assert isinstance(call, MeteredCall)
    assert isinstance(call.admit(body), Forward)
    return call


def cuts(data: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted({min(point, len(data)) for point in at}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds) if b > a]


@pytest.mark.parametrize("name", STREAMS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 6000), max_size=40))
def test_however_a_stream_is_cut(tmp_path: Path, name: str, at: list[int]) -> None:
    data = shape(name)
    metered = service(tmp_path, "Anthropic")  # known to take no wish for usage
    assert stream(begin(metered, name, b'{"stream":true}'), cuts(data, at), SSE) == data
    metered = service(tmp_path, "OpenAI")
    asks = b'{"stream":true,"stream_options":{"include_usage":true}}'
    assert stream(begin(metered, name, asks), cuts(data, at), SSE) == data
    hidden = stream(begin(metered, name, b'{"stream":true}'), cuts(data, at), SSE)
    chats = path_of(name).endswith("/chat/completions")
    assert hidden == (NULL.sub(b"", USAGE.sub(b"", data)) if chats else data)


@pytest.mark.parametrize("name", STREAMS)
def test_every_byte_alone_counts_the_same(tmp_path: Path, name: str) -> None:
    data = shape(name)
    counted = []
    for number, pieces in enumerate(([data], [data[i : i + 1] for i in range(len(data))])):
        directory = tmp_path / str(number)
        directory.mkdir()
        metered = service(directory)
        stream(begin(metered, name, b'{"stream":true}'), pieces, SSE)
        [row] = rows(metered)
        counted.append((row.tokens, row.errors, row.estimated, row.tier))
    assert counted[0] == counted[1]


def test_events_that_differ_in_their_text_only_are_recognised(tmp_path: Path) -> None:
    delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}\n\n'
    words = [b"Hello", b"", b" there", b'a \\"quote\\"', b"\\u00e9", "ä".encode(), b"end"]
    metered = service(tmp_path, "Anthropic")
    call = begin(metered, "anthropic/text.sse", b'{"stream":true}')
    begun, _, ended = shape("anthropic/text.sse").partition(b"event: content_block_delta")
    ended = ended[ended.index(b"event: content_block_stop") :]
    assert (
        stream(call, [begun, *(delta % word for word in words), ended], SSE)
        == begun + b"".join(delta % word for word in words) + ended
    )
    assert call._shape is not None
    assert (call.answer.pieces, call.answer.done) == (6, True)  # an empty text is no piece
    assert call.answer.content_bytes == sum(len(word) + 2 for word in words if word)
    assert rows(metered)[0].tokens.output == 12
