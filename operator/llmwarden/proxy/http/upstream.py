"""Connections to one upstream: parsing of answers, keep-alive, and connecting. Knows bytes only."""

import asyncio
import ssl
import time
from collections import deque
from typing import Final, Protocol, cast

from llmwarden.contracts.sidecar import Limits
from llmwarden.proxy.http import egress, http1
from llmwarden.proxy.http.egress import Proxies
from llmwarden.proxy.http.http1 import AnswerHead, BadMessageError, Chunks
from llmwarden.proxy.settings import Origin

_MAX_IDLE: Final = 256  # idle connections kept per route
_SWITCHING: Final = 101
_MAX_HEAD: Final = 256 * 1024  # bytes of an answer's head; providers send long policy headers


class Receiver(Protocol):
    """Who gets an answer: an exchange, or one end of a splice."""

    def response_head(self, head: AnswerHead) -> bool:
        """Note the head; False when no body follows whatever it says (an answer to HEAD)."""

    def response_body(self, data: bytes, framed: bytes | None) -> None:
        """Note a piece of the body; `framed` is the same as whole chunks, where it came as such."""

    def response_end(self, *, reusable: bool) -> None:
        """Note that the answer is complete."""

    def switched(self, head: AnswerHead, rest: bytes) -> None:
        """The upstream answered 101; `rest` is what came after its head."""

    def flush(self) -> None:
        """Write what was gathered while one piece of input was parsed."""

    def upstream_lost(self, error: str, *, received: bool) -> None:
        """The connection broke before the answer's end; `received` when any byte of an answer had come."""

    def raw(self, data: bytes) -> None:
        """Bytes of a splice."""

    def raw_eof(self) -> None:
        """The upstream's half of a splice ended."""

    def pause_sending(self) -> None:
        """The upstream takes no more for now."""

    def resume_sending(self) -> None:
        """The upstream takes more again."""


