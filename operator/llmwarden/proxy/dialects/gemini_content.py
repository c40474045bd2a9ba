"""Gemini's `generateContent` and `streamGenerateContent`."""

from typing import Any, Final

import msgspec

from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import gemini_shared, prompt
from llmwarden.proxy.dialects.base import Answer, Asked, Event, Match
from llmwarden.proxy.dialects.gemini_shared import AROUND, NEVER_SENT, Usage, note_error, note_usage

# Protocol buffers read both spellings of a name, so both are read here: none may be a way around a budget.
_MEDIA: Final = (b'"inlineData"', b'"inline_data"', b'"fileData"', b'"file_data"')
_CLIENT_TOOLS: Final = frozenset({"functionDeclarations", "function_declarations", "computerUse", "computer_use"})


class _In(msgspec.Struct):
    role: msgspec.Raw = NEVER_SENT
    parts: msgspec.Raw = NEVER_SENT


class _Config(msgspec.Struct):
    temperature: Any = None
    seed: Any = None
    topP: Any = None  # noqa: N815 - the API's names
    top_p: Any = None
    maxOutputTokens: Any = None  # noqa: N815
    max_output_tokens: Any = None
    candidateCount: Any = None  # noqa: N815
    candidate_count: Any = None
    responseModalities: Any = None  # noqa: N815
    response_modalities: Any = None


class _Plain(msgspec.Struct):
    systemInstruction: msgspec.Raw = NEVER_SENT  # noqa: N815
    system_instruction: msgspec.Raw = NEVER_SENT
    tools: msgspec.Raw = NEVER_SENT
    cachedContent: Any = None  # noqa: N815
    cached_content: Any = None


class _GenerateContentRequest(_Plain):
    contents: list[_In] | _In | None = None
    generationConfig: _Config | None = None  # noqa: N815
    generation_config: _Config | None = None


class _Unshaped(_Plain):
    contents: msgspec.Raw = NEVER_SENT


class _Call(msgspec.Struct):
    id: Any = None


class _Part(msgspec.Struct, rename="camel"):
    text: msgspec.Raw = NEVER_SENT
    function_call: msgspec.Raw = NEVER_SENT
    inline_data: msgspec.Raw = NEVER_SENT
    executable_code: msgspec.Raw = NEVER_SENT
    code_execution_result: msgspec.Raw = NEVER_SENT


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: Any = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: Any = None


class _Answer(msgspec.Struct, rename="camel"):
    """One event, or a whole answer."""

    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: Usage | None = None
    model_version: Any = None
    response_id: Any = None
    error: Any = None


_request: Final = msgspec.json.Decoder(_GenerateContentRequest)
_unshaped: Final = msgspec.json.Decoder(_Unshaped)
_answer: Final = msgspec.json.Decoder(_Answer)
_tools: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | dict[str, msgspec.Raw])
_call: Final = msgspec.json.Decoder(_Call)
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Content(gemini_shared.Endpoint):
    """`base.Api` of both."""

    operation = "generate_content"

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """Read what matters; None for what is not a JSON object."""
        try:
            request: _GenerateContentRequest | _Unshaped = _request.decode(body)
        except UNREADABLE:
            try:
                request = _unshaped.decode(body)  # Google will say what is wrong with it
            except UNREADABLE:
                return None
        system = bytes(request.systemInstruction) or bytes(request.system_instruction)
        asked = Asked(
            model=match.model,
            stream=match.stream is True,
            input_bytes=len(system) + len(bytes(request.tools)),
            unbounded="stored_input" if request.cachedContent or request.cached_content else "",
        )
        if isinstance(request, _Unshaped):
            asked.input_bytes += len(bytes(request.contents))
            asked.unbounded = "unreadable"
            return asked
        _read_contents(asked, system, request.contents)
        for config in (request.generationConfig, request.generation_config):
            if config is not None:
                _read_config(asked, config)
        _read_tools(asked, bytes(request.tools))
        return asked

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """Note content, usage, finish reasons, errors. Usage comes with every event and grows; the last is that of the finish."""
        message = _decode(answer, payload)
        if message is None:
            return Event.KEEP
        size = _note(answer, message)
        if size:
            answer.content(size, now)
        if message.usage_metadata is not None:
            answer.partial = not answer.finish_reasons
        return Event.KEEP

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note usage, finish reasons, an error. A stream's error may come as an array of one."""
        if body.lstrip()[:1] == b"[":
            try:
                items = _list.decode(body)
            except UNREADABLE:
                items = []
            body = bytes(items[-1]) if items else body
        message = _decode(answer, body)
        if message is not None:
            answer.content_bytes += _note(answer, message)


