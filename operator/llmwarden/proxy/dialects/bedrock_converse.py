"""Bedrock's Converse and ConverseStream: one shape for all models. InvokeModel's Nova bodies are the same."""

from typing import Any, Final

import msgspec

from llmwarden.contracts.ledger import Tokens
from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import prompt
from llmwarden.proxy.dialects.base import MOST_TOKENS, NAME_LENGTH, Answer, Asked, Event, Match, count
from llmwarden.proxy.dialects.bedrock_shared import Endpoint, is_error, model_name, note_latency, note_tier

_NEVER_SENT: Final = msgspec.Raw()
_NOTHING: Final = frozenset({b"", b"null", b'""', b"{}", b"[]"})
_AROUND: Final = 16  # a message costs about four tokens beside its text
_HOUR: Final = "1h"


class _Inference(msgspec.Struct, rename="camel"):
    max_tokens: Any = None
    max_new_tokens: Any = msgspec.field(default=None, name="max_new_tokens")  # Nova's bodies of InvokeModel
    temperature: Any = None
    top_p: Any = None


class _In(msgspec.Struct, rename="camel"):
    role: msgspec.Raw = _NEVER_SENT
    content: msgspec.Raw = _NEVER_SENT


class _Tools(msgspec.Struct, rename="camel"):
    tools: list[dict[str, msgspec.Raw]] | None = None


class _ConverseRequest(msgspec.Struct, rename="camel"):
    messages: list[_In] | None = None
    system: msgspec.Raw = _NEVER_SENT
    inference_config: _Inference | None = None
    tool_config: msgspec.Raw = _NEVER_SENT
    prompt_variables: msgspec.Raw = _NEVER_SENT
    output_config: msgspec.Raw = _NEVER_SENT
    additional_model_request_fields: msgspec.Raw = _NEVER_SENT


class _Result(msgspec.Struct, rename="camel"):
    content: "list[_Block] | None" = None


class _ToolUse(msgspec.Struct, rename="camel"):
    tool_use_id: str | None = None


class _Block(msgspec.Struct, rename="camel"):
    """One part of a message: a union, of which these members matter."""

    image: msgspec.Raw = _NEVER_SENT
    document: msgspec.Raw = _NEVER_SENT
    video: msgspec.Raw = _NEVER_SENT
    audio: msgspec.Raw = _NEVER_SENT
    tool_result: _Result | None = None
    tool_use: _ToolUse | None = None


class _CacheDetail(msgspec.Struct, rename="camel"):
    ttl: str | None = None
    input_tokens: int | None = None


class Usage(msgspec.Struct, rename="camel"):
    """`inputTokens` are those that were neither read from nor written to a cache. Nova's bodies of InvokeModel say ...TokenCount."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    cache_read_input_token_count: int | None = None
    cache_write_input_token_count: int | None = None
    cache_details: list[_CacheDetail] | None = None


class _Reasoning(msgspec.Struct, rename="camel"):
    text: msgspec.Raw = _NEVER_SENT
    redacted_content: msgspec.Raw = _NEVER_SENT


class _ToolInput(msgspec.Struct, rename="camel"):
    input: msgspec.Raw = _NEVER_SENT


class _DeltaBody(msgspec.Struct, rename="camel"):
    text: msgspec.Raw = _NEVER_SENT
    tool_use: _ToolInput | None = None
    reasoning_content: _Reasoning | None = None
    image: msgspec.Raw = _NEVER_SENT
    audio: msgspec.Raw = _NEVER_SENT


class _Delta(msgspec.Struct, rename="camel"):
    delta: _DeltaBody | None = None


class _StartBody(msgspec.Struct, rename="camel"):
    tool_use: _ToolUse | None = None


class _Start(msgspec.Struct, rename="camel"):
    start: _StartBody | None = None


class _Stop(msgspec.Struct, rename="camel"):
    stop_reason: str | None = None


class _Tier(msgspec.Struct, rename="camel"):
    type: str | None = None


class _Router(msgspec.Struct, rename="camel"):
    invoked_model_id: str | None = None


class _Trace(msgspec.Struct, rename="camel"):
    prompt_router: _Router | None = None


class _Metrics(msgspec.Struct, rename="camel"):
    latency_ms: int | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    metrics: _Metrics | None = None
    usage: Usage | None = None
    service_tier: _Tier | None = None
    trace: _Trace | None = None


class _Event(msgspec.Struct, rename="camel"):
    """One event of a stream: a union."""

    content_block_delta: _Delta | None = None
    content_block_start: _Start | None = None
    message_stop: _Stop | None = None
    metadata: _Metadata | None = None


class _Message(msgspec.Struct, rename="camel"):
    content: msgspec.Raw = _NEVER_SENT


class _Output(msgspec.Struct, rename="camel"):
    message: _Message | None = None


class _Whole(_Metadata, rename="camel"):
    output: _Output | None = None
    stop_reason: str | None = None


_request: Final = msgspec.json.Decoder(_ConverseRequest)
_tools: Final = msgspec.json.Decoder(_Tools)
_blocks: Final = msgspec.json.Decoder(list[_Block])
_event: Final = msgspec.json.Decoder(_Event)
_whole: Final = msgspec.json.Decoder(_Whole)


class Converse(Endpoint):
    """`base.Api` of both operations."""

    operation = "chat"

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """Read what matters; None for what is not of this shape: Bedrock will say what is wrong with it."""
        try:
            request = _request.decode(body)
        except UNREADABLE:
            return None
        inference = request.inference_config or _Inference()
        limit = prompt.positive(inference.max_tokens)
        asked = Asked(
            model=match.model,
            stream=match.stream is True,
            max_tokens=limit if limit is not None else prompt.positive(inference.max_new_tokens),
            temperature=prompt.number(inference.temperature),
            top_p=prompt.number(inference.top_p),
            input_bytes=sum(
                len(bytes(part))
                for part in (request.system, request.tool_config, request.prompt_variables, request.output_config)
            ),
        )
        parts: list[bytes] = []
        for message in request.messages or ():
            content = bytes(message.content)
            asked.input_bytes += len(content) + _AROUND
            asked.unbounded = asked.unbounded or media(content)
            parts.append(bytes(message.role) + content)
        asked.unbounded = asked.unbounded or media(bytes(request.system)) or _beside(request, match.model)
        _read_tools(asked, bytes(request.tool_config))
        asked.prefixes = prompt.chain(parts)
        return asked

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """Note content, usage, stop reasons, exceptions. The metadata comes last."""
        try:
            event = _event.decode(payload)
        except UNREADABLE:
            answer.malformed += 1
            return Event.KEEP
        if event.content_block_delta is not None:
            size = _content(event.content_block_delta.delta)
            if size:
                answer.content(size, now)
        elif event.content_block_start is not None:
            start = event.content_block_start.start
            if start is not None and start.tool_use is not None:
                name = start.tool_use.tool_use_id or ""
                answer.content(len(name) or 1, now)
                answer.tool_call(name)
        elif event.message_stop is not None:
            _note_stop(answer, event.message_stop.stop_reason)
        elif event.metadata is not None:
            _note_metadata(answer, event.metadata)
            answer.done = True
        else:
            is_error(answer, payload)
        return Event.KEEP

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note usage, the stop reason, tool calls."""
        try:
            message = _whole.decode(body)
        except UNREADABLE:
            answer.malformed += 1
            return
        _note_metadata(answer, message)
        _note_stop(answer, message.stop_reason)
        if message.output is not None and message.output.message is not None:
            content = bytes(message.output.message.content)
            answer.content_bytes += len(content)
            for block in _parts(content) or ():
                if block.tool_use is not None:
                    answer.tool_call(block.tool_use.tool_use_id or "")


