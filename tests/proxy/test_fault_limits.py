"""Limits of the proxy's own: what is too much is turned away in the dialect's shape, counted, and leaves the rest alone."""

import asyncio
import contextlib
from pathlib import Path

from tests.proxy.fakes import CHAT, Received, post, provider, running, talk

LIMITED = "llmwarden_proxy_limited_total"


async def test_more_requests_at_once_than_allowed_are_503_and_the_next_is_served(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def waiting(request: Received, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await provider(request, writer)

    async with running(tmp_path, waiting, limits={"concurrency": 4}) as (server, proxy):
        calls = [asyncio.create_task(talk(proxy.port, post(CHAT))) for _ in range(4)]
        async with asyncio.timeout(10):
            while len(server.requests) < 4:
                await asyncio.sleep(0.01)
        for _ in range(3):
            answer = await talk(proxy.port, post(CHAT))
            assert answer.startswith(b"HTTP/1.1 503 "), answer
            assert b"Retry-After: 1\r\n" in answer
            assert b'"code":"overloaded"' in answer
            assert b'"message":"LLM Warden: ' in answer
        assert len(server.requests) == 4
        go.set()
        answers = await asyncio.gather(*calls)
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
        for _ in range(6):  # what has ended counts no more
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 ")
        assert await proxy.metric(LIMITED, reason="concurrency") == 3
        assert await proxy.metric("llmwarden_requests_in_flight") == 0


async def test_clients_that_leave_and_answers_that_fail_give_their_place_back(tmp_path: Path) -> None:
    async def hang(request: Received, writer: asyncio.StreamWriter) -> None:
        if b"leave" in request.body:
            await request.reader.read()
        else:
            writer.transport.abort()

    async with running(tmp_path, hang, limits={"concurrency": 2}) as (server, proxy):
        for number in range(6):
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(post(CHAT.replace(b"hi", b"leave")))
            async with asyncio.timeout(10):
                while len(server.requests) <= number:
                    await asyncio.sleep(0.01)
            writer.transport.abort()
            await proxy.until("llmwarden_requests_total", number + 1, error_type="client_disconnected")
        for _ in range(6):
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 502 ")
        assert await proxy.metric(LIMITED) == 0


async def test_more_connections_than_allowed_are_503_and_closed(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"connections": 5}) as (_, proxy):
        idle = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(5)]
        await asyncio.sleep(0.1)
        answer = await talk(proxy.port, post(CHAT))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"too many connections" in answer
        assert b"Retry-After: 1\r\n" in answer
        for _, writer in idle:
            writer.transport.abort()
        await asyncio.sleep(0.1)
        assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 ")
        assert await proxy.metric(LIMITED, reason="connections") == 1


async def test_a_flood_of_connections_is_cut_off_and_passes(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"connections": 10}) as (_, proxy):
        flood = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(200)]
        await proxy.until(LIMITED, 190, reason="connections")
        for _, writer in flood:
            writer.transport.abort()
        await asyncio.sleep(0.1)
        assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 ")


async def test_large_bodies_together_are_bounded(tmp_path: Path) -> None:
    size = 3_000_000
    body = b'{"model":"m-1","messages":[{"role":"user","content":"%s"}]}' % (b"x" * size)
    whole = post(body)
    async with running(tmp_path, limits={"heldBytes": 10_000_000}) as (server, proxy):
        clients = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(5)]
        for _, writer in clients:
            writer.write(whole[:-100])  # all but the end: none can be forwarded
        async with asyncio.timeout(10):
            done, waiting = await asyncio.wait(
                [asyncio.create_task(reader.read(4096)) for reader, _ in clients], return_when=asyncio.FIRST_COMPLETED
            )
        assert len(done) >= 1
        assert all(task.result().startswith(b"HTTP/1.1 503 ") for task in done)
        await proxy.until(LIMITED, 2, reason="held_bytes")
        assert await proxy.metric(LIMITED, reason="held_bytes") == 2
        for _, writer in clients:
            with contextlib.suppress(OSError):
                writer.write(whole[-100:])
        answers = [task.result() for task in (await asyncio.wait(waiting))[0]] + [task.result() for task in done]
        assert sorted(answer.split(b" ", 2)[1] for answer in answers) == [b"200"] * 3 + [b"503"] * 2
        for _, writer in clients:
            writer.close()
        assert len(server.requests) == 3
        for _ in range(5):  # what was held is given back
            assert (await talk(proxy.port, whole)).startswith(b"HTTP/1.1 200 ")
