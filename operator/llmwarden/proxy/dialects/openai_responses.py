"""OpenAI's Responses: typed events, answers that may be made in the background, tools that the server runs."""

from typing import Any, Final

import msgspec

from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import openai_shared, prompt
from llmwarden.proxy.dialects.base import Answer, Asked, Event, Match
from llmwarden.proxy.dialects.openai_shared import Usage, note_error, note_tier, note_usage
from llmwarden.proxy.framing import Framing

_ENDED: Final = frozenset({"response.completed", "response.failed", "response.incomplete", "response.cancelled"})
_BEGUN: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
_UNDER_WAY: Final = frozenset({"queued", "in_progress"})
_CLIENT_TOOLS: Final = frozenset({"function", "custom", "local_shell", "apply_patch"})
_DONE: Final = b"[DONE]"
_NEVER_SENT: Final = msgspec.Raw()


class _Item(msgspec.Struct):
    """One item of the input; most have no type, which is a message's."""

    type: Any = None
    content: msgspec.Raw = _NEVER_SENT


class _Typed(msgspec.Struct):
    type: Any = None


class _ResponsesRequest(msgspec.Struct):
    model: Any = None
    stream: Any = None
    background: Any = None
    input: msgspec.Raw = _NEVER_SENT
    instructions: msgspec.Raw = _NEVER_SENT
    tools: msgspec.Raw = _NEVER_SENT
    prompt: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    max_output_tokens: Any = None
    temperature: Any = None
    top_p: Any = None


class _Incomplete(msgspec.Struct):
    reason: Any = None


class _OutputItem(msgspec.Struct):
    type: Any = None
    call_id: Any = None
    content: msgspec.Raw = _NEVER_SENT
    arguments: msgspec.Raw = _NEVER_SENT


class _Response(msgspec.Struct):
    id: Any = None
    model: Any = None
    status: Any = None
    background: Any = None
    service_tier: Any = None
    conversation: Any = None
    incomplete_details: _Incomplete | None = None
    error: Any = None
    usage: Usage | None = None
    output: list[_OutputItem] | None = None
    object: Any = None
    type: Any = None
    code: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    delta: msgspec.Raw = _NEVER_SENT
    item: _OutputItem | None = None
    response: _Response | None = None
    code: Any = None
    error: Any = None


_request: Final = msgspec.json.Decoder(_ResponsesRequest)
_items: Final = msgspec.json.Decoder(list[_Item])
_raws: Final = msgspec.json.Decoder(list[msgspec.Raw])
_typed: Final = msgspec.json.Decoder(list[_Typed])
_event: Final = msgspec.json.Decoder(_Event)
_response: Final = msgspec.json.Decoder(_Response)


class Responses(openai_shared.Endpoint):
    """`base.Api`."""

    operation = "chat"

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """Read what matters; None for what is not a JSON object."""
        try:
            request = _request.decode(body)
        except UNREADABLE:
            return None
        conversation = request.conversation
        if isinstance(conversation, dict):
            conversation = conversation.get("id")
        prompt_input = bytes(request.input)
        asked = Asked(
            model=openai_shared.model_of(request.model, match),
            stream=request.stream is True,
            max_tokens=prompt.positive(request.max_output_tokens),
            temperature=prompt.number(request.temperature),
            top_p=prompt.number(request.top_p),
            input_bytes=len(prompt_input) + len(bytes(request.instructions)) + len(bytes(request.tools)),
            conversation=prompt.name(conversation) or prompt.name(request.previous_response_id),
            background=request.background is True,
        )
        if asked.conversation or request.prompt is not None:
            asked.unbounded = "stored_input"
        elif asked.background:
            asked.unbounded = "background"
        else:
            asked.unbounded = _server_tools(bytes(request.tools)) or _media(prompt_input)
        asked.prefixes = prompt.chain(_split(prompt_input))
        return asked

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:  # noqa: ARG002 - the interface's
        """Another model; usage comes by itself."""
        return body if model is None else prompt.replaced(body, model=model)

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:  # noqa: ARG002 - the interface's
        """Server-sent events, where the server says so."""
        return Framing.SSE if content_type.startswith(b"text/event-stream") else None

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:  # noqa: C901 - one pass over the event, once per chunk
        """Deltas are content; the last event brings usage."""
        answer.text = b""
        if payload == _DONE:
            answer.done = True
            return Event.KEEP
        try:
            event = _event.decode(payload)
        except UNREADABLE:
            answer.malformed += 1
            return Event.KEEP
        kind = event.type
        if kind.endswith(".delta"):
            text = bytes(event.delta)
            answer.content(len(text), now)
            if text[:1] == b'"':
                answer.text, answer.text_name = text, b'"delta":'
        elif kind == "response.output_item.added":
            if event.item is not None and isinstance(event.item.call_id, str):
                answer.tool_call(event.item.call_id)
        elif kind in _ENDED:
            if event.response is not None:
                _note_response(answer, event.response)
            answer.done = True
        elif kind in _BEGUN:
            if event.response is not None:
                _identify(answer, event.response)
        elif kind == "error" or event.error:
            note_error(answer, event.error, event.code or kind)
        return Event.KEEP

    def strip(self, event: bytes) -> bytes:
        """Nothing is added, so nothing is taken out."""
        return event

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note usage, outcome, tool calls; a response that is still being made is paid for later."""
        try:
            response = _response.decode(body)
        except UNREADABLE:
            answer.malformed += 1
            return
        _note_response(answer, response)
        for item in response.output or ():
            answer.content_bytes += len(bytes(item.content)) + len(bytes(item.arguments))
            if isinstance(item.call_id, str) and item.type != "function_call_output":
                answer.tool_call(item.call_id)


def _identify(answer: Answer, response: _Response) -> None:
    answer.model = prompt.name(response.model) or answer.model
    answer.id = prompt.name(response.id) or answer.id
    if response.background is True:
        answer.deferred = answer.id


def _note_response(answer: Answer, response: _Response) -> None:
    _identify(answer, response)
    note_tier(answer, response.service_tier)
    if response.status not in _UNDER_WAY:
        answer.deferred = ""
        reason = response.incomplete_details.reason if response.incomplete_details else None
        finish = prompt.name(reason) or prompt.name(response.status)
        if finish:
            answer.finish(finish)
    error: Any = response.error
    if isinstance(error, dict):
        error = {"type": error.get("code") or error.get("type")}  # of a failed response, the code is what tells
    if error or response.object == "error":
        note_error(answer, error, response.type or response.code)
    if response.usage is not None:
        note_usage(answer, response.usage)


def _server_tools(raw: bytes) -> str:
    if not raw or raw == b"null":
        return ""
    try:
        kinds = {tool.type for tool in _typed.decode(raw)}
    except (*UNREADABLE, TypeError):
        return "unreadable"
    return "" if kinds <= _CLIENT_TOOLS else "server_tools"


def _media(raw: bytes) -> str:
    """Whether the input refers to what costs other than by its length."""
    if raw[:1] != b"[":
        return ""
    try:
        for item in _items.decode(raw):
            if item.type == "item_reference":
                return "stored_input"
            content = bytes(item.content)
            if content[:1] == b"[":
                kinds = {part.type for part in _typed.decode(content)}
                if not kinds <= {"input_text", "output_text", "refusal", "text"}:
                    return "media"
    except (*UNREADABLE, TypeError):
        return "unreadable"
    return ""


def _split(raw: bytes) -> list[bytes]:
    if raw[:1] != b"[":
        return [raw] if raw else []
    try:
        return [bytes(item) for item in _raws.decode(raw)]
    except UNREADABLE:
        return [raw]
