"""The proxy's byte side in memory: its own classes for a client's and an upstream's connection, on transports that only remember."""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import h11
import msgspec

from llmwarden.contracts.sidecar import Limits, Listen, Route
from llmwarden.proxy.http.endpoint import Endpoint
from llmwarden.proxy.http.server import ClientConnection
from llmwarden.proxy.http.upstream import Pool, UpstreamConnection
from llmwarden.proxy.seam import Call, Request
from llmwarden.proxy.settings import parse_origin

LIMITS: Final = Limits()
ROUTE: Final = Route("bot", "Env", "OpenAI", Listen("127.0.0.1", 0), "http://upstream.test")
_READY: Final = 2  # connections
_RUNNER: Final = asyncio.Runner()


class Transport(asyncio.Transport):
    """Remembers what was sent. As a real one it delivers nothing while reading is paused, and nothing after its end."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.over = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.over:
            self.sent += data

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.over = True

    def abort(self) -> None:
        self.over = True

    def is_closing(self) -> bool:
        return self.over

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def write_eof(self) -> None:
        self.over = True

    def can_write_eof(self) -> bool:
        return True

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 - asyncio's signature
        return default

    def get_write_buffer_size(self) -> int:
        return 0


class Plain:
    """A service that measures nothing (seam.Service): what is left is framing."""

    def open(self, request: Request) -> Call | None:  # noqa: ARG002 - the seam's signature
        return None

    def spliced(self, reason: str) -> None:
        pass

    def limited(self, reason: str) -> None:
        pass

    def credentials(self) -> tuple[frozenset[bytes], bytes]:
        return frozenset(), b""

    def error_body(self, status: int, code: str, message: str) -> bytes:
        return b'{"error":{"status":%d,"code":"%b","message":"%b"}}' % (status, code.encode(), message.encode())


class Upstreams:
    """A pool that is never at a loss: new connections in memory lie ready, behind those that were used (no subclass: `Pool` may be compiled)."""

    def __init__(self) -> None:
        self.pool = Pool(parse_origin(ROUTE.upstream), LIMITS, None)
        self.made: list[UpstreamConnection] = []

    def stock(self) -> None:
        """Make as many as what comes next can need: an answer's end lets one request follow."""
        while len(self.pool._idle) < _READY:
            connection = UpstreamConnection(self.pool)
            connection.connection_made(Transport())
            connection.idle_since = asyncio.get_running_loop().time()
            self.pool._idle.appendleft(connection)
            self.made.append(connection)


class Seen(msgspec.Struct, frozen=True):
    """One whole message as an independent parser reads it."""

    first: tuple[bytes, bytes]  # method and target, or status and reason
    body: bytes


class Told(msgspec.Struct, frozen=True):
    """What came of one conversation: what upstreams read, and what the client got."""

    requests: tuple[Seen, ...]
    to_client: bytes
    closed: bool


def deliver(protocol: Any, data: bytes) -> None:
    """As the event loop does, for either kind of protocol."""
    if isinstance(protocol, asyncio.BufferedProtocol):
        while data:
            buffer = memoryview(protocol.get_buffer(len(data)))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            data = data[size:]
    else:
        protocol.data_received(data)


def converse(
    pieces: list[bytes], answers: Callable[[Seen], list[bytes]], service: Any = None, *, ends: bool = False
) -> Told:
    """A client sends `pieces` as fast as it is let; each complete request is answered with the pieces that `answers(request)` gives.

    With `ends` the upstream closes after each answer.
    """
    return _RUNNER.run(_converse(pieces, answers, service, ends=ends))


async def _converse(pieces: list[bytes], answers: Callable[[Seen], list[bytes]], service: Any, *, ends: bool) -> Told:
    upstreams = Upstreams()
    endpoint = Endpoint(ROUTE, service or Plain(), upstreams.pool, LIMITS)
    client = ClientConnection(endpoint)
    wire = Transport()
    client.connection_made(wire)
    waiting = deque(piece for piece in pieces if piece)
    readers: dict[UpstreamConnection, Reader] = {}
    seen: list[Seen] = []
    moved = True
    while moved:
        moved = bool(waiting) and not wire.paused and not wire.over
        upstreams.stock()
        if moved:
            deliver(client, waiting.popleft())
        for upstream in list(upstreams.made):
            upstreams.stock()
            for request in readers.setdefault(upstream, Reader(h11.SERVER)).feed(taken(upstream)):
                moved = True
                seen.append(request)
                upstreams.stock()
                _answer(upstream, answers(request), ends=ends)
        await asyncio.sleep(0)
    closed = wire.over
    client.connection_lost(None)
    for upstream in upstreams.made:
        _end(upstream)
    assert endpoint.active == 0
    assert endpoint.held == 0
    return Told(tuple(seen), bytes(wire.sent), closed)


