"""Anthropic's Messages, also as Vertex AI and vLLM serve them.

`count_tokens` and batches pass unmeasured: counting is free of charge and makes nothing, and a batch is paid for when it is done.
"""

import re
from typing import Any, Final
from urllib.parse import quote

import msgspec

from llmwarden import names
from llmwarden.contracts.ledger import Tokens
from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import prompt
from llmwarden.proxy.dialects.base import MOST_TOKENS, Answer, Asked, Event, Match, Target, count
from llmwarden.proxy.framing import Framing
from llmwarden.proxy.seam import Refusal

# Vertex AI: the model stands in the path, its version after an @.
_VERTEX: Final = re.compile(r"/publishers/anthropic/models/([^/:]+):(streamRawPredict|rawPredict)", re.IGNORECASE)
_IN_TARGET: Final = re.compile(rb"(?i)(/publishers/anthropic/models/)([^/:?]+)(?=:)")
_TIERS: Final = frozenset({"priority", "batch"})
# Tools that the client runs; all others run at Anthropic, and what they read costs as input.
_CLIENT_TOOLS: Final = re.compile(r"custom|(bash|text_editor|computer|memory|str_replace_based_edit_tool)(_\w+)?")
_TEXT: Final = frozenset({"text", "tool_use", "tool_result", "thinking", "redacted_thinking", None})
_CONTENT: Final = frozenset({"text_delta", "input_json_delta", "thinking_delta", "compaction_delta"})
_NEVER_SENT: Final = msgspec.Raw()
_AROUND: Final = 16  # a message costs about four tokens beside its text
_NO_QUOTA: Final = frozenset({"insufficient_quota"})
_TYPES: Final = {400: "invalid_request_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error"}


class _In(msgspec.Struct):
    role: msgspec.Raw = _NEVER_SENT
    content: msgspec.Raw = _NEVER_SENT


class _Block(msgspec.Struct):
    type: Any = None
    content: msgspec.Raw = _NEVER_SENT


class _Plain(msgspec.Struct):
    model: Any = None
    stream: Any = None
    max_tokens: Any = None
    temperature: Any = None
    top_p: Any = None
    system: msgspec.Raw = _NEVER_SENT
    tools: msgspec.Raw = _NEVER_SENT
    mcp_servers: Any = None
    container: Any = None


class _MessagesRequest(_Plain):
    messages: list[_In] | None = None


class _Unshaped(_Plain):
    messages: msgspec.Raw = _NEVER_SENT


class _CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _Iteration(msgspec.Struct):
    """A part of the work; a compaction's tokens are not in the totals."""

    type: Any = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None
    service_tier: Any = None
    speed: Any = None
    iterations: list[_Iteration] | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: msgspec.Raw = _NEVER_SENT
    partial_json: msgspec.Raw = _NEVER_SENT
    thinking: msgspec.Raw = _NEVER_SENT
    content: msgspec.Raw = _NEVER_SENT
    stop_reason: Any = None


class _OutBlock(msgspec.Struct):
    type: Any = None
    id: Any = None
    text: msgspec.Raw = _NEVER_SENT
    input: msgspec.Raw = _NEVER_SENT
    thinking: msgspec.Raw = _NEVER_SENT


class _Message(msgspec.Struct):
    id: Any = None
    type: Any = None
    model: Any = None
    content: list[_OutBlock] | None = None
    stop_reason: Any = None
    usage: _Usage | None = None
    error: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    delta: _Delta | None = None
    content_block: _OutBlock | None = None
    usage: _Usage | None = None
    error: Any = None


_request: Final = msgspec.json.Decoder(_MessagesRequest)
_unshaped: Final = msgspec.json.Decoder(_Unshaped)
_blocks: Final = msgspec.json.Decoder(list[_Block])
_message: Final = msgspec.json.Decoder(_Message)
_event: Final = msgspec.json.Decoder(_Event)


