"""OpenAI's chat completions and completions."""

import re
from typing import Any, Final

import msgspec

from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import openai_shared, prompt
from llmwarden.proxy.dialects.base import NAME_LENGTH, Answer, Asked, Event, Match
from llmwarden.proxy.dialects.openai_shared import Usage, note_error, note_tier, note_usage
from llmwarden.proxy.framing import Framing

_NOTHING: Final = frozenset({b"null", b'""', b"[]", b"{}"})
_NOTHING_LENGTH: Final = max(map(len, _NOTHING))
_DONE: Final = b"[DONE]"
# `"usage":null` cannot stand inside a JSON string: its quotes would be escaped there.
_NULL_AFTER: Final = re.compile(rb',\s*"usage"\s*:\s*null')
_NULL_FIRST: Final = re.compile(rb'"usage"\s*:\s*null\s*,\s*')
_NEVER_SENT: Final = msgspec.Raw()
_LIST: Final = ord("[")
_AROUND: Final = 16  # a message costs about four tokens beside its text


class _In(msgspec.Struct):
    """A message of the request, as raw as can be: an image in it may have megabytes."""

    role: msgspec.Raw = _NEVER_SENT
    content: msgspec.Raw = _NEVER_SENT
    tool_calls: msgspec.Raw = _NEVER_SENT
    tool_call_id: msgspec.Raw = _NEVER_SENT


class _Typed(msgspec.Struct):
    type: Any = None


class _Plain(msgspec.Struct):
    """What is read even where the rest is of no known shape."""

    model: Any = None
    stream: Any = None
    stream_options: Any = msgspec.UNSET
    max_completion_tokens: Any = None
    max_tokens: Any = None
    n: Any = None
    best_of: Any = None
    temperature: Any = None
    top_p: Any = None
    seed: Any = None
    web_search_options: Any = None
    search_parameters: Any = None  # xAI
    prediction: msgspec.Raw = _NEVER_SENT
    prompt: msgspec.Raw = _NEVER_SENT
    functions: msgspec.Raw = _NEVER_SENT
    response_format: msgspec.Raw = _NEVER_SENT


class _ChatRequest(_Plain):
    messages: list[_In] | None = None
    tools: msgspec.Raw = _NEVER_SENT


class _Unshaped(_Plain):
    messages: msgspec.Raw = _NEVER_SENT
    tools: msgspec.Raw = _NEVER_SENT


class _Delta(msgspec.Struct):
    content: msgspec.Raw = _NEVER_SENT
    reasoning_content: msgspec.Raw = _NEVER_SENT
    reasoning: msgspec.Raw = _NEVER_SENT
    tool_calls: msgspec.Raw = _NEVER_SENT
    function_call: msgspec.Raw = _NEVER_SENT
    refusal: msgspec.Raw = _NEVER_SENT
    audio: msgspec.Raw = _NEVER_SENT


class _ToolCall(msgspec.Struct):
    id: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: msgspec.Raw = _NEVER_SENT
    message: _Delta | None = None
    finish_reason: str | None = None


class _Groq(msgspec.Struct):
    usage: Usage | None = None
    error: Any = None


class _Message(msgspec.Struct):
    """One event, or a whole answer."""

    id: Any = None
    model: Any = None
    object: Any = None
    choices: list[_Choice] | None = None
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    error: Any = None
    type: Any = None
    code: Any = None
    service_tier: Any = None
    x_groq: _Groq | None = None


_request: Final = msgspec.json.Decoder(_ChatRequest)
_unshaped: Final = msgspec.json.Decoder(_Unshaped)
_typed: Final = msgspec.json.Decoder(list[_Typed])
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])
_message: Final = msgspec.json.Decoder(_Message)
_tool_calls: Final = msgspec.json.Decoder(list[_ToolCall])


