"""Faults 1 and 2: a collector that is down, or hangs, costs spans and nothing else."""

import asyncio
import contextlib
import signal
import statistics
from collections.abc import AsyncIterator
from pathlib import Path

from tests.ports import free_port
from tests.proxy.fakes import Proxy, Received, Server, provider, running
from tests.proxy.load import calls, percentile

QUEUE = 2048  # spans that wait for a collector at most (proxy/telemetry/spans.py)
DROPPED = "llmwarden_proxy_spans_dropped_total"


@contextlib.asynccontextmanager
async def hanging() -> AsyncIterator[Server]:
    """A collector that takes everything and never answers."""

    async def hang(request: Received, _: object) -> None:
        await request.reader.read()

    collector = Server(hang)
    await collector.start()
    try:
        yield collector
    finally:
        await collector.stop()


async def test_fault_01_a_collector_that_is_down_costs_spans_and_they_are_counted(tmp_path: Path) -> None:
    async with running(tmp_path, otlp=f"http://127.0.0.1:{free_port()}") as (server, proxy):
        made = QUEUE + 1000
        statuses, _ = await calls(proxy.port, made, clients=8)
        assert statuses == {"200": made}
        assert len(server.requests) == made
        assert made - QUEUE <= await proxy.metric(DROPPED) <= made
        proxy.send(signal.SIGTERM)
        assert await proxy.wait() == 0


async def test_fault_02_a_collector_that_hangs_does_not_make_the_tail_grow(tmp_path: Path) -> None:
    """Two proxies take turns, one of them with the collector: what else happens on the machine happens to both."""
    async with hanging() as collector, running(tmp_path) as (server, plain):
        directory = tmp_path / "other"
        directory.mkdir()
        proxy = Proxy(directory, f"http://127.0.0.1:{server.port}", otlp=f"http://127.0.0.1:{collector.port}")
        await proxy.start()
        try:
            tails: dict[Proxy, list[float]] = {plain: [], proxy: []}
            for _ in range(9):
                for each, found in tails.items():
                    statuses, seconds = await calls(each.port, 300, clients=2)
                    assert statuses == {"200": 300}
                    found.append(percentile(seconds, 0.99))
            without, with_it = statistics.median(tails[plain]), statistics.median(tails[proxy])
            assert with_it < 1.5 * without + 0.005, (without, with_it)
            await proxy.until(DROPPED, 1)
            proxy.send(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert await proxy.wait() == 0
        finally:
            await proxy.stop()


async def test_fault_02_what_the_collector_takes_again_is_delivered(tmp_path: Path) -> None:
    taken = 0
    well = False

    async def collect(request: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        status = b"200 OK" if well else b"503 Service Unavailable"
        taken += request.body.count(b'"spanId"') if well else 0
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % status)

    collector = Server(collect)
    await collector.start()
    try:
        async with running(tmp_path, provider, otlp=f"http://127.0.0.1:{collector.port}") as (_, proxy):
            await calls(proxy.port, 100)
            await proxy.until(DROPPED, 64)
            lost = await proxy.metric(DROPPED)
            well = True
            await calls(proxy.port, 100)
            async with asyncio.timeout(15):
                while taken < 200 - lost:
                    await asyncio.sleep(0.05)
            assert await proxy.metric(DROPPED) == lost
    finally:
        await collector.stop()
