"""How streamed answers are cut into events, each way in a module of its own."""

from enum import Enum
from typing import Final, Protocol

from llmwarden.proxy.framing import eventstream, jsonarray, ndjson, sse

Piece = tuple[
    bytes, bytes | None
]  # an event's bytes as they came, and its payload: None where there is nothing to understand


class Framing(Enum):
    """The ways in which providers frame a stream."""

    SSE = "sse"
    NDJSON = "ndjson"
    EVENTSTREAM = "eventstream"  # Amazon's binary `application/vnd.amazon.eventstream`
    JSON_ARRAY = "jsonarray"  # one JSON array, an element at a time (Gemini without `alt=sse`)


class Splitter(Protocol):
    """Bytes in, whole events out; the concatenation of all raw bytes, with `rest()`'s, is the input, byte for byte.

    A payload is None for a comment or a keep-alive, and for the pieces of an event above the module's cap: they pass unread.
    """

    def feed(self, data: bytes) -> list[Piece]:
        """The events that are complete by now."""

    def rest(self) -> Piece:
        """At the end: what has not made a whole event, and its payload if it is one all the same; the splitter is empty after it."""


class Cutter(Protocol):
    """Makes splitters; `cap` is how many bytes of one event are held and understood, of each framing's own default."""

    def __call__(self, cap: int = ...) -> Splitter:
        """A splitter for one stream."""


SPLITTERS: Final[dict[Framing, Cutter]] = {
    Framing.SSE: sse.Splitter,
    Framing.NDJSON: ndjson.Splitter,
    Framing.EVENTSTREAM: eventstream.Splitter,
    Framing.JSON_ARRAY: jsonarray.Splitter,
}