class Chat(openai_shared.Endpoint):
    """`base.Api` of both endpoints."""

    def __init__(self, operation: str) -> None:
        self.operation = operation

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """Read what matters; None for what is not a JSON object."""
        try:
            request: _ChatRequest | _Unshaped = _request.decode(body)
        except UNREADABLE:
            try:
                request = _unshaped.decode(body)  # the upstream will say what is wrong with it
            except UNREADABLE:
                return None
        options = request.stream_options
        asked = Asked(
            model=openai_shared.model_of(request.model, match),
            stream=request.stream is True,
            wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
            has_options=options is not msgspec.UNSET,
            max_tokens=_limit(request.max_completion_tokens, request.max_tokens),
            temperature=prompt.number(request.temperature),
            top_p=prompt.number(request.top_p),
            seed=prompt.positive(request.seed),
            input_bytes=len(request.prompt)
            + len(request.functions)
            + len(request.tools)
            + len(request.response_format),
        )
        if request.n is not None or request.best_of is not None:
            asked.choices = max(prompt.positive(request.n) or 1, prompt.positive(request.best_of) or 1)
            if not {type(request.n), type(request.best_of)} <= {int, type(None)}:
                asked.unbounded = "unreadable"  # some servers take "5" for a number
        if isinstance(request, _Unshaped):
            asked.input_bytes += len(bytes(request.messages))
            asked.unbounded = "unreadable"
            return asked
        _read_messages(asked, request.messages or [])
        if request.prompt is not _NEVER_SENT:
            asked.choices *= _prompts(bytes(request.prompt))
        asked.unbounded = asked.unbounded or _reaches_out(request)
        return asked

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:
        """Change what must be; the values that stay keep their bytes."""
        if model is None and not (usage and asked.has_options):
            if not usage:
                return body
            end = body.rindex(b"}")
            return body[:end] + b',"stream_options":{"include_usage":true}' + body[end:]
        values: dict[str, Any] = {}
        if model is not None:
            values["model"] = model
        if usage:
            options = msgspec.json.decode(body, type=_Unshaped).stream_options
            values["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return prompt.replaced(body, **values)

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:  # noqa: ARG002 - the interface's
        """Server-sent events, where the server says so."""
        return Framing.SSE if content_type.startswith(b"text/event-stream") else None

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:  # noqa: C901 - one pass over the event, once per chunk
        """Note content, usage, finish reasons, errors."""
        answer.text = b""
        if payload == _DONE:
            answer.done = True
            return Event.KEEP
        try:
            message = _message.decode(payload)
        except UNREADABLE:
            answer.malformed += 1
            return Event.KEEP
        if not answer.model:
            _identify(answer, message)
        _note_error(answer, message)
        for choice in message.choices or ():
            delta = choice.delta
            size = _content(delta) if delta is not None else _size(choice.text)
            if size:
                answer.content(size, now)
                if delta is not None:
                    if size == len(text := bytes(delta.content)) and len(message.choices or ()) == 1:
                        answer.text = (
                            text
                            if not (choice.finish_reason or message.error or message.usage or message.x_groq)
                            else b""
                        )
                    _note_tool_calls(answer, delta)
            if choice.finish_reason:
                answer.finish(choice.finish_reason[:NAME_LENGTH])
        if message.service_tier is not None:
            note_tier(answer, message.service_tier)
        usage = message.usage
        if usage is msgspec.UNSET:
            return Event.KEEP
        if usage is None:
            return Event.STRIP
        note_usage(answer, usage)
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
        except UNREADABLE:
            answer.malformed += 1
            return
        _identify(answer, message)
        _note_error(answer, message)
        note_tier(answer, message.service_tier)
        for choice in message.choices or ():
            if choice.message is not None:
                answer.content_bytes += _content(choice.message)
                _note_tool_calls(answer, choice.message)
            answer.content_bytes += _size(choice.text)
            if choice.finish_reason:
                answer.finish(choice.finish_reason[:NAME_LENGTH])
        if isinstance(message.usage, Usage):
            note_usage(answer, message.usage)


def _limit(one: Any, other: Any) -> int | None:
    """The larger of two limits of output tokens: which of them a server heeds is its own affair."""
    if one is None:
        return prompt.positive(other) or None
    return max(prompt.positive(one) or 0, prompt.positive(other) or 0) or None


def _read_messages(asked: Asked, messages: list[_In]) -> None:
    size = 0
    for message in messages:
        content = message.content
        size += len(content) + len(message.tool_calls) + _AROUND
        if content is not _NEVER_SENT and memoryview(content)[0] == _LIST:
            asked.unbounded = asked.unbounded or _media(bytes(content))
    asked.input_bytes += size
    asked.prefixes = prompt.chain_parts(
        [(item.role, item.content, item.tool_calls, item.tool_call_id) for item in messages]
    )


def _media(content: bytes) -> str:
    """What costs other than by its length: images, sound, files."""
    try:
        kinds = {part.type for part in _typed.decode(content)}
    except (*UNREADABLE, TypeError):
        return "unreadable"
    return "" if kinds <= {"text", "refusal"} else "media"


def _reaches_out(request: _ChatRequest) -> str:
    """What is used beside the messages: by tools that the server runs, or a prediction, which costs where it fails."""
    if request.web_search_options is not None or request.search_parameters is not None:
        return "server_tools"
    if _size(request.prediction):
        return "prediction"
    if request.tools is _NEVER_SENT:
        return ""
    tools = bytes(request.tools)
    if not tools or tools in _NOTHING:
        return ""
    try:
        kinds = {tool.type for tool in _typed.decode(tools)}
    except (*UNREADABLE, TypeError):
        return "unreadable"
    return "" if kinds <= {"function", "custom"} else "server_tools"


def _prompts(raw: bytes) -> int:
    """How many prompts a completion has: each has its own choices."""
    if raw[:1] != b"[":
        return 1
    try:
        items = _list.decode(raw)
    except UNREADABLE:
        return 1
    first = bytes(items[0])[:1] if items else b""
    return 1 if not first or first.isdigit() else len(items)  # numbers are the tokens of one


def _identify(answer: Answer, message: _Message) -> None:
    answer.model = prompt.name(message.model) or answer.model
    answer.id = prompt.name(message.id) or answer.id


def _note_error(answer: Answer, message: _Message) -> None:
    """An engine may fail after it has answered 200: vLLM sends `{"error": {...}}`, older ones `{"object": "error", ...}`."""
    if message.error or message.object == "error":
        note_error(answer, message.error, message.type or message.code)
    groq = message.x_groq
    if groq is not None:
        if groq.usage is not None:
            note_usage(answer, groq.usage)
        if groq.error:
            note_error(answer, groq.error)


def _size(value: msgspec.Raw) -> int:
    size = len(value)
    return size if size > _NOTHING_LENGTH or (size and bytes(value) not in _NOTHING) else 0


def _content(delta: _Delta) -> int:
    """Bytes of content; the role chunk has none."""
    size = _size(delta.content)
    if delta.tool_calls is not _NEVER_SENT:
        size += _size(delta.tool_calls)
    if delta.reasoning_content is not _NEVER_SENT:
        size += _size(delta.reasoning_content)
    if delta.reasoning is not _NEVER_SENT:
        size += _size(delta.reasoning)
    if delta.function_call is not _NEVER_SENT:
        size += _size(delta.function_call)
    if delta.refusal is not _NEVER_SENT:
        size += _size(delta.refusal)
    if delta.audio is not _NEVER_SENT:
        size += _size(delta.audio)
    return size


def _note_tool_calls(answer: Answer, delta: _Delta) -> None:
    if delta.tool_calls is _NEVER_SENT:
        return
    raw = bytes(delta.tool_calls)
    if b'"id"' not in raw:
        return
    try:
        calls = _tool_calls.decode(raw)
    except UNREADABLE:
        return
    for call in calls:
        if call.id:
            answer.tool_call(call.id)
