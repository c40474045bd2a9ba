"""What calls cost in the interpreter alone: the proxy's own objects in one process, between transports that do nothing.

`PYTHONPATH=OPERATOR python -m benchmarks.datapath.calls [--off] [--paced] [--calls N] [--repeat N]` prints the least CPU time per call (of a
paced stream: per chunk) of several repetitions. Without sockets and a kernel's scheduling it is far steadier than a measurement over
the network, and says so much less: use it to compare two versions, and `make bench-datapath` to judge. `--bare` runs once and prints
nothing, for `valgrind --tool=callgrind`, which counts instructions and so says the same each time.
"""

import argparse
import asyncio
import datetime as dt
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from llmwarden.contracts import ledger as wire
from llmwarden.contracts.sidecar import Limits, Listen, Route, Thresholds
from llmwarden.proxy.calls.route import Shared
from llmwarden.proxy.calls.service import MeteredService
from llmwarden.proxy.dialects import found
from llmwarden.proxy.http.client import Answer, Client
from llmwarden.proxy.http.endpoint import Endpoint
from llmwarden.proxy.http.server import ClientConnection
from llmwarden.proxy.http.upstream import Pool, UpstreamConnection
from llmwarden.proxy.main import fixed_sinks
from llmwarden.proxy.money.accounts import Accounts
from llmwarden.proxy.money.gate import Gate
from llmwarden.proxy.money.journal import Journal
from llmwarden.proxy.money.ledger_view import LedgerView
from llmwarden.proxy.settings import Identity, parse_origin
from llmwarden.proxy.telemetry.metrics import Metrics
from llmwarden.proxy.telemetry.spans import Exporter

