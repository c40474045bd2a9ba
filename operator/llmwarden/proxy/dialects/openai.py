"""OpenAI's chat completions and completions, as OpenAI, Azure OpenAI, vLLM, SGLang and many others speak them."""

import re
from typing import Any, Final

import msgspec

from llmwarden.proxy.dialects.base import Answer, Asked, Event
from llmwarden.proxy.seam import Refusal
from llmwarden.wire import Tokens

_MODEL_LENGTH: Final = 256  # characters of a model name that are believed
_ERROR_LENGTH: Final = 64
_NOTHING: Final = frozenset({b"null", b'""', b"[]", b"{}"})
_DONE: Final = b"[DONE]"
# `"usage":null` cannot stand inside a JSON string: its quotes would be escaped there.
_NULL_AFTER: Final = re.compile(rb',\s*"usage"\s*:\s*null')
_NULL_FIRST: Final = re.compile(rb'"usage"\s*:\s*null\s*,\s*')
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_MOST_TOKENS: Final = 10**9  # of one call; a count above is no count
_BYTES_PER_TOKEN: Final = 4  # OpenAI's rule of thumb for English; used only where no usage came, and labelled so


class _Request(msgspec.Struct):
    model: Any = None
    stream: Any = None
    stream_options: Any = msgspec.UNSET
    max_completion_tokens: Any = None
    max_tokens: Any = None
    temperature: Any = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Delta(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw()
    reasoning_content: msgspec.Raw = msgspec.Raw()
    reasoning: msgspec.Raw = msgspec.Raw()
    tool_calls: msgspec.Raw = msgspec.Raw()
    function_call: msgspec.Raw = msgspec.Raw()
    refusal: msgspec.Raw = msgspec.Raw()


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    finish_reason: str | None = None


class _Message(msgspec.Struct):
    """One event, or a whole answer."""

    id: Any = None
    model: Any = None
    object: Any = None
    choices: list[_Choice] | None = None
    usage: _Usage | msgspec.UnsetType | None = msgspec.UNSET
    error: Any = None
    type: Any = None
    code: Any = None


_request: Final = msgspec.json.Decoder(_Request)
_message: Final = msgspec.json.Decoder(_Message)


class OpenAI:
    """`base.Dialect` for OpenAI's API."""

    def operation(self, path: str) -> str | None:
        """By the path's end: prefixes differ (`/v1`, `/openai/deployments/NAME`)."""
        if path.endswith("/chat/completions"):
            return "chat"
        if path.endswith("/completions"):
            return "text_completion"
        return None

    def read_request(self, body: bytes) -> Asked | None:
        """Read what matters; None for what is not a JSON object."""
        try:
            request = _request.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        options = request.stream_options
        limit = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
        temperature = request.temperature
        return Asked(
            model=request.model[:_MODEL_LENGTH] if isinstance(request.model, str) else "",
            stream=request.stream is True,
            wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
            has_options=options is not msgspec.UNSET,
            max_tokens=limit if isinstance(limit, int) else None,
            temperature=float(temperature) if isinstance(temperature, int | float) else None,
            input_estimate=-(-(len(bytes(request.messages)) + len(bytes(request.prompt))) // _BYTES_PER_TOKEN),
        )

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:
        """Change what must be; the values that stay keep their bytes."""
        if model is None and not (usage and asked.has_options):
            if not usage:
                return body
            end = body.rindex(b"}")
            return body[:end] + b',"stream_options":{"include_usage":true}' + body[end:]
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        if model is not None:
            fields["model"] = msgspec.Raw(msgspec.json.encode(model))
        if usage:
            options = msgspec.json.decode(fields.get("stream_options", msgspec.Raw(b"null")))
            options = {**options, "include_usage": True} if isinstance(options, dict) else {"include_usage": True}
            fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
        return msgspec.json.encode(fields)

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """Note content, usage, finish reasons, errors."""
        if payload == _DONE:
            answer.done = True
            return Event.KEEP
        try:
            message = _message.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer.malformed += 1
            return Event.KEEP
        if not answer.model:
            _identify(answer, message)
        _note_error(answer, message)
        for choice in message.choices or ():
            size = _content(choice)
            if size:
                if not answer.pieces:
                    answer.first_content = now
                answer.last_content = now
                answer.pieces += 1
                answer.content_bytes += size
            if choice.finish_reason:
                answer.finish_reasons.append(choice.finish_reason)
        usage = message.usage
        if usage is msgspec.UNSET:
            return Event.KEEP
        if usage is None:
            return Event.STRIP
        _note_usage(answer, usage)
        return Event.KEEP if message.choices else Event.WITHHOLD

    def strip(self, event: bytes) -> bytes:
        """Cut the null usage out; several candidates, or none, leave the event as it is."""
        for pattern in (_NULL_AFTER, _NULL_FIRST):
            found = pattern.findall(event)
            if len(found) == 1:
                return event.replace(found[0], b"", 1)
        return event

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note usage, finish reasons, an error."""
        try:
            message = _message.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer.malformed += 1
            return
        _identify(answer, message)
        _note_error(answer, message)
        for choice in message.choices or ():
            answer.content_bytes += len(bytes(choice.message)) + len(bytes(choice.text))
            if choice.finish_reason:
                answer.finish_reasons.append(choice.finish_reason)
        if isinstance(message.usage, _Usage):
            _note_usage(answer, message.usage)

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """OpenAI's error shape."""
        kind = "invalid_request_error" if status < 500 else "upstream_error"  # noqa: PLR2004 - HTTP's classes
        return _error(message, kind, code)

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """429, with the type and code by which the SDK names its exception."""
        headers = [(b"x-llmwarden-budget", budget.encode())]
        if retry_after is None:
            headers.append((b"x-should-retry", b"false"))
        else:
            headers.append((b"Retry-After", b"%d" % retry_after))
        kind = "insufficient_quota" if retry_after is None else "rate_limit_exceeded"
        return Refusal(status=429, body=_error(message, kind, code), headers=tuple(headers))


def _error(message: str, kind: str, code: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


def _identify(answer: Answer, message: _Message) -> None:
    if isinstance(message.model, str):
        answer.model = message.model[:_MODEL_LENGTH]
    if isinstance(message.id, str):
        answer.id = message.id[:_MODEL_LENGTH]


def _note_error(answer: Answer, message: _Message) -> None:
    """An engine may fail after it has answered 200: vLLM sends `{"error": {...}}`, older ones `{"object": "error", ...}`."""
    if answer.error:
        return
    error = message.error
    if not error and message.object != "error":
        return
    kind: Any = message.type or message.code
    if isinstance(error, dict):
        kind = error.get("type") or error.get("code")
    elif isinstance(error, str):
        kind = "error"
    answer.error = _UNSAFE.sub("_", str(kind or "error"))[:_ERROR_LENGTH]


def _content(choice: _Choice) -> int:
    """Bytes of content; the role chunk has none."""
    delta = choice.delta
    if delta is None:
        raw = bytes(choice.text)
        return len(raw) if raw and raw not in _NOTHING else 0
    size = 0
    for value in (
        delta.content,
        delta.tool_calls,
        delta.reasoning_content,
        delta.reasoning,
        delta.function_call,
        delta.refusal,
    ):
        raw = bytes(value)
        if raw and raw not in _NOTHING:
            size += len(raw)
    return size


def _note_usage(answer: Answer, usage: _Usage) -> None:
    if max(usage.prompt_tokens or 0, usage.completion_tokens or 0) > _MOST_TOKENS:
        answer.malformed += 1
    else:
        answer.usage = _tokens(usage)


def _tokens(usage: _Usage) -> Tokens:
    """As counted by the provider, held to what a count can be: parts never exceed their whole."""
    read = max(usage.prompt_tokens or 0, 0)
    details = usage.prompt_tokens_details
    cached = min(max((details.cached_tokens if details else 0) or 0, 0), read)
    written = min(max((details.cache_write_tokens if details else 0) or 0, 0), read - cached)
    output = max(usage.completion_tokens or 0, 0)
    more = usage.completion_tokens_details
    return Tokens(
        input=read,
        cached_input=cached,
        cache_write=written,
        output=output,
        reasoning=min(max((more.reasoning_tokens if more else 0) or 0, 0), output),
    )
