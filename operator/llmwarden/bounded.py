"""Reads a body from outside up to a limit, so that nobody can fill our memory. What a longer one means, callers say."""

from collections.abc import AsyncIterable


class TooLongError(Exception):
    """The body is longer than its limit."""


async def read(parts: AsyncIterable[bytes], most: int) -> bytes:
    """Return the parts joined. Raises TooLongError as soon as they are more than `most` bytes."""
    received: list[bytes] = []
    size = 0
    try:
        async for part in parts:
            size += len(part)
            if size > most:
                raise TooLongError
            received.append(part)
        return b"".join(received)
    finally:
        received.clear()  # an error's traceback would keep them for as long as it lives
