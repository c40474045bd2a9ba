"""Faults 12, 13, 25 and 26: clients that leave, read slowly, send what no client sends, or hardly anything at all."""

import asyncio
import contextlib
import socket
import time
from pathlib import Path
from typing import Any

from tests.proxy.fakes import (
    CHAT,
    STREAM,
    STREAM_HEAD,
    Proxy,
    Received,
    accounted,
    chunk,
    chunk_of,
    event,
    post,
    provider,
    running,
    talk,
)
from tests.proxy.load import calls, percentile
from tests.proxy.test_fault_streams import rss_mib
from tests.proxy.test_forwarding import echo

REQUESTS = "llmwarden_requests_total"


async def test_fault_12_a_client_that_leaves_before_the_answer_cancels_the_upstream(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def thinking(request: Received, _: asyncio.StreamWriter) -> None:
        assert await request.reader.read() == b""
        gone.set()

    async with accounted(tmp_path) as ledger, running(tmp_path, thinking, ledger=ledger) as (server, proxy):
        _reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(post(CHAT))
        async with asyncio.timeout(10):
            while not server.requests:
                await asyncio.sleep(0.01)
            writer.transport.abort()
            await gone.wait()
        await proxy.until(REQUESTS, 1, http_status_code="499", error_type="client_disconnected")
        row = await ledger.total(1)
        assert (row.errors, row.tokens.output) == (0, 0)  # nothing was produced


async def test_fault_12_a_thousand_clients_that_leave_leave_nothing_behind(tmp_path: Path) -> None:
    async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        while not writer.is_closing():
            writer.write(chunk(event(chunk_of("m-1", {"content": "x"}))))
            await writer.drain()
            await asyncio.sleep(0.005)

    async with running(tmp_path, endless) as (_, proxy):
        before = descriptors(proxy.pid)

        async def leave() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(post(STREAM))
            await reader.readuntil(b'"x"')
            writer.transport.abort()

        for _ in range(20):
            await asyncio.gather(*(leave() for _ in range(50)))
        await proxy.until(REQUESTS, 1000, error_type="client_disconnected")
        assert await proxy.metric("llmwarden_requests_in_flight") == 0
        async with asyncio.timeout(5):
            while descriptors(proxy.pid) > before + 2:
                await asyncio.sleep(0.05)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_fault_13_slow_clients_bound_memory_and_hold_up_nobody(tmp_path: Path) -> None:
    sent = 0

    async def flood(request: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        if not request.json().get("stream"):
            await provider(request, writer)
            return
        writer.write(STREAM_HEAD)
        piece = chunk(event(chunk_of("m-1", {"content": "x" * 100_000})))
        for _ in range(200):  # 20 MB to each
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with running(tmp_path, flood) as (_, proxy):
        _, alone = await calls(proxy.port, 50)
        before = rss_mib(proxy.pid)
        slow = [await stalled(proxy.port) for _ in range(20)]
        await asyncio.sleep(1)
        _, seconds = await calls(proxy.port, 200)
        assert percentile(seconds, 0.9) < 0.1 + 5 * percentile(alone, 0.9)
        grown = rss_mib(proxy.pid) - before
        # What the kernel buffers on four sockets a client is not the proxy's memory; 400 MB wait upstream.
        assert sent < 350_000_000
        assert grown < 24, grown
        for sock in slow:
            sock.close()
        await proxy.until(REQUESTS, 20, error_type="client_disconnected")
        assert await proxy.metric("llmwarden_requests_in_flight") == 0


async def stalled(port: int) -> socket.socket:
    """A client that asks for a stream and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, post(STREAM))
    return sock


async def test_fault_13_a_client_that_never_reads_again_is_closed(tmp_path: Path) -> None:
    async def flood(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        while True:
            writer.write(chunk(event(chunk_of("m-1", {"content": "x" * 100_000}))))
            await writer.drain()

    async with running(tmp_path, flood, limits={"responseSeconds": 1.0}) as (_, proxy):
        sock = await stalled(proxy.port)
        await proxy.until(REQUESTS, 1)
        assert await proxy.metric("llmwarden_requests_in_flight") == 0
        sock.close()


HEADS = [
    (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", b"400"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1,1\r\n\r\nx", b"400"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\nx", b"400"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx", b"400"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx", b"400"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", b"400"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", b"400"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", b"400"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", b"400"),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\nHost: a\rX: b\n\n", b"400"),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
    (b"GET / HTTP/2.7\r\nHost: a\r\n\r\n", b"400"),
    (b"G\xc3\x89T / HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
    (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"431"),
]


async def test_fault_25_what_two_parsers_could_read_differently_is_refused(tmp_path: Path) -> None:
    """Behind each of them a second request waits: whatever is made of the first, that one must not reach the upstream unseen."""
    async with running(tmp_path, echo) as (server, proxy):
        for request, status in HEADS:
            answer = await talk(proxy.port, request + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 " + status), (request[:100], answer)
            assert answer.count(b"HTTP/1.1 ") == 1
        assert not server.requests


CHUNKS = [
    (b"5\r\nhello\r\n0\r\n\r\n", True),  # as it should be, to show that the rest fails for its own reason
    (b"5;x=y\r\nhello\r\n0\r\n\r\n", True),
    (b"+5\r\nhello\r\n0\r\n\r\n", False),
    (b"0x5\r\nhello\r\n0\r\n\r\n", False),
    (b"5 \r\nhello\r\n0\r\n\r\n", False),
    (b"5\nhello\n0\n\n", False),
    (b"5\r\nhelloXX0\r\n\r\n", False),
    (b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n", False),
    (b"-1\r\nhello\r\n0\r\n\r\n", False),
]


async def test_fault_25_a_chunked_body_is_as_it_should_be_or_ends_the_connection(tmp_path: Path) -> None:
    head = b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with running(tmp_path, echo) as (server, proxy):
        for body, good in CHUNKS:
            server.requests.clear()
            with contextlib.suppress(ConnectionResetError):
                await talk(proxy.port, head + body + b"GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            for item in server.requests:  # what did arrive is what was meant
                assert (item.target, item.body) in {("/x", b"hello"), ("/second", b"")}, body
            assert ("/second" in {item.target for item in server.requests}) == good, body


async def trickle(proxy: Proxy, start: bytes, piece: bytes, pause: float) -> float:
    """Send a little again and again until the proxy closes; returns after how many seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    begun = time.monotonic()
    writer.write(start)
    ended = asyncio.create_task(reader.read())
    async with asyncio.timeout(30):  # without a deadline a trickle has no end
        while not ended.done():
            writer.write(piece)
            await asyncio.sleep(pause)
    with contextlib.suppress(OSError):
        await ended
    writer.close()
    return time.monotonic() - begun


async def test_fault_26_a_head_that_trickles_is_closed_at_its_deadline(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"headSeconds": 1.0}
    async with running(tmp_path, echo, limits=limits) as (server, proxy):
        crowd = [trickle(proxy, b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n", 0.1) for _ in range(50)]
        _, alone = await calls(proxy.port, 50)
        slow = asyncio.gather(*crowd)
        _, seconds = await calls(proxy.port, 100)  # nobody else waits for them
        assert percentile(seconds, 0.9) < 0.25 + 5 * percentile(alone, 0.9)
        assert all(took > 0.9 for took in await slow)
        assert {item.method for item in server.requests} == {"POST"}


async def test_fault_26_a_second_head_on_a_kept_connection_too(tmp_path: Path) -> None:
    async with running(tmp_path, echo, limits={"headSeconds": 0.5}) as (_, proxy):
        took = await trickle(proxy, post(CHAT, close=False) + b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n", 0.1)
        assert took < 4
