"""Thousands of proxies in one process: each holds a TLS connection, and reports growing totals at the interval it is told.

Each holds a lease of its service's budget and asks for more when half of it is used, as proxies do (proxy/money/lease.py).
`python -m benchmarks.ledger.clients PORT FIRST PROXIES SERVICES INTERVAL WARM_SECONDS SECONDS CA`: a line once all are connected, and one
JSON object at the end. INTERVAL 0 is what the ledger tells; another is taken instead of it.
"""

import asyncio
import gc
import json
import random
import ssl
import sys
import time
from typing import cast

import msgspec
import uvloop

from llmwarden.contracts import ledger as wire
from llmwarden.names import BUCKET_SECONDS

ROWS = 3  # of each report: as many models
EACH = 10**9  # picodollars that a report's calls cost, about
STOCK = 8 * EACH  # so every fourth report asks for more
LOOK_SECONDS = 0.02
MODELS = ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small")


class Proxy(asyncio.Protocol):
    """One proxy: at most one report under way."""

    def __init__(self, number: int, services: int) -> None:
        self.uid = f"uid-{number}"
        self.pod = wire.PodRef("shop", f"pod-{number}", self.uid)
        self.service = f"bot-{number % services}"
        self.sequence = 0
        self.requests = 0
        self.budget = f"LLMService/shop/{self.service}/daily"
        self.balance = 0
        self.transport: asyncio.Transport | None = None
        self.answered: asyncio.Future[bytes] | None = None
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Collect one answer."""
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or self.answered is None or self.answered.done():
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self.buffer = b""
            self.answered.set_result(body if head.startswith(b"HTTP/1.1 200") else head)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.transport = None
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(exc or ConnectionResetError())

    def request(self) -> bytes:
        """The next report: a call more on each of its models."""
        self.sequence += 1
        self.requests += 1
        bucket = int(time.time()) // BUCKET_SECONDS * BUCKET_SECONDS
        rows = tuple(
            wire.Row(
                service=self.service,
                provider="openai",
                model=model,
                price_id=None,
                bucket=bucket,
                requests=self.requests,
                errors=0,
                tokens=wire.Tokens(
                    input=1000 * self.requests, cached_input=100 * self.requests, output=70 * self.requests
                ),
            )
            for model in MODELS[:ROWS]
        )
        self.balance = max(0, self.balance - EACH)
        wanted = STOCK if self.balance < STOCK // 2 else 0
        report = wire.Report(
            contract=1,
            journal=self.uid,
            sequence=self.sequence,
            pod=self.pod,
            rows=rows,
            leases=(wire.LeaseUse(self.budget, self.balance, wanted),),
        )
        body = msgspec.json.encode(report)
        token = f"shop/{self.pod.name}/{self.uid}"
        head = (
            "POST /v1/report HTTP/1.1\r\nHost: llmwarden-ledger.llmwarden-system.svc:8443\r\n"
            f"Authorization: Bearer {token}\r\nAccept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Load:
    """All proxies, and what was seen of them."""

    def __init__(self, port: int, services: int, interval: float, context: ssl.SSLContext) -> None:
        self.port, self.services, self.interval, self.context = port, services, interval, context
        self.measuring = False
        self.seconds: list[float] = []
        self.late: list[float] = []
        self.failures = 0
        self.intervals: list[float] = []
        self.connected = 0

    async def proxy(self, number: int, spread: float) -> None:
        """Run one proxy for ever."""
        made = Proxy(number, self.services)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(spread * random.random())  # noqa: S311 - a spread
        while True:
            if made.transport is None:
                try:
                    await loop.create_connection(
                        lambda: made, "127.0.0.1", self.port, ssl=self.context, server_hostname="llmwarden-ledger.llmwarden-system.svc"
                    )  # fmt: skip
                except OSError:
                    self.failures += 1
                    await asyncio.sleep(1)
                    continue
                self.connected += 1
            made.answered = loop.create_future()
            request = made.request()
            begun = time.perf_counter()
            interval = self.interval
            try:
                if made.transport is None:
                    continue
                made.transport.write(request)
                answer = await made.answered
                told = msgspec.json.decode(answer, type=wire.ReportAnswer)
            except (OSError, msgspec.DecodeError):
                self.failures += 1
            else:
                if self.measuring:
                    self.seconds.append(time.perf_counter() - begun)
                made.balance += sum(grant.granted for grant in told.leases)
                interval = interval or told.report_interval_seconds or 0.0
                self.intervals.append(interval)
            await asyncio.sleep(interval * random.uniform(0.9, 1.1))  # noqa: S311 - as proxies jitter

    async def watch(self) -> None:
        """How late a timer of our own is: what a measured report may have waited for us, not for the ledger."""
        while True:
            due = time.perf_counter() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            if self.measuring:
                self.late.append(time.perf_counter() - due)


async def run(load: Load, first: int, proxies: int, warm: float, seconds: float) -> None:
    """Load, and print what was seen."""
    tasks = [asyncio.create_task(load.proxy(first + number, warm * 0.7)) for number in range(proxies)]
    tasks.append(asyncio.create_task(load.watch()))
    await asyncio.sleep(warm)
    print(json.dumps({"connected": load.connected, "failures": load.failures}), flush=True)
    load.measuring, load.failures = True, 0
    load.intervals.clear()
    await asyncio.sleep(seconds)
    load.measuring = False
    for task in tasks:
        task.cancel()
    taken = sorted(load.seconds) or [0.0]
    late = sorted(load.late) or [0.0]

    def at(share: float) -> float:
        return round(1000 * taken[min(len(taken) - 1, int(share * len(taken)))], 2)

    found = {
        "reports": len(taken),
        "per_second": round(len(taken) / seconds, 1),
        "p50_ms": at(0.5),
        "p95_ms": at(0.95),
        "p99_ms": at(0.99),
        "max_ms": at(1.0),
        "failures": load.failures,
        "interval_seconds": round(sum(load.intervals) / max(1, len(load.intervals)), 1),
        "own_late_p99_ms": round(1000 * late[int(0.99 * (len(late) - 1))], 2),
        "own_cpu_cores": round(time.process_time() / (warm + seconds), 2),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    port, begin, count, services, interval, warming, measured, ca = sys.argv[1:]
    gc.freeze()
    gc.disable()  # its pauses would be measured as the ledger's; what a minute leaves behind is little
    made = Load(int(port), int(services), float(interval), ssl.create_default_context(cafile=ca))
    uvloop.run(run(made, int(begin), int(count), float(warming), float(measured)))
