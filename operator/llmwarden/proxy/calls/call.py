"""One measured call: its answer is understood as it passes, and settled once."""

import time
from typing import Final

import msgspec

from llmwarden.contracts.ledger import Labels, Tokens
from llmwarden.proxy.calls import estimate, settle, signals
from llmwarden.proxy.calls.admission import Admission, Opened
from llmwarden.proxy.dialects import shape
from llmwarden.proxy.dialects.base import Asked, Event
from llmwarden.proxy.dialects.shape import Pattern, Shape
from llmwarden.proxy.framing import SPLITTERS, Piece, Splitter, sse
from llmwarden.proxy.seam import Header, Request

_REPLACED: Final = signals.LABEL_HEADERS | {b"accept-encoding", b"traceparent"}
_REPLACED_ALONE: Final = _REPLACED | {b"tracestate"}  # a state without its trace means nothing
_QUEUE_HEADER: Final = b"x-queue-time"  # TGI, in milliseconds
_TOLD: Final = frozenset(
    {b"content-type", b"content-encoding", _QUEUE_HEADER, *signals.RATE_LIMITS}
)  # what is read of an answer's head
_WHOLE_CAP: Final = 16 * 1024 * 1024  # bytes of an answer that are kept to be understood at its end
_PROGRESS_SECONDS: Final = 1.0  # how often a stream's progress goes into the journal
_LESSON: Final = 512  # bytes of a stream by which its shape is looked for at a time
_LESSONS: Final = 8  # events of a stream in a row by which its shape is guessed before that is given up
_OK: Final = 200


class Deferred(msgspec.Struct, frozen=True):
    """A call that was answered before it was done."""

    model: str
    asked: Asked
    labels: Labels


