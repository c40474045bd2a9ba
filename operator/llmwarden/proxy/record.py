"""What is kept of one call: metrics, the span and the journal's entry are all made from it, and from nothing else."""

from collections.abc import Mapping

import msgspec

from llmwarden import names
from llmwarden.proxy.spans import Span, Trace, Value
from llmwarden.wire import Labels, Tokens

_NANO = 1e9


class Record(msgspec.Struct, frozen=True):
    """One finished or refused call. Durations are in seconds, None where there is none."""

    service: str
    provider: str
    operation: str
    trace: Trace
    ended: int  # nanoseconds of the epoch
    status: int = 0  # of HTTP, as the client saw it
    error: str = ""  # "" for success
    duration: float = 0.0
    # Models: as asked for, as charged (after a fallback; what answered, where the request named a deployment), as answered.
    asked_model: str = ""
    model: str = ""
    answered_model: str = ""
    # Usage. `estimated`: the answer brought none.
    tokens: Tokens = Tokens()
    estimated: bool = False
    tier: str = ""
    price_id: str | None = None
    picodollars: int | None = None  # None: no price is known
    context_share: float | None = None  # of the model's window that input and output took
    # Times.
    first_token: float | None = None
    per_token: float | None = None
    gaps: tuple[int, ...] = ()  # between pieces of content, counted by names.TPOT_BOUNDS
    gaps_sum: float = 0.0
    tokens_per_second: float | None = None  # of output, from its first token on
    queue_seconds: float | None = None
    server_seconds: float | None = None  # by the provider's own clock
    # Of the request.
    stream: bool = False
    choices: int = 1
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    conversation: str = ""
    prefixes: tuple[int, ...] = ()
    labels: Labels = Labels()
    retry: str = ""  # by what it was seen to be one: "header", "idempotency_key", "body"
    # Of the answer.
    response_id: str = ""
    finish_reasons: tuple[str, ...] = ()
    tool_call_ids: tuple[str, ...] = ()
    malformed: int = 0  # events that were not understood
    deferred: bool = False  # its usage comes with a later answer
    # What the gate decided: the budget that refused it or changed its model, and whether it was refused.
    budget: str = ""
    refused: bool = False

    @property
    def failed(self) -> bool:
        """Whether it is an error of the provider's or of ours: not of a client that went away."""
        return bool(self.error) and self.error != "client_disconnected"


def span(call: Record, server: Mapping[str, Value]) -> Span:
    """The call as a span, named by the OpenTelemetry GenAI conventions."""
    return Span(
        service=call.service,
        name=f"{call.operation} {call.asked_model}".rstrip(),
        trace=call.trace,
        start=call.ended - int(call.duration * _NANO),
        end=call.ended,
        attributes=attributes(call, server),
        error=call.error,
    )


def attributes(call: Record, server: Mapping[str, Value]) -> dict[str, Value]:  # noqa: C901, PLR0912 - a flat list
    """The span's attributes; what is not known is left out."""
    out: dict[str, Value] = {
        "gen_ai.operation.name": call.operation,
        "gen_ai.provider.name": call.provider,
        "gen_ai.request.model": call.asked_model,
        "gen_ai.request.stream": call.stream,
        **server,
        "http.response.status_code": call.status,
    }
    if call.max_tokens is not None:
        out["gen_ai.request.max_tokens"] = call.max_tokens
    if call.temperature is not None:
        out["gen_ai.request.temperature"] = call.temperature
    if call.top_p is not None:
        out["gen_ai.request.top_p"] = call.top_p
    if call.seed is not None:
        out["gen_ai.request.seed"] = call.seed
    if call.choices != 1:
        out["gen_ai.request.choice.count"] = call.choices
    if call.conversation:
        out["gen_ai.conversation.id"] = call.conversation
    if call.answered_model:
        out["gen_ai.response.model"] = call.answered_model
    if call.response_id:
        out["gen_ai.response.id"] = call.response_id
    if call.finish_reasons:
        out["gen_ai.response.finish_reasons"] = list(call.finish_reasons)
    tokens = call.tokens
    if tokens.input or tokens.output:
        out["gen_ai.usage.input_tokens"] = tokens.input
        out["gen_ai.usage.output_tokens"] = tokens.output
        out["gen_ai.usage.cache_read.input_tokens"] = tokens.cached_input
        out["gen_ai.usage.cache_creation.input_tokens"] = tokens.cache_write
        out["gen_ai.usage.reasoning.output_tokens"] = tokens.reasoning
        if call.estimated:
            out["llmwarden.usage.estimated"] = True
    if call.first_token is not None:
        out["gen_ai.response.time_to_first_chunk"] = call.first_token
    if call.server_seconds is not None:
        out["llmwarden.provider.duration"] = call.server_seconds
    if call.picodollars is not None:
        out["gen_ai.usage.cost.amount"] = call.picodollars / names.PICODOLLARS
        out["gen_ai.usage.cost.currency"] = "USD"
    if call.error:
        out["error.type"] = call.error
    if call.budget:
        out["llmwarden.budget"] = call.budget
    if call.retry:
        out["llmwarden.retry"] = call.retry
    labels = call.labels
    if labels.feature:
        out["llmwarden.feature"] = labels.feature
    if labels.team:
        out["llmwarden.team"] = labels.team
    if labels.cohort:
        out["llmwarden.cohort"] = labels.cohort
    return out
