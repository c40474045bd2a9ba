"""One request and its answer, between a client's connection and an upstream's. Knows bytes and the seam only."""

import asyncio
import ssl
from collections.abc import Awaitable
from typing import Final

from llmwarden.proxy.http import http1
from llmwarden.proxy.http.egress import TunnelError
from llmwarden.proxy.http.endpoint import Connection
from llmwarden.proxy.http.http1 import AnswerHead
from llmwarden.proxy.http.upstream import UpstreamConnection
from llmwarden.proxy.seam import Call, Decision, Forward, Refusal, Request

_HELD_BEFORE_CONNECT: Final = 64 * 1024  # bytes of a streamed body that wait for the upstream's connection
_BORROWED_FROM: Final = 64 * 1024  # bytes of a held body from which on it counts against the route's allowance
_RETRY_AFTER: Final = ((b"Retry-After", b"1"),)
_DISCARD: Final = 1024 * 1024  # bytes of a body that are read and dropped after an early answer
_SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_LENGTH: Final = frozenset({b"content-length"})
_DECIDED: Final = (Forward, Refusal)
# The request's body.
_HOLDING: Final = 0  # kept until it is decided what becomes of the call
_HELD: Final = 1  # the same, and complete
_STREAMING: Final = 2  # sent on as it comes
_COMPLETE: Final = 3  # decided, and all here
# The answer.
_QUEUED: Final = 0  # it is not this request's turn yet
_WAITING: Final = 1  # nothing of it was sent to the client; the request counts among the route's active ones
_ANSWERING: Final = 2  # its head was sent
_DONE: Final = 3
# The upstream's connection.
_FRESH: Final = 0
_REUSED: Final = 1  # from the pool: the upstream may just have closed it
_RETRIED: Final = 2
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """A request on its way: held (measured) or streamed to the upstream, its answer streamed back as it arrives."""

    __slots__ = (
        "_answer_headers",
        "_answer_state",
        "_attempt",
        "_body",
        "_body_state",
        "_borrowed",
        "_call",
        "_chunked",
        "_close",
        "_discarded",
        "_held",
        "_out",
        "_replacement",
        "_task",
        "connection",
        "request",
        "upstream",
    )

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.upstream: UpstreamConnection | None = None
        self._call: Call | None = None
        self._body: list[bytes] = []
        self._held = 0
        self._body_state = _HOLDING
        self._answer_state = _QUEUED
        self._attempt = _FRESH
        self._replacement: bytes | None = None
        self._answer_headers: tuple[tuple[bytes, bytes], ...] = ()
        self._out: list[bytes] = []
        self._chunked = False  # the answer goes to the client in chunks
        self._close = False  # the client's connection ends with the answer
        self._borrowed = 0  # bytes of the route's allowance for held bodies
        self._discarded = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def _whole(self) -> bool:
        """Whether the request's body is all here."""
        return self._body_state in (_HELD, _COMPLETE)

    def _release(self) -> None:
        """The body need not be held any longer."""
        if self._body_state == _HOLDING:
            self._body_state = _STREAMING
        elif self._body_state == _HELD:
            self._body_state = _COMPLETE

    # From the client's side.

    def start(self) -> None:
        """It is this request's turn on its connection."""
        request = self.request
        endpoint = self.connection.endpoint
        if endpoint.active >= endpoint.limits.concurrency:
            self._overloaded("concurrency", "too many requests at once")
            return
        endpoint.active += 1
        self._answer_state = _WAITING
        self._call = endpoint.service.open(request)
        if request.expects:
            self.connection.write(_CONTINUE)
        if self._call is None:
            self._dispatch(None)
        elif request.encoded or (request.length or 0) > endpoint.limits.body_bytes:
            self._admit(None)
        elif self._body_state == _HELD:
            self._admit(b"".join(self._body))

    def body(self, data: bytes) -> None:
        """A piece of the request's body."""
        if self._answer_state == _DONE:
            self._discarded += len(data)
            if self._discarded > _DISCARD:
                self.connection.close()
        elif self.upstream is not None and self._body_state >= _STREAMING:
            self.upstream.write(http1.chunk(data) if self.request.chunked else data)
        else:
            self._body.append(data)
            self._held += len(data)
            if self._call is None or self._body_state >= _STREAMING:
                if self._held > _HELD_BEFORE_CONNECT:
                    self.connection.pause_reading()
            elif self._held > self.connection.endpoint.limits.body_bytes and self._task is None:
                self.connection.pause_reading()
                self._admit(None)
            elif self._held > _BORROWED_FROM:
                self._borrow()

    def _borrow(self) -> None:
        """Many large bodies at once must not be more than the container's memory."""
        endpoint = self.connection.endpoint
        endpoint.held += self._held - self._borrowed
        self._borrowed = self._held
        if endpoint.held > endpoint.limits.held_bytes:
            self._body = []
            self._overloaded("held_bytes", "too many large requests at once")

    def body_end(self) -> None:
        """The request's body is complete."""
        holding = self._body_state == _HOLDING
        self._body_state = _HELD if holding else _COMPLETE
        if self._answer_state == _DONE:
            self.connection.done(self, keep=not self._close)
        elif self.upstream is not None and not holding:
            if self.request.chunked:
                self.upstream.write(http1.LAST_CHUNK)
            self.connection.expect_answer()
        elif self._call is not None and holding and self._task is None:
            self._admit(b"".join(self._body))

    def abort(self) -> None:
        """The client is gone: so is the answer's receiver, and the upstream hears of it."""
        if self._answer_state == _DONE:
            return
        status = None if self._answer_state == _ANSWERING else 499
        self._leave()
        self._stop_task()
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = None
        if self._call is not None:
            self._call.fail("client_disconnected", status)

    def time_out(self) -> None:
        """The upstream was silent for too long."""
        if self._answer_state == _DONE:
            return
        self._break("timeout", 504, "the upstream did not answer in time")

    def pause(self) -> None:
        """The client takes no more for now: neither do we."""
        if self.upstream is not None and not self.upstream.lost:
            self.upstream.transport.pause_reading()

    def resume(self) -> None:
        """The client takes more again."""
        if self.upstream is not None and not self.upstream.lost:
            self.upstream.transport.resume_reading()

    # Deciding and connecting.

    def _admit(self, body: bytes | None) -> None:
        call = self._call
        if call is None:
            return
        if body is None:
            self._release()
        decision = call.admit(body)
        if isinstance(decision, _DECIDED):
            self._decided(decision)
        else:
            self._task = asyncio.get_running_loop().create_task(self._wait(decision))

    async def _wait(self, decision: Awaitable[Decision]) -> None:
        decided = await decision
        self._task = None
        if self._answer_state != _DONE:
            self._decided(decided)

    def _decided(self, decision: Decision) -> None:
        if isinstance(decision, Refusal):
            self._call = None  # `admit` has settled what it refused
            self._answer(decision.status, decision.body, decision.headers)
            return
        self._answer_headers = decision.answer_headers
        if decision.target:
            self.request.target = decision.target
        self._dispatch(decision.body)

    def _dispatch(self, replacement: bytes | None) -> None:
        self._replacement = replacement
        self._release()
        endpoint = self.connection.endpoint
        upstream = endpoint.pool.take(endpoint.loop.time())
        if upstream is None:
            self._task = endpoint.loop.create_task(self._connect())
            return
        self._attempt = _REUSED
        self._connected(upstream)

    async def _connect(self) -> None:
        try:
            upstream = await self.connection.endpoint.pool.connect()
        except TimeoutError:
            self._task = None
            self._break("upstream_connect_timeout", 504, "the upstream did not accept a connection in time")
            return
        except ssl.SSLError as error:
            self._task = None
            self._break("upstream_tls", 502, f"the upstream's certificate or handshake was refused: {error.reason}")
            return
        except TunnelError as error:
            self._task = None
            self._break("upstream_proxy", 502, str(error))
            return
        except OSError:
            self._task = None
            self._break("upstream_connect", 502, "the upstream refused the connection")
            return
        self._task = None
        if self._answer_state == _DONE:
            upstream.transport.abort()
            return
        self._connected(upstream)

    def _connected(self, upstream: UpstreamConnection) -> None:
        self.upstream = upstream
        upstream.own(self)
        request = self.request
        endpoint = self.connection.endpoint
        drop, line = endpoint.service.credentials()
        lines = [line] if line else []
        if endpoint.pool.line:
            lines.append(endpoint.pool.line)
        if self._call is not None:
            more, added = self._call.head(request)
            drop = http1.united(drop, more)
            lines += added
        out = [
            http1.request_head(
                request,
                prefix=endpoint.prefix,
                host=endpoint.host,
                drop=drop,
                lines=lines,
                body=self._replacement,
                upgrade=request.upgrade == b"websocket",
            )
        ]
        if self._replacement is not None:
            out.append(self._replacement)
            self._replacement = None  # a measured request is never sent twice
        else:
            if request.chunked:
                out += [http1.chunk(piece) for piece in self._body]
                if self._whole:
                    out.append(http1.LAST_CHUNK)
            else:
                out += self._body
            self._held = 0
            self.connection.resume_reading()
        if request.method not in _SAFE:
            self._body = []
        upstream.write(b"".join(out))
        if self.connection.slow:
            self.pause()  # an answer before this one is not taken yet
        self._give_back()
        if self._whole:
            self.connection.expect_answer()  # until then the client's own deadline holds

    # From the upstream's side (upstream.AnswerReceiver).

    def response_head(self, head: AnswerHead) -> bool:
        """Send the head on."""
        request = self.request
        changes = self._call.answered(head.status, head.headers) if self._call is not None else False
        bodiless = head.framing == "none" or request.method == b"HEAD"
        drop = http1.HOP_BY_HOP if not head.drop else http1.HOP_BY_HOP | head.drop
        if not bodiless and (changes or head.framing != "length"):
            if head.framing == "length":
                drop |= _LENGTH
            self._chunked = not request.old
            self._close = request.old
        self._close = self._close or not request.keep or self.connection.endpoint.draining
        self._out.append(
            http1.response_head(head, drop=drop, extra=self._answer_headers, chunked=self._chunked, close=self._close)
        )
        self._answer_state = _ANSWERING
        return not bodiless

    def response_body(self, data: bytes, framed: bytes | None) -> None:
        """Send a piece on, as the meter lets it go."""
        if self._call is not None:
            fed = self._call.feed(data)
            if fed is not data:
                self._add(fed)
                return
        if framed is not None and self._chunked:
            self._out.append(framed)
        else:
            self._add(data)

    def _add(self, data: bytes) -> None:
        if data:
            self._out.append(http1.chunk(data) if self._chunked else data)

    def flush(self) -> None:
        """Write once what one piece of input gave."""
        if self._out:
            self.connection.write(b"".join(self._out))
            self._out.clear()
            self.connection.expect_answer()

    def response_end(self, *, reusable: bool) -> None:
        """Settle the call, then let its last bytes go."""
        self._leave()
        if self._call is not None:
            self._add(self._call.end())
        if self._chunked:
            self._out.append(http1.LAST_CHUNK)
        self.connection.write(b"".join(self._out))
        self._out.clear()
        upstream, self.upstream = self.upstream, None
        if upstream is not None and not upstream.lost:
            if reusable and self._whole:
                upstream.transport.resume_reading()  # a slow client may have paused it
                upstream.release()
            else:
                upstream.close()
        self._finish()

    def upstream_lost(self, error: str, *, received: bool) -> None:
        """Retry what may be retried; otherwise say so, or let the client see the truncation."""
        if self._answer_state == _DONE:
            return
        self.upstream = None
        request = self.request
        # A body, which such a method seldom has, is not kept: without it the upstream would wait.
        safe = request.method in _SAFE and self._whole and not received and not (request.length or request.chunked)
        if self._attempt == _REUSED and safe and self._call is None:
            self._attempt = _RETRIED
            self._task = self.connection.endpoint.loop.create_task(self._connect())
            return
        self._break(error, 502, "the upstream closed the connection before it answered")

    def _break(self, error: str, status: int, message: str) -> None:
        self._stop_task()
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = None
        call, self._call = self._call, None
        if self._answer_state == _ANSWERING:
            self._leave()
            if call is not None:
                self._add(call.fail("truncated" if error == "upstream_closed" else error))
            self.connection.write(b"".join(self._out))
            self.connection.close()
            return
        self._out.clear()
        if call is not None:
            call.fail(error, status)
        words = call or self.connection.endpoint.service
        self._answer(status, words.error_body(status, error, message), ())

    def switched(self, head: AnswerHead, rest: bytes) -> None:
        """The upstream agreed to another protocol: from here on, bytes."""
        if not self.request.upgrade:
            self._break("upstream_protocol", 502, "the upstream changed the protocol unasked")
            return
        self._leave()
        upstream, self.upstream = self.upstream, None
        out = [b"HTTP/1.1 101 ", head.reason, b"\r\n"]
        for line in head.lines:
            out += (line, b"\r\n")
        out += (b"\r\n", rest)
        self.connection.write(b"".join(out))
        if upstream is not None:
            self.connection.splice(upstream)

    def pause_sending(self) -> None:
        """The upstream is slow to take the request: so are we."""
        self.connection.pause_reading()

    def resume_sending(self) -> None:
        """The upstream takes more again."""
        self.connection.resume_reading()

    # Ends.

    def _overloaded(self, reason: str, message: str) -> None:
        """A limit of ours: 503, which SDKs try again."""
        service = self.connection.endpoint.service
        service.limited(reason)
        call, self._call = self._call, None
        if call is not None:
            call.fail("overloaded", 503)
        self._answer(503, (call or service).error_body(503, "overloaded", message), _RETRY_AFTER)

    def _leave(self) -> None:
        """The exchange is over: give back what the route's limits counted."""
        if self._answer_state in (_WAITING, _ANSWERING):
            self.connection.endpoint.active -= 1
        self._answer_state = _DONE
        self._give_back()

    def _give_back(self) -> None:
        if self._borrowed:
            self.connection.endpoint.held -= self._borrowed
            self._borrowed = 0

    def _answer(self, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self._leave()
        self._close = not self.request.keep or self.connection.endpoint.draining or not self._whole
        self.connection.write(
            http1.own_response(status, body, extra=headers, close=self._close, bodiless=self.request.method == b"HEAD")
        )
        self._finish()

    def _finish(self) -> None:
        if self._whole:
            self.connection.done(self, keep=not self._close)
        else:
            self._body = []
            self.connection.discard_body()

    def _stop_task(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
