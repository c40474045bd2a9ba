"""What a client can do that no SDK does: the proxy answers, and goes on serving the others."""

import asyncio
import os
import resource
from pathlib import Path

import pytest

from tests.proxy.fakes import CHAT, Proxy, Received, accounted, post, provider, running, talk, whole

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


def cpu_seconds(pid: int) -> float:
    """Return the processor time of one process, which other work on the machine does not lengthen."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(proxy: Proxy) -> int:
    """Bytes of memory that the proxy has."""
    pages = int(Path(f"/proc/{proxy.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def test_a_pipelined_call_whose_body_comes_later_is_answered(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow_first(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.method == "GET":
            await go.wait()
            writer.write(whole(200, b"first"))
        else:
            await provider(request, writer)

    async with running(tmp_path, slow_first) as (_, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        call = post(CHAT)
        writer.write(GET % 0 + call[:-5])
        await asyncio.sleep(0.1)
        writer.write(call[-5:])
        go.set()
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert b"first" in answer
        assert b"Hello!" in answer
        writer.close()


async def test_many_pipelined_calls_that_are_refused_at_once_are_all_answered(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.block(0)

        async def slow_first(_: Received, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.2)
            writer.write(whole(200, b"first"))

        async with running(tmp_path, slow_first, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            answer = await talk(proxy.port, GET % 0 + post(CHAT, close=False) * 500 + post(CHAT))
            assert answer.count(b"HTTP/1.1 429 ") == 501
            assert len(server.requests) == 1
            assert await proxy.metric("llmwarden_requests_in_flight") == 0


async def test_a_client_that_asks_on_and_reads_nothing_costs_no_memory(tmp_path: Path) -> None:
    async def large(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(200, b"x" * 32 * 1024))

    async with running(tmp_path, large) as (server, proxy):
        await talk(proxy.port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        before = resident(proxy)
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for _ in range(40):
            writer.write(b"".join(GET % number for number in range(100)))
            await asyncio.sleep(0.1)
        served = len(server.requests)
        assert resident(proxy) - before < 16 * 1024 * 1024, served
        assert b"ok" in (await proxy.admin_get("/livez")).encode()
        writer.transport.abort()


async def test_a_get_with_a_body_is_not_sent_again_without_it(tmp_path: Path) -> None:
    async def once(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.target == "/1":
            writer.transport.abort()
        else:
            writer.write(whole(200, b"yes"))

    async with running(tmp_path, once) as (server, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(GET % 0)
        await reader.readuntil(b"yes")
        writer.write(b"GET /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith(b"HTTP/1.1 502 ")
        assert len(server.requests) == 2
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX:" + b" " * 60_000 + b"\x01\r\n\r\n",
        b"POST " + b"/model/" * 9000 + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ],
    ids=["header", "path"],
)
async def test_no_head_takes_long_to_read(tmp_path: Path, head: bytes) -> None:
    async with running(tmp_path) as (_, proxy):
        before = cpu_seconds(proxy.pid)
        async with asyncio.timeout(100):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(head)
            assert (await reader.read()).startswith(b"HTTP/1.1 ")
            writer.close()
        assert cpu_seconds(proxy.pid) - before < 1


async def test_a_number_that_no_float_holds_is_the_upstreams_to_refuse(tmp_path: Path) -> None:
    async with running(tmp_path) as (server, proxy):
        body = CHAT[:-1] + b',"temperature":1' + b"0" * 400 + b"}"
        assert (await talk(proxy.port, post(body))).startswith(b"HTTP/1.1 200 ")
        assert server.requests[0].body == body
        assert await proxy.metric("llmwarden_requests_in_flight") == 0


async def test_large_heads_are_not_kept_with_their_connections(tmp_path: Path) -> None:
    async def fine(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(200, b"fine"))

    async with running(tmp_path, fine) as (_, proxy):
        filler = b"".join(b"X-%d: %b\r\n" % (number, b"y" * 600) for number in range(100))
        before = resident(proxy)
        open_ = []
        for _ in range(200):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n" + filler + b"\r\nx")
            await reader.readuntil(b"fine")
            open_.append(writer)
        assert resident(proxy) - before < 16 * 1024 * 1024
        for writer in open_:
            writer.close()


async def test_a_whole_answer_that_the_client_leaves_halfway_is_charged(tmp_path: Path) -> None:
    async def half(request: Received, writer: asyncio.StreamWriter) -> None:
        body = b'{"model":"m-1","choices":[{"message":{"content":"' + b"many words " * 200
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n" + body)
        await writer.drain()
        await request.reader.read()

    async with accounted(tmp_path) as ledger, running(tmp_path, half, ledger=ledger) as (_, proxy):
        await ledger.until_followed()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(post(CHAT))
        await reader.readuntil(b"many words ")
        writer.transport.abort()
        row = await ledger.total(1)
        assert row.estimated == 1
        assert row.tokens.input > 0
        assert row.tokens.output > 100


async def test_what_comes_before_an_upgrade_is_answered_is_not_lost(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def echoing(request: Received, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while data := await request.reader.read(100):
            writer.write(data)

    async with running(tmp_path, echoing) as (server, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"GET /r HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nwith it,")
        async with asyncio.timeout(10):
            while not server.requests:
                await asyncio.sleep(0.01)
            writer.write(b" before it,")
            await asyncio.sleep(0.1)
            go.set()
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b" after it")
            assert await reader.readexactly(28) == b"with it, before it, after it"
        writer.close()
