"""SGLang's native API: `/generate` and `/encode`. Its other endpoints are `openai`'s.

Every event tells the counts so far. There is no model in a request: it is called `default`, as SGLang's own documentation does, or by the
adapter's name. Where nothing says which server stands behind `/generate`, TGI is understood as well, by the body.
"""

from typing import Any, Final

import msgspec

from llmwarden.contracts.ledger import Tokens
from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import prompt, tgi
from llmwarden.proxy.dialects.base import MOST_TOKENS, Answer, Asked, Event, Match, Target, count
from llmwarden.proxy.dialects.openai import DIALECT as OPENAI
from llmwarden.proxy.framing import Framing
from llmwarden.proxy.seam import Refusal

_MODEL: Final = "default"
_MOST_NEW: Final = 128  # tokens, where a request does not say (SamplingParams.max_new_tokens); null is no limit
_NEVER_SENT: Final = msgspec.Raw()
_DONE: Final = b"[DONE]"
_NOTHING: Final = frozenset({b"", b"null", b"[]", b'""'})
_OTHER_SERVERS: Final = frozenset({"TGI", "Ollama"})


class _Sampling(msgspec.Struct):
    max_new_tokens: Any = _MOST_NEW
    n: Any = None
    temperature: Any = None
    top_p: Any = None
    sampling_seed: Any = None


class _NativeRequest(msgspec.Struct):
    text: msgspec.Raw = _NEVER_SENT
    input_ids: msgspec.Raw = _NEVER_SENT
    input_embeds: msgspec.Raw = _NEVER_SENT
    image_data: msgspec.Raw = _NEVER_SENT
    video_data: msgspec.Raw = _NEVER_SENT
    audio_data: msgspec.Raw = _NEVER_SENT
    sampling_params: _Sampling | list[_Sampling] | None = None
    lora_path: Any = None
    session_params: msgspec.Raw = _NEVER_SENT
    stream: Any = None


class _Reason(msgspec.Struct):
    type: Any = None
    err_type: Any = None


class _Meta(msgspec.Struct):
    id: Any = None
    finish_reason: _Reason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    queue_time: float | None = None


class _Answer(msgspec.Struct):
    """One event, or one of a whole answer's."""

    text: msgspec.Raw = _NEVER_SENT
    index: int | None = None
    meta_info: _Meta | None = None
    error: Any = None


_request: Final = msgspec.json.Decoder(_NativeRequest)
_answer: Final = msgspec.json.Decoder(_Answer)
_answers: Final = msgspec.json.Decoder(list[_Answer])
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Generate:
    """`base.Api` of both. Usage comes in every event: none is ever asked for."""

    def __init__(self, operation: str) -> None:
        self.operation = operation

    def read_request(self, body: bytes, match: Match) -> Asked | None:  # noqa: ARG002 - the interface's
        """Read what matters; None for what is not a JSON object."""
        try:
            request = _request.decode(body)
        except UNREADABLE:
            return None
        each = _samplings(request)
        first = each[0]
        embeds = self.operation == "embeddings"
        limits = [limit for item in each if (limit := prompt.positive(item.max_new_tokens)) is not None]
        media = (request.image_data, request.video_data, request.audio_data, request.input_embeds)
        stored = bytes(request.session_params) not in _NOTHING
        return Asked(
            model=prompt.name(request.lora_path) or _MODEL,
            stream=request.stream is True and not embeds,
            max_tokens=0 if embeds else max(limits) if len(limits) == len(each) else None,
            choices=_prompts(request) * max(prompt.positive(item.n) or 1 for item in each),
            temperature=prompt.number(first.temperature),
            top_p=prompt.number(first.top_p),
            seed=prompt.positive(first.sampling_seed),
            input_bytes=len(bytes(request.text)) + len(bytes(request.input_ids)),
            unbounded="media"
            if any(bytes(part) not in _NOTHING for part in media)
            else "stored_input"
            if stored
            else "",
        )

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:  # noqa: ARG002 - the interface's
        """Another model is another adapter, or none."""
        if model is None:
            return body
        return prompt.replaced(body, lora_path=None if model == _MODEL else model)

    def write_target(self, target: bytes, model: str) -> bytes:  # noqa: ARG002 - the interface's
        """The path names no model."""
        return target

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:  # noqa: ARG002 - the interface's
        """Server-sent events, where the server says so."""
        return Framing.SSE if content_type.startswith(b"text/event-stream") else None

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """The text so far (or its last piece, as the server is set), and the counts so far."""
        if payload == _DONE:
            answer.done = True
            return Event.KEEP
        try:
            message = _answer.decode(payload)
        except UNREADABLE:
            answer.malformed += 1
            return Event.KEEP
        known = answer.usage.output if answer.usage is not None else 0
        meta = message.meta_info
        if meta is not None and count(meta.completion_tokens) > known:
            answer.content(max(len(bytes(message.text)) - answer.content_bytes, 1), now)
        _note(answer, message)
        return Event.KEEP

    def strip(self, event: bytes) -> bytes:
        """Nothing is added, so nothing is taken out."""
        return event

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note counts, finish reasons, an error; several prompts or choices come as a list, each with its own counts."""
        try:
            messages = _answers.decode(body) if body.lstrip()[:1] == b"[" else [_answer.decode(body)]
        except UNREADABLE:
            answer.malformed += 1
            return
        total: Tokens | None = None
        for message in messages:
            answer.content_bytes += len(bytes(message.text))
            _note(answer, message)
            tokens = _tokens(message.meta_info) if message.meta_info is not None else None
            if tokens is not None:
                total = tokens if total is None else _sum(total, tokens)
        answer.usage = total if total is not None else answer.usage


class Either(Generate):
    """`/generate` of a server that nothing is known of: what TGI's would be has `inputs`, and answers without `meta_info`."""

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """As either would."""
        asked = tgi.GENERATE.read_request(body, match)
        return asked if asked is not None else super().read_request(body, match)

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:
        """As either would."""
        if tgi.GENERATE.read_request(body, Match(self)) is not None:
            return tgi.GENERATE.write_request(body, asked, model=model, usage=usage)
        return super().write_request(body, asked, model=model, usage=usage)

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """By its shape."""
        if b'"meta_info"' in payload or payload == _DONE:
            return super().event(answer, payload, now)
        return tgi.GENERATE.event(answer, payload, now)

    def whole(self, answer: Answer, body: bytes) -> None:
        """By its shape."""
        if b'"meta_info"' in body:
            super().whole(answer, body)
        else:
            tgi.GENERATE.whole(answer, body)


