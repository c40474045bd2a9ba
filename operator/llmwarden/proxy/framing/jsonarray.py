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

    __slots__ = ("_at", "_base", "_cap", "_carry", "_depth", "_held", "_in_string", "_rest", "_skipping")

    def __init__(self, cap: int = CAP) -> None:
        self._cap = cap
        self._carry: list[bytes] = []  # the beginning of an object, scanned: copied once, when its end is there
        self._held = 0
        self._rest = b""  # what follows it and is not scanned: half of what a backslash begins
        self._at = 0  # how far the last piece was scanned
        self._depth = 0
        self._base = 0  # the depth at which an object is an event: 1 inside an array
        self._in_string = False
        self._skipping = False  # inside an object that is larger than the cap

    def feed(self, data: bytes) -> list[tuple[bytes, bytes | None]]:
        """Objects with what stands before them, each with its payload: None for the array's end, and for pieces of one too large."""
        buffer = self._rest + data if self._rest else data
        events: list[tuple[bytes, bytes | None]] = []
        start = at = 0
        while (found := self._next_bracket(buffer, at)) >= 0:
            at = found + 1
            if buffer[found] in _OPENING:
                if self._depth == 0 and buffer[found] == _ARRAY:
                    self._base = 1
                self._depth += 1
                continue
            self._depth = max(self._depth - 1, 0)
            if self._depth <= self._base:
                raw = self._take(buffer[start:at])
                events.append((raw, None if self._skipping or self._depth < self._base else payload(raw)))
                self._skipping = False
                start = at
                if self._depth == 0:
                    self._base = 0
        scanned = buffer[start : self._at] if start or self._at < len(buffer) else buffer
        self._rest = buffer[self._at :]
        if scanned:
            self._carry.append(scanned)
            self._held += len(scanned)
        if self._held and (self._skipping or self._held + len(self._rest) > self._cap):
            # What is scanned may go: the scan's state does not look back.
            self._skipping = True
            events.append((self._take(), None))
        return events

    def rest(self) -> tuple[bytes, None]:
        """What has not made a whole object, and so has no payload; the splitter is empty after it."""
        rest, self._rest = self._rest, b""
        return self._take(rest), None

    def _take(self, end: bytes = b"") -> bytes:
        if not self._carry:
            return end
        self._carry.append(end)
        held = b"".join(self._carry)
        self._carry.clear()
        self._held = 0
        return held

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