def _decode(answer: Answer, payload: bytes) -> _Answer | None:
    try:
        return _answer.decode(payload)
    except UNREADABLE:
        answer.malformed += 1
        return None


def _note(answer: Answer, message: _Answer) -> int:
    """Note all but the time; returns the bytes of content."""
    answer.model = prompt.name(message.model_version) or answer.model
    answer.id = prompt.name(message.response_id) or answer.id
    note_error(answer, message.error)
    if message.prompt_feedback is not None:
        _note_reason(answer, message.prompt_feedback.block_reason)  # no candidate comes: the prompt was refused
    size = 0
    for candidate in message.candidates or ():
        for part in (candidate.content.parts if candidate.content else None) or ():
            size += _content(answer, part)
        _note_reason(answer, candidate.finish_reason)
    if message.usage_metadata is not None:
        note_usage(answer, message.usage_metadata)
    return size


def _note_reason(answer: Answer, reason: Any) -> None:
    if isinstance(reason, str) and reason:
        answer.finish(prompt.name(reason))


def _content(answer: Answer, part: _Part) -> int:
    """Bytes of text, thoughts, calls, images and code; an empty text (it carries a signature) is none."""
    text = bytes(part.text)
    size = len(text) if text not in {b"", b'""'} else 0
    call = bytes(part.function_call)
    if call:
        size += len(call)
        try:
            name = _call.decode(call).id
        except UNREADABLE:
            name = None
        if isinstance(name, str) and name:
            answer.tool_call(name)
    return size + sum(len(bytes(item)) for item in (part.inline_data, part.executable_code, part.code_execution_result))


def _read_contents(asked: Asked, system: bytes, contents: list[_In] | _In | None) -> None:
    messages = [system]
    for message in [contents] if isinstance(contents, _In) else contents or ():
        parts = bytes(message.parts)
        asked.input_bytes += len(parts) + AROUND
        messages.append(bytes(message.role) + parts)
        if any(mark in parts for mark in _MEDIA):
            asked.unbounded = asked.unbounded or "media"
    if any(mark in system for mark in _MEDIA):
        asked.unbounded = asked.unbounded or "media"
    asked.prefixes = prompt.chain(messages)


def _read_config(asked: Asked, config: _Config) -> None:
    limits = [limit for item in (config.maxOutputTokens, config.max_output_tokens) if (limit := prompt.positive(item))]
    asked.max_tokens = max(limits, default=asked.max_tokens)
    asked.choices = max(
        asked.choices, prompt.positive(config.candidateCount) or 1, prompt.positive(config.candidate_count) or 1
    )
    asked.temperature = prompt.number(config.temperature)
    asked.top_p = prompt.number(config.topP if config.topP is not None else config.top_p)
    asked.seed = prompt.positive(config.seed)
    modalities = config.responseModalities or config.response_modalities
    if modalities and modalities != ["TEXT"]:
        asked.unbounded = asked.unbounded or "media"


def _read_tools(asked: Asked, raw: bytes) -> None:
    """Tools that run at Google: what they find is read by the model, and costs."""
    if not raw or raw == b"null" or asked.unbounded:
        return
    try:
        tools = _tools.decode(raw)
    except UNREADABLE:
        asked.unbounded = "unreadable"
        return
    if not all(tool.keys() <= _CLIENT_TOOLS for tool in ([tools] if isinstance(tools, dict) else tools)):
        asked.unbounded = "server_tools"
