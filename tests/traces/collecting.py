"""The Collector as a process, with a configuration as the operator makes it: only its addresses are moved to free ports of loopback."""

import asyncio
import contextlib
import gzip
import json
import os
from collections.abc import AsyncIterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from llmwarden.api.collector import Collector
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.manifests.collector import configuration
from tests.ports import free_port
from tests.proxy.fakes import Received, Server, whole
from tests.traces import programs

Span = dict[str, Any]


def service(namespace: str, name: str, **tracing: Any) -> LLMService:
    """An LLMService with this tracing."""
    spec = {
        "backend": {"type": "OpenAI"},
        "workload": {"selector": {"matchLabels": {"app": name}}},
        "tracing": tracing,
    }
    metadata = {"name": name, "namespace": namespace, "uid": "u"}
    return parse(
        LLMService, {"apiVersion": "llmwarden.io/v1alpha1", "kind": "LLMService", "metadata": metadata, "spec": spec}
    )


def collector(*exporters: Mapping[str, Any], **more: Any) -> Collector:
    """The platform's settings, with these backends; every trace is kept, soon, unless said otherwise."""
    sampling = {"percent": 100, "decisionSeconds": 1, **more.pop("sampling", {})}
    return Collector.model_validate({"enabled": True, "sampling": sampling, "exporters": list(exporters), **more})