class Messages:
    """`base.Api`. Usage comes in every answer: none is ever asked for."""

    operation = "chat"

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """Read what matters; None for what is not a JSON object."""
        try:
            request: _MessagesRequest | _Unshaped = _request.decode(body)
        except UNREADABLE:
            try:
                request = _unshaped.decode(body)  # the upstream will say what is wrong with it
            except UNREADABLE:
                return None
        asked = Asked(
            model=match.model or prompt.name(request.model),
            stream=request.stream is True if match.stream is None else match.stream,
            max_tokens=prompt.positive(request.max_tokens),
            temperature=prompt.number(request.temperature),
            top_p=prompt.number(request.top_p),
            input_bytes=len(bytes(request.system)) + len(bytes(request.tools)),
        )
        if isinstance(request, _Unshaped):
            asked.input_bytes += len(bytes(request.messages))
            asked.unbounded = "unreadable"
            return asked
        parts = [bytes(request.system)]
        for message in request.messages or ():
            content = bytes(message.content)
            asked.input_bytes += len(content) + _AROUND
            if content[:1] == b"[":
                asked.unbounded = asked.unbounded or _media(content)
            parts.append(bytes(message.role) + content)
        asked.prefixes = prompt.chain(parts)
        asked.unbounded = asked.unbounded or _reaches_out(request)
        return asked

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:  # noqa: ARG002 - the interface's
        """Another model, where the body names one."""
        if model is None or "model" not in msgspec.json.decode(body, type=dict[str, msgspec.Raw]):
            return body
        return prompt.replaced(body, model=model)

    def write_target(self, target: bytes, model: str) -> bytes:
        """Another model in the path of Vertex AI."""
        path, mark, query = target.partition(b"?")
        return _IN_TARGET.sub(lambda found: found[1] + quote(model, safe="@").encode(), path, count=1) + mark + query

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:  # noqa: ARG002 - the interface's
        """Server-sent events, where the server says so."""
        return Framing.SSE if content_type.startswith(b"text/event-stream") else None

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """Note content, usage, stop reason, an error."""
        answer.text = b""
        try:
            event = _event.decode(payload)
        except UNREADABLE:
            answer.malformed += 1
            return Event.KEEP
        kind = event.type
        if kind == "content_block_delta":
            delta = event.delta
            if delta is not None and (size := _content(delta)):
                answer.content(size, now)
                if event.usage is None and event.error is None:
                    _note_text(answer, delta, size)
        elif kind == "content_block_start":
            _note_block(answer, event.content_block)
        else:
            _note(answer, event, kind)
        return Event.KEEP

    def strip(self, event: bytes) -> bytes:
        """Nothing is added, so nothing is taken out."""
        return event

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note usage, stop reason, tool calls, an error."""
        try:
            message = _message.decode(body)
        except UNREADABLE:
            answer.malformed += 1
            return
        if message.type == "error" or message.error:
            _note_error(answer, message.error)
            return
        _note_message(answer, message)
        for block in message.content or ():
            _note_block(answer, block)
            answer.content_bytes += sum(len(bytes(part)) for part in (block.text, block.input, block.thinking))


class Anthropic:
    """`base.Dialect`."""

    name = "anthropic"
    backends: Final = frozenset({"Anthropic"})

    def match(self, target: Target) -> Match | None:
        """`/v1/messages` under any prefix, and Vertex AI's paths."""
        if target.method != "POST":
            return None
        if target.path.lower().endswith("/v1/messages"):
            return Match(MESSAGES)
        vertex = _VERTEX.search(target.path)
        if vertex is None or vertex.end() != len(target.path) or vertex[1] == "count-tokens":
            return None
        return Match(MESSAGES, model=vertex[1], stream=vertex[2].lower() == "streamrawpredict")

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """Anthropic's error shape; the code has no place of its own."""
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")  # noqa: PLR2004 - HTTP's classes
        return _error(kind, f"{message} ({code})")

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """402 `billing_error` where money is used up: the SDK raises at once. 429 where waiting helps, and for all else."""
        headers = [(names.HEADER_BUDGET, budget.encode())]
        if retry_after is None:
            headers.append((b"x-should-retry", b"false"))
        else:
            headers.append((b"Retry-After", b"%d" % retry_after))
        spent = retry_after is None and code in _NO_QUOTA
        kind = "billing_error" if spent else "rate_limit_error"
        return Refusal(status=402 if spent else 429, body=_error(kind, message), headers=tuple(headers))


def _error(kind: str, message: str) -> bytes:
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})


def _reaches_out(request: _Plain) -> str:
    """Tools that run at the server: what they find is read by the model, and costs."""
    if request.mcp_servers or request.container:
        return "server_tools"
    tools = bytes(request.tools)
    if not tools or tools == b"null":
        return ""
    try:
        kinds = {tool.type for tool in _blocks.decode(tools)}
    except (*UNREADABLE, TypeError):
        return "unreadable"
    plain = all(kind is None or (isinstance(kind, str) and _CLIENT_TOOLS.fullmatch(kind)) for kind in kinds)
    return "" if plain else "server_tools"


