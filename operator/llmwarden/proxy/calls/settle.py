"""The end of a call: everything that is said and charged about it, in one record."""

import time
from typing import Final

import msgspec

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.calls.admission import Admitted, Inquiry, Refused
from llmwarden.proxy.dialects.base import Answer
from llmwarden.proxy.record import Record

_ERROR: Final = 400  # HTTP statuses from here on are errors
_GONE: Final = 499  # nginx's number for a client that went away
_BYTES_PER_TOKEN: Final = 4  # OpenAI's rule of thumb for English; used only where no usage came, and labelled so
_FEW: Final = 2


def refuse(refused: Refused) -> Record:
    """The record of a call that a budget refused: it has used nothing."""
    inquiry, denied = refused.inquiry, refused.denied
    record = _begin(inquiry, Answer(), denied.code, refused.answer.status)
    record.model = inquiry.model
    record.budget = denied.budget
    record.refused = True
    return record


def settle(
    admitted: Admitted,
    answer: Answer,
    *,
    status: int,
    error: str = "",
    estimate: int | None = None,
    stream: int = 0,
) -> Record:
    """The record of a call that was made, whatever became of it.

    `status` is what the client saw, 0 where it saw none. `error` says how the call broke. `estimate` is the output of a whole answer
    without usage, in tokens. `stream` is the stream's number in the journal.
    """
    inquiry = admitted.inquiry
    opened = inquiry.opened
    route = opened.route
    status = status or _GONE
    record = _begin(inquiry, answer, error or (str(status) if status >= _ERROR else answer.error), status)
    record.budget = admitted.budget
    record.config = opened.config
    record.reservations = admitted.reservations
    record.stream = stream
    alias = opened.alias
    quote = route.tariff.quote(admitted.model, answer.model, alias=alias)
    tokens, record.estimated = _tokens(inquiry, answer, estimate, record)
    record.tokens = tokens
    record.model = route.tariff.charged_model(admitted.model, answer.model, alias=alias)
    used = tokens.input + tokens.output
    if quote is not None:
        record.price_id = quote.price_id
        record.picodollars = quote.cost(tokens, answer.tier)
        if used and quote.window:
            record.context_share = used / quote.window
    if record.picodollars is None and not used:
        record.picodollars = 0
    if record.picodollars is not None:
        record.charge = record.picodollars
    elif quote is not None:
        record.charge = quote.charge(tokens, answer.tier)
    _measure(record, inquiry)
    if route.busy is not None:
        record.times = route.busy.times(
            inquiry.started,
            inquiry.started + record.duration,
            record.first_token,
            answer.queue_seconds or 0.0,
            tokens.output,
        )
    return record


def rough_input(inquiry: Inquiry) -> int:
    """Tokens of a request's text, roughly and cheaply."""
    return -(-inquiry.asked.input_bytes // _BYTES_PER_TOKEN)


def _begin(inquiry: Inquiry, answer: Answer, error: str, status: int) -> Record:
    """What every finished call has."""
    opened = inquiry.opened
    route = opened.route
    record = Record(route.name, route.server, opened.provider, opened.operation, inquiry.trace, inquiry.asked, answer)
    record.ended = time.time_ns()
    record.duration = time.perf_counter() - inquiry.started  # at once: a span's start is computed from these two
    record.status = status
    record.error = error
    record.labels = inquiry.labels
    record.retry = inquiry.retry
    return record


def _measure(record: Record, inquiry: Inquiry) -> None:
    """How long it took."""
    answer, tokens = record.answer, record.tokens
    if answer.pieces:
        record.first_token = answer.first_content - inquiry.started
        record.per_token = _per_token(inquiry, answer, tokens)
    if tokens.output >= _FEW:
        seconds = record.duration - (record.first_token or 0.0)
        record.tokens_per_second = tokens.output / seconds if seconds > 0 else None


def _tokens(inquiry: Inquiry, answer: Answer, estimate: int | None, record: Record) -> tuple[Tokens, bool]:
    """What to charge, and whether it is an estimate: only for what was produced, or answered without usage."""
    usage = answer.usage
    if usage is not None and not answer.partial:
        return usage, False
    if usage is not None:
        return msgspec.structs.replace(usage, output=max(usage.output, _output(answer))), True
    nothing = not answer.pieces and estimate is None
    if record.status >= _ERROR or (record.error and nothing) or answer.deferred:
        return Tokens(), False
    output = estimate if estimate is not None else _output(answer)
    return Tokens(input=inquiry.prompt.tokens() or rough_input(inquiry), output=output), True


def _output(answer: Answer) -> int:
    """Tokens of a stream's content so far: one per piece at least, but some servers send several in one. Each piece has two quotes."""
    return max(answer.pieces, (answer.content_bytes - 2 * answer.pieces) // _BYTES_PER_TOKEN)


def _per_token(inquiry: Inquiry, answer: Answer, tokens: Tokens) -> float | None:
    """Seconds from one token of a choice to its next."""
    each = tokens.output / inquiry.asked.choices
    if answer.pieces < 2 or each < 2:  # noqa: PLR2004 - an interval has two ends
        return None
    return (answer.last_content - answer.first_content) / (each - 1)