async def validate(written: Mapping[str, Any], directory: Path) -> tuple[int, str]:
    """Return the exit status and output of the Collector's own `validate`."""
    file = directory / "validated.yaml"
    file.write_text(yaml.safe_dump(dict(written), sort_keys=False))
    child = await asyncio.create_subprocess_exec(
        programs.collector(),
        "validate",
        "--config",
        file,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await child.communicate()
    return child.returncode or 0, said.decode()


class Process:
    """A program that is up when `ready` answers."""

    def __init__(self, name: str, directory: Path, *command: object, **environment: str) -> None:
        self._log = directory / f"{name}.log"
        self._command = [str(part) for part in command]
        self._environment = {**os.environ, **environment}
        self._child: asyncio.subprocess.Process | None = None

    async def start(self, *ports: int, seconds: float = 60) -> None:
        """Start it and wait until it listens on all of these."""
        with self._log.open("wb") as log:
            self._child = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, stdout=log, stderr=log
            )
        async with asyncio.timeout(seconds):
            while not all([await listens(port) for port in ports]):
                assert self._child.returncode is None, self.log
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End it."""
        if self._child is not None and self._child.returncode is None:
            self._child.terminate()
            try:
                async with asyncio.timeout(10):
                    await self._child.wait()
            except TimeoutError:
                self._child.kill()
                await self._child.wait()

    @property
    def log(self) -> str:
        """What it said."""
        return self._log.read_text(errors="replace")[-4000:]


async def listens(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


class Running:
    """A running Collector: where it takes spans and shows metrics."""

    def __init__(self, written: Mapping[str, Any]) -> None:
        self.ports = {
            port: free_port()
            for port in (
                configuration.GRPC_PORT,
                configuration.HTTP_PORT,
                configuration.BROWSER_PORT,
                configuration.METRICS_PORT,
                configuration.SPAN_METRICS_PORT,
            )
        }
        self.written = self._moved(deepcopy(dict(written)))

    def _moved(self, value: Any) -> Any:
        if isinstance(value, dict):
            moved = {key: self._moved(item) for key, item in value.items()}
            if "host" in moved and moved.get("port") in self.ports:  # of the Collector's own metrics
                moved |= {"host": "127.0.0.1", "port": self.ports[moved["port"]]}
            return moved
        if isinstance(value, list):
            return [self._moved(item) for item in value]
        if isinstance(value, str) and value.startswith(":") and value[1:].isdigit():
            return f"127.0.0.1:{self.ports[int(value[1:])]}"
        return value

    def opened(self) -> list[int]:
        """What it listens on as it is configured."""
        browsers = "otlp/browser" in self.written["receivers"]
        return [port for number, port in self.ports.items() if browsers or number != configuration.BROWSER_PORT]

    @property
    def http(self) -> str:
        """Where proxies and applications send."""
        return f"http://127.0.0.1:{self.ports[configuration.HTTP_PORT]}"

    @property
    def browser(self) -> str:
        """Where browsers send."""
        return f"http://127.0.0.1:{self.ports[configuration.BROWSER_PORT]}"

    @property
    def span_metrics(self) -> str:
        """What Prometheus scrapes of spans."""
        return f"http://127.0.0.1:{self.ports[configuration.SPAN_METRICS_PORT]}/metrics"


@contextlib.asynccontextmanager
async def running(
    settings: Collector, directory: Path, *services: LLMService, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """A Collector as the operator configures it for these services."""
    written = configuration.configuration(settings, services)
    written["connectors"]["spanmetrics"]["metrics_flush_interval"] = "500ms"
    if sink := written["exporters"].get("otlphttp/sink"):
        sink["encoding"] = "json"  # what the sink below reads
    if "batch" in written["processors"]:
        written["processors"]["batch"] = {"timeout": "50ms"}
    run = Running(written)
    file = directory / "collector.yaml"
    file.write_text(yaml.safe_dump(run.written, sort_keys=False))
    process = Process("collector", directory, programs.collector(), "--config", file, **(environment or {}))
    try:
        await process.start(*run.opened())
        yield run
    finally:
        await process.stop()


class Sink:
    """A backend that keeps what it is sent (OTLP/JSON): which attributes still have values is seen best in the bytes."""

    def __init__(self) -> None:
        self._server = Server(self._take)
        self.headers: list[dict[str, str]] = []
        self.text = ""
        self.spans: list[Span] = []

    async def _take(self, request: Received, writer: asyncio.StreamWriter) -> None:
        self.headers.append(request.headers)
        body = gzip.decompress(request.body).decode()  # exporters compress
        self.text += body
        for resource in json.loads(body).get("resourceSpans", []):
            attributes = plain(resource.get("resource", {}).get("attributes", []))
            for scope in resource["scopeSpans"]:
                self.spans += [
                    {**span, "resource": attributes, "attributes": plain(span.get("attributes", []))}
                    for span in scope["spans"]
                ]
        writer.write(whole(200, b"{}"))

    def exporter(self, **more: Any) -> dict[str, Any]:
        """How the Collector is told of it."""
        return {"name": "sink", "protocol": "HTTP", "endpoint": f"http://127.0.0.1:{self._server.port}", **more}

    def named(self) -> set[str]:
        """Names of the spans that came."""
        return {span["name"] for span in self.spans}

    async def until(self, *names: str) -> None:
        """Wait until spans of these names have come."""
        try:
            async with asyncio.timeout(20):
                while not set(names) <= self.named():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            message = f"{set(names) - self.named()} did not come, only {self.named()}"
            raise AssertionError(message) from None

    @classmethod
    @contextlib.asynccontextmanager
    async def listening(cls) -> AsyncIterator["Sink"]:
        """A sink that listens."""
        sink = cls()
        await sink._server.start()
        try:
            yield sink
        finally:
            await sink._server.stop()


def plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """OTLP/JSON attributes as a dictionary."""
    return {item["key"]: _value(item["value"]) for item in attributes}


def _value(value: Mapping[str, Any]) -> Any:
    (kind, found), *_ = value.items()
    if kind == "intValue":
        return int(found)
    if kind == "arrayValue":
        return [_value(item) for item in found.get("values", [])]
    return found


def attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A dictionary as OTLP/JSON attributes."""

    def one(value: Any) -> dict[str, Any]:
        if isinstance(value, bool):
            return {"boolValue": value}
        if isinstance(value, int):
            return {"intValue": str(value)}
        if isinstance(value, float):
            return {"doubleValue": value}
        return {"stringValue": value}

    return [{"key": key, "value": one(value)} for key, value in values.items()]


def request(resource: Mapping[str, Any], *spans: Span) -> bytes:
    """An OTLP/JSON request."""
    scope = {"scope": {"name": "test"}, "spans": list(spans)}
    return json.dumps(
        {"resourceSpans": [{"resource": {"attributes": attributes(resource)}, "scopeSpans": [scope]}]}
    ).encode()