def _media(content: bytes) -> str:
    """What costs other than by its length: images, documents; in the results of tools as well."""
    try:
        for block in _blocks.decode(content):
            if block.type not in _TEXT:
                return "media"
            inner = bytes(block.content)
            if inner[:1] == b"[" and not {item.type for item in _blocks.decode(inner)} <= _TEXT:
                return "media"
    except (*UNREADABLE, TypeError):
        return "unreadable"
    return ""


def _content(delta: _Delta) -> int:
    """Bytes of content; a signature or a citation is none, nor is an empty string."""
    if delta.type not in _CONTENT:
        return 0
    size = sum(len(bytes(part)) for part in (delta.text, delta.partial_json, delta.thinking, delta.content))
    return size if size > len(b'""') else 0


def _note_text(answer: Answer, delta: _Delta, size: int) -> None:
    """Note the one string that makes a delta content, where there is but one."""
    for text, name in (
        (delta.text, b'"text":'),
        (delta.partial_json, b'"partial_json":'),
        (delta.thinking, b'"thinking":'),
    ):
        raw = bytes(text)
        if len(raw) == size and raw[:1] == b'"':
            answer.text, answer.text_name = raw, name


def _note(answer: Answer, event: _Event, kind: str) -> None:
    if kind == "message_start":
        if event.message is not None:
            _note_message(answer, event.message)
            answer.partial = True  # the output is counted at the end
    elif kind == "message_delta":
        if event.delta is not None and isinstance(event.delta.stop_reason, str):
            answer.finish(prompt.name(event.delta.stop_reason))
        if event.usage is not None:
            _note_usage(answer, event.usage)
            answer.partial = False
    elif kind == "message_stop":
        answer.done = True
    elif kind == "error" or event.error:
        _note_error(answer, event.error)


def _note_message(answer: Answer, message: _Message) -> None:
    answer.model = prompt.name(message.model) or answer.model
    answer.id = prompt.name(message.id) or answer.id
    if isinstance(message.stop_reason, str):
        answer.finish(prompt.name(message.stop_reason))
    if message.usage is not None:
        _note_usage(answer, message.usage)


def _note_block(answer: Answer, block: _OutBlock | None) -> None:
    if block is not None and block.type == "tool_use" and isinstance(block.id, str):
        answer.tool_call(block.id)


def _note_error(answer: Answer, error: Any) -> None:
    if not answer.error:
        answer.error = prompt.error_type(error.get("type") if isinstance(error, dict) else error)


def _note_usage(answer: Answer, usage: _Usage) -> None:
    """Anthropic counts reads and writes of the cache beside `input_tokens`; what an event leaves out stays as it was."""
    old = answer.usage or Tokens()
    plain = _or(usage.input_tokens, old.input - old.cached_input - old.cache_write)
    read = _or(usage.cache_read_input_tokens, old.cached_input)
    written = _or(usage.cache_creation_input_tokens, old.cache_write)
    hour = _or(usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else None, old.cache_write_1h)
    output = _or(usage.output_tokens, old.output)
    details = usage.output_tokens_details
    reasoning = _or(details.thinking_tokens if details else None, old.reasoning)
    for part in usage.iterations or ():
        if part.type == "compaction" and usage.input_tokens is not None:  # else they are in the old figures already
            plain += count(part.input_tokens)
            read += count(part.cache_read_input_tokens)
            written += count(part.cache_creation_input_tokens)
            output += count(part.output_tokens)
    if max(plain + read + written, output) > MOST_TOKENS:
        answer.malformed += 1
        return
    answer.usage = Tokens(
        input=plain + read + written,
        cached_input=read,
        cache_write=written,
        output=output,
        reasoning=min(reasoning, output),
        cache_write_1h=min(hour, written),
    )
    if isinstance(usage.service_tier, str):
        answer.tier = usage.service_tier if usage.service_tier in _TIERS else ""
    if usage.speed == "fast":
        answer.tier = "fast"  # priced apart


def _or(value: int | None, other: int) -> int:
    return count(value) if value is not None else other


MESSAGES: Final = Messages()
DIALECT: Final = Anthropic()