class UpstreamConnection(asyncio.Protocol):
    """One connection: idle in its pool, or owned by one receiver."""

    __slots__ = (
        "_chunks",
        "_ended",
        "_head",
        "_left",
        "_pool",
        "_rest",
        "idle_since",
        "lost",
        "received",
        "receiver",
        "splicing",
        "transport",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.receiver: Receiver | None = None
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)  # until connection_made
        self.splicing = False
        self.lost = False
        self.received = False
        self.idle_since = 0.0
        self._head: AnswerHead | None = None  # of the answer that is coming
        self._rest = b""  # of a head that is not complete
        self._left = 0  # bytes of a body with a length that are still to come
        self._chunks: Chunks | None = None
        self._ended = False

    # What an exchange calls.

    def own(self, receiver: Receiver) -> None:
        """Give the connection to a receiver for one answer."""
        self.receiver = receiver
        self.received = False
        self._head = None
        self._rest = b""
        self._ended = False

    def write(self, data: bytes) -> None:
        """Send; buffered by the transport, which calls `pause_sending` when that is much."""
        self.transport.write(data)

    def close(self) -> None:
        """Give up the answer: the upstream sees its client go away."""
        self.receiver = None
        self.lost = True
        self.transport.abort()

    def release(self) -> None:
        """Back into the pool."""
        self.receiver = None
        self._pool.put(self)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse, then let the receiver write once what came of it."""
        receiver = self.receiver
        if receiver is None:  # an idle connection must be silent: what comes now belongs to nobody
            self._pool.forget(self)
            self.transport.abort()
            return
        self.received = True
        if self.splicing:
            receiver.raw(data)
            return
        try:
            excess = self._take(data)
        except BadMessageError:
            self._fail("upstream_protocol")
            return
        if self._ended:
            head = self._head
            receiver.response_end(reusable=head is not None and head.keep and not excess)
        elif not self.splicing:
            receiver.flush()

    def _take(self, data: bytes) -> bytes:
        """Read what has come; returns what is left over when the answer has ended. Raises BadMessageError."""
        while self._head is None:
            data = self._rest + data
            end = data.find(b"\r\n\r\n")
            if (end if end >= 0 else len(data)) > _MAX_HEAD:
                raise BadMessageError(502, "the answer's head is too large")
            if end < 0:
                self._rest = data
                return b""
            head = http1.read_answer(data[:end])
            data = data[end + 4 :]
            self._rest = b""
            receiver = self.receiver
            if receiver is None:
                return b""
            if head.status == _SWITCHING:
                self.splicing = True
                receiver.switched(head, data)
                return b""
            if head.status >= 200:  # noqa: PLR2004 - RFC 9110, 15.2: those below are interim answers
                self._begin(receiver, head)
        return self._body(data) if data and not self._ended else data

    def _begin(self, receiver: Receiver, head: AnswerHead) -> None:
        self._head = head
        if head.framing == "close":
            head.keep = False
        elif head.framing == "chunked":
            self._chunks = Chunks()
        elif head.framing == "length":
            self._left = head.length
        body = receiver.response_head(head)
        self._ended = not body or (head.framing == "length" and not head.length)

    def _body(self, data: bytes) -> bytes:
        receiver = self.receiver
        head = self._head
        if receiver is None or head is None:
            return b""
        framing = head.framing
        if framing == "chunked" and self._chunks is not None:
            chunks = self._chunks
            content, end = chunks.feed(data)
            if content:
                receiver.response_body(content, data if chunks.plain else None)
            self._ended = chunks.ended
            return data[end:] if end < len(data) else b""
        if framing == "length":
            if len(data) >= self._left:
                self._ended = True
                data, rest = data[: self._left], data[self._left :]
                receiver.response_body(data, None)
                return rest
            self._left -= len(data)
        receiver.response_body(data, None)
        return b""

    def _fail(self, error: str) -> None:
        receiver = self.receiver
        self.close()
        if receiver is not None:
            receiver.upstream_lost(error, received=True)

    def eof_received(self) -> bool:
        """End a splice's half; otherwise the transport closes and `connection_lost` decides."""
        if self.splicing and self.receiver is not None:
            self.receiver.raw_eof()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Complete an answer that ends with its connection; otherwise it is broken."""
        self.lost = True
        receiver, self.receiver = self.receiver, None
        if receiver is None:
            self._pool.forget(self)
        elif self.splicing:
            receiver.upstream_lost("upstream_closed", received=True)
        elif exc is None and self._head is not None and self._head.framing == "close":
            receiver.response_end(reusable=False)
        else:
            receiver.upstream_lost("upstream_closed", received=self.received)

    def pause_writing(self) -> None:
        """Backpressure towards the client."""
        if self.receiver is not None:
            self.receiver.pause_sending()

    def resume_writing(self) -> None:
        """The pressure is gone."""
        if self.receiver is not None:
            self.receiver.resume_sending()


class Pool:
    """Idle connections of one route, newest first, and how new ones are made."""

    def __init__(
        self, origin: Origin, limits: Limits, tls: ssl.SSLContext | None, proxies: Proxies | None = None
    ) -> None:
        self.origin = origin
        self._tls = tls
        self._proxy = proxies.to(origin) if proxies is not None else None
        # Plain HTTP goes to an HTTP proxy in the absolute form, everything else through a tunnel.
        absolute = self._proxy is not None and not origin.tls
        self.prefix = (f"http://{origin.authority}{origin.prefix}" if absolute else origin.prefix).encode()
        self.line = self._proxy.authorization if self._proxy is not None and absolute else b""  # of each request's head
        self._connect_seconds = limits.connect_seconds
        self._idle_seconds = limits.tls_idle_seconds if origin.tls else limits.plain_idle_seconds
        self._idle: deque[UpstreamConnection] = deque()

    def take(self, now: float) -> UpstreamConnection | None:
        """The idle connection used last, if it is still good; `now` is the loop's time."""
        while self._idle:
            connection = self._idle.pop()
            if connection.lost or connection.transport.is_closing():
                continue
            if now - connection.idle_since > self._idle_seconds:
                connection.transport.abort()
                continue
            return connection
        return None

    def put(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next request."""
        if connection.lost or connection.transport.is_closing():
            return
        if len(self._idle) >= _MAX_IDLE:
            connection.transport.close()
            return
        connection.idle_since = time.monotonic()  # which is the loop's time, asked for without the loop
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """Drop an idle connection that its peer closed."""
        try:
            self._idle.remove(connection)
        except ValueError:
            return  # it was not idle

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long; oldest first."""
        while self._idle and now - self._idle[0].idle_since > self._idle_seconds:
            self._idle.popleft().transport.close()

    async def connect(self, splice: Receiver | None = None) -> UpstreamConnection:
        """A new connection. Raises TimeoutError, OSError (ssl.SSLError and TunnelError among them).

        One for a splice is its own from the first byte: in HTTP/2 a server need not wait for the client.
        """
        origin = self.origin

        def made() -> UpstreamConnection:
            connection = UpstreamConnection(self)
            if splice is not None:
                connection.own(splice)
                connection.splicing = True
            return connection

        async with asyncio.timeout(self._connect_seconds):
            sock = await egress.connect(origin, self._proxy, tunnel=origin.tls or splice is not None)
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    made,
                    sock=sock,
                    ssl=self._tls if origin.tls else None,
                    server_hostname=origin.host if origin.tls else None,
                )
            except BaseException:  # a cancellation too: the transport may not have taken the socket yet
                sock.close()
                raise
        return connection

    def close(self) -> None:
        """Close all that is idle."""
        while self._idle:
            self._idle.pop().transport.close()
