"""Gemini's Interactions: the model, or an agent, stands in the body; a conversation goes on by its id."""

from typing import Any, Final

import msgspec

from llmwarden.contracts.ledger import Tokens
from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import gemini_shared, prompt
from llmwarden.proxy.dialects.base import MOST_TOKENS, Answer, Asked, Event, Match, count
from llmwarden.proxy.dialects.gemini_shared import NEVER_SENT, note_tier

_CONTENT: Final = frozenset({"text", "arguments_delta", "thought_summary", "audio", "image"})
_STOPS: Final = frozenset({"completed", "requires_action", "failed", "cancelled", "incomplete", "budget_exceeded"})


class _Config(msgspec.Struct):
    max_output_tokens: Any = None
    temperature: Any = None
    top_p: Any = None
    seed: Any = None


class _Typed(msgspec.Struct):
    type: Any = None
    id: Any = None


class _Plain(msgspec.Struct):
    model: Any = None
    agent: Any = None
    stream: Any = None
    background: Any = None
    previous_interaction_id: Any = None
    cached_content: Any = None
    environment: Any = None
    system_instruction: msgspec.Raw = NEVER_SENT
    input: msgspec.Raw = NEVER_SENT
    tools: msgspec.Raw = NEVER_SENT


class _InteractionRequest(_Plain):
    generation_config: _Config | None = None


class _Modality(msgspec.Struct):
    modality: Any = None
    tokens: int | None = None


class _Usage(msgspec.Struct):
    total_input_tokens: int | None = None
    total_cached_tokens: int | None = None
    total_output_tokens: int | None = None
    total_thought_tokens: int | None = None
    total_tool_use_tokens: int | None = None
    input_tokens_by_modality: list[_Modality] | None = None
    cached_tokens_by_modality: list[_Modality] | None = None
    output_tokens_by_modality: list[_Modality] | None = None


class _Interaction(msgspec.Struct):
    id: Any = None
    model: Any = None
    agent: Any = None
    status: Any = None
    usage: _Usage | None = None
    service_tier: Any = None
    steps: list[_Typed] | None = None
    error: Any = None


class _Event(msgspec.Struct):
    event_type: Any = None
    interaction: _Interaction | None = None
    delta: msgspec.Raw = NEVER_SENT
    step: _Typed | None = None
    error: Any = None


_request: Final = msgspec.json.Decoder(_InteractionRequest)
_plain: Final = msgspec.json.Decoder(_Plain)
_interaction: Final = msgspec.json.Decoder(_Interaction)
_event: Final = msgspec.json.Decoder(_Event)
_typed: Final = msgspec.json.Decoder(_Typed)
_types: Final = msgspec.json.Decoder(list[_Typed])


