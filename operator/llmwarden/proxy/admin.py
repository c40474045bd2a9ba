"""The admin port: /metrics for Prometheus and the kubelet's probes. One short request per connection.

A sidecar may not import starlette, so `serving.guard` does not guard this port. Its bounds are its own:

- head: at most 16 KiB (`_MAX_HEAD`); a longer one is no HTTP client of ours, and the connection is closed without an answer;
- body: never read, because every path is a GET; the connection is closed after the answer;
- time: 10 s from the connection to the last byte of the answer (`_TIMEOUT_SECONDS`), then the connection is dropped, whether the client
  is slow to send its head or to read our answer.
"""

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
        except TimeoutError:
            writer.transport.abort()  # to close would wait until the client has read what we wrote, for as long as it likes
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client went away, or does not speak HTTP
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
