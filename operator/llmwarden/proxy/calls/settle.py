"""The end of a call: one record, and from it the journal's entry, the gate's charge, the metrics and the span."""

import time
from typing import TYPE_CHECKING, Final

import msgspec

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.money.busy import NO_TIMES
from llmwarden.proxy.money.prices import Known
from llmwarden.proxy.record import Record

if TYPE_CHECKING:
    from llmwarden.proxy.calls.admission import Admission
    from llmwarden.proxy.calls.call import MeteredCall

_ERROR: Final = 400  # HTTP statuses from here on are errors
_GONE: Final = 499  # nginx's number for a client that went away
_BYTES_PER_TOKEN: Final = 4  # OpenAI's rule of thumb for English; used only where no usage came, and labelled so
_FEW: Final = 2


def refuse(call: "Admission", code: str, status: int) -> None:
    """Note a call that a budget refused: it is no usage."""
    service = call.service
    finished = _begun(call, code, status)
    finished.model = call.model
    finished.refused = True
    metrics = service.shared.metrics
    if finished.retry:
        metrics.retried.labels(service.name, finished.retry).inc()
    metrics.refused.labels(service.name, finished.budget).inc()
    series = metrics.series(service.name, finished.provider, finished.operation, call.asked.model, "")
    series.refused(code, status)
    _offer(call, finished)


def settle(call: "MeteredCall", error: str, status: int | None) -> None:
    """Charge a call that was made, whatever became of it. `status` is what we answered, if we did."""
    answer, service = call.answer, call.service
    shared = service.shared
    status = status or call.status or _GONE
    finished = _begun(call, error or (str(status) if status >= _ERROR else answer.error), status)
    known = call.price()
    _fill(finished, call, known)
    tokens = finished.tokens
    used = tokens.input + tokens.output
    # A name that nothing was made of may be anything.
    model = finished.model if used else shared.metrics.capped(finished.model)
    shared.journal.add(
        call.account(model, tokens.input, answer.tier, finished.price_id),
        tokens,
        error=finished.failed,
        estimated=finished.estimated,
        times=_times(call, finished),
        number=call.number,
    )
    charged = finished.picodollars
    if charged is None:
        charged = known.charge(tokens, answer.tier) if known is not None else 0
    shared.gate.charge(call.config, charged, used, call.held)
    call.held = ()
    metrics = shared.metrics
    if finished.retry:
        metrics.retried.labels(service.name, finished.retry).inc()
    if finished.error:
        shared.retries.failed(call.body_key(), time.perf_counter())
    if finished.estimated:
        metrics.estimated.labels(service.name).inc()
    if answer.malformed:
        metrics.malformed.labels(service.name).inc(answer.malformed)
    asked_model = call.asked.model or answer.model
    metrics.series(service.name, finished.provider, finished.operation, asked_model, answer.model).record(finished)
    _offer(call, finished)


def _times(call: "MeteredCall", finished: Record) -> tuple[int, int, int]:
    """How long a model in this very pod was at work; nothing where the upstream is elsewhere."""
    busy = call.service.busy
    if busy is None:
        return NO_TIMES
    end = call.started + finished.duration
    return busy.times(call.started, end, finished.first_token, call.answer.queue_seconds or 0.0, finished.tokens.output)


def _begun(call: "Admission", error: str, status: int) -> Record:
    """What is known of every call that has ended."""
    service = call.service
    finished = Record(
        service.name, service.server, call.provider(), call.match.api.operation, call.trace, call.asked, call.answer
    )
    finished.ended = time.time_ns()
    finished.duration = time.perf_counter() - call.started  # at once: a span begins where these two say
    finished.status = status
    finished.error = error
    finished.labels = call.labels
    finished.retry = call.retry
    finished.budget = call.budget
    return finished


def _fill(finished: Record, call: "MeteredCall", known: Known | None) -> None:
    """What was used, what it cost, how long it took."""
    answer = call.answer
    tokens, finished.estimated = _tokens(call, finished.status, finished.error)
    finished.tokens = tokens
    finished.model = call.row_model()
    used = tokens.input + tokens.output
    if known is not None:
        finished.price_id = known.price_id
        finished.picodollars = known.cost(tokens, answer.tier)
        if used and known.window:
            finished.context_share = used / known.window
    if finished.picodollars is None and not used:
        finished.picodollars = 0
    if answer.pieces:
        finished.first_token = answer.first_content - call.started
        finished.per_token = _per_token(call, tokens)
    if tokens.output >= _FEW:
        seconds = finished.duration - (finished.first_token or 0.0)
        finished.tokens_per_second = tokens.output / seconds if seconds > 0 else None


def _tokens(call: "MeteredCall", status: int, error: str) -> tuple[Tokens, bool]:
    """What to charge, and whether it is an estimate: only for what was produced, or answered without usage."""
    answer = call.answer
    usage = answer.usage
    if usage is not None and not answer.partial:
        return usage, False
    if usage is not None:
        return msgspec.structs.replace(usage, output=max(usage.output, _output(call))), True
    nothing = not answer.pieces and call.output_estimate is None
    if status >= _ERROR or (error and nothing) or answer.deferred:
        return Tokens(), False
    output = call.output_estimate if call.output_estimate is not None else _output(call)
    return Tokens(input=call.prompt.tokens() or rough_input(call), output=output), True


def _output(call: "MeteredCall") -> int:
    """Tokens of a stream's content so far: one per piece at least, but some servers send several in one. Each piece has two quotes."""
    answer = call.answer
    return max(answer.pieces, (answer.content_bytes - 2 * answer.pieces) // _BYTES_PER_TOKEN)


def rough_input(call: "MeteredCall") -> int:
    """Tokens of a request's text, roughly and cheaply."""
    return -(-call.asked.input_bytes // _BYTES_PER_TOKEN)


def _per_token(call: "MeteredCall", tokens: Tokens) -> float | None:
    """Seconds from one token of a choice to its next."""
    answer = call.answer
    each = tokens.output / call.asked.choices
    if answer.pieces < 2 or each < 2:  # noqa: PLR2004 - an interval has two ends
        return None
    return (answer.last_content - answer.first_content) / (each - 1)


def _offer(call: "Admission", finished: Record) -> None:
    exporter = call.service.shared.exporter
    if exporter is not None and finished.trace.sampled:
        exporter.offer(finished)
