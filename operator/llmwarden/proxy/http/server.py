"""A client's connection: parsing, limits, time-outs and pipelining. Knows bytes only."""

import asyncio
import math
import time
from collections import deque
from typing import Final, cast

from llmwarden.proxy.http import http1
from llmwarden.proxy.http.endpoint import Connection, Endpoint
from llmwarden.proxy.http.exchange import Exchange
from llmwarden.proxy.http.http1 import Chunks
from llmwarden.proxy.http.splice import Splice
from llmwarden.proxy.http.upstream import UpstreamConnection
from llmwarden.proxy.seam import Request

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


# What a client's bytes are at the moment.
_SNIFFING: Final = 0  # the first ones, until it is known whether they are HTTP/1
_BETWEEN: Final = 1  # none yet of the next request
_HEAD: Final = 2  # of a head that is not complete
_BODY: Final = 3  # of a request's body
_UPGRADING: Final = 4  # for another protocol, if the upstream agrees to it; from here on no request is read
_STOPPED: Final = 5  # dropped
_SPLICED: Final = 6  # passed on as they are


class ClientConnection(Connection):
    """One client. Requests are answered in their order; while one is answered, at most one read's worth of further ones waits."""

    __slots__ = (
        "_bad",
        "_chunks",
        "_current",
        "_early",
        "_first",
        "_left",
        "_queue",
        "_read_paused",
        "_reading",
        "_repeated",
        "_rest",
        "_splice",
        "_started",
        "_state",
        "_writing_paused",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._state = _SNIFFING
        self._first = b""  # the first bytes, until it is known what they are
        self._early = b""  # what a client sent before its upgrade was answered
        self._bad: http1.BadMessageError | None = None
        self._current: Exchange | None = None
        self._reading: Exchange | None = None  # whose body is being read
        self._queue: deque[Exchange] = deque()
        self._splice: Splice | None = None
        self._rest = b""  # of a head that is not complete
        self._repeated: http1.Repeated | None = None
        self._left = 0  # bytes of a body that are still to come
        self._chunks: Chunks | None = None
        self._started = 0.0
        # Backpressure, in both directions.
        self._read_paused = False
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
        self._state = _STOPPED
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
        if self._state >= _UPGRADING:
            if self._state == _UPGRADING:
                self._early += data
                if len(self._early) > _EARLY:
                    self.pause_reading()
            return
        if self._state == _SNIFFING:
            data = self._sniff(self._first + data)
            if not data:
                return
        try:
            while data and self._state < _UPGRADING:
                data = self._take_body(data) if self._state == _BODY else self._take_head(data)
        except http1.BadMessageError as error:
            self._refuse(error)

    def pause_writing(self) -> None:
        """The client is slow: stop reading its answer."""
        self._writing_paused = True
        if self._splice is not None:
            self._splice.pause_upstream()
        elif self._current is not None:
            self._current.pause()
        elif self._state < _UPGRADING:
            self._wait_for_client()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writing_paused = False
        if self._splice is not None:
            self._splice.resume_upstream()
        elif self._current is not None:
            self._current.resume()
        elif self._state < _UPGRADING:
            self._rest_idle()

    # The first bytes: HTTP/1, or something that passes as it is.

    def _sniff(self, data: bytes) -> bytes:
        """The data, once it is known to be HTTP/1; nothing while that is open or when it is something else."""
        if _PREFACE.startswith(data[: len(_PREFACE)]):
            self._first = data
            if len(data) >= len(_PREFACE):
                self._begin_splice("http2", data)
            return b""
        if data[0] == _TLS_HANDSHAKE and self.endpoint.splices_tls:
            self._begin_splice("tls", data)
            return b""
        self._first = b""
        self._state = _BETWEEN
        return data

    def _begin_splice(self, reason: str, data: bytes) -> None:
        self.endpoint.service.spliced(reason)
        self.deadline = math.inf
        self._state = _SPLICED
        self._splice = Splice(self, None)
        self._splice.client_data(data)
        self._splice.connect()

    def splice(self, upstream: UpstreamConnection) -> None:
        """From now on, bytes between this client and that upstream."""
        self.deadline = math.inf
        self._current = None
        self._state = _SPLICED
        self._splice = Splice(self, upstream)
        self.resume_reading()
        self._splice.client_data(self._early)
        self._early = b""

    # Heads and bodies. Each returns what it has not read.

    def _take_head(self, data: bytes) -> bytes:
        if self._state != _HEAD:
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
        self._state = _BETWEEN
        head, rest = data[:end], data[end + 4 :]
        request = self._repeated.read(head, self._started) if self._repeated is not None else None
        if request is None:
            request = http1.read_request(head, self._started)
            self._repeated = http1.repeated(head, request)
        self._begin_body(request, rest)
        return rest

    def _begin_head(self) -> None:
        self._state = _HEAD
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
        self._state = _BODY
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
        if self._state == _BODY:
            self._state = _BETWEEN
        if not reading.request.keep:
            self._state = _STOPPED  # what follows "Connection: close" is not a request
        reading.body_end()

    def _await_upgrade(self, exchange: Exchange, rest: bytes) -> None:
        """What follows such a request is for the other protocol, if the upstream agrees to it."""
        self._early = rest  # kept for the splice
        self._state = _UPGRADING
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

    def done(self, exchange: object, *, keep: bool) -> None:
        """The exchange is over; go on with the next request, or close."""
        if exchange is not self._current:
            return
        self._current = None
        if not keep or (self._bad is not None and not self._queue):
            self._state = _STOPPED
            if self._bad is not None and keep:
                self._say(self._bad)
            self.transport.close()
            return
        if self._queue:
            following = self._queue.popleft()
            self._current = following
            self._expect_body()
            self.resume_reading()  # its body may not be all here
            # Not from in here: of many that are answered at once each would begin the next.
            self.endpoint.loop.call_soon(self._start, following)
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
        self.deadline = self.endpoint.loop.time() + (
            limits.head_seconds if self._state == _HEAD else limits.idle_seconds
        )

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
        self._state = _STOPPED
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
        if self._state == _STOPPED and self._bad is not None:
            return
        self._bad = error
        self._state = _STOPPED
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
