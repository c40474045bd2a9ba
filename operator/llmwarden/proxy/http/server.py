"""Clients' connections: parsing, limits, time-outs, pipelining, and splicing of what is not HTTP/1. Knows bytes only."""

import asyncio
import contextlib
import math
import time
from collections import deque
from typing import Final, cast

from llmwarden.contracts.sidecar import Limits, Route
from llmwarden.proxy.http import http1
from llmwarden.proxy.http.exchange import Exchange
from llmwarden.proxy.http.http1 import AnswerHead, Chunks
from llmwarden.proxy.http.listen import listeners
from llmwarden.proxy.http.upstream import Pool, UpstreamConnection
from llmwarden.proxy.seam import Request, Service
from llmwarden.proxy.settings import parse_origin

_PREFACE: Final = b"PRI * HTTP/2.0\r\n"  # RFC 9113, 3.4
_TLS_HANDSHAKE: Final = 0x16  # RFC 8446, 5.1
_LINGER_SECONDS: Final = 2.0  # for a client that was refused to read why and close
_EARLY: Final = 64 * 1024  # bytes that a client sends before its upgrade is answered
_CODES: Final = {
    400: "bad_request",
    405: "method_not_allowed",
    408: "request_timeout",
    417: "expectation_failed",
    431: "request_header_fields_too_large",
    503: "overloaded",
}
_RETRY_AFTER: Final = (b"Retry-After", b"1")  # of a 503: what is full now is free soon


class Endpoint:
    """One route at work: its listener, its clients' connections, its upstream's pool."""

    def __init__(self, route: Route, service: Service, pool: Pool, limits: Limits) -> None:
        origin = parse_origin(route.upstream)
        self.route = route
        self.service = service
        self.pool = pool
        self.limits = limits
        self.prefix = pool.prefix
        # An application that was sent to us by its environment says our address; one that is called through us says its own.
        self.host = origin.authority.encode() if route.mode == "Env" else b""
        self.splices_tls = route.mode == "Port"
        self.draining = False
        self.loop = asyncio.get_running_loop()
        self.connections: set[ClientConnection] = set()
        self.active = 0  # requests being answered
        self.held = 0  # bytes of large bodies that are held to be read
        self.port = route.listen.port  # as bound, once it is
        self._servers: list[asyncio.Server] = []

    async def listen(self) -> None:
        """Bind; raises OSError when the port is taken."""
        for sock in listeners(self.route.listen.host, self.route.listen.port):
            self.port = int(sock.getsockname()[1])
            self._servers.append(await self.loop.create_server(lambda: ClientConnection(self), sock=sock))

    def sweep(self) -> None:
        """Close what is past its deadline."""
        now = self.loop.time()
        for connection in [item for item in self.connections if item.deadline < now]:
            connection.expired()
        self.pool.sweep(now)

    def drain(self) -> None:
        """Accept nothing more; idle connections close now, busy ones after their answer."""
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.close_if_idle()

    def abort(self) -> None:
        """Break what is left."""
        for connection in list(self.connections):
            connection.abort()
        self.pool.close()


