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


# What has come of the answer.
_SILENT: Final = 0
_HEAD: Final = 1  # bytes of a head that is not complete, or of an interim answer
_BODY: Final = 2
_ENDED: Final = 3
_SWITCHED: Final = 4  # the upstream agreed to another protocol: what comes now is no answer


class AnswerReceiver(Protocol):
    """Who gets one answer: an exchange."""

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

    def pause_sending(self) -> None:
        """The upstream takes no more for now."""

    def resume_sending(self) -> None:
        """The upstream takes more again."""


class ByteReceiver(Protocol):
    """Who gets whatever an upstream sends: one end of a splice."""

    def upstream_data(self, data: bytes) -> None:
        """Bytes have come."""

    def upstream_eof(self) -> None:
        """The upstream ended its half."""

    def upstream_lost(self) -> None:
        """The connection is gone."""

    def pause_sending(self) -> None:
        """The upstream takes no more for now."""

    def resume_sending(self) -> None:
        """The upstream takes more again."""


class UpstreamConnection(asyncio.Protocol):
    """One connection: idle in its pool, owned by one exchange for one answer, or spliced for as long as it lasts."""

    __slots__ = (
        "_answer",
        "_chunks",
        "_head",
        "_left",
        "_pool",
        "_rest",
        "_splice",
        "_state",
        "idle_since",
        "lost",
        "tls",
        "transport",
    )

    def __init__(self, pool: "Pool", tls: ssl.SSLContext | None = None) -> None:
        self._pool = pool
        self.tls = tls  # that it was made with
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)  # until connection_made
        self.lost = False
        self.idle_since = 0.0
        self._answer: AnswerReceiver | None = None
        self._splice: ByteReceiver | None = None
        self._state = _SILENT
        self._head: AnswerHead | None = None  # of the answer that is coming
        self._rest = b""  # of a head that is not complete
        self._left = 0  # bytes of a body with a length that are still to come
        self._chunks: Chunks | None = None

    # What an exchange or a splice calls.

    def own(self, receiver: AnswerReceiver) -> None:
        """Give the connection to a receiver for one answer."""
        self._answer = receiver
        self._head = None
        self._rest = b""
        self._state = _SILENT

    def splice(self, receiver: ByteReceiver) -> None:
        """Give the connection, and all that comes from now on, to one end of a splice."""
        self._answer = None
        self._splice = receiver

    def write(self, data: bytes) -> None:
        """Send; buffered by the transport, which calls `pause_sending` when that is much."""
        self.transport.write(data)

    def close(self) -> None:
        """Give up the answer: the upstream sees its client go away."""
        self._answer = None
        self._splice = None
        self.lost = True
        self.transport.abort()

    def release(self) -> None:
        """Back into the pool."""
        self._answer = None
        self._pool.put(self)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse, then let the receiver write once what came of it."""
        if self._splice is not None:
            self._splice.upstream_data(data)
            return
        receiver = self._answer
        if receiver is None:  # an idle connection must be silent: what comes now belongs to nobody
            self._pool.forget(self)
            self.transport.abort()
            return
        if self._state == _SILENT:
            self._state = _HEAD
        try:
            excess = self._take(receiver, data)
        except BadMessageError:
            self._fail("upstream_protocol")
            return
        if self._state == _ENDED:
            head = self._head
            receiver.response_end(reusable=head is not None and head.keep and not excess)
        elif self._state != _SWITCHED:
            receiver.flush()

    def _take(self, receiver: AnswerReceiver, data: bytes) -> bytes:
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
            if head.status == _SWITCHING:
                self._state = _SWITCHED
                receiver.switched(head, data)
                return b""
            if head.status >= 200:  # noqa: PLR2004 - RFC 9110, 15.2: those below are interim answers
                self._begin(receiver, head)
        return self._body(receiver, data) if data and self._state != _ENDED else data

    def _begin(self, receiver: AnswerReceiver, head: AnswerHead) -> None:
        self._head = head
        if head.framing == "close":
            head.keep = False
        elif head.framing == "chunked":
            self._chunks = Chunks()
        elif head.framing == "length":
            self._left = head.length
        body = receiver.response_head(head)
        self._state = _ENDED if not body or (head.framing == "length" and not head.length) else _BODY

    def _body(self, receiver: AnswerReceiver, data: bytes) -> bytes:
        head = self._head
        if self._answer is None or head is None:
            return b""  # the receiver gave the answer up over its head
        framing = head.framing
        if framing == "chunked" and self._chunks is not None:
            chunks = self._chunks
            content, end = chunks.feed(data)
            if content:
                receiver.response_body(content, data if chunks.plain else None)
            if chunks.ended:
                self._state = _ENDED
            return data[end:] if end < len(data) else b""
        if framing == "length":
            if len(data) >= self._left:
                self._state = _ENDED
                data, rest = data[: self._left], data[self._left :]
                receiver.response_body(data, None)
                return rest
            self._left -= len(data)
        receiver.response_body(data, None)
        return b""

    def _fail(self, error: str) -> None:
        receiver = self._answer
        self.close()
        if receiver is not None:
            receiver.upstream_lost(error, received=True)

    def eof_received(self) -> bool:
        """End a splice's half; otherwise the transport closes and `connection_lost` decides."""
        if self._splice is not None:
            self._splice.upstream_eof()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Complete an answer that ends with its connection; otherwise it is broken."""
        self.lost = True
        splice, self._splice = self._splice, None
        receiver, self._answer = self._answer, None
        if splice is not None:
            splice.upstream_lost()
        elif receiver is None:
            self._pool.forget(self)
        elif exc is None and self._head is not None and self._head.framing == "close":
            receiver.response_end(reusable=False)
        else:
            receiver.upstream_lost("upstream_closed", received=self._state != _SILENT)

    def pause_writing(self) -> None:
        """Backpressure towards the client."""
        if self._answer is not None:
            self._answer.pause_sending()
        elif self._splice is not None:
            self._splice.pause_sending()

    def resume_writing(self) -> None:
        """The pressure is gone."""
        if self._answer is not None:
            self._answer.resume_sending()
        elif self._splice is not None:
            self._splice.resume_sending()


class Pool:
    """Idle connections of one route, newest first, and how new ones are made."""

    def __init__(
        self,
        origin: Origin,
        limits: Limits,
        tls: ssl.SSLContext | None,
        proxies: Proxies | None = None,
        resolves_to: str | None = None,
    ) -> None:
        self.origin = origin
        self._resolves_to = resolves_to
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
        if connection.tls is not self._tls:
            connection.transport.close()
            return
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

    async def connect(self, splice: ByteReceiver | None = None) -> UpstreamConnection:
        """A new connection. Raises TimeoutError, OSError (ssl.SSLError and TunnelError among them).

        One for a splice is its own from the first byte: in HTTP/2 a server need not wait for the client.
        """
        origin, tls = self.origin, self._tls

        def made() -> UpstreamConnection:
            connection = UpstreamConnection(self, tls)
            if splice is not None:
                connection.splice(splice)
            return connection

        async with asyncio.timeout(self._connect_seconds):
            sock = await egress.connect(
                origin, self._proxy, tunnel=origin.tls or splice is not None, resolves_to=self._resolves_to
            )
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    made,
                    sock=sock,
                    ssl=tls if origin.tls else None,
                    server_hostname=origin.host if origin.tls else None,
                )
            except BaseException:  # a cancellation too: the transport may not have taken the socket yet
                sock.close()
                raise
        return connection

    def use(self, tls: ssl.SSLContext | None) -> None:
        """Make connections by this context from now on; those that were made by another serve no further request."""
        if tls is not self._tls:
            self._tls = tls
            self.close()

    def close(self) -> None:
        """Close all that is idle."""
        while self._idle:
            self._idle.pop().transport.close()
