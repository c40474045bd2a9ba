"""Bedrock's InvokeModel and InvokeModelWithResponseStream: each model family has bodies of its own.

What is documented is read: Anthropic, Nova, Titan, Llama, Mistral, Cohere, AI21, and all that speak OpenAI's shape (DeepSeek, Qwen,
gpt-oss). Whatever the body, Bedrock's own count stands in the answer's head, and in a stream's last event.
"""

import binascii
from typing import Any, Final

import msgspec

from llmwarden.contracts.ledger import Tokens
from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import bedrock_converse, prompt
from llmwarden.proxy.dialects.anthropic import MESSAGES
from llmwarden.proxy.dialects.base import MOST_TOKENS, NAME_LENGTH, Answer, Asked, Event, Match, count
from llmwarden.proxy.dialects.bedrock_converse import Converse
from llmwarden.proxy.dialects.bedrock_shared import Endpoint, is_error, note_latency, note_tier
from llmwarden.proxy.dialects.openai_chat import Chat
from llmwarden.proxy.seam import Header

_NEVER_SENT: Final = msgspec.Raw()
_NOTHING: Final = frozenset({b"", b"null", b'""', b"{}", b"[]"})
_CONVERSE: Final = Converse()
_CHAT: Final = Chat("chat")
_METRICS: Final = b'"amazon-bedrock-invocationMetrics"'
_TYPED: Final = b'{"type":"'  # how each of Anthropic's events begins
_HEADERS: Final = {
    b"x-amzn-bedrock-input-token-count": "input_token_count",
    b"x-amzn-bedrock-output-token-count": "output_token_count",
    b"x-amzn-bedrock-cache-read-input-token-count": "cache_read_input_token_count",
    b"x-amzn-bedrock-cache-write-input-token-count": "cache_write_input_token_count",
    b"x-amzn-bedrock-invocation-latency": "invocation_latency",
}
_MAX_DIGITS: Final = 12


class _TitanConfig(msgspec.Struct, rename="camel"):
    max_token_count: Any = None
    temperature: Any = None
    top_p: Any = None


class _InvokeRequest(msgspec.Struct):
    """By these names the families are told apart."""

    anthropic_version: Any = None
    messages: msgspec.Raw = _NEVER_SENT
    inferenceConfig: msgspec.Raw = _NEVER_SENT  # noqa: N815 - Nova's spelling
    schemaVersion: Any = None  # noqa: N815 - the same
    textGenerationConfig: _TitanConfig | None = None  # noqa: N815 - Titan's spelling
    max_gen_len: Any = None  # Llama
    max_tokens: Any = None  # Mistral, Cohere
    temperature: Any = None
    top_p: Any = None
    p: Any = None  # Cohere's top_p
    num_generations: Any = None  # Cohere
    inputImage: msgspec.Raw = _NEVER_SENT  # noqa: N815 - Titan's multimodal embeddings
    images: msgspec.Raw = _NEVER_SENT  # Cohere's and Llama's


class _Metrics(msgspec.Struct, rename="camel"):
    input_token_count: int | None = None
    output_token_count: int | None = None
    cache_read_input_token_count: int | None = None
    cache_write_input_token_count: int | None = None
    invocation_latency: int | None = None


class _Chunk(msgspec.Struct):
    bytes: str | None = None


class _Event(msgspec.Struct):
    chunk: _Chunk | None = None


class _Piece(msgspec.Struct, rename="camel"):
    """One text of several: Titan's results, Cohere's generations, Mistral's outputs."""

    text: msgspec.Raw = _NEVER_SENT
    output_text: msgspec.Raw = _NEVER_SENT
    token_count: int | None = None
    completion_reason: str | None = None
    stop_reason: str | None = msgspec.field(default=None, name="stop_reason")
    finish_reason: str | None = msgspec.field(default=None, name="finish_reason")