def taken(upstream: UpstreamConnection) -> bytes:
    """What was sent to an upstream since it was last asked for."""
    sent = transport(upstream).sent
    data = bytes(sent)
    sent.clear()
    return data


def _answer(upstream: UpstreamConnection, pieces: list[bytes], *, ends: bool) -> None:
    for piece in pieces:
        if piece and not transport(upstream).over:
            deliver(upstream, piece)
    if ends:
        _end(upstream)


def _end(upstream: UpstreamConnection) -> None:
    if not transport(upstream).over:
        transport(upstream).over = True
        upstream.connection_lost(None)


def transport(connection: UpstreamConnection) -> Transport:
    return cast("Transport", connection.transport)


class Reader:
    """An independent parser (h11), one message after another. Raises h11.RemoteProtocolError for what is no HTTP."""

    def __init__(self, role: Any, method: bytes = b"POST", *, single: bool = False) -> None:
        self._single = single  # one message is enough
        self.found: list[Seen] = []
        self._connection = h11.Connection(role, max_incomplete_event_size=1 << 20)
        if role is h11.CLIENT:  # it reads an answer only where it has asked
            self._connection.send(
                h11.Request(method=method, target="/", headers=[("host", "a"), ("content-length", "0")])
            )
            self._connection.send(h11.EndOfMessage())
        self._head: h11.Request | h11.Response | None = None
        self._body = b""

    def feed(self, data: bytes) -> list[Seen]:
        """The messages that are complete by now; empty data is no end. `found` keeps them, an error notwithstanding."""
        if data:
            self._connection.receive_data(data)
        before = len(self.found)
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.Request | h11.Response):
                self._head, self._body = event, b""
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.found.append(self._seen())
                self._head = None
                if not self._next():
                    break
            elif not isinstance(event, h11.InformationalResponse):
                break
        return self.found[before:]

    def end(self) -> list[Seen]:
        """The peer closed: what that completes. Raises h11.RemoteProtocolError in the middle of a message."""
        self._connection.receive_data(b"")
        return self.feed(b"")

    @property
    def begun(self) -> bool:
        """Whether a message has begun, and is not complete."""
        return self._head is not None

    @property
    def rest(self) -> bytes:
        """What came behind the last message."""
        return self._connection.trailing_data[0]

    def _seen(self) -> Seen:
        head = self._head
        if isinstance(head, h11.Request):
            return Seen((bytes(head.method), bytes(head.target)), self._body)
        assert head is not None
        return Seen((str(head.status_code).encode(), bytes(head.reason)), self._body)

    def _next(self) -> bool:
        """Be ready for the peer's next message; False where there is none."""
        connection = self._connection
        if self._single or connection.our_role is not h11.SERVER or connection.our_state is not h11.SEND_RESPONSE:
            return False
        # Any answer will do, but none that agrees to another protocol.
        connection.send(h11.Response(status_code=400, headers=[("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        if {connection.our_state, connection.their_state} != {h11.DONE}:
            return False
        connection.start_next_cycle()
        return True


def requests_in(data: bytes) -> list[Seen]:
    """The requests in a client's bytes as h11 reads them one by one, up to where it finds an error.

    Empty lines before a request mean nothing (RFC 9112, 2.2), however they end.
    """
    out: list[Seen] = []
    with contextlib.suppress(h11.RemoteProtocolError):
        while data := data.lstrip(b"\r\n"):
            reader = Reader(h11.SERVER, single=True)
            if not reader.feed(data):
                break
            out += reader.found
            data = reader.rest
    return out


def answers_in(data: bytes, methods: list[bytes]) -> list[Seen]:
    """The answers that a client reads whose requests had these methods. Raises h11.RemoteProtocolError, at an answer cut short too."""
    out: list[Seen] = []
    for method in itertools.chain(methods, itertools.repeat(b"POST")):
        if not data:
            break
        reader = Reader(h11.CLIENT, method)
        found = reader.feed(data)
        if not found and not reader.begun:
            break  # an interim answer at most: the client left before the answer
        out += found or reader.end()
        data = reader.rest
    return out


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places."""
    bounds = [0, *sorted({point % (len(data) + 1) for point in at}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds) if end > start]
