"""What "everything on" needs around the proxy, as one process: a ledger that speaks the contract, and an OTLP receiver that decodes.

`python -m benchmarks.datapath.surroundings DIRECTORY` prints its addresses as JSON and serves until it is killed. The ledger is the
tests' (tests/proxy/fakes.py): a budget that blocks, prices for the mock's models. A service it does not know is `Released`.
"""

import asyncio
import json
import sys
from pathlib import Path

import msgspec
import uvloop

from benchmarks.datapath.workloads import MODELS
from tests.proxy.fakes import PICO, Ledger, Received, Server, whole


class Value(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """opentelemetry.proto.common.v1.AnyValue, of the kinds that are sent."""

    string_value: str | msgspec.UnsetType = msgspec.UNSET
    int_value: str | msgspec.UnsetType = msgspec.UNSET
    double_value: float | msgspec.UnsetType = msgspec.UNSET
    bool_value: bool | msgspec.UnsetType = msgspec.UNSET
    array_value: dict[str, object] | msgspec.UnsetType = msgspec.UNSET


class Attribute(msgspec.Struct):
    """One attribute."""

    key: str
    value: Value


class Span(msgspec.Struct, rename="camel"):
    """A span; ids in hex, times as decimal strings (OTLP/JSON)."""

    trace_id: str
    span_id: str
    name: str
    start_time_unix_nano: str
    end_time_unix_nano: str
    attributes: list[Attribute]


class ScopeSpans(msgspec.Struct):
    """Spans of one scope."""

    spans: list[Span]


class ResourceSpans(msgspec.Struct, rename="camel"):
    """Spans of one resource."""

    resource: dict[str, object]
    scope_spans: list[ScopeSpans]


class Export(msgspec.Struct, rename="camel"):
    """ExportTraceServiceRequest."""

    resource_spans: list[ResourceSpans]


class Collector:
    """Decodes what it is sent, and counts spans."""

    def __init__(self) -> None:
        self.spans = 0
        self.bad = 0
        self.server = Server(self._answer)
        self._decoder = msgspec.json.Decoder(Export)

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        self.server.requests.clear()
        if request.method == "GET":
            writer.write(whole(200, json.dumps({"spans": self.spans, "bad": self.bad}).encode()))
            return
        try:
            export = self._decoder.decode(request.body)
        except msgspec.DecodeError:
            self.bad += 1
            writer.write(whole(400, b"{}"))
            return
        self.spans += sum(len(scope.spans) for resource in export.resource_spans for scope in resource.scope_spans)
        writer.write(whole(200, b"{}"))


async def _serve(directory: Path) -> None:
    ledger = Ledger()
    ledger.interval = 5.0
    for model in MODELS:
        ledger.price(model, 150_000)
    ledger.block(10**6 * PICO)
    await ledger.start(directory)
    collector = Collector()
    await collector.server.start()
    addresses = {
        "ledger": f"https://localhost:{ledger.port}",
        "ca": ledger.ca,
        "token": ledger.token,
        "collector": collector.server.port,
    }
    sys.stdout.write(json.dumps(addresses) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1])))