class _Body(msgspec.Struct):
    """A whole answer, or what one event of a stream has inside."""

    type: Any = None
    choices: msgspec.Raw = _NEVER_SENT
    output: msgspec.Raw = _NEVER_SENT
    id: Any = None
    generation_id: Any = None
    results: list[_Piece] | None = None
    outputs: list[_Piece] | None = None
    generations: list[_Piece] | None = None
    outputText: msgspec.Raw = _NEVER_SENT  # noqa: N815 - Titan, streamed
    completionReason: str | None = None  # noqa: N815
    inputTextTokenCount: int | None = None  # noqa: N815
    totalOutputTextTokenCount: int | None = None  # noqa: N815
    generation: msgspec.Raw = _NEVER_SENT  # Llama
    prompt_token_count: int | None = None
    generation_token_count: int | None = None
    stop_reason: str | None = None
    text: msgspec.Raw = _NEVER_SENT  # Cohere
    finish_reason: str | None = None
    tool_calls: msgspec.Raw = _NEVER_SENT
    metrics: _Metrics | None = msgspec.field(default=None, name="amazon-bedrock-invocationMetrics")


class _Last(msgspec.Struct):
    metrics: _Metrics | None = msgspec.field(default=None, name="amazon-bedrock-invocationMetrics")


_request: Final = msgspec.json.Decoder(_InvokeRequest)
_event: Final = msgspec.json.Decoder(_Event)
_body: Final = msgspec.json.Decoder(_Body)
_last: Final = msgspec.json.Decoder(_Last)


