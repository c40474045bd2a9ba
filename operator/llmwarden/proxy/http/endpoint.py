"""One route at work, and what it, an exchange and a splice see of a client's connection. Knows bytes only."""

import asyncio
import math
from collections.abc import Callable
from typing import Final, cast

from llmwarden.contracts.sidecar import Limits, Route
from llmwarden.proxy.http.listen import listeners
from llmwarden.proxy.http.upstream import Pool, UpstreamConnection
from llmwarden.proxy.seam import Service
from llmwarden.proxy.settings import parse_origin


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
        self.connections: set[Connection] = set()
        self.active = 0  # requests being answered
        self.held = 0  # bytes of large bodies that are held to be read
        self.port = route.listen.port  # as bound, once it is
        self._servers: list[asyncio.Server] = []

    async def listen(self, connection: "Callable[[Endpoint], Connection]") -> None:
        """Bind, and make a connection for each client; raises OSError when the port is taken."""
        for sock in listeners(self.route.listen.host, self.route.listen.port):
            self.port = int(sock.getsockname()[1])
            self._servers.append(await self.loop.create_server(lambda: connection(self), sock=sock))

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


class Connection(asyncio.Protocol):
    """A client's connection, as others see it; `server.ClientConnection` is the one there is.

    A class and not a `Protocol`: compiled code calls a class's methods directly.
    """

    __slots__ = ("deadline", "endpoint", "transport")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint: Final = endpoint
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)  # until connection_made
        self.deadline = math.inf  # by the event loop's clock

    def write(self, data: bytes) -> None:
        """Send to the client."""
        raise NotImplementedError

    def expect_answer(self) -> None:
        """Give the upstream, or a slow client, so much time until the next sign of life."""
        raise NotImplementedError

    def discard_body(self) -> None:
        """Drop the rest of the request after an early answer, but not for long."""
        raise NotImplementedError

    def done(self, exchange: object, *, keep: bool) -> None:
        """End an exchange; go on with the next request, or close."""
        raise NotImplementedError

    def splice(self, upstream: UpstreamConnection) -> None:
        """Pass bytes between this client and that upstream from now on."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Take from the client again."""
        raise NotImplementedError

    def close(self) -> None:
        """Close after what was written is sent."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once."""
        raise NotImplementedError

    def close_if_idle(self) -> None:
        """Close unless an answer is on its way."""
        raise NotImplementedError

    def expired(self) -> None:
        """Act on a deadline that has passed."""
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """Whether an answer, or a splice, is on its way."""
        raise NotImplementedError

    @property
    def slow(self) -> bool:
        """Whether the client has yet to take what was written."""
        raise NotImplementedError
