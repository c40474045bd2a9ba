"""Bytes between a client and an upstream that are not HTTP/1: TLS, HTTP/2, and what an upgrade agreed on."""

import asyncio
import contextlib

from llmwarden.proxy.http.endpoint import Connection
from llmwarden.proxy.http.upstream import UpstreamConnection


class Splice:
    """Bytes both ways, with backpressure and half-closes, between a client and an upstream (upstream.ByteReceiver)."""

    def __init__(self, client: Connection, upstream: UpstreamConnection | None) -> None:
        self._client = client
        self._upstream = upstream
        self._waiting: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        if upstream is not None:
            upstream.splice(self)

    def connect(self) -> None:
        """Connect to the upstream; the client waits meanwhile."""
        self._client.pause_reading()
        self._task = self._client.endpoint.loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            upstream = await self._client.endpoint.pool.connect(self)
        except OSError:  # TimeoutError is one
            self._client.abort()
            return
        self._upstream = upstream
        upstream.write(b"".join(self._waiting))
        self._waiting.clear()
        self._client.resume_reading()

    def client_data(self, data: bytes) -> None:
        """Send on what the client sent."""
        if self._upstream is None:
            self._waiting.append(data)
        elif data and not self._upstream.lost:
            self._upstream.write(data)

    def client_eof(self) -> None:
        """The client ended its half."""
        if self._upstream is not None and not self._upstream.lost and self._upstream.transport.can_write_eof():
            self._upstream.transport.write_eof()
        elif self._upstream is not None:
            self._upstream.close()

    def client_lost(self) -> None:
        """The client is gone."""
        if self._task is not None:
            self._task.cancel()
        if self._upstream is not None:
            self._upstream.close()

    def pause_upstream(self) -> None:
        """The client is slow."""
        if self._upstream is not None and not self._upstream.lost:
            self._upstream.transport.pause_reading()

    def resume_upstream(self) -> None:
        """The client has caught up."""
        if self._upstream is not None and not self._upstream.lost:
            self._upstream.transport.resume_reading()

    def upstream_data(self, data: bytes) -> None:
        """Send on what the upstream sent."""
        self._client.write(data)

    def upstream_eof(self) -> None:
        """The upstream ended its half."""
        if not self._client.transport.is_closing():
            with contextlib.suppress(NotImplementedError):
                self._client.transport.write_eof()

    def upstream_lost(self) -> None:
        """The upstream is gone: after what it sent, so is the client."""
        self._client.transport.close()

    def pause_sending(self) -> None:
        """The upstream is slow."""
        self._client.pause_reading()

    def resume_sending(self) -> None:
        """The upstream has caught up."""
        self._client.resume_reading()
