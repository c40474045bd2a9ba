"""Cutting a byte stream into newline-delimited JSON (Ollama), whatever the pieces it arrives in."""

from typing import Final

# Bytes of one line that are held and understood; a larger one passes unread. The last line of Ollama's /api/generate
# holds the counts and also `context`, all token ids of the conversation: more than a megabyte where a window is large.
CAP: Final = 4 * 1024 * 1024


class Splitter:
    """Bytes in, whole lines out; their concatenation, with `rest()`, is the input, byte for byte."""

    __slots__ = ("_cap", "_carry", "_held", "_skipping")

    def __init__(self, cap: int = CAP) -> None:
        self._cap = cap
        self._carry: list[bytes] = []
        self._held = 0
        self._skipping = False  # inside a line that is larger than the cap

    def feed(self, data: bytes) -> list[tuple[bytes, bytes | None]]:
        """Lines with their end, each with its payload: None for a blank line, and for pieces of one that is too large."""
        lines: list[tuple[bytes, bytes | None]] = []
        start = 0
        while (end := data.find(b"\n", start) + 1) > 0:
            line = data[start:end]
            if self._carry:
                self._carry.append(line)
                line = b"".join(self._carry)
                self._carry.clear()
                self._held = 0
            lines.append((line, None if self._skipping else payload(line)))
            self._skipping = False
            start = end
        tail = data[start:] if start else data
        if tail:
            self._carry.append(tail)
            self._held += len(tail)
            if self._skipping or self._held > self._cap:
                self._skipping = True
                lines.append((self._take(), None))
        return lines

    def rest(self) -> tuple[bytes, bytes | None]:
        """The last line where it lacks its end, with its payload; the splitter is empty after it."""
        skipping, self._skipping = self._skipping, False
        line = self._take()
        return line, None if skipping else payload(line)

    def _take(self) -> bytes:
        held = b"".join(self._carry)
        self._carry.clear()
        self._held = 0
        return held


def payload(event: bytes) -> bytes | None:
    """The line without its end; None when it is blank."""
    return event.strip() or None
