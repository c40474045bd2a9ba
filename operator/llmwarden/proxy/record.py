"""What is kept of one call: metrics, the span and the journal's entry are all made from it, and from nothing else."""

from functools import lru_cache
from typing import Final

from llmwarden import names
from llmwarden.contracts.ledger import Labels, Tokens
from llmwarden.proxy.dialects.base import Answer, Asked
from llmwarden.proxy.telemetry.spans import CLIENT_KIND, ERROR_STATUS, Trace, attribute, number, text

_NANO: Final = 1e9
_NO_LABELS: Final = Labels()
_NO_TOKENS: Final = Tokens()


class Record:
    """One finished or refused call. Durations are in seconds, None where there is none.

    `asked` and `answer` are the call's own: what was asked for and what was told stands there.
    """

    ended: int = 0  # nanoseconds of the epoch
    status: int = 0  # of HTTP, as the client saw it
    error: str = ""  # "" for success
    duration: float = 0.0
    model: str = ""  # as charged: after a fallback; what answered, where the request named a deployment
    # Usage. `estimated`: the answer brought none.
    tokens: Tokens = _NO_TOKENS
    estimated: bool = False
    price_id: str | None = None
    picodollars: int | None = None  # None: no price is known
    context_share: float | None = None  # of the model's window that input and output took
    # Times.
    first_token: float | None = None
    per_token: float | None = None
    tokens_per_second: float | None = None  # of output, from its first token on
    labels: Labels = _NO_LABELS
    retry: str = ""  # by what it was seen to be one: "header", "idempotency_key", "body"
    # What the gate decided: the budget that refused it or changed its model, and whether it was refused.
    budget: str = ""
    refused: bool = False

    def __init__(  # noqa: PLR0917 - once per call: keywords would cost
        self, service: str, server: str, provider: str, operation: str, trace: Trace, asked: Asked, answer: Answer
    ) -> None:
        self.service = service
        self.server = server  # what answers, as the attributes' text
        self.provider = provider
        self.operation = operation
        self.trace = trace
        self.asked = asked
        self.answer = answer

    @property
    def failed(self) -> bool:
        """Whether it is an error of the provider's or of ours: not of a client that went away."""
        return bool(self.error) and self.error != "client_disconnected"

    def span(self) -> str:
        """The call as a span of OTLP/JSON, named by the OpenTelemetry GenAI conventions; what is not known is left out.

        What repeats from call to call is remembered as text, what does not is put behind it: all as a dictionary takes four times as long.
        """
        trace, asked, answer = self.trace, self.asked, self.answer
        begin = _begin(
            self.operation,
            self.provider,
            asked.model,
            asked.stream,
            self.server,
            self.status,
            asked.max_tokens,
            asked.temperature,
            asked.top_p,
            answer.model,
            tuple(answer.finish_reasons),
        )
        parent = f'"parentSpanId":"{trace.parent_id}",' if trace.parent_id else ""
        status = f',"status":{{"code":{ERROR_STATUS},"message":{text(self.error)}}}' if self.error else ""
        start = self.ended - int(self.duration * _NANO)
        return (
            f'{{"traceId":"{trace.trace_id}","spanId":"{trace.span_id}",{parent}"startTimeUnixNano":"{start}",'
            f'"endTimeUnixNano":"{self.ended}"{status},{begin}{self._usage()}{self._seldom()}]}}'
        )

    def _usage(self) -> str:
        """What differs from call to call."""
        out = ""
        if self.answer.id:
            out = f',{{"key":"gen_ai.response.id","value":{{"stringValue":{text(self.answer.id)}}}}}'
        tokens = self.tokens
        if tokens.input or tokens.output:
            out += (
                f"{_INPUT}{tokens.input}{_OUTPUT}{tokens.output}{_CACHED}{tokens.cached_input}"
                f"{_WRITTEN}{tokens.cache_write}{_REASONING}{tokens.reasoning}{_END}"
            )
        if self.first_token is not None:
            out += f"{_FIRST}{number(self.first_token)}}}}}"
        if self.picodollars is not None:
            out += f"{_COST}{number(self.picodollars / names.PICODOLLARS)}{_CURRENCY}"
        return out

    def _seldom(self) -> str:
        """What not every call has."""
        asked, labels = self.asked, self.labels
        out = ""
        if asked.seed is not None:
            out += "," + attribute("gen_ai.request.seed", asked.seed)
        if asked.choices != 1:
            out += "," + attribute("gen_ai.request.choice.count", asked.choices)
        if asked.conversation:
            out += "," + attribute("gen_ai.conversation.id", asked.conversation)
        if self.estimated and (self.tokens.input or self.tokens.output):
            out += "," + attribute("llmwarden.usage.estimated", value=True)
        if self.answer.server_seconds is not None:
            out += "," + attribute("llmwarden.provider.duration", self.answer.server_seconds)
        if self.error or self.budget or self.retry or labels is not _NO_LABELS:
            for key, value in (
                ("error.type", self.error),
                ("llmwarden.budget", self.budget),
                ("llmwarden.retry", self.retry),
                ("llmwarden.feature", labels.feature),
                ("llmwarden.team", labels.team),
                ("llmwarden.cohort", labels.cohort),
            ):
                if value:
                    out += "," + attribute(key, value)
        return out


@lru_cache(maxsize=512)
def _begin(  # noqa: PLR0917 - all of it is the cache's key
    operation: str,
    provider: str,
    model: str,
    stream: bool,  # noqa: FBT001
    server: str,
    status: int,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    answered: str,
    reasons: tuple[str, ...],
) -> str:
    """The span's name and kind, and the attributes that many calls share; the list is left open."""
    shared = [
        attribute("gen_ai.operation.name", operation),
        attribute("gen_ai.provider.name", provider),
        attribute("gen_ai.request.model", model),
        attribute("gen_ai.request.stream", stream),
        server,
        attribute("http.response.status_code", status),
    ]
    if max_tokens is not None:
        shared.append(attribute("gen_ai.request.max_tokens", max_tokens))
    if temperature is not None:
        shared.append(attribute("gen_ai.request.temperature", temperature))
    if top_p is not None:
        shared.append(attribute("gen_ai.request.top_p", top_p))
    if answered:
        shared.append(attribute("gen_ai.response.model", answered))
    if reasons:
        shared.append(attribute("gen_ai.response.finish_reasons", list(reasons)))
    name = f"{operation} {model}".rstrip()
    return f'"name":{text(name)},"kind":{CLIENT_KIND},"attributes":[{",".join(shared)}'


_END: Final = '"}}'
_INPUT: Final = ',{"key":"gen_ai.usage.input_tokens","value":{"intValue":"'
_OUTPUT: Final = '"}},{"key":"gen_ai.usage.output_tokens","value":{"intValue":"'
_CACHED: Final = '"}},{"key":"gen_ai.usage.cache_read.input_tokens","value":{"intValue":"'
_WRITTEN: Final = '"}},{"key":"gen_ai.usage.cache_creation.input_tokens","value":{"intValue":"'
_REASONING: Final = '"}},{"key":"gen_ai.usage.reasoning.output_tokens","value":{"intValue":"'
_FIRST: Final = ',{"key":"gen_ai.response.time_to_first_chunk","value":{"doubleValue":'
_COST: Final = ',{"key":"gen_ai.usage.cost.amount","value":{"doubleValue":'
_CURRENCY: Final = '}},{"key":"gen_ai.usage.cost.currency","value":{"stringValue":"USD"}}'
