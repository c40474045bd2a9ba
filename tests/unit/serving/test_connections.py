"""Heads that are slow, long or too many, on a real socket: the connection is closed, and others are served."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from llmwarden.serving import connections, servers
from tests.unit.kube.test_serving import ask, hello

HEAD_SECONDS = 1.0  # enough for a whole head on a busy machine


@contextlib.asynccontextmanager
async def serving(app: servers.App = hello) -> AsyncIterator[int]:
    stop = asyncio.Event()
    sock = servers.listen("127.0.0.1", 0)
    server = asyncio.create_task(servers.serve(app, sock=sock, stop=stop, grace_seconds=1))
    yield sock.getsockname()[1]
    stop.set()
    await server


async def closed(port: int, write: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> bytes:
    """Write in the background until the server closes; returns what it said before that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def writing() -> None:
        with contextlib.suppress(OSError):
            await write(writer)

    written = asyncio.create_task(writing())
    said = bytearray()
    try:
        async with asyncio.timeout(120):
            # Bit by bit: a reset, which is the answer to what we write after the end, takes back what was not yet read.
            with contextlib.suppress(ConnectionError):
                while some := await reader.read(4096):
                    said += some
        return bytes(said)
    finally:
        written.cancel()
        await asyncio.gather(written, return_exceptions=True)
        writer.close()


async def trickle(writer: asyncio.StreamWriter, first: bytes, more: bytes) -> None:
    """Never silent and never done."""
    writer.write(first)
    while True:
        writer.write(more)
        await writer.drain()
        await asyncio.sleep(0.02)


SLOW = {
    "nothing": (b"", b""),
    "a-header": (b"GET / HTTP/1.1\r\nHost: ", b"x"),
    "headers": (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "a-path": (b"GET /", b"x"),
    "empty-lines": (b"", b"\r\n"),
    "a-body-after-its-answer": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("kind", SLOW)
async def test_a_slow_head_is_given_up(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", HEAD_SECONDS)
    first, more = SLOW[kind]
    async with serving() as port:
        said = await closed(port, lambda writer: trickle(writer, first, more))
        assert (b"hello" in said) == (b"\r\n\r\n" in first)
        assert (await ask(port))[:2] == (200, "hello")


LONG = {
    "a-header": (b"GET / HTTP/1.1\r\nHost: ", b"x" * 1000),
    "headers": (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "a-path": (b"GET /", b"x" * 1000),
    "trailers": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
    "a-trailer": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: ", b"x" * 1000),
    "a-chunk-extension": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 1000),
    "requests-ahead": (b"", b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"),
}


@pytest.mark.parametrize("kind", LONG)
async def test_a_long_head_is_given_up(kind: str) -> None:
    first, more = LONG[kind]
    end = asyncio.Event()

    async def app(scope: servers.Scope, receive: servers.Receive, send: servers.Send) -> None:
        if scope["path"] == "/wait":
            await end.wait()
        await hello(scope, receive, send)

    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(more * 10)
            await writer.drain()

    async with serving(app) as port:
        await closed(port, flood)
        assert (await ask(port))[:2] == (200, "hello")
        end.set()


async def test_a_large_body_in_small_chunks_is_no_long_head() -> None:
    async def reading(scope: servers.Scope, receive: servers.Receive, send: servers.Send) -> None:
        while (await receive())["more_body"]:
            pass
        await hello(scope, receive, send)

    async with serving(reading) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(1000):
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        assert (await reader.read()).endswith(b"hello")
        writer.close()


async def test_a_connection_that_was_answered_is_used_again() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(300):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 1000 + b"\r\n\r\n")
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        writer.close()
