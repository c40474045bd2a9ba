"""Faults 6, 7, 27 and 28 of the proxy's own process: killed, told to stop, on a full disk, told something else meanwhile."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.proxy.fakes import (
    CHAT,
    STREAM,
    STREAM_HEAD,
    Ledger,
    Proxy,
    Received,
    Server,
    accounted,
    chunk,
    chunk_of,
    event,
    post,
    provider,
    running,
    talk,
)
from tests.proxy.load import calls

REQUESTS = "llmwarden_requests_total"
JOURNAL_ERRORS = "llmwarden_proxy_journal_errors_total"


# 6: SIGKILL.


async def test_fault_06_killed_at_any_moment_every_call_is_charged_once(tmp_path: Path) -> None:
    """Calls go on while the process is killed again and again; in the end the ledger has what the provider has served."""
    async with accounted(tmp_path) as ledger, running(tmp_path, ledger=ledger) as (server, proxy):
        await ledger.until_followed()
        answered = 0
        for round_ in range(4):
            load = [asyncio.create_task(until_refused(proxy.port)) for _ in range(4)]
            await asyncio.sleep(0.15 + 0.1 * round_)
            proxy.send(signal.SIGKILL)
            await proxy.wait()
            answered += sum(await asyncio.gather(*load))
            await proxy.start()
        served = len(server.requests)
        row = await ledger.total(answered)
        assert answered <= row.requests <= served  # what was not answered may have been settled, or not
        assert row.tokens.input == 9 * (row.requests - row.estimated)
        await asyncio.sleep(0.5)  # nothing is reported twice
        assert ledger.sum() == row


async def until_refused(port: int) -> int:
    """Call until the proxy is gone; returns how many answers came whole."""
    answered = 0
    with contextlib.suppress(OSError, EOFError, IndexError):
        while True:
            answer = await talk(port, post(CHAT))
            head, _, body = answer.partition(b"\r\n\r\n")
            if len(body) != int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]):
                return answered
            answered += 1
    return answered


# 7: SIGTERM.


async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD)
    while not writer.is_closing():
        writer.write(chunk(event(chunk_of("m-1", {"content": "x"}))))
        await writer.drain()
        await asyncio.sleep(0.02)


async def test_fault_07_a_stream_beyond_the_drain_is_cut_and_still_reported(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.interval = 30.0
        async with running(tmp_path, endless, ledger=ledger, limits={"drainSeconds": 3.0}) as (_, proxy):
            await ledger.until_followed()
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            idle = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(post(STREAM))
            await reader.readuntil(b'"x"')
            begun = time.monotonic()
            proxy.send(signal.SIGTERM)
            assert await idle[0].read() == b""  # an idle connection is closed at once
            assert time.monotonic() - begun < 2.9
            with contextlib.suppress(ConnectionResetError):
                assert not (await reader.read()).endswith(b"0\r\n\r\n")
            assert await proxy.wait() == 0
            assert 2.9 < time.monotonic() - begun < 30
            assert ledger.reports[-1].final
            assert ledger.sum().tokens.output >= 20
            writer.close()
            idle[1].close()


async def test_fault_07_without_a_ledger_it_ends_in_time_and_the_journal_keeps_the_account(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger, running(tmp_path, ledger=ledger) as (_, proxy):
        await ledger.until_followed()
        await ledger.stop()
        await calls(proxy.port, 5)
        begun = time.monotonic()
        proxy.send(signal.SIGTERM)
        assert await proxy.wait() == 0
        assert time.monotonic() - begun < 30
        await ledger.start(tmp_path, ledger.port)
        await proxy.start()
        assert (await ledger.total(5)).tokens.input == 45


# 27: the disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB of the test's own, where the journal goes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)
    assert not os.statvfs(disk).f_bavail
    return filler


@contextlib.asynccontextmanager
async def journal_on(directory: Path, disk: Path, ledger: Ledger) -> AsyncIterator[Proxy]:
    server = Server(provider)
    await server.start()
    proxy = Proxy(directory, f"http://127.0.0.1:{server.port}", ledger=ledger, contract={"journalDir": str(disk)})
    proxy.journal = disk
    try:
        await proxy.start()
        yield proxy
    finally:
        await proxy.stop()
        await server.stop()


async def test_fault_27_a_full_disk_costs_no_call_and_no_count(tmp_path: Path, small_disk: Path) -> None:
    async with accounted(tmp_path) as ledger, journal_on(tmp_path, small_disk, ledger) as proxy:
        await ledger.until_followed()
        filler = fill(small_disk)
        statuses, _ = await calls(proxy.port, 200, clients=4)
        assert statuses == {"200": 200}  # as the policy says: served, and counted in memory
        assert (await ledger.total(200)).tokens.input == 1800
        await proxy.until(JOURNAL_ERRORS, 1)
        filler.unlink()  # there is room again
        await calls(proxy.port, 10)
        ledger.interval = 30.0
        ledger.change()
        await ledger.until_followed()
        await calls(proxy.port, 7)
        proxy.send(signal.SIGKILL)
        await proxy.wait()
        ledger.interval = 0.1
        ledger.change()
        await proxy.start()
        assert (await ledger.total(217)).tokens.input == 217 * 9
        lines = [json.loads(line) for line in (small_disk / "journal").read_bytes().splitlines()]
        assert lines[0][0] == "h"


async def test_fault_27_a_disk_that_is_full_at_the_start_lets_the_application_start(
    tmp_path: Path, small_disk: Path
) -> None:
    fill(small_disk)
    async with accounted(tmp_path) as ledger, journal_on(tmp_path, small_disk, ledger) as proxy:
        assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 ")
        assert (await ledger.total(1)).tokens.input == 9
        await proxy.until(JOURNAL_ERRORS, 1)


# 28: the configuration.


async def test_fault_28_a_price_that_changes_mid_stream_is_the_next_calls(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.json().get("stream"):
            await go.wait()
        await provider(request, writer)

    async with accounted(tmp_path) as ledger, running(tmp_path, slow, ledger=ledger) as (server, proxy):
        ledger.price("m-1", 1_000_000)
        await ledger.until_followed()
        await calls(proxy.port, 1)
        await asyncio.sleep(0.3)  # its price is known
        call = asyncio.create_task(talk(proxy.port, post(STREAM)))
        async with asyncio.timeout(10):
            while len(server.requests) < 2:
                await asyncio.sleep(0.02)
        del ledger.services["bot"]  # the service is gone: the next call passes unmetered
        ledger.change()
        await ledger.until_followed()
        assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 ")
        go.set()
        assert (await call).endswith(b"0\r\n\r\n")
        assert (await ledger.total(2)).tokens.output == 6
        assert await proxy.metric("llmwarden_unmeasured_requests_total", reason="released") == 1
