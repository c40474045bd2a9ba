"""A long run of one proxy under mixed load: nothing leaks, and what it counted is what the backend served.

`SOAK_SECONDS` (default 120) says how long; `make soak` runs it. Streams, plain answers, errors and clients that leave come mixed.
"""

import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from llmwarden import names

SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))
CLIENTS = 24
CHUNKS = 12
USAGE = {"prompt_tokens": 40, "completion_tokens": CHUNKS, "total_tokens": 40 + CHUNKS}
GROWTH_MIB = 24  # a leak of one record a call would be several times this
Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Backend:
    """An OpenAI-like server that counts what it served in full."""

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()

    async def handle(self, reader: Reader, writer: Writer) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length:")[1].split("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                if body["model"] == "broken":
                    await self._answer(writer, 500, {"error": {"message": "no", "type": "server_error"}})
                elif body.get("stream"):
                    await self._stream(writer)
                else:
                    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
                    await self._answer(writer, 200, {"id": "a", "model": "m", "choices": [choice], "usage": USAGE})
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: Writer, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        self.served["plain" if status < 400 else "error"] += 1

    async def _stream(self, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(CHUNKS + 1):
            last = number == CHUNKS
            choices = [] if last else [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]
            event = {"id": "a", "model": "m", "choices": choices, **({"usage": USAGE} if last else {})}
            self._chunk(writer, f"data: {json.dumps(event)}\n\n")
            await writer.drain()
            await asyncio.sleep(0.002)
        self._chunk(writer, "data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.served["stream"] += 1

    @staticmethod
    def _chunk(writer: Writer, text: str) -> None:
        writer.write(f"{len(text):x}\r\n{text}\r\n".encode())


@asynccontextmanager
async def proxy(upstream: int, folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, int]]:
    """Yield the process, its port and its admin port."""
    port, admin = free_port(), free_port()
    route = {"service": "soak", "mode": "Env", "backend": "OpenAI", "listen": {"host": "127.0.0.1", "port": port}}
    static = {
        "contract": names.CONTRACT,
        "adminPort": admin,
        "journalDir": str(folder),
        "routes": [{**route, "upstream": f"http://127.0.0.1:{upstream}", "thresholdsSeconds": {}}],
    }
    identity = {"POD_NAMESPACE": "shop", "POD_NAME": "pod", "POD_UID": "uid", "NODE_NAME": "node"}
    environment = {
        **os.environ,
        names.PROXY_ENV: json.dumps(static),
        **{f"LLMWARDEN_{key}": value for key, value in identity.items()},
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "llmwarden", "proxy", env=environment)
    try:
        for _ in range(200):
            try:
                await get(admin, "/readyz")
                break
            except OSError:
                await asyncio.sleep(0.05)
        yield process, port, admin
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)


async def get(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return answer.partition("\r\n\r\n")[2]


async def client(port: int, deadline: float, dice: random.Random, done: Counter[str]) -> None:
    """Call until `deadline` (the loop's clock): half streams, some errors, some that leave in the middle."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while loop.time() < deadline:
        kind = dice.choices(["stream", "plain", "error", "leave"], [50, 35, 5, 10])[0]
        document = {
            "model": "broken" if kind == "error" else "m",
            "messages": [{"role": "user", "content": "x" * dice.randrange(1, 5000)}],
            **({"stream": True, "stream_options": {"include_usage": True}} if kind in {"stream", "leave"} else {}),
        }
        body = json.dumps(document).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if kind == "leave":
            await reader.read(10)
            writer.transport.abort()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        elif kind == "stream":
            await reader.readuntil(b"data: [DONE]\n\n")
            await reader.readuntil(b"0\r\n\r\n")
        else:
            await reader.readexactly(int(answer.decode().lower().split("content-length:")[1].split("\r\n")[0]))
        done[kind] += 1
    writer.close()


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def counted(admin: int) -> Counter[str]:
    totals: Counter[str] = Counter()
    for family in text_string_to_metric_families(await get(admin, "/metrics")):
        for sample in family.samples:
            if sample.name == names.METRIC_TOKENS:
                totals[sample.labels[names.LABEL_M_TOKEN_TYPE]] += int(sample.value)
            elif sample.name in {names.METRIC_REQUESTS, names.METRIC_IN_FLIGHT}:
                totals[sample.name] += int(sample.value)
    return totals


async def settled(admin: int, calls: int) -> Counter[str]:
    """Return the proxy's counts once the last calls that were left are settled, or after half a minute."""
    for _ in range(60):
        totals = await counted(admin)
        if totals[names.METRIC_REQUESTS] >= calls and not totals[names.METRIC_IN_FLIGHT]:
            break
        await asyncio.sleep(0.5)
    return totals


async def test_hours_leave_no_trace(tmp_path: Path) -> None:
    backend = Backend()
    server = await asyncio.start_server(backend.handle, "127.0.0.1", 0)
    upstream = server.sockets[0].getsockname()[1]
    done: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    dice = random.Random(7)  # noqa: S311 - the same mix each time
    async with proxy(upstream, tmp_path) as (process, port, admin):
        idle = descriptors(process.pid)

        async def load(seconds: float) -> None:
            deadline = loop.time() + seconds
            await asyncio.gather(
                *(client(port, deadline, random.Random(dice.random()), done) for _ in range(CLIENTS))  # noqa: S311
            )

        await load(SECONDS / 4)  # caches and pools fill
        early = rss_mib(process.pid)
        await load(SECONDS * 3 / 4)
        late = rss_mib(process.pid)
        calls = sum(done.values())
        totals = await settled(admin, calls)
        sys.stdout.write(
            f"\n{calls} calls in {SECONDS:.0f} s: {dict(done)}; RSS {early:.1f} -> {late:.1f} MiB; {dict(totals)}\n"
        )
        assert totals[names.METRIC_REQUESTS] == calls
        assert totals[names.METRIC_IN_FLIGHT] == 0
        # Calls that were left count for what came until then: between none of their tokens and all.
        whole = done["stream"] + done["plain"]
        assert USAGE["prompt_tokens"] * whole <= totals["input"]
        assert CHUNKS * whole <= totals["output"] <= CHUNKS * (whole + done["leave"])
        assert late - early < GROWTH_MIB
        # The pool may keep connections to the backend; clients' are gone.
        assert descriptors(process.pid) <= idle + CLIENTS
    assert process.returncode == 0
    server.close()
