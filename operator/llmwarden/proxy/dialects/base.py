"""What a dialect tells of a request and its answer. A dialect is stateless: figures live in `Asked` and `Answer`."""

from enum import Enum
from typing import Protocol

import msgspec

from llmwarden.proxy.seam import Refusal
from llmwarden.wire import Tokens


class Asked(msgspec.Struct):
    """What a request asks for. `input_estimate` is in tokens, for answers that bring no usage."""

    model: str = ""
    stream: bool = False
    wants_usage: bool = True  # the client asked for usage itself: nothing is hidden from it
    has_options: bool = False  # the body has a place where the wish for usage goes already
    max_tokens: int | None = None
    temperature: float | None = None
    input_estimate: int = 0


class Answer(msgspec.Struct):
    """What an answer tells, gathered while it passes. Times are `time.perf_counter()`."""

    model: str = ""
    id: str = ""
    finish_reasons: list[str] = []
    usage: Tokens | None = None
    pieces: int = 0  # events with content: near enough one token each
    content_bytes: int = 0
    first_content: float = 0.0
    last_content: float = 0.0
    error: str = ""
    malformed: int = 0
    done: bool = False  # the terminator came


class Event(Enum):
    """What becomes of one event of a stream on its way to a client that did not ask for usage."""

    KEEP = 0
    WITHHOLD = 1
    STRIP = 2  # take the null usage out


class Dialect(Protocol):
    """One provider API."""

    def operation(self, path: str) -> str | None:
        """The GenAI operation name of a POST to a (normalised) path; None when it is not a call of this dialect."""

    def read_request(self, body: bytes) -> Asked | None:
        """What is asked; None when the body is not this dialect's."""

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:
        """The body with another model, or with the wish for usage; all else byte for byte."""

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """Understand one event of a stream."""

    def strip(self, event: bytes) -> bytes:
        """An event without its null usage."""

    def whole(self, answer: Answer, body: bytes) -> None:
        """Understand an answer that is not a stream."""

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of ours."""

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """A budget's refusal. Without `retry_after` clients must not try again by themselves."""