class ClientConnection(asyncio.Protocol):
    """One client. Requests are answered in their order; while one is answered, at most one read's worth of further ones waits."""

    __slots__ = (
        "_bad",
        "_begun",
        "_body_paused",
        "_chunks",
        "_current",
        "_early",
        "_left",
        "_queue",
        "_read_paused",
        "_reading",
        "_repeated",
        "_rest",
        "_sniffed",
        "_splice",
        "_started",
        "_stopped",
        "_writing_paused",
        "deadline",
        "endpoint",
        "transport",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)  # until connection_made
        self.deadline = math.inf
        self._sniffed: bytes | None = b""  # the first bytes, until it is known what they are
        self._early = b""  # what a client sent before its upgrade was answered
        self._bad: http1.BadMessageError | None = None
        self._current: Exchange | None = None
        self._reading: Exchange | None = None  # whose body is being read
        self._queue: deque[Exchange] = deque()
        self._splice: Splice | None = None
        self._rest = b""  # of a head that is not complete
        self._repeated: http1.Repeated | None = None
        self._begun = False  # there is such a head
        self._left = 0  # bytes of a body that are still to come
        self._chunks: Chunks | None = None
        self._started = 0.0
        self._stopped = False  # nothing more is read from this client
        self._read_paused = False
        self._body_paused = False
        self._writing_paused = False

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self.transport = cast("asyncio.Transport", transport)
        self.endpoint.connections.add(self)
        self.deadline = self.endpoint.loop.time() + self.endpoint.limits.idle_seconds
        if self.endpoint.draining:
            self.transport.close()
        elif len(self.endpoint.connections) > self.endpoint.limits.connections:
            self._turn_away()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell whoever is on the other side."""
        self.endpoint.connections.discard(self)
        self._stopped = True
        self._queue.clear()
        current, self._current = self._current, None
        if current is not None:
            current.abort()
        if self._splice is not None:
            self._splice.client_lost()

    def eof_received(self) -> bool:
        """A client that ends its half is gone (nobody half-closes HTTP), except in a splice."""
        if self._splice is not None:
            self._splice.client_eof()
            return True
        return False

    def data_received(self, data: bytes) -> None:
        """Parse; the callbacks below act."""
        if self._splice is not None:
            self._splice.client_data(data)
            return
        if self._stopped:
            if self._current is not None and self._current.request.upgrade:
                self._early += data
                if len(self._early) > _EARLY:
                    self.pause_reading()
            return
        if self._sniffed is not None:
            data = self._sniff(self._sniffed + data)
            if not data:
                return
        try:
            while data and not self._stopped:
                data = self._take_head(data) if self._reading is None else self._take_body(data)
        except http1.BadMessageError as error:
            self._refuse(error)

    def pause_writing(self) -> None:
        """The client is slow: stop reading its answer."""
        self._writing_paused = True
        if self._splice is not None:
            self._splice.pause_upstream()
        elif self._current is not None:
            self._current.pause()
        elif not self._stopped:
            self._wait_for_client()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writing_paused = False
        if self._splice is not None:
            self._splice.resume_upstream()
        elif self._current is not None:
            self._current.resume()
        elif not self._stopped:
            self._rest_idle()

    # The first bytes: HTTP/1, or something that passes as it is.

    def _sniff(self, data: bytes) -> bytes:
        """The data, once it is known to be HTTP/1; nothing while that is open or when it is something else."""
        if _PREFACE.startswith(data[: len(_PREFACE)]):
            self._sniffed = data
            if len(data) >= len(_PREFACE):
                self._begin_splice("http2", data)
            return b""
        if data[0] == _TLS_HANDSHAKE and self.endpoint.splices_tls:
            self._begin_splice("tls", data)
            return b""
        self._sniffed = None
        return data

    def _begin_splice(self, reason: str, data: bytes) -> None:
        self.endpoint.service.spliced(reason)
        self.deadline = math.inf
        self._splice = Splice(self, None)
        self._splice.client_data(data)
        self._splice.connect()

    def splice(self, upstream: UpstreamConnection) -> None:
        """From now on, bytes between this client and that upstream."""
        self.deadline = math.inf
        self._current = None
        self._splice = Splice(self, upstream)
        self.resume_reading()
        self._splice.client_data(self._early)
        self._early = b""

    # Heads and bodies. Each returns what it has not read.

    def _take_head(self, data: bytes) -> bytes:
        if not self._begun:
            data = data.lstrip(b"\r\n")  # RFC 9112, 2.2
            if not data:
                return b""
            self._begin_head()
        end = data.find(b"\r\n\r\n")
        if end < 0 or self._rest:
            data = self._rest + data
            end = data.find(b"\r\n\r\n", max(len(self._rest) - 3, 0))
        if (end if end >= 0 else len(data)) > self.endpoint.limits.head_bytes:
            raise http1.BadMessageError(431, "the request's head is too large")
        if end < 0:
            if b"\n\n" in data or not data[:1].isupper():  # it will never be one
                raise http1.BadMessageError(400, "the request is malformed")
            self._rest = data
            return b""
        self._rest = b""
        self._begun = False
        head, rest = data[:end], data[end + 4 :]
        request = self._repeated.read(head, self._started) if self._repeated is not None else None
        if request is None:
            request = http1.read_request(head, self._started)
            self._repeated = http1.repeated(head, request)
        self._begin_body(request, rest)
        return rest

    def _begin_head(self) -> None:
        self._begun = True
        self._started = time.perf_counter()
        if self._current is None:
            self.deadline = self.endpoint.loop.time() + self.endpoint.limits.head_seconds

    def _begin_body(self, request: Request, rest: bytes) -> None:
        """A head is complete; `rest` is what came after it."""
        if request.method == b"CONNECT":
            raise http1.BadMessageError(405, "CONNECT is not proxied")
        exchange = Exchange(self, request)
        if request.upgrade:
            if request.upgrade == b"websocket" and not request.chunked and not request.length:
                self._await_upgrade(exchange, rest)
                return
            request.upgrade = b""  # Java asks for h2c with every request; ignoring that is what RFC 9110, 7.8 allows
        self._reading = exchange
        self._left = request.length or 0
        self._chunks = Chunks() if request.chunked else None
        self._begin(exchange)
        if not self._left and self._chunks is None:
            self._complete(exchange)

    def _take_body(self, data: bytes) -> bytes:
        reading = self._reading
        if reading is None:
            return data
        self._expect_body()
        if self._chunks is not None:
            content, end = self._chunks.feed(data)
            if content:
                reading.body(content)
            if self._chunks.ended:
                self._complete(reading)
            return data[end:]
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            reading.body(data)
            return b""
        self._left = 0
        reading.body(data if len(data) == left else data[:left])
        self._complete(reading)
        return data[left:]

    def _complete(self, reading: Exchange) -> None:
        """The request is all here."""
        if self._reading is not reading:
            return  # the connection was closed over it
        self._reading = None
        if not reading.request.keep:
            self._stopped = True  # what follows "Connection: close" is not a request
        reading.body_end()

    def _await_upgrade(self, exchange: Exchange, rest: bytes) -> None:
        """What follows such a request is for the other protocol, if the upstream agrees to it."""
        self._early = rest  # kept for the splice
        self._stopped = True
        exchange.request.keep = False  # whatever the answer: what follows is not for us to read
        self.pause_reading()
        self._begin(exchange)
        exchange.body_end()

    def _begin(self, exchange: Exchange) -> None:
        if self._current is None:
            self._current = exchange
            self._expect_body()
            exchange.start()
        elif exchange is not self._current:
            self._queue.append(exchange)
            self.pause_reading()

    # What an exchange calls.

    def write(self, data: bytes) -> None:
        """Send to the client."""
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def expect_answer(self) -> None:
        """The upstream, or a slow client, has so much time until the next sign of life."""
        self.deadline = self.endpoint.loop.time() + self.endpoint.limits.response_seconds

    def _expect_body(self) -> None:
        self.deadline = self.endpoint.loop.time() + self.endpoint.limits.body_seconds

    def discard_body(self) -> None:
        """The answer was early: drop the rest of the request, but not for long."""
        self.resume_reading()
        self.deadline = self.endpoint.loop.time() + self.endpoint.limits.head_seconds

    def done(self, exchange: Exchange, *, keep: bool) -> None:
        """The exchange is over; go on with the next request, or close."""
        if exchange is not self._current:
            return
        self._current = None
        if not keep or (self._bad is not None and not self._queue):
            self._stopped = True
            if self._bad is not None and keep:
                self._say(self._bad)
            self.transport.close()
            return
        if self._queue:
            exchange = self._queue.popleft()
            self._current = exchange
            self._expect_body()
            self.resume_reading()  # its body may not be all here
            # Not from in here: of many that are answered at once each would begin the next.
            self.endpoint.loop.call_soon(self._start, exchange)
            return
        if self.endpoint.draining:
            self.transport.close()
        elif self._writing_paused:
            self._wait_for_client()
        else:
            self._rest_idle()

    def _wait_for_client(self) -> None:
        """It has yet to take the last answer: who takes none is given no further ones."""
        self.pause_reading()
        self.expect_answer()

    def _rest_idle(self) -> None:
        self.resume_reading()
        limits = self.endpoint.limits
        self.deadline = self.endpoint.loop.time() + (limits.head_seconds if self._begun else limits.idle_seconds)

    def _start(self, exchange: Exchange) -> None:
        if exchange is self._current:
            exchange.start()

    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""
        if not self._read_paused and not self.transport.is_closing():
            self._read_paused = True
            if self._splice is None:  # which lasts as long as its ends want
                self.expect_answer()  # it is not for the client to hurry
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the client again, unless pipelined requests wait already."""
        if self._read_paused and not self._queue and not self.transport.is_closing():
            self._read_paused = False
            self.transport.resume_reading()
            if self._reading is not None and self._reading is self._current:
                self._expect_body()

    def close(self) -> None:
        """Close after what was written is sent."""
        self._stopped = True
        self._current = None
        self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    def close_if_idle(self) -> None:
        """Close unless an answer is on its way."""
        if self._current is None:
            self.transport.close()

    @property
    def slow(self) -> bool:
        """Whether the client has yet to take what was written."""
        return self._writing_paused

    @property
    def busy(self) -> bool:
        """Whether an answer, or a splice, is on its way."""
        return self._current is not None or self._splice is not None

    def expired(self) -> None:
        """Past the deadline: of the head, of the body, of the answer, of idleness."""
        self.deadline = math.inf
        current = self._current
        if current is None:
            self.transport.abort()
        elif self._reading is current or self._writing_paused:
            self.transport.abort()  # a body that does not come, or a client that does not read
        else:
            current.time_out()

    def _turn_away(self) -> None:
        """One connection too many: say so, unless even that is too much."""
        self.endpoint.service.limited("connections")
        if len(self.endpoint.connections) > 2 * self.endpoint.limits.connections:
            self.transport.abort()
            return
        self._refuse(http1.BadMessageError(503, "too many connections"))

    # Refusals of what is not a request.

    def _refuse(self, error: http1.BadMessageError) -> None:
        if self._stopped and self._bad is not None:
            return
        self._bad = error
        self._stopped = True
        if self._current is not None:
            if self._reading is self._current:  # its own body is malformed: there is nothing to answer
                self.transport.abort()
            return  # after the answers that are due: see `done`
        self._say(error)
        # Closing with bytes unread would reset the connection, and the client might never see why: end our half, read on a little.
        self.transport.write_eof()
        self.deadline = self.endpoint.loop.time() + _LINGER_SECONDS

    def _say(self, error: http1.BadMessageError) -> None:
        body = self.endpoint.service.error_body(error.status, _CODES.get(error.status, "bad_request"), error.message)
        extra = (_RETRY_AFTER,) if error.status == 503 else ()  # noqa: PLR2004 - HTTP's number
        self.write(http1.own_response(error.status, body, extra=extra, close=True))