class Invoke(Endpoint):
    """`base.Api` of both operations."""

    def __init__(self, operation: str) -> None:
        self.operation = operation

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """Read what the body's family calls things; None for what is not a JSON object."""
        try:
            request = _request.decode(body)
        except UNREADABLE:
            return None
        asked: Asked | None
        if request.anthropic_version is not None:
            asked = MESSAGES.read_request(body, match)
        elif bytes(request.inferenceConfig) or request.schemaVersion is not None:
            asked = _CONVERSE.read_request(body, match)
        elif bytes(request.messages):
            asked = _CHAT.read_request(body, match)
        else:
            asked = _plain(request, len(body))
        if asked is None:
            return None
        asked.model = match.model
        asked.stream = match.stream is True
        asked.wants_usage = True
        if self.operation == "embeddings":
            asked.max_tokens = 0
        return asked

    def head(self, answer: Answer, headers: list[Header]) -> None:
        """Bedrock's own counts, where they come with the answer's head; a body that says more wins."""
        found: dict[str, int] = {}
        for low, _, value in headers:
            name = _HEADERS.get(low)
            if name is not None and value.isdigit() and len(value) <= _MAX_DIGITS:
                found[name] = int(value)
            elif low == b"x-amzn-bedrock-service-tier":
                note_tier(answer, value.decode("latin-1").lower())
        if found:
            _note_metrics(answer, _Metrics(**found))

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """Note what is inside a chunk; the one with Bedrock's metrics is the last."""
        try:
            event = _event.decode(payload)
            inner = binascii.a2b_base64(event.chunk.bytes or "") if event.chunk is not None else b""
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            answer.malformed += 1
            return Event.KEEP
        if event.chunk is None:
            is_error(answer, payload)
        else:
            self._inner(answer, inner, now)
        return Event.KEEP

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note usage, reasons, ids."""
        try:
            message = _body.decode(body)
        except UNREADABLE:
            answer.malformed += 1
            return
        if isinstance(message.type, str):
            MESSAGES.whole(answer, body)
        elif bytes(message.choices):
            _CHAT.whole(answer, body)
        elif bytes(message.output):
            _CONVERSE.whole(answer, body)
        else:
            _note_body(answer, message, None)

    def _inner(self, answer: Answer, inner: bytes, now: float) -> None:
        if inner.startswith(_TYPED):
            MESSAGES.event(answer, inner, now)
        else:
            self._family(answer, inner, now)
        answer.done = (
            False  # whatever the family takes for its end: Bedrock's metrics come with the last event, or after it
        )
        if _METRICS in inner:
            self._last(answer, inner)

    @staticmethod
    def _family(answer: Answer, inner: bytes, now: float) -> None:
        try:
            message = _body.decode(inner)
        except UNREADABLE:
            answer.malformed += 1
            return
        if isinstance(message.type, str):
            MESSAGES.event(answer, inner, now)
        elif bytes(message.choices):
            _CHAT.event(answer, inner, now)
        elif not _note_body(answer, message, now):
            _CONVERSE.event(answer, inner, now)

    @staticmethod
    def _last(answer: Answer, inner: bytes) -> None:
        try:
            metrics = _last.decode(inner).metrics
        except UNREADABLE:
            return
        answer.done = True
        answer.partial = False
        if metrics is not None:
            _note_metrics(answer, metrics)


def _plain(request: _InvokeRequest, size: int) -> Asked:
    titan = request.textGenerationConfig or _TitanConfig()
    limits = [
        limit
        for item in (titan.max_token_count, request.max_gen_len, request.max_tokens)
        if (limit := prompt.positive(item)) is not None
    ]
    temperature = request.temperature if request.temperature is not None else titan.temperature
    top_p = request.top_p if request.top_p is not None else request.p
    return Asked(
        max_tokens=max(limits, default=None),
        temperature=prompt.number(temperature),
        top_p=prompt.number(top_p if top_p is not None else titan.top_p),
        choices=max(prompt.positive(request.num_generations) or 1, 1),
        input_bytes=size,
        unbounded="media" if bytes(request.inputImage) or bytes(request.images) else "",
    )


def _note_metrics(answer: Answer, metrics: _Metrics) -> None:
    """Bedrock's own counts, unless the body's say as much: those know more of their parts."""
    usage = bedrock_converse.Usage(
        input_tokens=metrics.input_token_count,
        output_tokens=metrics.output_token_count,
        cache_read_input_tokens=metrics.cache_read_input_token_count,
        cache_write_input_tokens=metrics.cache_write_input_token_count,
    )
    note_latency(answer, metrics.invocation_latency)
    if metrics.input_token_count is None and metrics.output_token_count is None:
        return
    used, old = bedrock_converse.tokens(usage), answer.usage
    if used is None:
        answer.malformed += 1
    elif old is None or old.input < used.input or old.output < used.output:
        answer.usage = used


def _note_body(answer: Answer, message: _Body, now: float | None) -> bool:
    """Read Titan's, Llama's, Mistral's and Cohere's shapes; False where it is none of them. `now` is None for a whole answer."""
    pieces = message.results or message.outputs or message.generations or []
    sizes = [_size(part.text) + _size(part.output_text) for part in pieces]
    sizes += [_size(item) for item in (message.outputText, message.generation, message.text, message.tool_calls)]
    size = sum(sizes)
    if size and now is None:
        answer.content_bytes += size
    elif size and now is not None:
        answer.content(size, now)
    reasons = [part.completion_reason or part.stop_reason or part.finish_reason for part in pieces]
    reasons += [message.completionReason, message.stop_reason, message.finish_reason]
    for reason in reasons:
        if reason and len(answer.finish_reasons) < len(reasons):
            answer.finish(reason[:NAME_LENGTH])
    answer.id = answer.id or prompt.name(message.id) or prompt.name(message.generation_id)
    read = message.inputTextTokenCount if message.inputTextTokenCount is not None else message.prompt_token_count
    made = [message.totalOutputTextTokenCount, message.generation_token_count, *(part.token_count for part in pieces)]
    output = [item for item in made if item is not None]
    if read is not None or output:
        before = answer.usage or Tokens()
        used = Tokens(
            input=count(read) if read is not None else before.input,
            output=sum(count(item) for item in output) if output else before.output,
        )
        if max(used.input, used.output) > MOST_TOKENS:
            answer.malformed += 1
        else:
            answer.usage = used
            answer.partial = now is not None  # Bedrock's metrics, at a stream's end, are the last word
    return bool(pieces or size or reasons.count(None) < len(reasons) or read is not None or output)


def _size(value: msgspec.Raw) -> int:
    raw = bytes(value)
    return len(raw) if raw not in _NOTHING else 0
