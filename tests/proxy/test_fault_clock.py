"""Fault 11: the pod's clock jumps an hour either way. Latencies are monotonic; buckets and windows go by the ledger's clock."""

import asyncio
import datetime as dt
from pathlib import Path

import pytest

from llmwarden import names
from llmwarden.contracts import ledger as wire
from tests.proxy.fakes import (
    BUDGET,
    CHAT,
    RESETS,
    STREAM,
    STREAM_HEAD,
    Received,
    accounted,
    chunk,
    post,
    running,
    stream_events,
    talk,
)


class Clock:
    """Shifts what the process takes for the time of day while it runs; the monotonic clock goes on, as on a real machine.

    There is no wall clock of a process's own in Linux (time namespaces have the monotonic ones only), so Python's is replaced
    before the proxy's first line.
    """

    SITE = """
import datetime, os, time
_real, _real_ns, _path = time.time, time.time_ns, os.environ["TEST_CLOCK_OFFSET"]
def _offset():
    with open(_path) as file:
        return int(file.read())
time.time = lambda: _real() + _offset()
time.time_ns = lambda: _real_ns() + _offset() * 10**9
"""

    def __init__(self, directory: Path) -> None:
        self._offset = directory / "offset"
        site = directory / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(self.SITE)
        self.environ = {"TEST_CLOCK_OFFSET": str(self._offset), "TEST_SITE": str(site)}
        self.jump(0)

    def jump(self, seconds: int) -> None:
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self._offset)


@pytest.mark.parametrize("jump", [3600, -3600])
async def test_fault_11_a_clock_that_jumps_changes_no_latency_and_no_window(tmp_path: Path, jump: int) -> None:
    clock = Clock(tmp_path)

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for index, item in enumerate(stream_events("m-1", ["a", "b"], with_usage=True)):
            writer.write(chunk(item))
            await writer.drain()
            if index == 1:
                clock.jump(jump)  # between the first token and the second
            await asyncio.sleep(0.1)
        writer.write(b"0\r\n\r\n")

    async with accounted(tmp_path) as ledger:
        ledger.budget(wire.BudgetConfig("tokens", 100, 0, "Open", "Block", RESETS, RESETS))
        async with running(tmp_path, slow, ledger=ledger, environ=clock.environ) as (_, proxy):
            await ledger.until_followed()
            await talk(proxy.port, post(STREAM))
            for metric in (
                "gen_ai_client_operation_duration_seconds",
                "gen_ai_server_time_to_first_token_seconds",
                "gen_ai_server_time_per_output_token_seconds",
            ):
                assert await proxy.metric(metric + "_count") == 1
                assert 0 < await proxy.metric(metric + "_sum") < 3
            row = await ledger.total(1)
            now = dt.datetime.now(dt.UTC).timestamp()
            assert abs(row.bucket - now) < 2 * names.BUCKET_SECONDS  # the ledger's, not the pod's an hour off
            assert (await talk(proxy.port, post(STREAM))).startswith(b"HTTP/1.1 200 ")
            assert (await ledger.total(2)).tokens.output == 6


async def test_fault_11_a_window_does_not_end_because_a_pods_clock_says_so(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    async with accounted(tmp_path) as ledger:
        soon = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=30)
        ledger.budget(wire.BudgetConfig("tokens", 10, 0, "Open", "Block", soon, soon))
        async with running(tmp_path, ledger=ledger, environ=clock.environ) as (_, proxy):
            await ledger.until_followed()
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 ")  # 12 tokens: the budget is used up
            await ledger.total(1)
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 429 ")
            clock.jump(3600)
            await asyncio.sleep(1.5)
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 429 ")
            # Not even where the ledger cannot say that the window goes on.
            await ledger.stop()
            await asyncio.sleep(1.5)
            answer = await talk(proxy.port, post(CHAT))
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert BUDGET.encode() in answer