def media(content: bytes) -> str:
    """What costs other than by its length, or lies elsewhere: images, documents, sound, films; also in a tool's result."""
    if content in _NOTHING or not any(kind in content for kind in (b'"image"', b'"document"', b'"video"', b'"audio"')):
        return ""
    blocks = _parts(content)
    if blocks is None:
        return "unreadable"
    for block in blocks:
        for part in (block, *((block.tool_result.content or ()) if block.tool_result is not None else ())):
            if any(bytes(item) for item in (part.image, part.document, part.video, part.audio)):
                return "media"
    return ""


def tokens(usage: Usage) -> Tokens | None:
    """Totals with their parts; None for what cannot be counts."""
    read = count(usage.cache_read_input_tokens) or count(usage.cache_read_input_token_count)
    written = count(usage.cache_write_input_tokens) or count(usage.cache_write_input_token_count)
    total, output = count(usage.input_tokens) + read + written, count(usage.output_tokens)
    if max(total, output) > MOST_TOKENS:
        return None
    hour = sum(count(item.input_tokens) for item in usage.cache_details or () if item.ttl == _HOUR)
    return Tokens(input=total, cached_input=read, cache_write=written, output=output, cache_write_1h=min(hour, written))


def _parts(content: bytes) -> list[_Block] | None:
    try:
        return _blocks.decode(content)
    except UNREADABLE:
        return None


def _read_tools(asked: Asked, config: bytes) -> None:
    if config in _NOTHING:
        return
    try:
        tools = _tools.decode(config).tools or []
    except UNREADABLE:
        asked.unbounded = asked.unbounded or "unreadable"
        return
    if any("systemTool" in tool for tool in tools):
        asked.unbounded = asked.unbounded or "server_tools"


def _beside(request: _ConverseRequest, model: str) -> str:
    """What is used beside what the request shows."""
    if "prompt/" in model:
        return "stored_input"  # a prompt that is kept at Bedrock, with limits of its own
    return "additional_fields" if b'"max' in bytes(request.additional_model_request_fields) else ""


def _content(delta: _DeltaBody | None) -> int:
    """Bytes of content: text, a tool's input, reasoning; a signature is none."""
    if delta is None:
        return 0
    size = _size(delta.text) + _size(delta.image) + _size(delta.audio)
    if delta.tool_use is not None:
        size += _size(delta.tool_use.input)
    if delta.reasoning_content is not None:
        size += _size(delta.reasoning_content.text) + _size(delta.reasoning_content.redacted_content)
    return size


def _size(value: msgspec.Raw) -> int:
    raw = bytes(value)
    return len(raw) if raw not in _NOTHING else 0


def _note_stop(answer: Answer, reason: str | None) -> None:
    if reason and len(answer.finish_reasons) < 1:
        answer.finish(reason[:NAME_LENGTH])


def _note_metadata(answer: Answer, metadata: _Metadata) -> None:
    if metadata.usage is not None:
        used = tokens(metadata.usage)
        if used is None:
            answer.malformed += 1
        else:
            answer.usage = used
    if metadata.metrics is not None:
        note_latency(answer, metadata.metrics.latency_ms)
    if metadata.service_tier is not None:
        note_tier(answer, metadata.service_tier.type)
    router = metadata.trace.prompt_router if metadata.trace is not None else None
    if router is not None and router.invoked_model_id:
        answer.model = model_name(router.invoked_model_id)
