"""One measured call: its request is admitted, its answer is read as it passes, and its record goes to the sinks once."""

import time
from collections.abc import Awaitable
from typing import Final

from llmwarden.proxy.calls import estimate, settle, signals
from llmwarden.proxy.calls.admission import (
    FREE,
    Admission,
    Admitted,
    Inquiry,
    Refused,
    admit,
    configured,
    inquire,
    unready,
)
from llmwarden.proxy.calls.route import Deferred, Opened
from llmwarden.proxy.dialects import shape
from llmwarden.proxy.dialects.base import Answer, Event
from llmwarden.proxy.dialects.shape import Pattern, Shape
from llmwarden.proxy.framing import SPLITTERS, Piece, Splitter, sse
from llmwarden.proxy.record import Record
from llmwarden.proxy.seam import Decision, Forward, Header, Request
from llmwarden.proxy.telemetry import trace

_REPLACED: Final = signals.LABEL_HEADERS | {b"accept-encoding", b"traceparent"}
_REPLACED_ALONE: Final = _REPLACED | {b"tracestate"}  # a state without its trace means nothing
_QUEUE_HEADER: Final = b"x-queue-time"  # TGI, in milliseconds
_READ_HEADERS: Final = frozenset(
    {b"content-type", b"content-encoding", _QUEUE_HEADER, *signals.RATE_LIMITS}
)  # that are read of an answer's head
_WHOLE_CAP: Final = 16 * 1024 * 1024  # bytes of an answer that are kept to be understood at its end
_PROGRESS_SECONDS: Final = 1.0  # how often a stream's progress goes into the journal
_LESSON: Final = 512  # bytes of a stream by which its shape is looked for at a time
_LESSONS: Final = 8  # events of a stream in a row by which its shape is guessed before that is given up
_OK: Final = 200


