"""What a proxy has around it, on real sockets: a provider (a simulator, and says so), a ledger that speaks the wire contract, a
collector; and the proxy itself as a process."""

import asyncio
import contextlib
import datetime as dt
import json
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from image import compile as compiling
from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.serving import pki

ROOT = Path(__file__).resolve().parents[2]
# The compiled tree of this checkout where it is made, as it is in the image; PROXY_SOURCE=operator runs what is written.
SOURCE = ROOT / os.environ.get("PROXY_SOURCE", compiling.tree() if compiling.tree().exists() else "operator")
RESETS = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
BUDGET = "LLMService/shop/bot/daily"
PICO = 10**12

Handler = Callable[["Received", asyncio.StreamWriter], Awaitable[None]]


class Received(msgspec.Struct):
    """A request as a fake server saw it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    reader: Any = None

    def json(self) -> Any:
        return json.loads(self.body)


async def read_request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {}
    for line in head[1:-2]:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, target, headers, body, reader)


class Server:
    """A raw HTTP/1.1 server: `handler` answers each request by writing bytes."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[Received] = []
        self.connections = 0
        self.peers: list[bytes | None] = []  # the certificates that clients showed, by connection
        self.lost = asyncio.Event()  # a client left in the middle of an answer
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def start(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def drop(self) -> None:
        """Cut all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if (tls := writer.get_extra_info("ssl_object")) is not None:
            self.peers.append(tls.getpeercert(binary_form=True))
        self._writers.add(writer)
        try:
            while not writer.is_closing():
                request = await read_request(reader)
                self.requests.append(request)
                await self.handler(request, writer)
                await writer.drain()
        except EOFError:
            pass
        except OSError:
            self.lost.set()
        finally:
            self._writers.discard(writer)
            writer.close()


def whole(status: int, body: bytes, *headers: str, content_type: str = "application/json") -> bytes:
    head = [f"HTTP/1.1 {status} Fine", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def chunk_of(model: str, delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}] if delta is not None else []
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": choices,
        **more,
    }


def stream_events(model: str, words: list[str], *, with_usage: bool) -> list[bytes]:
    """What OpenAI sends: with include_usage a null usage in every event, and one event more."""
    null: dict[str, Any] = {"usage": None} if with_usage else {}
    events = [event(chunk_of(model, {"role": "assistant", "content": ""}, **null))]
    events += [event(chunk_of(model, {"content": word}, **null)) for word in words]
    events.append(event(chunk_of(model, {}, "stop", **null)))
    if with_usage:
        events.append(event(chunk_of(model, None, usage=USAGE)))
    events.append(b"data: [DONE]\n\n")
    return events


async def provider(request: Received, writer: asyncio.StreamWriter) -> None:
    """A simulated OpenAI: three words, and the usage that is asked for."""
    if not request.target.endswith("/chat/completions"):
        writer.write(whole(200, b'{"object":"list","data":[]}'))
        return
    asked = request.json()
    if asked.get("stream"):
        with_usage = (asked.get("stream_options") or {}).get("include_usage", False)
        writer.write(STREAM_HEAD)
        for item in stream_events(asked["model"], ["Hel", "lo", "!"], with_usage=with_usage):
            writer.write(chunk(item))
        writer.write(b"0\r\n\r\n")
        return
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    writer.write(whole(200, json.dumps(answer).encode()))


class Ledger:
    """Speaks the ledger contract (contracts/ledger.py) over TLS, and keeps what it is told as the contract says: the maximum per key."""

    def __init__(self) -> None:
        self.token = "first-token"
        self.generation = "g1"
        self.interval = 0.1
        self.services: dict[str, wire.ServiceConfig] = {
            "bot": wire.ServiceConfig("Active", "openai", 100.0, (), "p1"),
        }
        self.budgets: dict[str, wire.BudgetConfig] = {}
        self.prices: dict[str, wire.Price] = {}
        self.reports: list[wire.Report] = []
        self.rows: dict[tuple[Any, ...], wire.Row] = {}
        self.followed = asyncio.Event()  # the proxy has taken the present configuration: it asks for the next
        self.changed = asyncio.Event()
        self.reported = asyncio.Event()
        self.refuse = False
        self.on_price: Callable[[str], Awaitable[bytes | None]] | None = (
            None  # another answer for a model than its price
        )
        now = dt.datetime.now(dt.UTC)
        ca = pki.make_ca(now)
        self.ca = ca.certificate
        self._leaf = pki.make_leaf(ca, ["localhost"], now)
        self._server = Server(self._answer)

    async def start(self, directory: Path, port: int = 0) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = directory / "ledger.pem"
        pair.write_text(self._leaf.certificate + self._leaf.key)
        tls.load_cert_chain(pair)
        await self._server.start(tls, port)

    async def stop(self) -> None:
        await self._server.stop()

    @property
    def port(self) -> int:
        return self._server.port

    def block(self, limit: int, **more: Any) -> None:
        """Give the service one Block budget in picodollars."""
        self.budget(wire.BudgetConfig("USD", limit, 0, "Open", "Block", RESETS, RESETS, **more))

    def budget(self, config: wire.BudgetConfig, key: str = BUDGET) -> None:
        self.budgets[key] = config
        self.services["bot"] = msgspec.structs.replace(
            self.services["bot"], budgets=(*self.services["bot"].budgets, key)
        )
        self.change()

    def price(self, model: str, each: int) -> None:
        """Every token of a model costs `each` picodollars."""
        self.prices[model] = wire.Price(names.CONTRACT, f"test:{model}", wire.Picodollars(each, each, each, each))

    def change(self) -> None:
        self.generation += "+"
        self.followed.clear()
        self.changed.set()
        self.changed = asyncio.Event()

    async def until_followed(self) -> None:
        async with asyncio.timeout(10):
            await self.followed.wait()

    async def total(self, requests: int) -> wire.Row:
        """The sum over all rows, once so many requests are reported."""
        async with asyncio.timeout(10):
            while sum(row.requests for row in self.rows.values()) < requests:
                self.reported.clear()
                await self.reported.wait()
        return self.sum()

    def sum(self) -> wire.Row:
        rows = list(self.rows.values())
        tokens = wire.Tokens(
            *(sum(counts) for counts in zip(*(msgspec.structs.astuple(row.tokens) for row in rows), strict=True))
        )
        first = rows[0]
        return msgspec.structs.replace(
            first,
            requests=sum(row.requests for row in rows),
            errors=sum(row.errors for row in rows),
            estimated=sum(row.estimated for row in rows),
            tokens=tokens,
        )

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if self.refuse or request.headers.get("authorization") != f"Bearer {self.token}":
            writer.write(whole(401, b'{"error":{"code":"unauthorized","message":"no"}}'))
            return
        url = urlsplit(request.target)
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        if url.path == "/v1/config":
            if query["generation"] == self.generation:
                self.followed.set()
            if query["generation"] == self.generation:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(float(query["wait"])):
                        await self.changed.wait()
            if query["generation"] == self.generation:
                writer.write(b"HTTP/1.1 304 Not Modified\r\n\r\n")
                return
            asked = query["services"].split(",")
            released = wire.ServiceConfig("Released")
            services = {name: self.services.get(name, released) for name in asked}
            config = wire.Config(
                names.CONTRACT, self.generation, self.interval, services, self.budgets, dt.datetime.now(dt.UTC)
            )
            writer.write(whole(200, msgspec.json.encode(config)))
        elif url.path == "/v1/price":
            writer.write(await self._price(query["model"]))
        elif url.path == "/v1/report":
            report = msgspec.json.decode(request.body, type=wire.Report)
            self.reports.append(report)
            for row in report.rows:
                what = (row.service, row.provider, row.model, row.price_id, row.bucket)
                key = (report.journal, *what, row.context, row.tier, row.labels)
                if key not in self.rows or row.requests >= self.rows[key].requests:
                    self.rows[key] = row
            updates = {
                key: wire.BudgetUpdate(self._spent(budget.unit), "Open", budget.resets_at)
                for key, budget in self.budgets.items()
            }
            answer = wire.ReportAnswer(
                names.CONTRACT, len(report.rows), self.generation, updates, now=dt.datetime.now(dt.UTC)
            )
            writer.write(whole(200, msgspec.json.encode(answer)))
            self.reported.set()
        else:
            writer.write(whole(404, b'{"error":{"code":"not_found","message":"no"}}'))

    async def _price(self, model: str) -> bytes:
        if self.on_price is not None and (other := await self.on_price(model)) is not None:
            return other
        return whole(200, msgspec.json.encode(self.prices.get(model, wire.Price(names.CONTRACT))))

    def _spent(self, unit: str) -> int:
        spent = 0
        for row in self.rows.values():
            if unit == "tokens":
                spent += row.tokens.input + row.tokens.output
                continue
            price = self.prices.get(row.model)
            if price is not None and price.picodollars is not None:
                spent += (row.tokens.input + row.tokens.output) * price.picodollars.input
        return spent


class Proxy:
    """The proxy as a process, with one route."""

    def __init__(self, directory: Path, upstream: str, **overrides: Any) -> None:
        self.directory = directory
        self.journal = directory / "journal-dir"
        self.journal.mkdir(exist_ok=True)
        self.uid = "pod-uid-1"
        self.log: list[str] = []
        self.port = self.admin = 0
        self._upstream = upstream
        self._overrides = overrides
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    def contract(self) -> dict[str, Any]:
        route = {
            "service": "bot",
            "mode": "Env",
            "backend": "OpenAI",
            "listen": {"host": "127.0.0.1", "port": 0},
            "upstream": self._upstream,
            "thresholdsSeconds": {"duration": [9.0], "ttft": [0.3], "tpot": [0.07]},
            **self._overrides.get("route", {}),
        }
        settings = {
            "contract": 1,
            "adminPort": 0,
            "journalDir": str(self.journal),
            "routes": [route],
            "limits": {"drainSeconds": 5.0, **self._overrides.get("limits", {})},
            **self._overrides.get("contract", {}),
        }
        ledger: Ledger | None = self._overrides.get("ledger")
        if ledger is not None:
            token = self.directory / "token"
            token.write_text(ledger.token)
            settings["ledger"] = {"url": f"https://localhost:{ledger.port}", "ca": ledger.ca, "tokenFile": str(token)}
        if "otlp" in self._overrides:
            settings["otlpEndpoint"] = self._overrides["otlp"]
        return settings

    async def start(self) -> None:
        environment = {
            **os.environ,
            **self._overrides.get("environ", {}),
            names.PROXY_ENV: json.dumps(self.contract()),
            "LLMWARDEN_POD_NAMESPACE": "shop",
            "LLMWARDEN_POD_NAME": "bot-1",
            "LLMWARDEN_POD_UID": self.uid,
        }
        site = environment.pop("TEST_SITE", "")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (site, str(SOURCE))))
        command = self._overrides.get("command", ("-m", "llmwarden", "proxy"))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *command, env=environment, stderr=asyncio.subprocess.PIPE
        )
        assert self._process.stderr is not None
        async with asyncio.timeout(20):
            while True:
                line = (await self._process.stderr.readline()).decode()
                assert line, "\n".join(self.log)
                self.log.append(line)
                if found := re.search(r"bot \w+ on (\d+); admin on (\d+)", line):
                    self.port, self.admin = int(found[1]), int(found[2])
                    break
        self._reading = asyncio.get_running_loop().create_task(self._read(self._process.stderr))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self.log.append(line.decode())

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        assert self._process is not None
        async with asyncio.timeout(20):
            status = await self._process.wait()
            if self._reading is not None:
                await self._reading
            return status

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def admin_get(self, path: str) -> str:
        answer = await talk(self.admin, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return answer.decode()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series with these labels; 0 without any."""
        total = 0.0
        for line in (await self.admin_get("/metrics")).splitlines():
            if line.startswith((name + "{", name + " ")) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total

    async def until(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has at least that value."""
        async with asyncio.timeout(10):
            while await self.metric(name, **labels) < value:
                await asyncio.sleep(0.02)


async def talk(port: int, data: bytes, *, host: str = "127.0.0.1") -> bytes:
    """Send bytes, and read until the other side closes."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


def post(body: bytes, *headers: str, path: str = "/v1/chat/completions", close: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: bot", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [*headers, *(["Connection: close"] if close else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


CHAT = b'{"model":"m-1","messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"model":"m-1","stream":true,"messages":[{"role":"user","content":"hi"}]}'


@contextlib.asynccontextmanager
async def running(
    directory: Path, handler: Handler = provider, **overrides: Any
) -> AsyncIterator[tuple[Server, Proxy]]:
    """A provider and a proxy in front of it."""
    server = Server(handler)
    await server.start()
    proxy = Proxy(directory, f"http://127.0.0.1:{server.port}", **overrides)
    try:
        await proxy.start()
        yield server, proxy
    finally:
        await proxy.stop()
        await server.stop()


@contextlib.asynccontextmanager
async def accounted(directory: Path) -> AsyncIterator[Ledger]:
    """A ledger."""
    ledger = Ledger()
    await ledger.start(directory)
    try:
        yield ledger
    finally:
        await ledger.stop()