class Splice:
    """Bytes both ways, with backpressure and half-closes, between a client and an upstream (upstream.Receiver)."""

    def __init__(self, client: ClientConnection, upstream: UpstreamConnection | None) -> None:
        self._client = client
        self._upstream = upstream
        self._waiting: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        if upstream is not None:
            upstream.receiver = self
            upstream.splicing = True

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

    def raw(self, data: bytes) -> None:
        """Send on what the upstream sent."""
        self._client.write(data)

    def raw_eof(self) -> None:
        """The upstream ended its half."""
        if not self._client.transport.is_closing():
            with contextlib.suppress(NotImplementedError):
                self._client.transport.write_eof()

    def upstream_lost(self, error: str, *, received: bool) -> None:  # noqa: ARG002 - Receiver's signature
        """The upstream is gone: after what it sent, so is the client."""
        self._client.transport.close()

    def pause_sending(self) -> None:
        """The upstream is slow."""
        self._client.pause_reading()

    def resume_sending(self) -> None:
        """The upstream has caught up."""
        self._client.resume_reading()

    def response_head(self, head: AnswerHead) -> bool:  # noqa: ARG002 - Receiver's signature
        """Never: a splice's bytes are not parsed."""
        return True

    def response_body(self, data: bytes, framed: bytes | None) -> None:
        """Never: the same."""

    def response_end(self, *, reusable: bool) -> None:
        """Never: the same."""

    def switched(self, head: AnswerHead, rest: bytes) -> None:
        """Never: the same."""

    def flush(self) -> None:
        """Never: the same."""
