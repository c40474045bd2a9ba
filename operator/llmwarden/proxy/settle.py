"""The end of a call: one record, and from it the journal's entry, the gate's charge, the metrics and the span."""

import time
from typing import TYPE_CHECKING, Final

import msgspec

from llmwarden.proxy import record
from llmwarden.proxy.busy import NO_TIMES
from llmwarden.proxy.journal import Entry
from llmwarden.proxy.record import Record
from llmwarden.wire import Tokens

if TYPE_CHECKING:
    from llmwarden.proxy.admission import Admission
    from llmwarden.proxy.call import MeteredCall

_ERROR: Final = 400  # HTTP statuses from here on are errors
_GONE: Final = 499  # nginx's number for a client that went away
_BYTES_PER_TOKEN: Final = 4  # OpenAI's rule of thumb for English; used only where no usage came, and labelled so
_FEW: Final = 2


def refuse(call: "Admission", code: str, status: int) -> None:
    """Note a call that a budget refused: it is no usage."""
    shared = call.service.shared
    refused = Record(
        service=call.service.name,
        provider=call.provider(),
        operation=call.match.api.operation,
        trace=call.trace,
        ended=time.time_ns(),
        status=status,
        error=code,
        duration=time.perf_counter() - call.started,
        asked_model=call.asked.model,
        model=call.model,
        stream=call.asked.stream,
        max_tokens=call.asked.max_tokens,
        conversation=call.asked.conversation,
        prefixes=call.asked.prefixes,
        labels=call.labels,
        retry=call.retry,
        budget=call.budget,
        refused=True,
    )
    metrics = shared.metrics
    if refused.retry:
        metrics.retried.labels(refused.service, refused.retry).inc()
    metrics.refused.labels(refused.service, refused.budget).inc()
    metrics.series(refused.service, refused.provider, refused.operation, refused.asked_model, "").refused(code, status)
    _emit(call, refused)


def settle(call: "MeteredCall", error: str, status: int | None) -> None:
    """Charge a call that was made, whatever became of it. `status` is what we answered, if we did."""
    answer = call.answer
    status = status or call.status or _GONE
    error = error or (str(status) if status >= _ERROR else answer.error)
    finished = _record(call, error, status)
    shared = call.service.shared
    tokens = finished.tokens
    model = finished.model
    if not (tokens.input or tokens.output):
        model = shared.metrics.capped(model)  # a name that nothing was made of may be anything
    key = call.key(model, tokens.input, finished.tier, finished.price_id)
    labels = shared.journal.bounded(key.bucket, finished.labels)
    if labels.feature or labels.team or labels.cohort:
        key = key._replace(feature=labels.feature, team=labels.team, cohort=labels.cohort)
    shared.journal.add(
        Entry(
            key,
            tokens,
            error=finished.failed,
            estimated=finished.estimated,
            times=_times(call, finished),
        ),
        call.number,
    )
    shared.gate.charge(call.config, finished.picodollars or 0, tokens.input + tokens.output, call.held)
    call.held = ()
    metrics = shared.metrics
    if finished.retry:
        metrics.retried.labels(finished.service, finished.retry).inc()
    if finished.error:
        shared.retries.failed(call.body_key, time.perf_counter())
    if finished.estimated:
        metrics.estimated.labels(finished.service).inc()
    if finished.malformed:
        metrics.malformed.labels(finished.service).inc(finished.malformed)
    metrics.series(
        finished.service,
        finished.provider,
        finished.operation,
        finished.asked_model or finished.answered_model,
        finished.answered_model,
    ).record(finished)
    _emit(call, finished)


def _times(call: "MeteredCall", finished: Record) -> tuple[int, int, int]:
    """How long a model in this very pod was at work; nothing where the upstream is elsewhere."""
    busy = call.service.busy
    if busy is None:
        return NO_TIMES
    end = call.started + finished.duration
    return busy.times(call.started, end, finished.first_token, finished.queue_seconds or 0.0, finished.tokens.output)


def _record(call: "MeteredCall", error: str, status: int) -> Record:
    asked, answer = call.asked, call.answer
    tokens, estimated = _tokens(call, status, error)
    known = call.price()
    picodollars = known.cost(tokens, answer.tier) if known is not None else None
    if picodollars is None and not (tokens.input or tokens.output):
        picodollars = 0
    duration = time.perf_counter() - call.started
    first_token = answer.first_content - call.started if answer.pieces else None
    used = tokens.input + tokens.output
    return Record(  # by position: forty keywords take three times as long
        call.service.name,
        call.provider(),
        call.match.api.operation,
        call.trace,
        time.time_ns(),  # ended
        status,
        error,
        duration,
        asked.model,  # asked_model
        call.row_model(),
        answer.model,  # answered_model
        tokens,
        estimated,
        answer.tier,
        known.price_id if known is not None else None,
        picodollars,
        used / known.window if used and known is not None and known.window else None,  # context_share
        first_token,
        _per_token(call, tokens),
        tuple(answer.gaps),
        answer.last_content - answer.first_content,  # gaps_sum
        _rate(tokens, duration - (first_token or 0.0)),  # tokens_per_second
        answer.queue_seconds,
        answer.server_seconds,
        asked.stream,
        asked.choices,
        asked.max_tokens,
        asked.temperature,
        asked.top_p,
        asked.seed,
        asked.conversation,
        asked.prefixes,
        call.labels,
        call.retry,
        answer.id,  # response_id
        tuple(answer.finish_reasons),
        tuple(answer.tool_call_ids),
        answer.malformed,
        bool(answer.deferred),
        call.budget,
    )


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


def _rate(tokens: Tokens, seconds: float) -> float | None:
    """Output tokens per second; None for too few to tell."""
    return tokens.output / seconds if tokens.output >= _FEW and seconds > 0 else None


def _per_token(call: "MeteredCall", tokens: Tokens) -> float | None:
    """Seconds from one token of a choice to its next."""
    answer = call.answer
    each = tokens.output / call.asked.choices
    if answer.pieces < 2 or each < 2:  # noqa: PLR2004 - an interval has two ends
        return None
    return (answer.last_content - answer.first_content) / (each - 1)


def _emit(call: "Admission", finished: Record) -> None:
    exporter = call.service.shared.exporter
    if exporter is not None and finished.trace.sampled:
        exporter.offer(record.span(finished, call.service.server))