class SGLang:
    """`base.Dialect`. Errors and refusals are those of its OpenAI endpoints, and of its native ones."""

    name = "sglang"
    backends = frozenset({"SGLang"})

    def match(self, target: Target) -> Match | None:
        """Its native paths; `/generate` also where the backend is of no known kind."""
        path = target.path.lower()
        if target.method != "POST" or target.backend in _OTHER_SERVERS:
            return None
        if target.backend == "SGLang":
            if path.endswith("/generate"):
                return Match(_GENERATE)
            return Match(_ENCODE) if path.endswith("/encode") else None
        return Match(_EITHER, head=tgi.head) if path.endswith("/generate") else None

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """As OpenAI's."""
        return OPENAI.error_body(status, code, message)

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """As OpenAI's."""
        return OPENAI.refusal(code, message, budget=budget, retry_after=retry_after)


def _samplings(request: _NativeRequest) -> list[_Sampling]:
    """One for all prompts, or one for each; never none."""
    given = request.sampling_params
    if isinstance(given, list):
        return given or [_Sampling()]
    return [_Sampling() if given is None else given]


def _note(answer: Answer, message: _Answer) -> None:
    if message.error and not answer.error:
        error = message.error
        answer.error = prompt.error_type(
            (error.get("type") or error.get("code")) if isinstance(error, dict) else "error"
        )
    meta = message.meta_info
    if meta is None:
        return
    answer.id = prompt.name(meta.id) or answer.id
    if meta.queue_time is not None and meta.queue_time >= 0:
        answer.queue_seconds = meta.queue_time
    tokens = _tokens(meta)
    if tokens is None:
        answer.malformed += 1
        return
    reason = meta.finish_reason
    if not answer.finish_reasons:
        if reason is not None or not message.index:
            answer.usage = tokens
    elif reason is not None:
        answer.usage = _sum(answer.usage or Tokens(), tokens)  # one of several that end each on its own
    if reason is not None:
        answer.finish(prompt.name(reason.type))
        if reason.type == "abort" and not answer.error:
            answer.error = prompt.error_type(reason.err_type or "abort")


def _tokens(meta: _Meta) -> Tokens | None:
    read, output = count(meta.prompt_tokens), count(meta.completion_tokens)
    if max(read, output) > MOST_TOKENS:
        return None
    return Tokens(
        input=read,
        cached_input=min(count(meta.cached_tokens), read),
        output=output,
        reasoning=min(count(meta.reasoning_tokens), output),
    )


def _sum(first: Tokens, second: Tokens) -> Tokens:
    return Tokens(
        input=first.input + second.input,
        cached_input=first.cached_input + second.cached_input,
        output=first.output + second.output,
        reasoning=first.reasoning + second.reasoning,
    )


def _prompts(request: _NativeRequest) -> int:
    """How many prompts there are: a list of texts, or of lists of tokens."""
    raw = bytes(request.text)
    raw = bytes(request.input_ids) if raw in _NOTHING else raw
    if raw[:1] != b"[":
        return 1
    try:
        items = _list.decode(raw)
    except UNREADABLE:
        return 1
    return 1 if not items or bytes(items[0])[:1].isdigit() else len(items)


_GENERATE: Final = Generate("text_completion")
_ENCODE: Final = Generate("embeddings")
_EITHER: Final = Either("text_completion")
DIALECT: Final = SGLang()
