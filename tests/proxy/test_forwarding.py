"""The data path on real sockets: what goes through, what is refused, what happens when a side fails."""

import asyncio
import contextlib
import datetime as dt
import ssl
from pathlib import Path

import pytest

from llmwarden.serving import pki
from tests.ports import free_port
from tests.proxy.fakes import (
    CHAT,
    STREAM,
    STREAM_HEAD,
    Proxy,
    Received,
    Server,
    chunk,
    chunk_of,
    event,
    post,
    running,
    talk,
    whole,
)

HAS_IPV6 = Path("/proc/net/if_inet6").exists() and bool(Path("/proc/net/if_inet6").read_text())


async def echo(request: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(whole(200, b"%s %s %s" % (request.method.encode(), request.target.encode(), request.body)))


async def test_other_paths_pass_through_untouched_and_are_counted(tmp_path: Path) -> None:
    async with running(tmp_path, echo) as (server, proxy):
        answer = await talk(
            proxy.port, b"GET /v1/models?x=%20y HTTP/1.1\r\nHost: me\r\nX-Own: 1\r\nConnection: close\r\n\r\n"
        )
        assert answer.endswith(b"GET /v1/models?x=%20y ")
        seen = server.requests[0].headers
        assert seen["x-own"] == "1"
        assert seen["host"] == f"127.0.0.1:{server.port}"
        assert "connection" not in seen
        assert "traceparent" not in seen
        assert await proxy.metric("llmwarden_unmeasured_requests_total", reason="method") == 1


async def test_port_mode_keeps_the_host_and_listens_on_both_families(tmp_path: Path) -> None:
    async with running(tmp_path, echo, route={"mode": "Port", "listen": {"host": "", "port": 0}}) as (server, proxy):
        request = b"GET /health HTTP/1.1\r\nHost: chat.models\r\nConnection: close\r\n\r\n"
        assert (await talk(proxy.port, request)).endswith(b"GET /health ")
        if HAS_IPV6:
            assert (await talk(proxy.port, request, host="::1")).endswith(b"GET /health ")
        assert {item.headers["host"] for item in server.requests} == {"chat.models"}


async def test_keeps_both_connections_alive(tmp_path: Path) -> None:
    async with running(tmp_path, echo) as (server, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for number in range(5):
            writer.write(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Connection: close" not in head
            assert await reader.readexactly(7) == b"GET /%d " % number
        writer.close()
        assert server.connections == 1


async def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    async def slow_first(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.target == "/0":
            await asyncio.sleep(0.1)
        await echo(request, writer)

    async with running(tmp_path, slow_first) as (_, proxy):
        requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(3))
        answer = await talk(proxy.port, requests + post(CHAT))
        assert answer.count(b"HTTP/1.1 200") == 4
        assert answer.index(b"GET /0") < answer.index(b"GET /1") < answer.index(b"GET /2") < answer.index(b"POST /v1")


@pytest.mark.parametrize("pieces", [1, 7])
async def test_a_chunked_request_passes_however_it_is_cut(tmp_path: Path, pieces: int) -> None:
    async with running(tmp_path, echo) as (server, proxy):
        raw = (
            b"PUT /files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for start in range(0, len(raw), pieces):
            writer.write(raw[start : start + pieces])
            await asyncio.sleep(0)
        assert (await reader.read()).endswith(b"PUT /files abcdefg")
        assert server.requests[0].headers["transfer-encoding"] == "chunked"
        writer.close()


async def test_expect_continue_is_answered_before_the_body_comes(tmp_path: Path) -> None:
    async with running(tmp_path, echo) as (server, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        head, _, body = post(CHAT, "Expect: 100-continue").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert CHAT in await reader.read()
        assert "expect" not in server.requests[0].headers
        writer.close()


async def test_answers_without_a_body(tmp_path: Path) -> None:
    async def bodiless(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.method == "HEAD":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
        elif request.target == "/204":
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 304 Not Modified\r\nETag: e\r\n\r\n")

    async with running(tmp_path, bodiless) as (server, proxy):
        answer = await talk(
            proxy.port,
            b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /204 HTTP/1.1\r\nHost: a\r\n\r\n"
            b"GET /304 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        assert answer == (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
            b"HTTP/1.1 304 Not Modified\r\nETag: e\r\nConnection: close\r\n\r\n"
        )
        assert server.connections == 1


async def test_http_1_0_gets_an_unframed_answer(tmp_path: Path) -> None:
    async def chunked(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"ab") + chunk(b"c") + b"0\r\n\r\n"
        )

    async with running(tmp_path, chunked) as (_, proxy):
        head, _, body = (await talk(proxy.port, b"GET / HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
        assert body == b"abc"
        assert b"Transfer-Encoding" not in head


async def test_an_answer_that_ends_with_its_connection_is_complete(tmp_path: Path) -> None:
    async def unframed(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        await writer.drain()
        writer.close()

    async with running(tmp_path, unframed) as (_, proxy):
        answer = await talk(proxy.port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n" + chunk(b"all of it") + b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", b"400"),
        (b"GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", b"417"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 300 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200000, b"431"),
        (b"\x16\x03\x01 not for an Env route", b"400"),
    ],
)
async def test_fault_25_what_could_be_smuggled_or_is_malformed_is_refused(
    tmp_path: Path, request_bytes: bytes, status: bytes
) -> None:
    async with running(tmp_path, echo) as (server, proxy):
        answer = await talk(proxy.port, request_bytes)
        assert answer.startswith(b"HTTP/1.1 " + status), answer
        assert b'"message":"LLM Warden: ' in answer
        assert not server.requests


async def test_fault_26_slow_heads_and_bodies_are_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path, echo, limits={"headSeconds": 0.3, "bodySeconds": 0.3, "idleSeconds": 0.3}) as (
        server,
        proxy,
    ):
        for start in (
            b"GET / HTTP/1.1\r\nHo",
            post(CHAT)[:-5],
            b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
            b"",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(start)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()
        assert not [item for item in server.requests if item.body]


async def test_fault_20_an_upstream_that_is_not_there_is_502_in_the_dialects_shape(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, f"http://127.0.0.1:{free_port()}")
    await proxy.start()
    try:
        answer = await talk(proxy.port, post(CHAT))
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b'"code":"upstream_connect"' in answer
        assert (
            await proxy.metric("llmwarden_requests_total", http_status_code="502", error_type="upstream_connect") == 1
        )
    finally:
        await proxy.stop()


async def test_fault_20_an_upstream_that_resets_before_its_head_is_502_and_is_not_asked_again(tmp_path: Path) -> None:
    async def reset(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with running(tmp_path, reset) as (server, proxy):
        assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 502 ")
        assert len(server.requests) == 1


async def test_fault_21_an_upstream_that_hangs_is_504(tmp_path: Path) -> None:
    async def hang(request: Received, _: asyncio.StreamWriter) -> None:
        await request.reader.read()

    async with running(tmp_path, hang, limits={"responseSeconds": 0.3}) as (_, proxy):
        answer = await talk(proxy.port, post(CHAT))
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert await proxy.metric("llmwarden_requests_total", http_status_code="504", error_type="timeout") == 1
        assert await proxy.metric("llmwarden_requests_in_flight") == 0


async def test_fault_24_a_dead_pooled_connection_is_replaced(tmp_path: Path) -> None:
    async def once(request: Received, writer: asyncio.StreamWriter) -> None:
        await echo(request, writer)
        await writer.drain()
        writer.close()  # without having said so

    async with running(tmp_path, once) as (server, proxy):
        for _ in range(3):
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.05)
        assert server.connections == 3


async def test_fault_12_a_client_that_leaves_cancels_the_upstream_and_is_charged_for_what_came(tmp_path: Path) -> None:
    async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        while True:
            writer.write(chunk(event(chunk_of("m-1", {"content": "x"}))))
            await writer.drain()
            await asyncio.sleep(0.005)

    async with running(tmp_path, endless) as (server, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(post(STREAM))
        await reader.readuntil(b'"x"')
        writer.close()
        async with asyncio.timeout(5):
            await server.lost.wait()
        await proxy.until("llmwarden_requests_total", 1, error_type="client_disconnected")
        assert await proxy.metric("gen_ai_client_token_usage_tokens_total", gen_ai_token_type="output") >= 1
        assert await proxy.metric("llmwarden_estimated_requests_total") == 1


async def test_fault_13_a_slow_client_pauses_the_upstream(tmp_path: Path) -> None:
    sent = 0

    async def flood(_: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _part in range(100):
            writer.write(b"x" * 1_000_000)
            await writer.drain()
            sent += 1

    async with running(tmp_path, flood) as (_, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.5)
        assert sent < 30  # what kernels buffer
        size = 0
        while size < 100_000_000:
            size += len(await reader.read(1 << 20))
        writer.close()
        assert sent >= 99


async def test_fault_14_a_truncated_stream_is_seen_as_such(tmp_path: Path) -> None:
    async def truncated(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event(chunk_of("m-1", {"content": "a"}))) + b"400\r\ndata: {")
        await writer.drain()
        writer.close()

    async with running(tmp_path, truncated) as (_, proxy):
        answer = await talk(proxy.port, post(STREAM))
        assert answer.endswith(chunk(b"data: {"))  # and no last chunk
        assert await proxy.metric("llmwarden_requests_total", error_type="truncated") == 1
        assert await proxy.metric("gen_ai_client_token_usage_tokens_total", gen_ai_token_type="output") == 1


async def test_a_websocket_is_spliced(tmp_path: Path) -> None:
    async def upgrade(request: Received, writer: asyncio.StreamWriter) -> None:
        assert request.headers["upgrade"] == "websocket"
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        while data := await request.reader.read(100):
            writer.write(data.upper())
            await writer.drain()
        writer.close()

    async with running(tmp_path, upgrade) as (_, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(10) == b"helloEARLY"
        writer.write(b"late")
        assert await reader.readexactly(4) == b"LATE"
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert await proxy.metric("llmwarden_unmeasured_requests_total", reason="upgrade") == 1


async def test_a_refused_upgrade_opens_no_way_around_the_meter(tmp_path: Path) -> None:
    async with running(tmp_path, echo) as (server, proxy):
        answer = await talk(
            proxy.port,
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + post(CHAT),
        )
        assert answer.endswith(b"GET /ws ")
        assert len(server.requests) == 1


async def test_javas_h2c_wish_is_ignored_and_the_call_measured(tmp_path: Path) -> None:
    async with running(tmp_path) as (server, proxy):
        answer = await talk(
            proxy.port,
            post(CHAT, "Upgrade: h2c", "HTTP2-Settings: AAAA", "Connection: Upgrade, HTTP2-Settings", close=False)
            + post(CHAT),
        )
        assert answer.count(b"HTTP/1.1 200") == 2
        assert "upgrade" not in server.requests[0].headers
        assert await proxy.metric("llmwarden_requests_total") == 2


@pytest.mark.parametrize(
    ("first", "reason"), [(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2"), (b"\x16\x03\x01\x00\x05hello", "tls")]
)
async def test_other_protocols_are_spliced_through_a_port(tmp_path: Path, first: bytes, reason: str) -> None:
    received = b""

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        received = await reader.readexactly(len(first))
        writer.write(b"raw answer")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(raw, "127.0.0.1", 0)
    upstream = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    proxy = Proxy(tmp_path, upstream, route={"mode": "Port", "listen": {"host": "", "port": 0}})
    await proxy.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(first[:3])
        await asyncio.sleep(0.05)
        writer.write(first[3:])
        assert await reader.read() == b"raw answer"
        writer.close()
        assert received == first
        assert await proxy.metric("llmwarden_unmeasured_requests_total", reason=reason) == 1
    finally:
        await proxy.stop()
        server.close()


async def test_an_https_upstream_is_verified(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    ca = pki.make_ca(now)
    leaf = pki.make_leaf(ca, ["localhost"], now)
    pair, bundle = tmp_path / "pair.pem", tmp_path / "ca.pem"
    pair.write_text(leaf.certificate + leaf.key)
    bundle.write_text(ca.certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair)
    server = Server(echo)
    await server.start(tls)
    try:
        for environ, upstream, status in (
            ({"SSL_CERT_FILE": str(bundle)}, f"https://localhost:{server.port}/prefix", b"200"),
            ({}, f"https://localhost:{server.port}", b"502"),  # an authority that nobody knows
            ({"SSL_CERT_FILE": str(bundle)}, f"https://127.0.0.1:{server.port}", b"502"),  # a name that is not its own
        ):
            proxy = Proxy(tmp_path, upstream, environ=environ)
            await proxy.start()
            try:
                answer = await talk(proxy.port, post(CHAT))
                assert answer.startswith(b"HTTP/1.1 " + status), answer
                if status == b"502":
                    assert b'"code":"upstream_tls"' in answer
            finally:
                await proxy.stop()
        assert [item.target for item in server.requests] == ["/prefix/v1/chat/completions"]
        assert server.requests[0].headers["host"] == f"localhost:{server.port}"
    finally:
        await server.stop()
