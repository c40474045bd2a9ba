"""A finished call as a span of OTLP/JSON, named by the OpenTelemetry GenAI conventions.

Spans are written as text: building them as objects for a library to encode takes two to four times as long. What repeats
from call to call is cached as text. Attributes whose value is unknown are left out.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import msgspec

from llmwarden import names
from llmwarden.proxy.record import NO_LABELS, Record
from llmwarden.proxy.settings import Identity

CLIENT_KIND: Final = 3  # SPAN_KIND_CLIENT
ERROR_STATUS: Final = 2  # STATUS_CODE_ERROR
_NANO: Final = 1e9

Value = str | int | float | bool | list[str]


def encode(records: Iterable[Record], identity: Identity) -> bytes:
    """An OTLP ExportTraceServiceRequest in JSON: 64-bit integers are strings, ids are hex."""
    by_service: dict[str, list[str]] = {}
    for record in records:
        by_service.setdefault(record.service, []).append(span(record))
    resources = (
        f'{{"resource":{{"attributes":[{_resource(service, identity)}]}},'
        f'"scopeSpans":[{{"scope":{{"name":"llmwarden.proxy"}},"spans":[{",".join(items)}]}}]}}'
        for service, items in by_service.items()
    )
    return f'{{"resourceSpans":[{",".join(resources)}]}}'.encode()


@lru_cache(maxsize=256)
def _resource(service: str, identity: Identity) -> str:
    values: dict[str, Value] = {
        "service.name": service,
        "service.namespace": identity.namespace,
        "k8s.namespace.name": identity.namespace,
        "k8s.pod.name": identity.pod,
        "k8s.pod.uid": identity.uid,
        "k8s.node.name": identity.node,
    }
    return attributes(values)


def span(record: Record) -> str:
    """The call as a span."""
    trace, asked, answer = record.trace, record.asked, record.answer
    begin = _begin(
        record.operation,
        record.provider,
        asked.model,
        asked.stream,
        record.server,
        record.status,
        asked.max_tokens,
        asked.temperature,
        asked.top_p,
        answer.model,
        tuple(answer.finish_reasons),
    )
    parent = f'"parentSpanId":"{trace.parent_id}",' if trace.parent_id else ""
    status = f',"status":{{"code":{ERROR_STATUS},"message":{text(record.error)}}}' if record.error else ""
    start = record.ended - int(record.duration * _NANO)
    return (
        f'{{"traceId":"{trace.trace_id}","spanId":"{trace.span_id}",{parent}"startTimeUnixNano":"{start}",'
        f'"endTimeUnixNano":"{record.ended}"{status},{begin}{_usage(record)}{_seldom(record)}]}}'
    )


def _usage(record: Record) -> str:
    """The attributes that differ from call to call."""
    out = ""
    if record.answer.id:
        out = f',{{"key":"gen_ai.response.id","value":{{"stringValue":{text(record.answer.id)}}}}}'
    tokens = record.tokens
    if tokens.input or tokens.output:
        out += (
            f"{_INPUT}{tokens.input}{_OUTPUT}{tokens.output}{_CACHED}{tokens.cached_input}"
            f"{_WRITTEN}{tokens.cache_write}{_REASONING}{tokens.reasoning}{_END}"
        )
    if record.first_token is not None:
        out += f"{_FIRST}{number(record.first_token)}}}}}"
    if record.picodollars is not None:
        out += f"{_COST}{number(record.picodollars / names.PICODOLLARS)}{_CURRENCY}"
    return out


def _seldom(record: Record) -> str:
    """The attributes that few calls have."""
    asked, labels = record.asked, record.labels
    out = ""
    if asked.seed is not None:
        out += "," + attribute("gen_ai.request.seed", asked.seed)
    if asked.choices != 1:
        out += "," + attribute("gen_ai.request.choice.count", asked.choices)
    if asked.conversation:
        out += "," + attribute("gen_ai.conversation.id", asked.conversation)
    if record.estimated and (record.tokens.input or record.tokens.output):
        out += "," + attribute("llmwarden.usage.estimated", value=True)
    if record.answer.server_seconds is not None:
        out += "," + attribute("llmwarden.provider.duration", record.answer.server_seconds)
    if record.error or record.budget or record.retry or labels is not NO_LABELS:
        for key, value in (
            ("error.type", record.error),
            ("llmwarden.budget", record.budget),
            ("llmwarden.retry", record.retry),
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


def attributes(values: Mapping[str, Value]) -> str:
    """Attributes as text."""
    return ",".join([attribute(key, value) for key, value in values.items()])


def number(value: float) -> str:
    """A number as text."""
    return _encode(value).decode()


def attribute(key: str, value: Value) -> str:
    """One attribute as text; keys are constants of ours and need no escapes."""
    kind = type(value)
    if kind is int:
        return f'{{"key":"{key}","value":{{"intValue":"{value}"}}}}'
    if isinstance(value, str):
        return f'{{"key":"{key}","value":{{"stringValue":{text(value)}}}}}'
    if isinstance(value, bool):
        return f'{{"key":"{key}","value":{{"boolValue":{"true" if value else "false"}}}}}'
    if isinstance(value, list):
        items = ",".join([f'{{"stringValue":{text(item)}}}' for item in value])
        return f'{{"key":"{key}","value":{{"arrayValue":{{"values":[{items}]}}}}}}'
    return f'{{"key":"{key}","value":{{"doubleValue":{text(value)}}}}}'


def text(value: object) -> str:
    """A value as JSON."""
    return _encode(value).decode()


_encode: Final = msgspec.json.Encoder().encode
