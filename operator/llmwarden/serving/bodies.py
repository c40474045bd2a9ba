"""Bounds the bytes of all bodies that are being read together, for all callers of a server.

A body that would exceed the bound does not wait: the body that has been read for longest makes room for it. An honest body is complete within
milliseconds, so those that go are those that somebody holds open. Which endpoint takes how much, and for how long, is in `guard.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

MOST: Final = 64 * 1024 * 1024  # bytes


class MadeRoomError(Exception):
    """The body had to make room for others."""


class Body:
    """One body that is being read."""

    def __init__(self, bodies: "Bodies", timeout: asyncio.Timeout) -> None:
        self._bodies = bodies
        self._timeout = timeout
        self.size = 0
        self.dropped = False

    async def counted(self, parts: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
        """Yield the parts and count their bytes."""
        async for part in parts:
            self._bodies.grow(self, len(part))
            yield part

    def drop(self) -> None:
        """End its reading at once."""
        self.dropped = True
        self._timeout.reschedule(asyncio.get_running_loop().time())


class Bodies:
    """See the module. `most` is in bytes, and at least as much as the largest body may have."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._size = 0
        self._reading: dict[Body, None] = {}  # those that have bytes, the one that is read for longest first

    @contextlib.asynccontextmanager
    async def reading(self, seconds: float) -> AsyncIterator[Body]:
        """Read a body within the context. Raises TimeoutError after `seconds`, and MadeRoomError where it has to go for others."""
        body: Body | None = None
        try:
            async with asyncio.timeout(seconds) as timeout:
                body = Body(self, timeout)
                yield body
        except TimeoutError:
            if body is not None and body.dropped:
                raise MadeRoomError from None
            raise
        finally:
            if body is not None:
                self._forget(body)

    def grow(self, body: Body, by: int) -> None:
        """Count bytes that have come. Raises MadeRoomError where the body itself has to go."""
        if body.dropped:
            raise MadeRoomError
        self._reading[body] = None
        body.size += by
        self._size += by
        while self._size > self._most:
            oldest = next(iter(self._reading))
            oldest.drop()
            self._forget(oldest)
            if oldest is body:
                raise MadeRoomError

    def _forget(self, body: Body) -> None:
        if body in self._reading:
            del self._reading[body]
            self._size -= body.size
