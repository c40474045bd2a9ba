"""Ollama's own API: `/api/chat`, `/api/generate`, `/api/embed` and the older `/api/embeddings`.

Answers stream unless the request says otherwise. The last object has the counts; nanoseconds are its measure of time. Ollama's other
paths (`/v1/...`) are `openai`'s and `anthropic`'s.
"""

import re
from typing import Any, Final

import msgspec

from llmwarden import names
from llmwarden.contracts.ledger import Tokens
from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import prompt
from llmwarden.proxy.dialects.base import MOST_TOKENS, Answer, Api, Asked, Event, Match, Target, count
from llmwarden.proxy.framing import Framing
from llmwarden.proxy.seam import Refusal

_NANO: Final = 1e9
_NEVER_SENT: Final = msgspec.Raw()
_AROUND: Final = 16  # a message costs about four tokens beside its text
_NOTHING: Final = frozenset({b"", b'""', b"null", b"[]"})
_IDLE: Final = frozenset({"load", "unload"})  # reasons of a request that only moved a model in or out
_PATH: Final = re.compile(r"/api/(chat|generate|embeddings|embed)\Z", re.IGNORECASE)


class _In(msgspec.Struct):
    role: msgspec.Raw = _NEVER_SENT
    content: msgspec.Raw = _NEVER_SENT
    thinking: msgspec.Raw = _NEVER_SENT
    tool_calls: msgspec.Raw = _NEVER_SENT
    images: msgspec.Raw = _NEVER_SENT


class _Options(msgspec.Struct):
    num_predict: Any = None
    temperature: Any = None
    top_p: Any = None
    seed: Any = None


class _Plain(msgspec.Struct):
    model: Any = None
    stream: Any = None
    prompt: msgspec.Raw = _NEVER_SENT
    suffix: msgspec.Raw = _NEVER_SENT
    system: msgspec.Raw = _NEVER_SENT
    template: msgspec.Raw = _NEVER_SENT
    context: msgspec.Raw = _NEVER_SENT
    format: msgspec.Raw = _NEVER_SENT
    input: msgspec.Raw = _NEVER_SENT
    tools: msgspec.Raw = _NEVER_SENT
    images: msgspec.Raw = _NEVER_SENT


class _OllamaRequest(_Plain):
    messages: list[_In] | None = None
    options: _Options | None = None


class _ToolCall(msgspec.Struct):
    id: Any = None


class _Message(msgspec.Struct):
    content: msgspec.Raw = _NEVER_SENT
    thinking: msgspec.Raw = _NEVER_SENT
    tool_calls: msgspec.Raw = _NEVER_SENT


class _Answer(msgspec.Struct):
    """One line of a stream, or a whole answer. Go leaves out what is zero."""

    model: Any = None
    message: _Message | None = None
    response: msgspec.Raw = _NEVER_SENT
    thinking: msgspec.Raw = _NEVER_SENT
    done: Any = None
    done_reason: Any = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: Any = None


_request: Final = msgspec.json.Decoder(_OllamaRequest)
_plain: Final = msgspec.json.Decoder(_Plain)
_answer: Final = msgspec.json.Decoder(_Answer)
_tool_calls: Final = msgspec.json.Decoder(list[_ToolCall])


