"""What backends say of a trace, by their own APIs, and the tree that it is."""

import asyncio
import datetime as dt
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Node:
    """A span as a backend has it; `start` and `seconds` are in seconds."""

    id: str
    parent: str
    name: str
    start: float
    seconds: float
    attributes: Mapping[str, Any]
    service: str = ""


class Tree:
    """Spans of one trace."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.id: node for node in nodes}

    def path(self, node: Node) -> list[str]:
        """Names from the root to a span; a parent that is not there is "?"."""
        names = [node.name]
        while node.parent:
            above = self.nodes.get(node.parent)
            if above is None:
                return ["?", *names]
            node = above
            names.insert(0, node.name)
        return names

    def paths(self) -> list[str]:
        """All of them, in the order in which the spans began."""
        return [" / ".join(self.path(node)) for node in self.ordered()]

    def ordered(self) -> list[Node]:
        """By time."""
        return sorted(self.nodes.values(), key=lambda node: node.start)

    def proxys(self) -> list[Node]:
        """Those of our proxy: only they know what a call cost."""
        return [node for node in self.ordered() if "gen_ai.usage.cost.amount" in node.attributes]

    def __len__(self) -> int:
        return len(self.nodes)


async def get(url: str) -> Any:
    """A backend's answer; None for 404, which a trace is until it has come."""

    def ask() -> Any:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    return await asyncio.to_thread(ask)


class _Backend:
    async def nodes(self, trace: str) -> list[Node]:
        """Spans of a trace that have come."""
        raise NotImplementedError

    async def tree(self, trace: str, spans: int) -> Tree:
        """The trace, once it has so many spans."""
        nodes: list[Node] = []
        try:
            async with asyncio.timeout(30):
                while len(nodes) < spans:
                    await asyncio.sleep(0.1)
                    nodes = await self.nodes(trace)
        except TimeoutError:
            message = f"{len(nodes)} of {spans} spans came: {Tree(nodes).paths()}"
            raise AssertionError(message) from None
        return Tree(nodes)


@dataclass(frozen=True)
class Jaeger(_Backend):
    """Jaeger's query service. `otlp` is its gRPC receiver, `otlp_http` the other."""

    otlp: str
    url: str
    otlp_http: str
    # What else it listens on, and must be told of.
    OTHERS = (
        "admin.http.host-port",
        "collector.grpc-server.host-port",
        "collector.http-server.host-port",
        "query.grpc-server.host-port",
    )

    def exporter(self) -> dict[str, Any]:
        """How the Collector is told of it."""
        return {"name": "jaeger", "endpoint": self.otlp, "insecure": True}

    async def nodes(self, trace: str) -> list[Node]:
        """Spans of a trace that have come."""
        found = await get(f"{self.url}/api/traces/{trace}")
        return self._read(found["data"][0]) if found is not None else []

    async def search(self, **query: str) -> list[Tree]:
        """Traces by Jaeger's own search: `service`, `operation`, `tags`."""
        found = await get(f"{self.url}/api/traces?{urllib.parse.urlencode({'limit': 100, **query})}")
        return [Tree(self._read(data)) for data in found["data"]]

    def _read(self, data: Mapping[str, Any]) -> list[Node]:
        return [
            Node(
                span["spanID"],
                next((item["spanID"] for item in span["references"] if item["refType"] == "CHILD_OF"), ""),
                span["operationName"],
                span["startTime"] / 1e6,
                span["duration"] / 1e6,
                {tag["key"]: tag["value"] for tag in span["tags"]},
                data["processes"][span["processID"]]["serviceName"],
            )
            for span in data["spans"]
        ]


@dataclass(frozen=True)
class Phoenix(_Backend):
    """Phoenix's REST API."""

    url: str
    project = "default"

    def exporter(self) -> dict[str, Any]:
        """How the Collector is told of it."""
        return {"name": "phoenix", "protocol": "HTTP", "endpoint": self.url}

    async def nodes(self, trace: str) -> list[Node]:
        """Spans of a trace that have come."""
        found = await get(f"{self.url}/v1/projects/{self.project}/spans?trace_id={trace}")
        return [
            Node(
                span["context"]["span_id"],
                span["parent_id"] or "",
                span["name"],
                _seconds(span["start_time"]),
                _seconds(span["end_time"]) - _seconds(span["start_time"]),
                span["attributes"],
            )
            for span in (found or {"data": []})["data"]
        ]


def _seconds(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()
