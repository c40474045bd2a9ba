"""A sink of one's own gets the record of every finished call of a running proxy once, whatever became of the call."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.proxy.fakes import (
    BUDGET,
    CHAT,
    PICO,
    STREAM,
    STREAM_HEAD,
    Proxy,
    Received,
    accounted,
    chunk,
    post,
    provider,
    running,
    stream_events,
    talk,
    whole,
)

PROCESS = Path(__file__).with_name("sink_process.py")
FAILURES = "llmwarden_proxy_sink_errors_total"


async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
    """As the simulated provider, but for two paths: one fails, one never comes to an end."""
    if request.target.endswith("?fail"):
        writer.write(whole(503, b'{"error":{"message":"overloaded"}}'))
    elif request.target.endswith("?endless"):
        writer.write(STREAM_HEAD)
        for item in stream_events("m-1", ["Hel", "lo"], with_usage=False)[:3]:
            writer.write(chunk(item))
        await writer.drain()
        await request.reader.read()
    else:
        await provider(request, writer)


async def disconnect(proxy: Proxy) -> None:
    """Leave in the middle of a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(post(STREAM, path="/v1/chat/completions?endless"))
    await reader.readuntil(b'"lo"')
    writer.transport.abort()


def read(path: Path) -> list[str]:
    """The whole lines of the file so far."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


async def records(path: Path, count: int) -> list[dict[str, Any]]:
    """The lines of the file, once there are so many."""
    async with asyncio.timeout(10):
        while len(lines := read(path)) < count:
            await asyncio.sleep(0.02)
    return [json.loads(line) for line in lines]


def told(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("status", "error", "stream", "pieces", "tokens", "estimated", "refused"))


async def test_a_sink_of_ones_own_sees_every_finished_call_once(tmp_path: Path) -> None:
    file = tmp_path / "records"
    command = ("-P", str(PROCESS), str(file))
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", 1)
        async with running(tmp_path, answer, ledger=ledger, command=command) as (server, proxy):
            await ledger.until_followed()
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 ")
            assert (await talk(proxy.port, post(STREAM))).endswith(b"0\r\n\r\n")
            failed = post(CHAT, path="/v1/chat/completions?fail")
            assert (await talk(proxy.port, failed)).startswith(b"HTTP/1.1 503 ")
            await records(file, 3)
            await disconnect(proxy)
            await records(file, 4)
            await talk(proxy.port, b"GET /v1/models HTTP/1.1\r\nHost: bot\r\nConnection: close\r\n\r\n")  # no call
            await ledger.total(4)
            await server.stop()
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 502 ")
            ledger.block(0)
            await ledger.until_followed()
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 429 ")
            written = await records(file, 6)
            assert [told(record) for record in written] == [
                (200, "", False, 0, [9, 3], False, False),
                (200, "", True, 3, [9, 3], False, False),
                (503, "503", False, 0, [0, 0], False, False),
                (200, "client_disconnected", True, 2, [5, 2], True, False),
                (502, "upstream_connect", False, 0, [0, 0], False, False),
                (429, "insufficient_quota", False, 0, [0, 0], False, True),
            ]
            assert {record["model"] for record in written} == {"m-1"}
            assert [record["budget"] for record in written] == ["", "", "", "", "", BUDGET]
            assert len({record["trace"] for record in written}) == 6
            # The broken sink before it has disturbed nothing: not the answers above, not the proxy's own sinks.
            assert await proxy.metric(FAILURES) == await proxy.metric(FAILURES, sink="Broken") == 6
            assert sum("the sink Broken failed on a finished call" in line for line in proxy.log) == 1
            assert any("RuntimeError: no place for the call of bot" in line for line in proxy.log)
            row = await ledger.total(5)
            assert (row.requests, row.errors, row.tokens.input, row.tokens.output) == (5, 2, 23, 8)
            assert await proxy.metric("llmwarden_requests_total") == 6
            assert await proxy.metric("llmwarden_cost_usd_total") <= 31 / PICO
            assert await proxy.metric("llmwarden_requests_in_flight") == 0


async def test_without_sinks_of_ones_own_nothing_fails_and_no_series_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, proxy):
        assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 ")
        text = await proxy.admin_get("/metrics")
        assert f"# TYPE {FAILURES} counter" in text
        assert f"{FAILURES}{{" not in text