class Interactions(gemini_shared.Endpoint):
    """`base.Api`."""

    operation = "generate_content"

    def read_request(self, body: bytes, match: Match) -> Asked | None:  # noqa: ARG002 - the interface's
        """Read what matters; None for what is not a JSON object."""
        try:
            request: _Plain = _request.decode(body)
        except UNREADABLE:
            try:
                request = _plain.decode(body)
            except UNREADABLE:
                return None
        config = request.generation_config if isinstance(request, _InteractionRequest) else None
        parts = [bytes(part) for part in (request.system_instruction, request.input, request.tools)]
        asked = Asked(
            model=prompt.name(request.model).removeprefix("models/") or prompt.name(request.agent),
            stream=request.stream is True,
            background=request.background is True,
            conversation=prompt.name(request.previous_interaction_id),
            input_bytes=sum(map(len, parts)),
            unbounded=_unbounded(request, parts[2]),
        )
        if config is not None:
            asked.max_tokens = prompt.positive(config.max_output_tokens)
            asked.temperature = prompt.number(config.temperature)
            asked.top_p = prompt.number(config.top_p)
            asked.seed = prompt.positive(config.seed)
        return asked

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:  # noqa: ARG002 - the interface's
        """Another model; an agent has none to change."""
        if model is None or "model" not in msgspec.json.decode(body, type=dict[str, msgspec.Raw]):
            return body
        return prompt.replaced(body, model=model)

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """Note content, tool calls, usage, the status at the end, an error."""
        if payload == b"[DONE]":
            answer.done = True
            return Event.KEEP
        try:
            event = _event.decode(payload)
        except UNREADABLE:
            answer.malformed += 1
            return Event.KEEP
        delta = bytes(event.delta)
        if delta and _type(delta) in _CONTENT:
            answer.content(len(delta), now)
        _note_step(answer, event.step)
        if event.interaction is not None:
            _note(answer, event.interaction)
        if event.error:
            _note_error(answer, event.error)
        return Event.KEEP

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note usage, the status, tool calls, an error."""
        try:
            interaction = _interaction.decode(body)
        except UNREADABLE:
            answer.malformed += 1
            return
        _note(answer, interaction)
        for step in interaction.steps or ():
            _note_step(answer, step)
        if interaction.error:
            _note_error(answer, interaction.error)
        elif interaction.usage is None and prompt.name(interaction.status) not in _STOPS:
            answer.deferred = answer.id  # begun in the background
        answer.content_bytes += len(body)


def _note(answer: Answer, interaction: _Interaction) -> None:
    answer.model = prompt.name(interaction.model) or prompt.name(interaction.agent) or answer.model
    answer.id = prompt.name(interaction.id) or answer.id
    note_tier(answer, interaction.service_tier)
    status = prompt.name(interaction.status)
    if status in _STOPS:
        answer.finish(status)
        if status == "failed":
            answer.error = answer.error or "failed"
    if interaction.usage is not None:
        _note_usage(answer, interaction.usage)


def _note_step(answer: Answer, step: _Typed | None) -> None:
    if step is not None and step.type == "function_call" and isinstance(step.id, str):
        answer.tool_call(step.id)


def _note_error(answer: Answer, error: Any) -> None:
    if not answer.error:
        known = isinstance(error, dict)
        answer.error = prompt.error_type((error.get("status") or error.get("code")) if known else "error")


def _note_usage(answer: Answer, usage: _Usage) -> None:
    thoughts = count(usage.total_thought_tokens)
    read = count(usage.total_input_tokens) + count(usage.total_tool_use_tokens)
    output = count(usage.total_output_tokens) + thoughts
    if max(read, output) > MOST_TOKENS:
        answer.malformed += 1
        return
    cached = min(count(usage.total_cached_tokens), read)
    audio = _audio(usage.input_tokens_by_modality) - _audio(usage.cached_tokens_by_modality)
    answer.usage = Tokens(
        input=read,
        cached_input=cached,
        output=output,
        reasoning=thoughts,
        input_audio=min(max(audio, 0), read - cached),
        output_audio=min(_audio(usage.output_tokens_by_modality), output - thoughts),
    )


def _audio(parts: list[_Modality] | None) -> int:
    return sum(count(part.tokens) for part in parts or () if part.modality == "audio")


def _type(raw: bytes) -> str:
    try:
        return prompt.name(_typed.decode(raw).type)
    except UNREADABLE:
        return ""


def _unbounded(request: _Plain, tools: bytes) -> str:
    """What is used beside the input in the body, and beside what one answer may have."""
    if request.background is True:
        return "background"
    if request.previous_interaction_id or request.cached_content:
        return "stored_input"
    if not isinstance(request, _InteractionRequest):
        return "unreadable"
    given = bytes(request.input)
    if b'"data"' in given or b'"uri"' in given:
        return "media"
    return "server_tools" if request.agent or request.environment or not _own(tools) else ""


def _own(tools: bytes) -> bool:
    """Whether all tools run at the client."""
    try:
        return (
            not tools
            or tools == b"null"
            or {tool.type for tool in _types.decode(tools)} <= {"function", "computer_use"}
        )
    except (*UNREADABLE, TypeError):
        return False