class MeteredCall:
    """`seam.Call`: one measured request, and its answer as it passes."""

    __slots__ = (
        "_admitted",
        "_ended",
        "_hides",
        "_inquiry",
        "_lessons",
        "_progress_at",
        "_request",
        "_shape",
        "_splitter",
        "_sse",
        "_status",
        "_stream",
        "_unread",
        "_whole",
        "_whole_size",
        "answer",
        "opened",
        "trace",
    )

    def __init__(self, opened: Opened, request: Request) -> None:
        opened.route.in_flight.value += 1.0
        self.opened = opened
        self._request = request
        self.trace = trace.begin(opened.traceparent, opened.sample_percent)
        self._inquiry: Inquiry | None = None  # until the body is here
        self._admitted: Admitted | None = None  # until the gate has decided
        self._ended = False
        self.answer = Answer()
        self._status = 0
        self._stream = 0  # its number in the journal
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

    def admit(self, body: bytes | None) -> Decision | Awaitable[Decision]:
        """Read the request and ask the gate."""
        opened = self.opened
        if opened.match.poll:
            return self._poll(opened.match.poll)
        if opened.config is None and opened.route.hard:
            return self._admit_unconfigured(body)
        inquiry = self._inquiry = inquire(opened, self._request, self.trace, body)
        admission = admit(inquiry)
        # One class after the other: a tuple of classes takes compiled code longer.
        if isinstance(admission, Admitted):
            self._admitted = admission
            return admission.forward(body)
        if isinstance(admission, Refused):
            return self._refuse(admission)
        return self._admit_later(admission, body)

    async def _admit_unconfigured(self, body: bytes | None) -> Decision:
        """Wait for the first configuration; without one a budget refuses the call."""
        opened = self.opened = await configured(self.opened)
        inquiry = self._inquiry = inquire(opened, self._request, self.trace, body)
        if opened.config is None:
            return self._refuse(unready(inquiry))
        admission = admit(inquiry)
        if isinstance(admission, Admitted | Refused):
            return self._decided(admission, body)
        return self._decided(await admission, body)

    def _decided(self, admission: Admission, body: bytes | None) -> Decision:
        if isinstance(admission, Refused):
            return self._refuse(admission)
        self._admitted = admission
        return admission.forward(body)

    async def _admit_later(self, waiting: Awaitable[Admission], body: bytes | None) -> Decision:
        return self._decided(await waiting, body)

    def _refuse(self, refused: Refused) -> Decision:
        self._leave()
        self._hand_over(settle.refuse(refused))
        return refused.answer

    def _poll(self, name: str) -> Decision:
        """A request for the result of an earlier call. It is never refused: that call was admitted."""
        deferred = self.opened.route.deferred.get(name)
        if deferred is not None:
            self._inquiry = Inquiry(
                self.opened, self._request, self.trace, deferred.asked, deferred.model, labels=deferred.labels
            )
        return Forward()

    def head(self, request: Request) -> tuple[frozenset[bytes], list[bytes]]:  # noqa: ARG002 - the seam's signature
        """Ask for an answer that can be read, and continue the trace."""
        gone = _REPLACED if self.trace.parent_id else _REPLACED_ALONE
        return gone, [b"Accept-Encoding: identity\r\ntraceparent: ", self.trace.header(), b"\r\n"]

    def answered(self, status: int, headers: list[Header]) -> bool:  # noqa: C901 - one pass over the headers
        """Note status and kind of the answer."""
        self._status = status
        admitted = self._admission()
        asked = admitted.inquiry.asked
        match = self.opened.match
        if match.head is not None:
            match.head(self.answer, headers)
        framing = None
        limits: list[Header] = []
        for header in headers:
            low = header[0]
            if low not in _READ_HEADERS:
                continue
            value = header[2]
            if low == b"content-type":
                framing = match.api.framing(value.lower(), asked)
            elif low == b"content-encoding":
                self._unread = value.strip().lower() not in {b"", b"identity"}
            elif low != _QUEUE_HEADER:
                limits.append(header)
            elif value.isdigit():
                self.answer.queue_seconds = int(value[:9]) / 1000
        route = self.opened.route
        if limits:
            route.rate_limits.note(admitted.model, limits)
        if framing is not None and not self._unread:
            self._splitter = SPLITTERS[framing](route.shared.limits.event_bytes)
            self._sse = self._splitter if isinstance(self._splitter, sse.Splitter) else None
            if status == _OK and not match.poll:
                self._hides = admitted.adds_usage
                self._note_start(admitted)
        return self._hides

    def _note_start(self, admitted: Admitted) -> None:
        """Note the stream in the journal: what it has used at least is charged even if this process dies."""
        opened, model, answered = self.opened, admitted.model, self.answer.model
        route, alias = opened.route, opened.alias
        quote = route.tariff.quote(model, answered, alias=alias)
        self._stream = route.shared.accounts.started(
            route.name,
            opened.provider,
            route.tariff.charged_model(model, answered, alias=alias),
            quote.price_id if quote is not None else None,
            settle.rough_input(admitted.inquiry),
        )
        self._progress_at = time.perf_counter() + _PROGRESS_SECONDS

    def feed(self, data: bytes) -> bytes:
        """Read a piece; hold back only usage that the client did not ask for."""
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
                count, size, end, passed = self._shape.take(rest)
                if end == len(data):  # mostly the whole piece is of one shape
                    answer.texts(count, size, now)
                    self._lessons = _LESSONS
                    if now >= self._progress_at:
                        self._progress(now)
                    return passed if self._hides else data
                if count:
                    answer.texts(count, size, now)
                    out.append(passed)
                    rest = rest[end:]
                    self._lessons = _LESSONS
                    continue
            # Read events one by one. Of a large piece read only a part first: it may show the shape of the rest.
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
        """Note in the journal how far the stream is, once in a while."""
        if self._stream:
            self._progress_at = now + _PROGRESS_SECONDS
            self.opened.route.shared.accounts.progress(self._stream, self.answer.pieces)

    def _understand(self, events: list[Piece], now: float, out: list[bytes]) -> None:
        """Read events one by one; `out` gets the bytes that pass on to the client."""
        answer = self.answer
        api = self.opened.match.api
        hides = self._hides
        for raw, payload in events:
            if self._shape is not None:
                count, size, end, passed = self._shape.take(raw)
                if count and end == len(raw):
                    answer.texts(count, size, now)
                    out.append(passed)
                    continue
            kind = api.event(answer, payload, now) if payload is not None else Event.KEEP
            passed = raw
            if hides and kind is not Event.KEEP:
                passed = api.strip(raw) if kind is Event.STRIP else b""
            out.append(passed)
            if answer.text and self._lessons and self._sse is not None:
                self._lessons -= 1
                self._shape = shape.learn(raw, answer.text, passed, answer.text_name)

    def end(self) -> bytes:
        """Settle the call."""
        last = self._last_event()
        self._settle("", None)
        return last

    def fail(self, error: str, status: int | None = None) -> bytes:
        """Settle a call that broke; it is charged for what came."""
        last = self._last_event()
        self._settle(error, status)
        return last

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of ours, in the dialect's shape, that says whose it is."""
        return self.opened.dialect.error_body(status, code, f"LLM Warden: {message}")

    def _keep(self, data: bytes) -> None:
        """Keep a whole answer, to read it at its end. All answers together may take as much memory as requests may."""
        if self._unread:
            return
        route = self.opened.route
        self._whole_size += len(data)
        route.kept_bytes += len(data)
        if self._whole_size > _WHOLE_CAP or route.kept_bytes > route.shared.limits.held_bytes:
            self._unread = True
            self._forget()
        else:
            self._whole.append(data)

    def _forget(self) -> None:
        self.opened.route.kept_bytes -= self._whole_size
        self._whole_size = 0
        self._whole.clear()

    # The end.

    def _last_event(self) -> bytes:
        """Read the bytes that are no whole event yet. They pass on, unless they are only usage that the client did not ask for."""
        splitter = self._splitter
        if splitter is None:
            return b""
        rest, payload = splitter.rest()
        kind = Event.KEEP
        if payload is not None and not self._ended:
            kind = self.opened.match.api.event(self.answer, payload, time.perf_counter())
        return rest if self._hides and kind is not Event.WITHHOLD else b""

    def _leave(self) -> None:
        """The one place where a call stops being under way."""
        self._ended = True
        self.opened.route.in_flight.value -= 1.0

    def _hand_over(self, record: Record) -> None:
        self.opened.route.shared.sinks.finished(record)

    def _admission(self) -> Admitted:
        """The admission, or a free one: of a poll, and of a call that broke before the gate had decided."""
        admitted = self._admitted
        if admitted is None:
            inquiry = self._inquiry or Inquiry(self.opened, self._request, self.trace)
            admitted = self._admitted = Admitted(inquiry, FREE)
        return admitted

    def _settle(self, error: str, status: int | None) -> None:
        if self._ended:
            return
        self._leave()
        opened, answer = self.opened, self.answer
        route, match = opened.route, opened.match
        output: int | None = None  # of a whole answer without usage
        if self._whole:
            body = b"".join(self._whole)
            self._forget()
            if error:  # the upstream made it, and it broke off on its way
                output = estimate.prompt(body).tokens()
            else:
                match.api.whole(answer, body)
                if answer.usage is None and not answer.error:
                    output = estimate.prompt(body, answer.content_bytes).tokens()
        admitted = self._admission()
        inquiry = admitted.inquiry
        if opened.alias and answer.model:
            route.tariff.answers(admitted.model, answer.model)
        if match.poll:
            if answer.usage is None or answer.deferred or route.deferred.pop(match.poll, None) is None:
                return  # not done yet, or charged by another question
        elif answer.deferred and answer.usage is None:
            route.defer(answer.deferred, Deferred(admitted.model, inquiry.asked, inquiry.labels))
        record = settle.settle(
            admitted, answer, status=status or self._status, error=error, estimate=output, stream=self._stream
        )
        self._hand_over(record)
        if record.error:
            route.shared.retries.failed(inquiry.body_key(), time.perf_counter())
