"""One request and its answer, between a client's connection and an upstream's. Knows bytes and the seam only."""

import asyncio
import ssl
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from llmwarden.proxy.http import http1
from llmwarden.proxy.http.egress import TunnelError
from llmwarden.proxy.http.http1 import AnswerHead
from llmwarden.proxy.http.upstream import UpstreamConnection
from llmwarden.proxy.seam import Call, Decision, Forward, Refusal, Request

if TYPE_CHECKING:
    from llmwarden.proxy.http.server import ClientConnection

_HELD_BEFORE_CONNECT: Final = 64 * 1024  # bytes of a streamed body that wait for the upstream's connection
_BORROWED_FROM: Final = 64 * 1024  # bytes of a held body from which on it counts against the route's allowance
_RETRY_AFTER: Final = ((b"Retry-After", b"1"),)
_DISCARD: Final = 1024 * 1024  # bytes of a body that are read and dropped after an early answer
_SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_LENGTH: Final = frozenset({b"content-length"})
_DECIDED: Final = (Forward, Refusal)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """A request on its way: held (measured) or streamed to the upstream, its answer streamed back as it arrives."""

    __slots__ = (
        "_answer_headers",
        "_body",
        "_borrowed",
        "_call",
        "_chunked",
        "_close",
        "_complete",
        "_counted",
        "_discarded",
        "_done",
        "_head_sent",
        "_held",
        "_holding",
        "_out",
        "_replacement",
        "_retried",
        "_reused",
        "_task",
        "connection",
        "request",
        "upstream",
    )

    def __init__(self, connection: "ClientConnection", request: Request) -> None:
        self.connection = connection
        self.request = request
        self.upstream: UpstreamConnection | None = None
        self._call: Call | None = None
        self._body: list[bytes] = []
        self._held = 0
        self._holding = True
        self._complete = False  # the request's body is all here
        self._replacement: bytes | None = None
        self._answer_headers: tuple[tuple[bytes, bytes], ...] = ()
        self._out: list[bytes] = []
        self._head_sent = False
        self._chunked = False
        self._close = False
        self._done = False
        self._counted = False  # among the route's active ones
        self._borrowed = 0  # bytes of the route's allowance for held bodies
        self._discarded = 0
        self._reused = False
        self._retried = False
        self._task: asyncio.Task[None] | None = None

    # From the client's side.

    def start(self) -> None:
        """It is this request's turn on its connection."""
        request = self.request
        endpoint = self.connection.endpoint
        if endpoint.active >= endpoint.limits.concurrency:
            self._overloaded("concurrency", "too many requests at once")
            return
        endpoint.active += 1
        self._counted = True
        self._call = endpoint.service.open(request)
        if request.expects:
            self.connection.write(_CONTINUE)
        if self._call is None:
            self._dispatch(None)
        elif request.encoded or (request.length or 0) > endpoint.limits.body_bytes:
            self._admit(None)
        elif self._complete:
            self._admit(b"".join(self._body))

    def body(self, data: bytes) -> None:
        """A piece of the request's body."""
        if self._done:
            self._discarded += len(data)
            if self._discarded > _DISCARD:
                self.connection.close()
        elif self.upstream is not None and not self._holding:
            self.upstream.write(http1.chunk(data) if self.request.chunked else data)
        else:
            self._body.append(data)
            self._held += len(data)
            if self._call is None or not self._holding:
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
        self._complete = True
        if self._done:
            self.connection.done(self, keep=not self._close)
        elif self.upstream is not None and not self._holding:
            if self.request.chunked:
                self.upstream.write(http1.LAST_CHUNK)
            self.connection.expect_answer()
        elif self._call is not None and self._holding and self._task is None:
            self._admit(b"".join(self._body))

    def abort(self) -> None:
        """The client is gone: so is the answer's receiver, and the upstream hears of it."""
        if self._done:
            return
        self._leave()
        self._stop_task()
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = None
        if self._call is not None:
            self._call.fail("client_disconnected", None if self._head_sent else 499)

    def time_out(self) -> None:
        """The upstream was silent for too long."""
        if self._done:
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
            self._holding = False
        decision = call.admit(body)
        if isinstance(decision, _DECIDED):
            self._decided(decision)
        else:
            self._task = asyncio.get_running_loop().create_task(self._wait(decision))

    async def _wait(self, decision: Awaitable[Decision]) -> None:
        decided = await decision
        self._task = None
        if not self._done:
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
        self._holding = False
        endpoint = self.connection.endpoint
        upstream = endpoint.pool.take(endpoint.loop.time())
        if upstream is None:
            self._task = endpoint.loop.create_task(self._connect())
            return
        self._reused = True
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
        if self._done:
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
                if self._complete:
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
        if self._complete:
            self.connection.expect_answer()  # until then the client's own deadline holds

    # From the upstream's side (upstream.Receiver).

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
        self._head_sent = True
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
            if reusable and self._complete:
                upstream.transport.resume_reading()  # a slow client may have paused it
                upstream.release()
            else:
                upstream.close()
        self._finish()

    def upstream_lost(self, error: str, *, received: bool) -> None:
        """Retry what may be retried; otherwise say so, or let the client see the truncation."""
        if self._done:
            return
        self.upstream = None
        request = self.request
        # A body, which such a method seldom has, is not kept: without it the upstream would wait.
        safe = request.method in _SAFE and self._complete and not received and not (request.length or request.chunked)
        if self._reused and safe and not self._retried and self._call is None:
            self._retried = True
            self._task = self.connection.endpoint.loop.create_task(self._connect())
            return
        self._break(error, 502, "the upstream closed the connection before it answered")

    def _break(self, error: str, status: int, message: str) -> None:
        self._stop_task()
        if self.upstream is not None:
            self.upstream.close()
            self.upstream = None
        call, self._call = self._call, None
        if self._head_sent:
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

    def raw(self, data: bytes) -> None:
        """Never: a splice takes over in `switched`."""

    def raw_eof(self) -> None:
        """Never: the same."""

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
        self._done = True
        endpoint = self.connection.endpoint
        if self._counted:
            self._counted = False
            endpoint.active -= 1
        self._give_back()

    def _give_back(self) -> None:
        if self._borrowed:
            self.connection.endpoint.held -= self._borrowed
            self._borrowed = 0

    def _answer(self, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self._leave()
        self._close = not self.request.keep or self.connection.endpoint.draining or not self._complete
        self.connection.write(
            http1.own_response(status, body, extra=headers, close=self._close, bodiless=self.request.method == b"HEAD")
        )
        self._finish()

    def _finish(self) -> None:
        if self._complete:
            self.connection.done(self, keep=not self._close)
        else:
            self._body = []
            self.connection.discard_body()

    def _stop_task(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
