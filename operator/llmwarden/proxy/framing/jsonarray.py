"""Cutting a JSON array that arrives bit by bit into its objects (Gemini's streamGenerateContent without `alt=sse`)."""

import re
from typing import Final

CAP: Final = (
    4 * 1024 * 1024
)  # bytes of one object that are held and understood (images come inline); a larger one passes unread

# What lies between two brackets: anything but quotes and brackets, and whole strings. Nothing is tried twice (`*+`).
_BETWEEN: Final = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+', re.DOTALL)
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_OPENING: Final = frozenset(b"{[")
_QUOTE: Final = 0x22
_ARRAY: Final = 0x5B


class Splitter:
    """Bytes in, whole objects out; their concatenation, with `rest()`, is the input, byte for byte.

    The events are the objects of the outermost array, or objects that stand one after another without one. What stands
    between them (brackets, commas, white space) travels with the object that follows.
    """

    __slots__ = ("_at", "_base", "_cap", "_carry", "_depth", "_in_string", "_skipping")

    def __init__(self, cap: int = CAP) -> None:
        self._cap = cap
        self._carry = b""
        self._at = 0  # how far the carry was scanned
        self._depth = 0
        self._base = 0  # the depth at which an object is an event: 1 inside an array
        self._in_string = False
        self._skipping = False  # inside an object that is larger than the cap

    def feed(self, data: bytes) -> list[tuple[bytes, bytes | None]]:
        """Objects with what stands before them, each with its payload: None for the array's end, and for pieces of one too large."""
        buffer = self._carry + data if self._carry else data
        events: list[tuple[bytes, bytes | None]] = []
        start, at = 0, self._at
        while (found := self._next_bracket(buffer, at)) >= 0:
            at = found + 1
            if buffer[found] in _OPENING:
                if self._depth == 0 and buffer[found] == _ARRAY:
                    self._base = 1
                self._depth += 1
                continue
            self._depth = max(self._depth - 1, 0)
            if self._depth <= self._base:
                raw = buffer[start:at]
                events.append((raw, None if self._skipping or self._depth < self._base else payload(raw)))
                self._skipping = False
                start = at
                if self._depth == 0:
                    self._base = 0
        rest = buffer[start:] if start else buffer
        self._at -= start
        if len(rest) > self._cap or (self._skipping and self._at):
            # What is scanned may go: the scan's state does not look back.
            self._skipping = True
            events.append((rest[: self._at], None))
            rest = rest[self._at :]
            self._at = 0
        self._carry = rest
        return events

    def rest(self) -> tuple[bytes, None]:
        """What has not made a whole object, and so has no payload; the splitter is empty after it."""
        carry, self._carry = self._carry, b""
        self._at = 0
        return carry, None

    def _next_bracket(self, buffer: bytes, at: int) -> int:
        """Where the next bracket outside strings is; -1 at the end of what has come, `_at` and `_in_string` then say how far."""
        size = len(buffer)
        while True:
            if self._in_string:
                at = _match(_IN_STRING, buffer, at)
                if at == size or buffer[at] != _QUOTE:  # the end, or a backslash whose other half has not come
                    self._at = at
                    return -1
                self._in_string = False
                at += 1
            at = _match(_BETWEEN, buffer, at)
            if at == size:
                self._at = at
                return -1
            if buffer[at] != _QUOTE:
                return at
            self._in_string = True
            at += 1


def payload(event: bytes) -> bytes | None:
    """The object in it; None where there is none."""
    start = event.find(b"{")
    return event[start:].rstrip() if start >= 0 else None


def _match(pattern: re.Pattern[bytes], buffer: bytes, at: int) -> int:
    match = pattern.match(buffer, at)
    return match.end() if match else at
