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

    __slots__ = ("_cap", "_carry", "_scanned", "_skipping")

    def __init__(self, cap: int = CAP) -> None:
        self._cap = cap
        self._carry = b""
        self._scanned = 0
        self._skipping = False  # inside an event that is larger than the cap

    @property
    def held(self) -> bool:
        """Whether there is the beginning of an event."""
        return bool(self._carry) or self._skipping

    def feed(self, data: bytes) -> list[tuple[bytes, bytes | None]]:
        """Events with their blank line, each with its payload: None for a comment, and for pieces of one that is too large."""
        carry = self._carry
        buffer = carry + data if carry else data
        events: list[tuple[bytes, bytes | None]] = []
        start = 0
        search = max(self._scanned - _LOOK_BACK, 0)
        plain = b"\r" not in buffer
        while True:
            if plain:
                found = buffer.find(b"\n\n", search)
                end = found + 2
            else:
                match = _BOUNDARY.search(buffer, search)
                found, end = match.span() if match else (-1, 0)
            if found < 0:
                break
            event = buffer[start:end]
            if self._skipping:
                self._skipping = False
                events.append((event, None))
            else:
                events.append((event, payload(event)))
            start = search = end
        rest = buffer[start:]
        if len(rest) > self._cap or (self._skipping and len(rest) > _LOOK_BACK):
            self._skipping = True
            events.append((rest[:-_LOOK_BACK], None))
            rest = rest[-_LOOK_BACK:]
        self._carry = rest
        self._scanned = len(rest)
        return events

    def rest(self) -> tuple[bytes, bytes | None]:
        """What has not made a whole event, and its payload; the splitter is empty after it."""
        carry, self._carry = self._carry, b""
        self._scanned = 0
        skipping, self._skipping = self._skipping, False
        return carry, payload(carry) if carry and not skipping else None


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
