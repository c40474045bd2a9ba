"""Connections to one upstream: parsing of answers, keep-alive, and connecting. Knows bytes only."""

import asyncio
import ssl
from collections import deque
from typing import Final, Protocol, cast

import httptools

from llmwarden.proxy import egress, http1
from llmwarden.proxy.egress import Proxies
from llmwarden.proxy.seam import Header
from llmwarden.proxy.settings import Limits, Origin

_MAX_IDLE: Final = 256  # idle connections kept per route
_MAX_HEAD: Final = 256 * 1024  # bytes of an answer's head; providers send long policy headers


class Receiver(Protocol):
    """Who gets an answer: an exchange, or one end of a splice."""

    def response_head(self, status: int, reason: bytes, headers: list[Header], framing: str) -> bool:
        """Note the head; False when no body follows whatever it says (an answer to HEAD)."""

    def response_body(self, data: bytes) -> None:
        """Note a piece of the body."""

    def response_end(self, *, reusable: bool) -> None:
        """Note that the answer is complete."""

    def switched(self, reason: bytes, headers: list[Header], rest: bytes) -> None:
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
        "_close_delimited",
        "_ended",
        "_excess",
        "_head",
        "_head_bytes",
        "_headers",
        "_interim",
        "_keep",
        "_parser",
        "_pool",
        "_reason",
        "_started",
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
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._headers: list[Header] = []
        self._reason = b""
        self._head = True
        self._head_bytes = 0
        self._started = False
        self._ended = False
        self._excess = False
        self._interim = False
        self._keep = True
        self._close_delimited = False

    # What an exchange calls.

    def own(self, receiver: Receiver) -> None:
        """Give the connection to a receiver for one answer."""
        self.receiver = receiver
        self.received = False
        self._reset()

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
        if self._head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.splicing = True
            receiver.switched(self._reason, self._headers, data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            if not self._ended:
                self._fail("upstream_protocol")
                return
            self._excess = True
        if self._ended:
            receiver.response_end(reusable=self._keep and not self._excess)
            return
        if self._head and self._head_bytes > _MAX_HEAD:
            self._fail("upstream_protocol")
            return
        receiver.flush()

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
        elif exc is None and self._close_delimited:
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

    # What the parser calls.

    def on_message_begin(self) -> None:
        """One answer per request: a second one is somebody's trick."""
        if self._ended:
            self._excess = True
        self._headers = []
        self._reason = b""

    def on_status(self, reason: bytes) -> None:
        """Gather the reason, which may come in pieces."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Gather a header; trailers are dropped."""
        if self._head:
            self._headers.append((name.lower(), name, value))

    def on_headers_complete(self) -> None:  # noqa: C901 - one pass over the headers
        """Hand the head over, unless it is an interim answer's."""
        if self._ended:
            return
        status = self._parser.get_status_code()
        if status < 200 and status != 101:  # noqa: PLR2004 - RFC 9110, 15.2: interim answers
            self._interim = True
            return
        if self._head_bytes > _MAX_HEAD and sum(len(name) + len(value) for _, name, value in self._headers) > _MAX_HEAD:
            raise http1.BadMessageError(502, "the answer's head is too large")
        self._head = False
        framing = "close"
        for low, _, value in self._headers:
            if low == b"transfer-encoding":
                framing = "chunked"
            elif low == b"content-length" and framing == "close":
                framing = "length"
            elif low == b"connection" and b"close" in http1.tokens(value):
                self._keep = False
        if self._parser.get_http_version() != "1.1":
            self._keep = False
        receiver = self.receiver
        if receiver is None or status == 101:  # noqa: PLR2004 - switching protocols: `data_received` goes on
            return
        if status in http1.NO_BODY:
            framing = "none"
        body = receiver.response_head(status, self._reason, self._headers, framing)
        if not body:
            # The parser now waits for a body that will not come.
            self._ended = True
            self._parser = httptools.HttpResponseParser(self)
        elif framing == "close":
            self._close_delimited = True
            self._keep = False

    def on_body(self, data: bytes) -> None:
        """Hand a piece over."""
        if self._ended:
            self._excess = True
        elif self.receiver is not None:
            self.receiver.response_body(data)

    def on_message_complete(self) -> None:
        """Note the end; acted upon when the parser is done with its input."""
        if self._interim:
            self._interim = False
        elif not self._head:
            self._ended = True


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
        connection.idle_since = asyncio.get_running_loop().time()
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

    async def connect(self, *, spliced: bool = False) -> UpstreamConnection:
        """A new connection; `spliced` for bytes that are no HTTP/1 of ours. Raises TimeoutError, OSError (ssl.SSLError and TunnelError among them)."""
        origin = self.origin
        async with asyncio.timeout(self._connect_seconds):
            sock = await egress.connect(origin, self._proxy, tunnel=origin.tls or spliced)
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: UpstreamConnection(self),
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
