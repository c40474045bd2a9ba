"""Faults 14 to 19 and 37: what upstreams make of their answers. The client gets every byte as it came; the figures hold, or are labelled."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.fakes import (
    STREAM_HEAD,
    USAGE,
    Handler,
    Proxy,
    Received,
    chunk,
    chunk_of,
    event,
    post,
    running,
    stream_events,
    talk,
    whole,
)

TOKENS = "gen_ai_client_token_usage_tokens_total"
REQUESTS = "llmwarden_requests_total"
ESTIMATED = "llmwarden_estimated_requests_total"
MALFORMED = "llmwarden_proxy_malformed_events_total"
# The client asks for usage itself: nothing is to be hidden from it, so all bytes must be the upstream's.
ASKED = b'{"model":"m-1","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hello there"}]}'


def unchunked(answer: bytes) -> bytes:
    """The body of a whole chunked answer."""
    rest = answer.partition(b"\r\n\r\n")[2]
    out = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        out += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return out


def streaming(*pieces: bytes, head: bytes = STREAM_HEAD, pause: float = 0.0) -> Handler:
    """An upstream that writes each piece by itself, as a chunk."""

    async def handler(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for piece in pieces:
            writer.write(chunk(piece))
            await writer.drain()
            await asyncio.sleep(pause)
        writer.write(b"0\r\n\r\n")

    return handler


async def counted(proxy: Proxy) -> dict[str, float]:
    return {kind: await proxy.metric(TOKENS, gen_ai_token_type=kind) for kind in ("input", "output", "cached_input")}


EVENTS = stream_events("m-1", ["Hel", "lo", "!"], with_usage=True)
COUNTED = {"input": 9, "output": 3, "cached_input": 4}


async def test_fault_14_a_stream_that_ends_in_an_event_is_charged_for_what_came(tmp_path: Path) -> None:
    async def truncated(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + b"".join(chunk(item) for item in EVENTS[:3]) + chunk(EVENTS[3][:-9]))
        await writer.drain()
        writer.close()

    async with running(tmp_path, truncated) as (_, proxy):
        answer = await talk(proxy.port, post(ASKED))
        assert not answer.endswith(b"0\r\n\r\n")  # a client can tell
        assert unchunked(answer) == b"".join(EVENTS[:3]) + EVENTS[3][:-9]
        assert await proxy.metric(REQUESTS, error_type="truncated") == 1
        assert (await counted(proxy))["output"] in {2, 3}
        assert await proxy.metric(ESTIMATED) == 1


async def test_fault_15_an_answer_without_usage_is_estimated_and_labelled_so(tmp_path: Path) -> None:
    async with running(tmp_path, streaming(*stream_events("m-1", ["a"] * 7, with_usage=False))) as (_, proxy):
        await talk(proxy.port, post(ASKED))
        found = await counted(proxy)
        assert found["output"] == pytest.approx(7, abs=1)
        assert 1 <= found["input"] <= 40
        assert await proxy.metric(ESTIMATED) == 1
        assert await proxy.metric(REQUESTS, error_type="") == 1


async def test_fault_15_a_whole_answer_without_usage_too(tmp_path: Path) -> None:
    body = json.dumps(
        {
            "id": "x",
            "model": "m-1",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 40}}],
        }
    ).encode()

    async def plain(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(200, body))

    async with running(tmp_path, plain) as (_, proxy):
        assert (await talk(proxy.port, post(ASKED))).endswith(body)
        assert 20 <= (await counted(proxy))["output"] <= 80
        assert await proxy.metric(ESTIMATED) == 1


async def test_fault_16_malformed_json_passes_byte_for_byte_and_is_counted(tmp_path: Path) -> None:
    broken = [b'data: {"choices":[{"delta":{"content":"x"\n\n', b"data: \xff\xfe{}\n\n", b'data: {"choices":7}\n\n']
    pieces = [*EVENTS[:2], *broken, *EVENTS[2:]]
    async with running(tmp_path, streaming(*pieces)) as (_, proxy):
        assert unchunked(await talk(proxy.port, post(ASKED))) == b"".join(pieces)
        assert await proxy.metric(MALFORMED) == 3
        assert await counted(proxy) == COUNTED


def crlf(item: bytes) -> bytes:
    return item.replace(b"\n", b"\r\n")


def multiline(item: bytes) -> bytes:
    """The same document in several data lines: cut after a comma, where JSON allows a line end."""
    return item.replace(b",", b",\ndata: ") if item.startswith(b"data: {") else item


def commented(item: bytes) -> bytes:
    return b": ping\n\nid: 7\nevent: message\nretry: 10\n" + item


@pytest.mark.parametrize("change", [bytes, crlf, multiline, commented])
@pytest.mark.parametrize("size", [1, 7, 10**6])
async def test_fault_17_cuts_and_line_ends_change_no_figure(tmp_path: Path, change: Any, size: int) -> None:
    data = b"".join(change(item) for item in EVENTS)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    async with running(tmp_path, streaming(*pieces)) as (_, proxy):
        assert unchunked(await talk(proxy.port, post(ASKED))) == data
        assert await counted(proxy) == COUNTED
        assert await proxy.metric(ESTIMATED) == 0
        assert await proxy.metric(MALFORMED) == 0
        assert await proxy.metric("gen_ai_server_time_to_first_token_seconds_count") == 1


async def test_fault_18_a_10_mb_event_is_forwarded_unread_and_the_next_is_read(tmp_path: Path) -> None:
    huge = event(chunk_of("m-1", {"content": "x" * 10_000_000}))
    pieces = [*EVENTS[:2], *(huge[start : start + 65536] for start in range(0, len(huge), 65536)), *EVENTS[2:]]
    async with running(tmp_path, streaming(*pieces)) as (_, proxy):
        before = rss_mib(proxy.pid)
        for _ in range(3):
            assert unchunked(await talk(proxy.port, post(ASKED))) == b"".join(pieces)
        assert await counted(proxy) == {kind: 3 * count for kind, count in COUNTED.items()}
        assert rss_mib(proxy.pid) - before < 16


@pytest.mark.parametrize(("cap", "read"), [(2000, 0), (4000, 1)])
async def test_fault_18_the_cap_is_a_setting(tmp_path: Path, cap: int, read: int) -> None:
    pieces = [EVENTS[0], b'data: {"broken":' + b"x" * 3000, b"\n\n", *EVENTS[1:]]
    async with running(tmp_path, streaming(*pieces, pause=0.05), limits={"eventBytes": cap}) as (_, proxy):
        assert unchunked(await talk(proxy.port, post(ASKED))) == b"".join(pieces)
        assert await proxy.metric(MALFORMED) == read  # what is not read is not judged
        assert await counted(proxy) == COUNTED


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_fault_19_a_compressed_answer_passes_and_is_labelled(tmp_path: Path, kind: str) -> None:
    answer = {"model": "m-1", "choices": [{"index": 0, "message": {"content": "Hello!"}}], "usage": USAGE}
    body = gzip.compress(b"".join(EVENTS) if kind == "text/event-stream" else json.dumps(answer).encode())

    async def compressed(request: Received, writer: asyncio.StreamWriter) -> None:
        assert request.headers["accept-encoding"] == "identity"  # it was asked not to
        writer.write(whole(200, body, "Content-Encoding: gzip", content_type=kind))

    async with running(tmp_path, compressed) as (_, proxy):
        found = await talk(proxy.port, post(ASKED, "Accept-Encoding: gzip"))
        assert b"Content-Encoding: gzip\r\n" in found
        assert found.endswith(b"\r\n\r\n" + body)
        measured = await counted(proxy) == COUNTED
        assert measured != (await proxy.metric(ESTIMATED) == 1)  # one of the two, never neither


async def test_fault_37_an_error_event_after_content_is_an_error_and_charged(tmp_path: Path) -> None:
    error = event({"error": {"message": "CUDA out of memory", "type": "InternalServerError", "code": 500}})
    async with running(tmp_path, streaming(*EVENTS[:3], error, b"data: [DONE]\n\n")) as (_, proxy):
        assert unchunked(await talk(proxy.port, post(ASKED))) == b"".join([*EVENTS[:3], error, b"data: [DONE]\n\n"])
        assert await proxy.metric(REQUESTS, http_status_code="200", error_type="InternalServerError") == 1
        assert await proxy.metric(REQUESTS, error_type="") == 0
        assert (await counted(proxy))["output"] == 2


async def test_fault_37_an_error_in_a_whole_answer_under_200_too(tmp_path: Path) -> None:
    async def failing(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(200, b'{"error":{"message":"no","type":"overloaded_error","code":529}}'))

    async with running(tmp_path, failing) as (_, proxy):
        await talk(proxy.port, post(ASKED))
        assert await proxy.metric(REQUESTS, http_status_code="200", error_type="overloaded_error") == 1
