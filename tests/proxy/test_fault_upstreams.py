"""Faults 20 to 24: upstreams that refuse, reset, hang, limit, or close a kept connection. Every attempt upstream is a client's."""

import asyncio
import json
import socket
from collections import Counter
from pathlib import Path

import openai
import pytest

from tests.proxy.fakes import (
    CHAT,
    STREAM,
    STREAM_HEAD,
    Received,
    chunk,
    chunk_of,
    event,
    post,
    provider,
    running,
    talk,
    whole,
)
from tests.proxy.load import calls

REQUESTS = "llmwarden_requests_total"


async def test_fault_20_a_reset_in_the_head_is_502_in_the_dialects_shape(tmp_path: Path) -> None:
    async def half(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        await writer.drain()
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
        writer.transport.abort()

    async with running(tmp_path, half) as (server, proxy):
        answer = await talk(proxy.port, post(CHAT))
        assert answer.startswith(b"HTTP/1.1 502 ")
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert error["type"] == "upstream_error"
        assert error["message"].startswith("LLM Warden: the upstream ")
        assert len(server.requests) == 1
        assert await proxy.metric(REQUESTS, http_status_code="502") == 1


async def test_fault_20_an_answer_that_is_not_http_is_502(tmp_path: Path) -> None:
    async def babble(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    async with running(tmp_path, babble) as (_, proxy):
        answer = await talk(proxy.port, post(CHAT))
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert await proxy.metric(REQUESTS, error_type="upstream_protocol") == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000 + b"\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["two lengths", "length and chunked", "signed length", "folded", "endless head"],
)
async def test_fault_25_an_answer_that_two_parsers_read_differently_is_502(tmp_path: Path, answer: bytes) -> None:
    async def strange(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with running(tmp_path, strange) as (_, proxy):
        assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 502 ")
        assert await proxy.metric(REQUESTS, error_type="upstream_protocol") == 1


async def test_fault_20_what_comes_after_an_answer_reaches_nobody(tmp_path: Path) -> None:
    """A second answer behind the first, or one that nobody asked for, must not become the next client's."""

    async def two(request: Received, writer: asyncio.StreamWriter) -> None:
        await provider(request, writer)
        writer.write(whole(200, b'{"stolen":true}'))

    async with running(tmp_path, two) as (_, proxy):
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(post(CHAT))
            assert b"stolen" not in await reader.read()
            writer.close()


async def test_fault_21_an_upstream_that_hangs_in_a_stream_ends_at_the_deadline(tmp_path: Path) -> None:
    async def silent(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event(chunk_of("m-1", {"content": "a"}))))
        await writer.drain()
        await request.reader.read()

    async with running(tmp_path, silent, limits={"responseSeconds": 0.5}) as (server, proxy):
        answer = await talk(proxy.port, post(STREAM))
        assert not answer.endswith(b"0\r\n\r\n")  # the client sees that it is not whole
        assert await proxy.metric(REQUESTS, http_status_code="200", error_type="timeout") == 1
        assert await proxy.metric("llmwarden_requests_in_flight") == 0
        async with asyncio.timeout(5):
            while server._writers:  # the upstream was told
                await asyncio.sleep(0.02)


async def test_fault_21_a_network_that_swallows_connections_is_504(tmp_path: Path) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:  # the queue is full from here on: the kernel leaves further callers without an answer
            caller.setblocking(False)  # noqa: FBT003 - the standard library's signature
            caller.connect_ex(full.getsockname())
        upstream = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with running(tmp_path, route={"upstream": upstream}, limits={"connectSeconds": 0.5}) as (_, proxy):
            answer = await talk(proxy.port, post(CHAT))
            assert answer.startswith(b"HTTP/1.1 504 ")
            assert b'"code":"upstream_connect_timeout"' in answer
        for caller in callers:
            caller.close()


async def test_fault_22_a_providers_limits_reach_the_clients_own_retry(tmp_path: Path) -> None:
    """The SDK waits as the provider says, and tries again itself; we never do."""
    body = b'{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}'

    async def once(request: Received, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            writer.write(whole(429, body, "Retry-After: 1", "x-ratelimit-remaining-requests: 0"))
        else:
            await provider(request, writer)

    async with running(tmp_path, once) as (server, proxy):
        async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="k", max_retries=1) as api:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            answer = await api.chat.completions.create(model="m-1", messages=[{"role": "user", "content": "hi"}])
            assert answer.choices[0].message.content == "Hello!"
            assert loop.time() - begun >= 0.99
        assert len(server.requests) == 2
        assert await proxy.metric(REQUESTS, http_status_code="429") == 1


async def test_fault_23_a_retry_storm_makes_no_attempt_of_ours(tmp_path: Path) -> None:
    """Ten times the usual load, all failing: each attempt upstream is one of a client's, the rest is turned away."""

    async def failing(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        if len(server.requests) % 3:
            writer.write(whole(503, b'{"error":{"message":"overloaded"}}'))
        else:
            writer.transport.abort()

    async with running(tmp_path, failing, limits={"concurrency": 20}) as (server, proxy):
        statuses, _ = await calls(proxy.port, 2000, clients=200)
        assert sum(statuses.values()) == 2000
        turned_away = await proxy.metric("llmwarden_proxy_limited_total", reason="concurrency")
        assert turned_away > 0
        assert len(server.requests) == 2000 - turned_away
        assert await proxy.metric(REQUESTS) == len(server.requests)
        assert await proxy.metric("llmwarden_requests_in_flight") == 0


async def test_fault_24_a_kept_connection_that_dies_under_a_request(tmp_path: Path) -> None:
    """The upstream closes just as the next request arrives: a GET is sent once more, a POST may have been executed and is not."""
    answered: Counter[asyncio.StreamWriter] = Counter()

    async def once(request: Received, writer: asyncio.StreamWriter) -> None:
        answered[writer] += 1
        if answered[writer] > 1:
            writer.transport.abort()
            return
        await provider(request, writer)

    async with running(tmp_path, once) as (server, proxy):
        get = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert (await talk(proxy.port, get)).startswith(b"HTTP/1.1 200 ")
        assert (await talk(proxy.port, get)).startswith(b"HTTP/1.1 200 ")  # on a new connection
        assert len(server.requests) == 3
        assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 502 ")
        assert len(server.requests) == 4
        assert server.connections == 2
