"""Cutting a byte stream into server-sent events (WHATWG HTML, 9.2), whatever the pieces it arrives in."""

import re
from typing import Final

CAP: Final = 1024 * 1024  # bytes of one event that are held and understood; a larger one passes unread

# Two line ends in a row. A CR at the very end may be half of a CRLF: it is decided with the next byte.
_BOUNDARY: Final = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))")
_LOOK_BACK: Final = 4  # bytes of a boundary that may have come before
_BOM: Final = b"\xef\xbb\xbf"
_DATA: Final = b"data: "
_NAME: Final = b"event: "


class Splitter:
    """Bytes in, whole events out; their concatenation, with `rest()`, is the input, byte for byte."""

    __slots__ = ("_cap", "_carry", "_held", "_skipping", "_tail")

    def __init__(self, cap: int = CAP) -> None:
        self._cap = cap
        self._carry: list[bytes] = []  # the beginning of an event, as it came: copied once, when its end is there
        self._held = 0
        self._tail = b""  # the last bytes of it, where a boundary may have begun
        self._skipping = False  # inside an event that is larger than the cap

    @property
    def held(self) -> bool:
        """Whether there is the beginning of an event."""
        return bool(self._carry) or self._skipping

    def feed(self, data: bytes) -> list[tuple[bytes, bytes | None]]:
        """Events with their blank line, each with its payload: None for a comment, and for pieces of one that is too large."""
        events: list[tuple[bytes, bytes | None]] = []
        buffer, start, search = data, 0, 0
        if self._carry:
            window = self._tail + data
            if _end(window, 0, plain=b"\r" not in window) < 0:
                self._hold(data, events)
                return events
            search = max(self._held - _LOOK_BACK, 0)
            buffer = self._take() + data
        plain = b"\r" not in buffer
        while (end := _end(buffer, search, plain=plain)) >= 0:
            event = buffer[start:end]
            if self._skipping:
                self._skipping = False
                events.append((event, None))
            else:
                events.append((event, payload(event)))
            start = search = end
        if start < len(buffer):
            self._hold(buffer[start:] if start else buffer, events)
        return events

    def _hold(self, data: bytes, events: list[tuple[bytes, bytes | None]]) -> None:
        """Keep what has no end yet; of an event that is too large only what may be half a boundary."""
        self._carry.append(data)
        self._held += len(data)
        self._tail = data[-_LOOK_BACK:] if len(data) >= _LOOK_BACK else (self._tail + data)[-_LOOK_BACK:]
        if self._held > self._cap or (self._skipping and self._held > _LOOK_BACK):
            self._skipping = True
            tail = self._tail
            events.append((self._take()[:-_LOOK_BACK], None))
            self._carry.append(tail)
            self._held = len(tail)
            self._tail = tail

    def _take(self) -> bytes:
        held = b"".join(self._carry) if len(self._carry) > 1 else self._carry[0]
        self._carry.clear()
        self._held = 0
        self._tail = b""
        return held

    def rest(self) -> tuple[bytes, bytes | None]:
        """What has not made a whole event, and its payload; the splitter is empty after it."""
        carry = self._take() if self._carry else b""
        skipping, self._skipping = self._skipping, False
        return carry, payload(carry) if carry and not skipping else None


def _end(buffer: bytes, search: int, *, plain: bool) -> int:
    """Where the first event ends whose boundary begins at `search` or later; -1 where none does. `plain`: there is no CR in it."""
    if plain:
        found = buffer.find(b"\n\n", search)
        return found + 2 if found >= 0 else -1
    match = _BOUNDARY.search(buffer, search)
    return match.end() if match else -1


def payload(event: bytes) -> bytes | None:
    """The event's data lines joined; None when it has none."""
    if event.startswith(_DATA) and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[len(_DATA) : -2]
    if event.startswith(_NAME) and b"\r" not in event:  # `event: NAME` before one line of data: Anthropic's, Responses'
        at = event.find(b"\n") + 1
        if event.startswith(_DATA, at) and event.find(b"\n", at) == len(event) - 2:
            return event[at + len(_DATA) : -2]
    event = event.removeprefix(_BOM)
    lines: list[bytes] = []
    for line in event.splitlines():
        name, colon, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" ") if colon else b"")
    return b"\n".join(lines) if lines else None
