"""The interface of a dialect: how one provider API's requests and answers are understood.

A dialect is a module of this package with a `DIALECT`; it is found by itself. It says which requests are its calls (`Dialect.match`) and
hands out the `Api` of the endpoint, which reads and writes. Both are stateless: figures live in `Asked` and `Answer`. What is read is
untrusted: nothing here may raise on any bytes, and what is kept is bounded.
"""

from bisect import bisect_left
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

import msgspec

from llmwarden import names
from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.framing import Framing
from llmwarden.proxy.seam import Header, Refusal

NAME_LENGTH: Final = 256  # characters of a model's name or an id that are believed
MOST_TOKENS: Final = 10**9  # of one call; a count above is no count
_KEPT_IDS: Final = 32  # tool-call ids of one answer that are kept
_KEPT_REASONS: Final = 128  # a choice has one, and OpenAI makes at most 128 of them
_GAPS: Final = len(names.TPOT_BOUNDS) + 1


class Target(msgspec.Struct, frozen=True):
    """Where a request goes. `path` is decoded and normalised, in the case it came in; `query` is as it came, without `?`.

    `backend` is the LLMService's `backend.type`: a path may be spoken by several.
    """

    method: str
    path: str
    query: str = ""
    backend: str = ""


class Asked:
    """What a request asks for."""

    def __init__(
        self,
        *,
        model: str = "",
        stream: bool = False,
        wants_usage: bool = True,
        has_options: bool = False,
        max_tokens: int | None = None,
        choices: int = 1,
        unbounded: str = "",
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        input_bytes: int = 0,
        conversation: str = "",
        prefixes: tuple[int, ...] = (),
        background: bool = False,
    ) -> None:
        self.model = model
        self.stream = stream
        self.wants_usage = wants_usage  # usage comes by itself, or the client asked for it: nothing is hidden from it
        self.has_options = has_options  # the body has a place where the wish for usage goes already
        self.max_tokens = max_tokens  # of each choice
        self.choices = choices  # that are generated (n, best_of, candidateCount)
        # Why max_tokens x choices and the body's length do not bound what the call uses: "server_tools", "images", "stored_input", ...
        self.unbounded = unbounded
        self.temperature = temperature
        self.top_p = top_p
        self.seed = seed
        self.input_bytes = input_bytes  # of the text that the model reads, as it stands in the body
        self.conversation = conversation  # the conversation's id, or the response that this one goes on from
        # Hashes of the messages up to each of the last ones, the newest last (`prompt.chain`).
        self.prefixes = prefixes
        self.background = background  # the answer comes later, to another request


class Answer:
    """What an answer tells, gathered while it passes. Times are `time.perf_counter()`."""

    model: str = ""
    id: str = ""
    usage: Tokens | None = None
    partial: bool = False  # `usage` is not the last word: of an answer that ends here, its output is estimated
    tier: str = ""  # "batch", "flex", "priority" where it is priced otherwise; "" for the ordinary one
    queue_seconds: float | None = None  # before the engine began, where it says so
    server_seconds: float | None = None  # from request to answer by the provider's own clock, where it says so
    pieces: int = 0  # events with content: near enough one token each
    content_bytes: int = 0
    first_content: float = 0.0
    last_content: float = 0.0
    error: str = ""
    malformed: int = 0
    done: bool = False  # the last event came: the call can be settled before it goes on
    text: bytes = b""  # the last event's, a JSON string, where nothing else in that event means anything
    text_name: bytes = b'"content":'  # what it stands behind
    deferred: str = ""  # the id under which this answer's usage can be asked for later (a background response)

    def __init__(self) -> None:
        self.finish_reasons: list[str] = []
        self.tool_call_ids: list[str] = []
        self.gaps: list[int] = []  # times between two pieces, counted by names.TPOT_BOUNDS

    def content(self, size: int, now: float) -> None:
        """Note a piece of content: text, a tool call, reasoning."""
        if self.pieces:
            if not self.gaps:
                self.gaps = [0] * _GAPS
            self.gaps[bisect_left(names.TPOT_BOUNDS, now - self.last_content)] += 1
        else:
            self.first_content = now
        self.last_content = now
        self.pieces += 1
        self.content_bytes += size

    def texts(self, count: int, size: int, now: float) -> None:
        """Note pieces of text that came at once; `size` without their quotes."""
        self.content(size + 2 * count, now)
        if count > 1:
            if not self.gaps:
                self.gaps = [0] * _GAPS
            self.gaps[0] += count - 1
            self.pieces += count - 1

    def finish(self, reason: str) -> None:
        """Note why a choice ended."""
        if len(self.finish_reasons) < _KEPT_REASONS:
            self.finish_reasons.append(reason[:NAME_LENGTH])

    def tool_call(self, name: str) -> None:
        """Note a tool call's id."""
        if len(self.tool_call_ids) < _KEPT_IDS:
            self.tool_call_ids.append(name[:NAME_LENGTH])


class Event(Enum):
    """What becomes of one event of a stream on its way to a client that did not ask for usage."""

    KEEP = 0
    WITHHOLD = 1
    STRIP = 2  # hand it to `Api.strip`


class Api(Protocol):
    """One endpoint of a dialect."""

    operation: str  # gen_ai.operation.name

    def read_request(self, body: bytes, match: "Match") -> Asked | None:
        """What is asked; None when the body is not this API's. A model that the path names wins."""

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:
        """The body with another model, or with the wish for usage; all else byte for byte. Only what `read_request` has read comes here."""

    def write_target(self, target: bytes, model: str) -> bytes:
        """The request target with another model; the same where the path names none."""

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:
        """How the answer is cut into events, by its content type (in lower case); None for one that is read as a whole."""

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """Understand one event of a stream."""

    def strip(self, event: bytes) -> bytes:
        """An event without what only we asked for."""

    def whole(self, answer: Answer, body: bytes) -> None:
        """Understand an answer that is not a stream; errors too."""


class Match:
    """What the target of a request says of it."""

    def __init__(
        self,
        api: Api,
        *,
        model: str = "",
        stream: bool | None = None,
        takes_usage: bool = False,
        alias: bool = False,
        poll: str = "",
        head: Callable[[Answer, list[Header]], None] | None = None,
    ) -> None:
        self.api: Final = api
        self.model: Final = model
        self.stream: Final = stream
        self.takes_usage: Final = takes_usage  # the server is known to take the wish for usage
        self.alias: Final = alias  # `model` is a deployment's name, not a model's: what answers is what costs
        # A question for an answer that was begun earlier under this id; never refused, charged when it is complete.
        self.poll: Final = poll
        self.head: Final = head  # reads what an answer's head says, where it says something


class Dialect(Protocol):
    """One provider API."""

    name: str

    @property
    def backends(self) -> frozenset[str]:
        """LLMService backend types that speak it by nature; their routes try it first."""

    def match(self, target: Target) -> Match | None:
        """The call that a request to this target is; None when it is none of this dialect."""

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of ours."""

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """A budget's refusal. Without `retry_after` clients must not try again by themselves."""


def count(value: int | None) -> int:
    """A count as it can be: not negative."""
    return value if value is not None and value > 0 else 0
