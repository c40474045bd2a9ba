"""How connections are accepted and bounded, below uvicorn: who may connect (`crowd`), and how slow and how long a request's head may be.

uvicorn has none of these bounds: a connection without a request stays for ever, a head and the trailers of a body may be endless, and requests
may be sent ahead without limit. Bodies are the guard's (`guard.py`). Start at `Door`.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from llmwarden.serving.crowd import PROVE, Crowd, Guest

logger = logging.getLogger(__name__)

HEAD_SECONDS: Final = (
    10.0  # from a connection's start, or a request's first byte, to the end of the head; as the proxy's headSeconds
)
HEAD_BYTES: Final = 64 * 1024  # of a head; and of what is around a body's bytes: the sizes of its chunks, its trailers
HEADERS: Final = 200  # of a request, with its trailers; as the proxy's
SHUTDOWN_SECONDS: Final = 2.0  # for a client to answer the end of TLS
READ_BYTES: Final = 64 * 1024  # that TLS reads ahead while a request waits for its turn
RECEIVE_BYTES: Final = 32 * 1024  # the kernel's buffer of a connection: its memory is our container's, too
ACCEPTS: Final = 32  # connections that are taken at a time, so that requests get their turn
PAUSE_SECONDS: Final = 1.0  # after the machine had no more file descriptors, or no memory

Trusts = Callable[[ssl.SSLObject], bool]  # of a connection with a client certificate: whether its name may call


class UnwelcomeError(Exception):
    """A request that none of our clients sends, and that would be kept in memory. The parser makes 400 of it, and closes."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with bounds. It is dropped without an answer where it breaks one."""

    def __init__(self, config: Config, state: ServerState, guest: Guest, trusts: Trusts | None) -> None:
        super().__init__(config, state, {})
        self._guest = guest
        self._trusts = trusts
        self._around = 0  # bytes since the last phase of a request began, less those of its body
        self._deadline: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, self._late)
        self._in_head = True
        self.begun = False  # whether the TLS handshake was completed
        self._extensions = {PROVE: guest.prove}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take over a connection, after its TLS handshake."""
        super().connection_made(transport)
        self.begun = True
        self._guest.abort = transport.abort
        if self._guest.gone:  # it had to make room during its handshake
            transport.abort()
            return
        self._guest.idle = lambda: not self._answering
        if hasattr(transport, "set_read_buffer_limits"):  # asyncio's TLS; 256 KiB otherwise
            transport.set_read_buffer_limits(high=READ_BYTES)
        if self._trusts is not None:
            if self._trusts(transport.get_extra_info("ssl_object")):
                self._guest.prove()
            else:
                self._guest.close("certificate")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self.give_up()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        # No circle of references may be left: the buffers in it would stay until Python looks for circles.
        self._extensions = {}
        self.scope = self.cycle = self.transport = self.flow = None  # type: ignore[assignment]

    def give_up(self) -> None:
        """Note that there is no connection, or none any more."""
        self._in_time()
        self._guest.leave()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        self._around += len(data)
        super().data_received(data)
        if self._around > HEAD_BYTES:
            self._guest.close("head")
            return
        self._around = max(self._around, 0)
        if (self._in_head or not self._answering) and self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._late)

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._answering:
            message = "a request before the answer to the one before it"
            raise UnwelcomeError(message)
        self._in_head = True
        super().on_message_begin()
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer."""
        if len(self.headers) >= HEADERS:
            message = "too many headers"
            raise UnwelcomeError(message)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._in_time()
        self._in_head = False
        self._around = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._around -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is complete."""
        self._around = 0
        super().on_message_complete()

    @property
    def _answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _in_time(self) -> None:
        """End the deadline, if there is one."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        self._guest.close("head")


class Door:
    """Accepts the connections of a listening socket, and stands where uvicorn has asyncio's Server."""

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[Guest], Connection],
        crowd: Crowd,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._make = make
        self._crowd = crowd
        self._tls: dict[str, Any] = {}
        if tls is not None:
            times = {"ssl_handshake_timeout": HEAD_SECONDS, "ssl_shutdown_timeout": SHUTDOWN_SECONDS}
            self._tls = {"ssl": tls, **times}
        self._beginning: set[asyncio.Task[None]] = set()
        self._closed = False
        sock.settimeout(0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # those accepted inherit it
        self._listen()

    def close(self) -> None:
        """Accept no more."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._sock.fileno())
        for task in tuple(self._beginning):
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until no handshake is under way."""
        await asyncio.gather(*self._beginning, return_exceptions=True)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                accepted, (host, *_rest) = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("no connection can be accepted for %.0f s: %s", PAUSE_SECONDS, error)
                self._loop.remove_reader(self._sock.fileno())
                self._loop.call_later(PAUSE_SECONDS, self._listen)
                return
            self._admit(accepted, host)

    def _admit(self, accepted: socket.socket, host: str) -> None:
        guest = self._crowd.enter(host.removeprefix("::ffff:"))
        if guest is None:
            accepted.close()
            return
        accepted.settimeout(0)
        guest.abort = lambda: _end(accepted)
        task = self._loop.create_task(self._begin(accepted, guest))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _begin(self, accepted: socket.socket, guest: Guest) -> None:
        connection = self._make(guest)
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted, **self._tls)
        except OSError as error:  # TLS's errors are OSErrors, too
            logger.debug("a connection of %s did not begin: %s", guest.address, error)
        finally:
            if not connection.begun:
                connection.give_up()


def _end(sock: socket.socket) -> None:
    """End a connection that is in its TLS handshake: whoever reads it sees its end."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
