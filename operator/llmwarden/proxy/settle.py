"""The end of a call: one record, and from it the journal's entry, the gate's charge, the metrics and the span."""

import time
from typing import TYPE_CHECKING, Final

from llmwarden.proxy import record
from llmwarden.proxy.journal import Entry
from llmwarden.proxy.record import Record
from llmwarden.wire import Labels, Tokens

if TYPE_CHECKING:
    from llmwarden.proxy.calls import MeteredCall

_ERROR: Final = 400  # HTTP statuses from here on are errors
_GONE: Final = 499  # nginx's number for a client that went away
_BYTES_PER_TOKEN: Final = 4  # OpenAI's rule of thumb for English; used only where no usage came, and labelled so


def refuse(call: "MeteredCall", code: str, status: int) -> None:
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
        budget=call.budget,
        refused=True,
    )
    metrics = shared.metrics
    metrics.refused.labels(refused.service, refused.budget).inc()
    metrics.series(refused.service, refused.provider, refused.operation, refused.asked_model, "").refused(code)
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
    key = call.key(model, tokens.input, finished.tier)
    labels = shared.journal.bounded(key.bucket, finished.labels)
    shared.journal.add(
        Entry(
            key._replace(price_id=finished.price_id, feature=labels.feature, team=labels.team, cohort=labels.cohort),
            tokens,
            error=finished.failed,
            estimated=finished.estimated,
        ),
        call.number,
    )
    shared.gate.charge(call.config, finished.picodollars or 0, tokens.input + tokens.output, call.held)
    call.held = ()
    metrics = shared.metrics
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


def _record(call: "MeteredCall", error: str, status: int) -> Record:
    asked, answer = call.asked, call.answer
    tokens, estimated = _tokens(call, status, error)
    known = call.price()
    picodollars = known.cost(tokens, answer.tier) if known is not None else None
    if picodollars is None and not (tokens.input or tokens.output):
        picodollars = 0
    return Record(
        service=call.service.name,
        provider=call.provider(),
        operation=call.match.api.operation,
        trace=call.trace,
        ended=time.time_ns(),
        status=status,
        error=error,
        duration=time.perf_counter() - call.started,
        asked_model=asked.model,
        model=call.row_model(),
        answered_model=answer.model,
        tokens=tokens,
        estimated=estimated,
        tier=answer.tier,
        price_id=known.price_id if known is not None else None,
        picodollars=picodollars,
        first_token=answer.first_content - call.started if answer.pieces else None,
        per_token=_per_token(call, tokens),
        gaps=tuple(answer.gaps),
        gaps_sum=answer.last_content - answer.first_content,
        queue_seconds=answer.queue_seconds,
        stream=asked.stream,
        choices=asked.choices,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        conversation=asked.conversation,
        prefixes=asked.prefixes,
        labels=call.config.labels if call.config is not None else Labels(),
        response_id=answer.id,
        finish_reasons=tuple(answer.finish_reasons),
        tool_call_ids=tuple(answer.tool_call_ids),
        malformed=answer.malformed,
        budget=call.budget,
    )


def _tokens(call: "MeteredCall", status: int, error: str) -> tuple[Tokens, bool]:
    """What to charge, and whether it is an estimate: only for what was produced, or answered without usage."""
    answer = call.answer
    if answer.usage is not None:
        return answer.usage, False
    if status >= _ERROR or (error and not answer.pieces):
        return Tokens(), False
    output = answer.pieces or -(-answer.content_bytes // _BYTES_PER_TOKEN)
    return Tokens(input=input_estimate(call), output=output), True


def input_estimate(call: "MeteredCall") -> int:
    """Tokens of a request's text, near enough."""
    return -(-call.asked.input_bytes // _BYTES_PER_TOKEN)


def _per_token(call: "MeteredCall", tokens: Tokens) -> float | None:
    """Seconds from one token of a choice to its next."""
    answer = call.answer
    each = tokens.output / call.asked.choices
    if answer.pieces < 2 or each < 2:  # noqa: PLR2004 - an interval has two ends
        return None
    return (answer.last_content - answer.first_content) / (each - 1)


def _emit(call: "MeteredCall", finished: Record) -> None:
    exporter = call.service.shared.exporter
    if exporter is not None and finished.trace.sampled:
        exporter.offer(record.span(finished, call.service.server))