class Endpoint:
    """`base.Api` of all four; usage comes by itself. Only embeddings never stream."""

    def __init__(self, operation: str) -> None:
        self.operation = operation

    def read_request(self, body: bytes, match: Match) -> Asked | None:  # noqa: ARG002 - the interface's
        """Read what matters; None for what is not a JSON object."""
        try:
            request: _Plain = _request.decode(body)
        except UNREADABLE:
            try:
                request = _plain.decode(body)  # Ollama will say what is wrong with it
            except UNREADABLE:
                return None
        embeds = self.operation == "embeddings"
        asked = Asked(
            model=prompt.name(request.model),
            stream=request.stream is not False and not embeds,
            max_tokens=0 if embeds else None,
            input_bytes=sum(
                len(bytes(part))
                for part in (
                    request.prompt,
                    request.suffix,
                    request.system,
                    request.template,
                    request.context,
                    request.format,
                    request.input,
                    request.tools,
                )
            ),
            unbounded="" if bytes(request.images) in _NOTHING else "media",
        )
        if not isinstance(request, _OllamaRequest):
            asked.unbounded = "unreadable"
            return asked
        if request.options is not None and not embeds:
            # None and below zero are no limit.
            asked.max_tokens = prompt.positive(request.options.num_predict) or None
            asked.temperature = prompt.number(request.options.temperature)
            asked.top_p = prompt.number(request.options.top_p)
            asked.seed = prompt.positive(request.options.seed)
        _read_messages(asked, request.messages or [])
        return asked

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:  # noqa: ARG002 - the interface's
        """Another model."""
        return body if model is None else prompt.replaced(body, model=model)

    def write_target(self, target: bytes, model: str) -> bytes:  # noqa: ARG002 - the interface's
        """The path names no model."""
        return target

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:  # noqa: ARG002 - the interface's
        """Lines, where the server says so."""
        return Framing.NDJSON if content_type.startswith(b"application/x-ndjson") else None

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """Note content, and at the end the counts; an error is a line of its own, under 200."""
        message = _decode(answer, payload)
        if message is not None:
            size = _note(answer, message)
            if size:
                answer.content(size, now)
            answer.done = message.done is True
        return Event.KEEP

    def strip(self, event: bytes) -> bytes:
        """Nothing is added, so nothing is taken out."""
        return event

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note content, counts, an error. Embeddings have a count of input only, the older ones none."""
        message = _decode(answer, body)
        if message is None:
            return
        answer.content_bytes += _note(answer, message)
        if self.operation == "embeddings" and message.prompt_eval_count is not None:
            _note_usage(answer, message)


class Ollama:
    """`base.Dialect`."""

    name = "ollama"
    backends = frozenset({"Ollama"})

    def match(self, target: Target) -> Match | None:
        """By the path's end: a gateway may put something before `/api`."""
        found = _PATH.search(target.path)
        if target.method != "POST" or found is None:
            return None
        return Match(_ENDS[found[1].lower()])

    def error_body(self, status: int, code: str, message: str) -> bytes:  # noqa: ARG002 - the interface's
        """Ollama's error shape has no place for a code."""
        return msgspec.json.encode({"error": message})

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """429: the SDK raises `ResponseError` with it, and never tries again by itself."""
        headers = [(names.HEADER_BUDGET, budget.encode())]
        if retry_after is None:
            headers.append((b"x-should-retry", b"false"))  # other clients of this API might
        else:
            headers.append((b"Retry-After", b"%d" % retry_after))
        return Refusal(status=429, body=self.error_body(429, code, message), headers=tuple(headers))


def _read_messages(asked: Asked, messages: list[_In]) -> None:
    parts: list[bytes] = []
    for message in messages:
        content = b"".join((bytes(message.content), bytes(message.thinking), bytes(message.tool_calls)))
        asked.input_bytes += len(content) + _AROUND
        if bytes(message.images) not in _NOTHING:
            asked.unbounded = "media"
        parts.append(bytes(message.role) + content)
    asked.prefixes = prompt.chain(parts)


def _decode(answer: Answer, payload: bytes) -> _Answer | None:
    try:
        return _answer.decode(payload)
    except UNREADABLE:
        answer.malformed += 1
        return None


def _note(answer: Answer, message: _Answer) -> int:
    """Note all but the time; returns the bytes of content."""
    answer.model = prompt.name(message.model) or answer.model
    if message.error and not answer.error:
        answer.error = "error"  # a sentence: it has no kind that could be a label
    size = _size(message.response) + _size(message.thinking)
    if message.message is not None:
        size += _size(message.message.content) + _size(message.message.thinking)
        size += _note_tool_calls(answer, bytes(message.message.tool_calls))
    if message.done is True:
        reason = prompt.name(message.done_reason)
        if reason:
            answer.finish(reason)
        if message.load_duration is not None and message.load_duration >= 0:
            answer.queue_seconds = message.load_duration / _NANO  # waiting for a place, and for the model to be there
        if message.prompt_eval_count is not None or message.eval_count is not None or reason in _IDLE:
            _note_usage(answer, message)
    return size


def _note_usage(answer: Answer, message: _Answer) -> None:
    read, output = count(message.prompt_eval_count), count(message.eval_count)
    if max(read, output) > MOST_TOKENS:
        answer.malformed += 1
    else:
        answer.usage = Tokens(input=read, output=output)


def _note_tool_calls(answer: Answer, raw: bytes) -> int:
    if raw in _NOTHING:
        return 0
    try:
        for call in _tool_calls.decode(raw):
            if isinstance(call.id, str):
                answer.tool_call(call.id)
    except UNREADABLE:
        pass  # content all the same
    return len(raw)


def _size(value: msgspec.Raw) -> int:
    raw = bytes(value)
    return 0 if raw in _NOTHING else len(raw)


_EMBEDDINGS: Final = Endpoint("embeddings")
_ENDS: Final[dict[str, Api]] = {
    "chat": Endpoint("chat"),
    "generate": Endpoint("text_completion"),
    "embed": _EMBEDDINGS,
    "embeddings": _EMBEDDINGS,
}
DIALECT: Final = Ollama()
