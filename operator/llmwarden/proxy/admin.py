"""The admin port: /metrics for Prometheus and the kubelet's probes. One short request per connection."""

import asyncio
from collections.abc import Callable
from typing import Final

from llmwarden.proxy.http.listen import listeners
from llmwarden.proxy.telemetry.metrics import Metrics

_TIMEOUT_SECONDS: Final = 10.0
_MAX_HEAD: Final = 16 * 1024

Probe = Callable[[], bool]


class Admin:
    """Serves `/metrics`, and each probe under its path: 200 while it holds, else 503."""

    def __init__(self, metrics: Metrics, probes: dict[str, Probe]) -> None:
        self._metrics = metrics
        self._probes = probes
        self.port = 0  # as bound, once it is
        self._servers: list[asyncio.Server] = []

    async def listen(self, port: int) -> None:
        """Bind on every address; raises OSError when the port is taken."""
        for sock in listeners("", port):
            self.port = int(sock.getsockname()[1])
            self._servers.append(await asyncio.start_server(self._serve, sock=sock, limit=_MAX_HEAD))

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                writer.write(self._answer(head))
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # whoever it was went away, or was no HTTP client (TimeoutError is an OSError)
        finally:
            writer.close()

    def _answer(self, head: str) -> bytes:
        request, *lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        accept = ""
        for line in lines:
            name, _, value = line.partition(":")
            if name.lower() == "accept":
                accept = value
        kind = "text/plain; charset=utf-8"
        if method not in {"GET", "HEAD"}:
            status, body = "405 Method Not Allowed", b"GET only\n"
        elif path == "/metrics":
            status = "200 OK"
            kind, body = self._metrics.expose(accept)
        elif path in self._probes:
            status, body = ("200 OK", b"ok\n") if self._probes[path]() else ("503 Service Unavailable", b"not now\n")
        else:
            status, body = "404 Not Found", b"/metrics, /startupz, /readyz, /livez\n"
        answer = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return answer.encode() + (b"" if method == "HEAD" else body)
