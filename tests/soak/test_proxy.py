"""A long run of one proxy at half of what it can: memory is flat, nothing leaks, and what it counted is what was served.

`SOAK_SECONDS` (default 600) says how long; `make soak` runs it. 200 clients at once: streams, plain answers, errors and clients that
leave, with the ledger, the journal and a collector at work.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from llmwarden import names
from tests.proxy.fakes import ROOT, Proxy, Received, Server, accounted, whole
from tests.proxy.load import calls
from tests.soak.traffic import CHUNKS, USAGE

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
STREAMS = 200
SHARE = 0.5  # of one core: half of saturation
CALIBRATION_SECONDS = 8.0
WARMING = 20  # calls, after which every connection of the proxy's own is there
IDLE_MIB, BUSY_MIB = 48, 64
GROWTH_MIB = 2.0  # over the whole run, by the line through all samples: a leak of one record a call is many times this
# What the interpreter looks at itself for: how many tasks the proxy's loop has.
TASKS = """
import asyncio, os, signal
def _tell(*_):
    path = os.environ["TEST_TASKS"]
    with open(path + ".new", "w") as file:
        file.write(str(len(asyncio.all_tasks(asyncio.get_running_loop()))))
    os.replace(path + ".new", path)
signal.signal(signal.SIGUSR2, _tell)
"""


async def traffic(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.soak.traffic", *map(str, arguments)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"},
        stdout=asyncio.subprocess.PIPE,
    )


async def told(process: asyncio.subprocess.Process) -> Counter[str]:
    """What a process prints last."""
    assert process.stdout is not None
    lines = (await process.stdout.read()).splitlines()
    assert await process.wait() == 0
    return Counter(json.loads(lines[-1]))


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    process = await traffic("upstream")
    try:
        assert process.stdout is not None
        yield int(await process.stdout.readline()), process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Process:
    """The proxy's process as the kernel sees it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.samples: list[tuple[float, float]] = []  # seconds, MiB

    def rss_mib(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def watch(self) -> None:
        begun = time.monotonic()
        while True:
            self.samples.append((time.monotonic() - begun, self.rss_mib()))
            await asyncio.sleep(1)

    def slope(self) -> float:
        """MiB per second, by least squares."""
        count = len(self.samples)
        mean_x, mean_y = (sum(axis) / count for axis in zip(*self.samples, strict=True))
        over = sum((x - mean_x) * (y - mean_y) for x, y in self.samples)
        return float(over / sum((x - mean_x) ** 2 for x, _ in self.samples))


async def tasks(proxy: Proxy, file: Path) -> int:
    """How many tasks the proxy's loop has."""
    proxy.send(signal.SIGUSR2)
    async with asyncio.timeout(10):
        while not (text := taken(file)):
            await asyncio.sleep(0.05)
    return int(text)


def taken(file: Path) -> str:
    try:
        text = file.read_text()
    except FileNotFoundError:
        return ""
    file.unlink()
    return text


async def collect(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(whole(200, b"{}"))


def site(directory: Path) -> dict[str, str]:
    folder = directory / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(TASKS)
    return {"TEST_SITE": str(folder), "TEST_TASKS": str(directory / "tasks")}


async def test_memory_is_flat_and_nothing_leaks(tmp_path: Path) -> None:
    collector = Server(collect)
    await collector.start()
    async with accounted(tmp_path) as ledger, upstream() as (port, served_by):
        ledger.interval = 1.0
        proxy = Proxy(
            tmp_path,
            f"http://127.0.0.1:{port}",
            ledger=ledger,
            otlp=f"http://127.0.0.1:{collector.port}",
            environ=site(tmp_path),
        )
        await proxy.start()
        try:
            await ledger.until_followed()
            await soak(proxy, tmp_path / "tasks", ledger, served_by)
        finally:
            await proxy.stop()
            await collector.stop()


async def soak(proxy: Proxy, tasks_file: Path, ledger: Any, served_by: asyncio.subprocess.Process) -> None:
    process = Process(proxy.pid)
    await asyncio.sleep(2)
    idle = process.rss_mib()
    assert idle <= IDLE_MIB
    await calls(proxy.port, WARMING)
    await asyncio.sleep(8)  # the connections to ledger and collector are there; those to the upstream are gone again
    descriptors, tasks_before = process.descriptors(), await tasks(proxy, tasks_file)
    done = Counter({"plain": WARMING})
    # As fast as it goes, to learn what a stream costs the proxy; then at a pace that leaves half of a core.
    used = process.cpu_seconds()
    done += await told(await traffic("clients", proxy.port, STREAMS, CALIBRATION_SECONDS, 0))
    cost = (process.cpu_seconds() - used) / done["stream"]
    interval = STREAMS * cost / SHARE / CHUNKS
    done += await told(await traffic("clients", proxy.port, STREAMS, SECONDS / 6, interval))  # pools and caches fill
    before, begun = process.cpu_seconds(), time.monotonic()
    watch = asyncio.create_task(process.watch())
    done += await told(await traffic("clients", proxy.port, STREAMS, SECONDS, interval))
    share = (process.cpu_seconds() - before) / (time.monotonic() - begun)
    watch.cancel()
    total = sum(done.values())
    async with asyncio.timeout(30):
        while await proxy.metric(names.METRIC_REQUESTS) < total or await proxy.metric(names.METRIC_IN_FLIGHT):
            await asyncio.sleep(0.5)
    peak = max(mib for _, mib in process.samples)
    growth = process.slope() * SECONDS
    sys.stdout.write(
        f"\n{total} calls, {dict(done)}; {share:.0%} of a core; RSS idle {idle:.1f}, peak {peak:.1f} MiB, "
        f"growth {growth:+.2f} MiB in {SECONDS:.0f} s\n"
    )
    assert set(done) == {"stream", "plain", "error", "leave"}
    assert peak <= BUSY_MIB
    assert growth < GROWTH_MIB
    await check_counts(proxy, done, ledger, served_by)
    left = (0, 0)
    for _ in range(40):  # idle connections to the upstream close by themselves
        left = (process.descriptors() - descriptors, await tasks(proxy, tasks_file) - tasks_before)
        if left == (0, 0):
            break
        await asyncio.sleep(0.5)
    assert left == (0, 0), "descriptors and tasks more than before"
    proxy.send(signal.SIGTERM)
    assert await proxy.wait() == 0


async def check_counts(proxy: Proxy, done: Counter[str], ledger: Any, served_by: asyncio.subprocess.Process) -> None:
    """What the proxy and the ledger counted is what the upstream served; who left in the middle is between none and all."""
    total, whole_answers = sum(done.values()), done["stream"] + done["plain"]
    assert await proxy.metric(names.METRIC_REQUESTS) == total
    row = await ledger.total(total)
    assert row.requests == total
    for count, each in ((row.tokens.input, USAGE["prompt_tokens"]), (row.tokens.output, CHUNKS)):
        assert each * whole_answers <= count
    assert row.tokens.output <= CHUNKS * (whole_answers + done["leave"])
    assert await proxy.metric(names.METRIC_TOKENS, gen_ai_token_type="output") == row.tokens.output
    served_by.send_signal(signal.SIGTERM)
    served = await told(served_by)
    assert served["plain"] == done["plain"]
    assert served["error"] == done["error"]
    assert done["stream"] <= served["stream"] <= done["stream"] + done["leave"]