_CHUNKS: Final = 64
_FLUSH: Final = 64  # calls after which the spans go
_CONNECTIONS: Final = 64
_RESETS: Final = dt.datetime(2999, 1, 1, tzinfo=dt.UTC)
_COMMON: Final = (
    "Date: Sat, 21 Nov 2026 10:00:00 GMT\r\nopenai-organization: llmwarden\r\nopenai-processing-ms: 412\r\n"
    "openai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\nx-ratelimit-limit-tokens: 2000000\r\n"
    "x-ratelimit-remaining-requests: 9999\r\nx-ratelimit-remaining-tokens: 1999712\r\nx-ratelimit-reset-requests: 6ms\r\n"
    "x-ratelimit-reset-tokens: 8ms\r\nx-request-id: req_7d3b0a5f8f2c4b0e9d1c6a5b4e3f2a10\r\n"
    "strict-transport-security: max-age=31536000; includeSubDomains; preload\r\nX-Content-Type-Options: nosniff\r\nServer: mock\r\n"
)
_USAGE: Final = (
    '{"prompt_tokens":19,"completion_tokens":64,"total_tokens":83,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)


def request(model: str, *, stream: bool) -> bytes:
    """What OpenAI's SDK sends, as go/drive does."""
    more = ',"stream":true' if stream else ""
    body = (
        '{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"'
        + "word " * 12
        + f'"}}],"model":"{model}","max_completion_tokens":256,"temperature":0.7{more}}}'
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:40000\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
        "Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 2.54.0\r\nX-Stainless-Lang: python\r\n"
        "X-Stainless-Package-Version: 2.54.0\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"
        "X-Stainless-Runtime-Version: 3.11.7\r\nAuthorization: Bearer sk-bench-not-a-key\r\nX-Stainless-Async: false\r\n"
        f"x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


def whole(model: str) -> list[bytes]:
    """A short answer, as one piece."""
    body = (
        f'{{"id":"chatcmpl-CeBnchAAAAAAAAAAAAAAAAAAAAAAA","object":"chat.completion","created":1763719200,"model":"{model}",'
        '"choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today?","refusal":null,"annotations":[]},'
        f'"logprobs":null,"finish_reason":"stop"}}],"usage":{_USAGE},"service_tier":"default","system_fingerprint":"fp_560af6e559"}}'
    )
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{_COMMON}\r\n"
    return [(head + body).encode()]


def streamed(model: str) -> list[bytes]:
    """A stream, one chunk per piece, with the usage that we asked for."""

    def event(choices: str, usage: str = "null") -> str:
        data = (
            f'data: {{"id":"chatcmpl-CeBnchAAAAAAAAAAAAAAAAAAAAAAA","object":"chat.completion.chunk","created":1763719200,"model":"{model}",'
            f'"service_tier":"default","system_fingerprint":"fp_560af6e559","choices":[{choices}],"usage":{usage}}}\n\n'
        )
        return f"{len(data):x}\r\n{data}\r\n"

    def choice(delta: str, finish: str = "null") -> str:
        return f'{{"index":0,"delta":{{{delta}}},"logprobs":null,"finish_reason":{finish}}}'

    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n{_COMMON}\r\n"
    pieces = [head + event(choice('"role":"assistant","content":"","refusal":null'))]
    pieces += [event(choice('"content":" token"'))] * _CHUNKS
    done = "data: [DONE]\n\n"
    pieces.append(event(choice("", '"stop"')) + event("", _USAGE) + f"{len(done):x}\r\n{done}\r\n0\r\n\r\n")
    return [piece.encode() for piece in pieces]


class _Wire:
    """A transport that counts what is written."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        message = "the proxy closed a connection: this call went wrong"
        raise RuntimeError(message)

    abort = close

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""


class _Collector:
    """In place of `client.Client`: takes spans at once."""

    def __init__(self) -> None:
        self.spans = 0

    async def request(self, method: str, path: str, *, body: bytes = b"", **more: object) -> Answer:
        del method, path, more
        self.spans += body.count(b'"traceId"')
        return Answer(200, b"{}")


class Bench:
    """One proxy route without sockets."""

    def __init__(self, directory: Path, models: list[str], *, measuring: bool) -> None:
        name = "bot"
        route = Route(
            name,
            "Env",
            "OpenAI",
            Listen("127.0.0.1", 0),
            "http://127.0.0.1:9",
            thresholds_seconds=Thresholds(ttft=(1.0,)),
        )
        identity = Identity("shop", "bench-1", "uid")
        metrics = Metrics([route], 100)
        self.collector = _Collector()
        self.exporter = Exporter(identity, cast("Client", self.collector), metrics.spans_dropped.inc)
        self.journal = Journal(directory, "uid")
        ledger, gate = LedgerView(), Gate()
        accounts = Accounts(ledger, self.journal, metrics.capped)
        self.shared = Shared(
            identity=identity,
            ledger=ledger,
            gate=gate,
            journal=self.journal,
            accounts=accounts,
            metrics=metrics,
            sinks=fixed_sinks(accounts, gate, metrics, self.exporter),
            limits=Limits(),
        )
        ledger.config = wire.Config(
            1,
            "1",
            5.0,
            {name: wire.ServiceConfig("Active" if measuring else "Released", "openai", 100.0, ("b",), "1")},
            {"b": wire.BudgetConfig("USD", 10**18, 0, "Open", "Block", _RESETS, _RESETS)},
        )
        gate.configure(ledger.config)
        ledger.clock.told(time.time())
        for model in models:
            ledger.prices.put(name, model, "1", wire.Price(1, f"test:{model}", wire.Picodollars(15, 15, 15, 15)))
        self.service = MeteredService(route, found(), self.shared)
        self.endpoint = Endpoint(route, self.service, Pool(parse_origin(route.upstream), Limits(), None), Limits())
        self.clients: list[ClientConnection] = []
        self.upstreams: list[UpstreamConnection] = []
        for _ in range(_CONNECTIONS):
            client, upstream = ClientConnection(self.endpoint), UpstreamConnection(self.endpoint.pool)
            client.connection_made(cast("asyncio.Transport", _Wire()))
            upstream.connection_made(cast("asyncio.Transport", _Wire()))
            self.clients.append(client)
            self.upstreams.append(upstream)

    async def run(self, calls: int, asked: bytes, pieces: list[bytes]) -> float:
        """CPU seconds of the process for so many calls."""
        pool, clients, upstreams = self.endpoint.pool, self.clients, self.upstreams
        begun = time.process_time()
        for number in range(calls):
            at = number % _CONNECTIONS
            upstream = upstreams[at]
            pool.put(upstream)
            clients[at].data_received(asked)
            for piece in pieces:
                upstream.data_received(piece)
            pool.take(0.0)
            if number % _FLUSH == 0:
                await asyncio.sleep(0)
                await self.exporter.flush()
        await self.exporter.flush()
        return time.process_time() - begun


async def _main(options: argparse.Namespace, directory: Path, say: Callable[[str], Any]) -> None:
    random.seed(1)
    model = "bench-stream-64-0" if options.paced else "bench-short"
    bench = Bench(directory, [model], measuring=not options.off)
    asked = request(model, stream=options.paced)
    pieces = streamed(model) if options.paced else whole(model)
    calls = options.calls // (_CHUNKS // 4) if options.paced else options.calls
    if options.bare:
        await bench.run(calls, asked, pieces)
        return
    await bench.run(200, asked, pieces)
    parts = calls * len(pieces)
    times = [await bench.run(calls, asked, pieces) / parts * 1e6 for _ in range(options.repeat)]
    say(f"{min(times):.2f} us ({sorted(times)[len(times) // 2]:.2f} median), spans {bench.collector.spans}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--off", action="store_true", help="a service that is released: not measured")
    parser.add_argument("--paced", action="store_true", help="streams")
    parser.add_argument("--bare", action="store_true", help="once, silently")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=15)
    with tempfile.TemporaryDirectory() as place:
        uvloop.run(_main(parser.parse_args(), Path(place), sys.stdout.write))
