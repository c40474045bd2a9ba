"""What is kept of one call: metrics, the span and the journal's entry are all made from it, and from nothing else."""

from functools import lru_cache
from typing import Final

import msgspec

from llmwarden import names
from llmwarden.proxy.spans import Span, Trace, attribute, number
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


def span(call: Record, server: str) -> Span:
    """The call as a span, named by the OpenTelemetry GenAI conventions; `server` is the attributes' text of what answers."""
    return Span(
        service=call.service,
        name=f"{call.operation} {call.asked_model}".rstrip(),
        trace=call.trace,
        start=call.ended - int(call.duration * _NANO),
        end=call.ended,
        attributes=attributes(call, server),
        error=call.error,
    )


def attributes(call: Record, server: str) -> str:  # noqa: C901, PLR0912 - a flat list
    """The span's attributes as text; what is not known is left out.

    What repeats from call to call is remembered as text, what does not is put into it: all as a dictionary takes four times as long.
    """
    out = _of_model(call.operation, call.provider, call.asked_model, call.stream, server, call.status)
    if call.max_tokens is not None or call.temperature is not None or call.top_p is not None:
        out += _of_request(call.max_tokens, call.temperature, call.top_p)
    if call.seed is not None:
        out += "," + attribute("gen_ai.request.seed", call.seed)
    if call.choices != 1:
        out += "," + attribute("gen_ai.request.choice.count", call.choices)
    if call.conversation:
        out += "," + attribute("gen_ai.conversation.id", call.conversation)
    if call.answered_model:
        out += _of_answer(call.answered_model)
    if call.response_id:
        out += "," + attribute("gen_ai.response.id", call.response_id)
    if call.finish_reasons:
        out += _of_reasons(call.finish_reasons)
    tokens = call.tokens
    if tokens.input or tokens.output:
        out += _TOKENS % (tokens.input, tokens.output, tokens.cached_input, tokens.cache_write, tokens.reasoning)
        if call.estimated:
            out += "," + attribute("llmwarden.usage.estimated", value=True)
    if call.first_token is not None:
        out += "," + attribute("gen_ai.response.time_to_first_chunk", call.first_token)
    if call.server_seconds is not None:
        out += "," + attribute("llmwarden.provider.duration", call.server_seconds)
    if call.picodollars is not None:
        out += _COST % number(call.picodollars / names.PICODOLLARS)
    labels = call.labels
    if call.error or call.budget or call.retry or labels != _NO_LABELS:
        for key, value in (
            ("error.type", call.error),
            ("llmwarden.budget", call.budget),
            ("llmwarden.retry", call.retry),
            ("llmwarden.feature", labels.feature),
            ("llmwarden.team", labels.team),
            ("llmwarden.cohort", labels.cohort),
        ):
            if value:
                out += "," + attribute(key, value)
    return out


@lru_cache(maxsize=256)
def _of_model(  # noqa: PLR0917 - all of it is the cache's key
    operation: str,
    provider: str,
    model: str,
    stream: bool,  # noqa: FBT001
    server: str,
    status: int,
) -> str:
    return ",".join(
        [
            attribute("gen_ai.operation.name", operation),
            attribute("gen_ai.provider.name", provider),
            attribute("gen_ai.request.model", model),
            attribute("gen_ai.request.stream", stream),
            server,
            attribute("http.response.status_code", status),
        ]
    )


@lru_cache(maxsize=256, typed=True)
def _of_request(max_tokens: int | None, temperature: float | None, top_p: float | None) -> str:
    out = ""
    if max_tokens is not None:
        out += "," + attribute("gen_ai.request.max_tokens", max_tokens)
    if temperature is not None:
        out += "," + attribute("gen_ai.request.temperature", temperature)
    if top_p is not None:
        out += "," + attribute("gen_ai.request.top_p", top_p)
    return out


@lru_cache(maxsize=256)
def _of_answer(model: str) -> str:
    return "," + attribute("gen_ai.response.model", model)


@lru_cache(maxsize=64)
def _of_reasons(reasons: tuple[str, ...]) -> str:
    return "," + attribute("gen_ai.response.finish_reasons", list(reasons))


_NO_LABELS: Final = Labels()
_TOKENS: Final = "".join(
    f',{{"key":"gen_ai.usage.{kind}_tokens","value":{{"intValue":"%d"}}}}'
    for kind in ("input", "output", "cache_read.input", "cache_creation.input", "reasoning.output")
)
_COST: Final = ',{"key":"gen_ai.usage.cost.amount","value":{"doubleValue":%s}},' + attribute(
    "gen_ai.usage.cost.currency", "USD"
)