class MeteredCall(Admission):
    """`seam.Call`: one measured request, and its answer as it passes."""

    __slots__ = (
        "_hides",
        "_lessons",
        "_progress_at",
        "_shape",
        "_splitter",
        "_sse",
        "_unread",
        "_whole",
        "_whole_size",
        "number",
        "output_estimate",
        "status",
    )

    def __init__(self, opened: Opened, request: Request) -> None:
        super().__init__(opened, request)
        self.output_estimate: int | None = None  # of a whole answer without usage
        self.status = 0
        self.number = 0  # in the journal, while it streams
        self._hides = False
        self._unread = False  # the answer is compressed, or too large
        self._splitter: Splitter | None = None
        self._sse: sse.Splitter | None = None  # the same, where it is one
        self._shape: Shape | Pattern | None = None  # of the stream's events, once one of them showed it
        self._lessons = _LESSONS
        self._whole: list[bytes] = []
        self._whole_size = 0
        self._progress_at = 0.0

    # seam.Call

    def head(self, request: Request) -> tuple[frozenset[bytes], list[bytes]]:  # noqa: ARG002 - the seam's signature
        """Ask for an answer that can be read, and continue the trace."""
        gone = _REPLACED if self.trace.parent_id else _REPLACED_ALONE
        return gone, [b"Accept-Encoding: identity\r\ntraceparent: ", self.trace.header(), b"\r\n"]

    def answered(self, status: int, headers: list[Header]) -> bool:  # noqa: C901 - one pass over the headers
        """Note status and kind of the answer."""
        self.status = status
        if self.match.head is not None:
            self.match.head(self.answer, headers)
        framing = None
        limits: list[Header] = []
        for header in headers:
            low = header[0]
            if low not in _TOLD:
                continue
            value = header[2]
            if low == b"content-type":
                framing = self.match.api.framing(value.lower(), self.asked)
            elif low == b"content-encoding":
                self._unread = value.strip().lower() not in {b"", b"identity"}
            elif low != _QUEUE_HEADER:
                limits.append(header)
            elif value.isdigit():
                self.answer.queue_seconds = int(value[:9]) / 1000
        if limits:
            self.service.told(self.model, limits)
        if framing is not None and not self._unread:
            self._splitter = SPLITTERS[framing](self.service.shared.limits.event_bytes)
            self._sse = self._splitter if isinstance(self._splitter, sse.Splitter) else None
            if status == _OK and not self.match.poll:
                self._hides = self._usage_added
                read = settle.rough_input(self)
                known = self.price()
                self.number = self.service.shared.journal.open(
                    self.key(self.row_model(), read, "", known.price_id if known is not None else None),
                    Tokens(input=read),
                )
                self._progress_at = time.perf_counter() + _PROGRESS_SECONDS
        return self._hides

    def feed(self, data: bytes) -> bytes:
        """Understand a piece; hold back only usage that the client did not ask for."""
        splitter = self._splitter
        if splitter is None:
            self._keep(data)
            return data
        now = time.perf_counter()
        answer = self.answer
        out: list[bytes] = []
        rest = data
        while rest:
            if self._shape is not None and self._sse is not None and not self._sse.held:
                count, size, end, kept = self._shape.take(rest)
                if end == len(data):  # mostly what came is all of one shape
                    answer.texts(count, size, now)
                    self._lessons = _LESSONS
                    if now >= self._progress_at:
                        self._progress(now)
                    return kept if self._hides else data
                if count:
                    answer.texts(count, size, now)
                    out.append(kept)
                    rest = rest[end:]
                    self._lessons = _LESSONS
                    continue
            # One by one; of much at once only some, since that may show the shape of the rest.
            cut = rest.find(b"\n\n", _LESSON) + 2 if len(rest) > 2 * _LESSON and self._lessons else 0
            piece, rest = (rest[:cut], rest[cut:]) if cut > _LESSON else (rest, b"")
            self._understand(splitter.feed(piece), now, out)
        if answer.done:
            self._settle("", None)
        elif now >= self._progress_at:
            self._progress(now)
        if not self._hides:
            return data
        return out[0] if len(out) == 1 else b"".join(out)

    def _progress(self, now: float) -> None:
        """How far a stream is goes into the journal now and then."""
        if self.number:
            self._progress_at = now + _PROGRESS_SECONDS
            self.service.shared.journal.progress(self.number, self.answer.pieces)

    def _understand(self, events: list[Piece], now: float, out: list[bytes]) -> None:
        """Read events one by one; `out` gets what goes on of them."""
        answer = self.answer
        api = self.match.api
        hides = self._hides
        for raw, payload in events:
            if self._shape is not None:
                count, size, end, kept = self._shape.take(raw)
                if count and end == len(raw):
                    answer.texts(count, size, now)
                    out.append(kept)
                    continue
            kind = api.event(answer, payload, now) if payload is not None else Event.KEEP
            kept = raw
            if hides and kind is not Event.KEEP:
                kept = api.strip(raw) if kind is Event.STRIP else b""
            out.append(kept)
            if answer.text and self._lessons and self._sse is not None:
                self._lessons -= 1
                self._shape = shape.learn(raw, answer.text, kept, answer.text_name)

    def end(self) -> bytes:
        """Settle the call."""
        held = self._last_event()
        self._settle("", None)
        return held

    def fail(self, error: str, status: int | None = None) -> bytes:
        """Settle a call that broke: charged for what came."""
        held = self._last_event()
        self._settle(error, status)
        return held

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of ours, in the dialect's shape, that says whose it is."""
        return self.dialect.error_body(status, code, f"LLM Warden: {message}")

    def _keep(self, data: bytes) -> None:
        """Keep an answer that is read at its end; of many large ones at once only as much as of requests."""
        if self._unread:
            return
        service = self.service
        self._whole_size += len(data)
        service.held += len(data)
        if self._whole_size > _WHOLE_CAP or service.held > service.shared.limits.held_bytes:
            self._unread = True
            self._forget()
        else:
            self._whole.append(data)

    def _forget(self) -> None:
        self.service.held -= self._whole_size
        self._whole_size = 0
        self._whole.clear()

    # The end.

    def _last_event(self) -> bytes:
        """What has not made a whole event: understood all the same, and passed on unless it is ours alone."""
        splitter = self._splitter
        if splitter is None:
            return b""
        rest, payload = splitter.rest()
        kind = Event.KEEP
        if payload is not None and not self._settled:
            kind = self.match.api.event(self.answer, payload, time.perf_counter())
        return rest if self._hides and kind is not Event.WITHHOLD else b""

    def _settle(self, error: str, status: int | None) -> None:
        if self._settled:
            return
        self._settled = True
        self.service.in_flight.dec()
        answer = self.answer
        if self._whole:
            body = b"".join(self._whole)
            self._forget()
            if error:  # it was made, and broke off on its way
                self.output_estimate = estimate.prompt(body).tokens()
            else:
                self.match.api.whole(answer, body)
                if answer.usage is None and not answer.error:
                    self.output_estimate = estimate.prompt(body, answer.content_bytes).tokens()
        if self.match.alias and answer.model:
            self.service.alias(self.model, answer.model)
        deferred = self.service.deferred
        if self.match.poll:
            if answer.usage is None or answer.deferred or deferred.pop(self.match.poll, None) is None:
                return  # not done yet, or charged by another question
        elif answer.deferred and answer.usage is None:
            self.service.defer(answer.deferred, self)
        settle.settle(self, error, status)
