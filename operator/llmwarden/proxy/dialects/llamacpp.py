"""llama.cpp's native API: `/completion`, `/infill` and `/embedding`. Its other endpoints are `openai`'s.

`/completions`, a synonym of the first there, is read as OpenAI's. The model that a request names is the server's own affair.
"""

import re
from typing import Any, Final

import msgspec

from llmwarden.contracts.ledger import Tokens
from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import prompt
from llmwarden.proxy.dialects.base import MOST_TOKENS, Answer, Api, Asked, Event, Match, Target, count
from llmwarden.proxy.dialects.openai import DIALECT as OPENAI
from llmwarden.proxy.framing import Framing
from llmwarden.proxy.seam import Refusal

_MODEL: Final = "default"
_NEVER_SENT: Final = msgspec.Raw()
_NOTHING: Final = frozenset({b"", b'""', b"null", b"[]"})
_MEDIA: Final = b'"multimodal_data"'
_PATH: Final = re.compile(r"/(completion|infill|embedding)\Z", re.IGNORECASE)


class _CompletionRequest(msgspec.Struct):
    model: Any = None
    prompt: msgspec.Raw = _NEVER_SENT
    input_prefix: msgspec.Raw = _NEVER_SENT
    input_suffix: msgspec.Raw = _NEVER_SENT
    input_extra: msgspec.Raw = _NEVER_SENT
    content: msgspec.Raw = _NEVER_SENT
    stream: Any = None
    n_predict: Any = None
    temperature: Any = None
    top_p: Any = None
    seed: Any = None


class _Timings(msgspec.Struct):
    cache_n: int | None = None  # tokens of the prompt that were there already


class _Answer(msgspec.Struct):
    """One event, or a whole answer. The last has the counts."""

    content: msgspec.Raw = _NEVER_SENT
    stop: Any = None
    stop_type: Any = None
    model: Any = None
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    timings: _Timings | None = None
    error: Any = None


_request: Final = msgspec.json.Decoder(_CompletionRequest)
_answer: Final = msgspec.json.Decoder(_Answer)
_answers: Final = msgspec.json.Decoder(list[_Answer])
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Endpoint:
    """`base.Api` of all three; usage comes by itself, but never for embeddings."""

    def __init__(self, operation: str) -> None:
        self.operation = operation

    def read_request(self, body: bytes, match: Match) -> Asked | None:  # noqa: ARG002 - the interface's
        """Read what matters; None for what is not a JSON object."""
        try:
            request = _request.decode(body)
        except UNREADABLE:
            return None
        embeds = self.operation == "embeddings"
        parts = [
            bytes(part)
            for part in (
                request.prompt,
                request.input_prefix,
                request.input_suffix,
                request.input_extra,
                request.content,
            )
        ]
        return Asked(
            model=prompt.name(request.model) or _MODEL,
            stream=request.stream is True and not embeds,
            max_tokens=0 if embeds else prompt.positive(request.n_predict),  # below zero is no limit
            choices=_prompts(parts[0]),
            temperature=prompt.number(request.temperature),
            top_p=prompt.number(request.top_p),
            seed=prompt.positive(request.seed),
            input_bytes=sum(map(len, parts)),
            unbounded="media" if _MEDIA in parts[0] else "",
        )

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:  # noqa: ARG002 - the interface's
        """Another model."""
        return body if model is None else prompt.replaced(body, model=model)

    def write_target(self, target: bytes, model: str) -> bytes:  # noqa: ARG002 - the interface's
        """The path names no model."""
        return target

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:  # noqa: ARG002 - the interface's
        """Server-sent events, where the server says so."""
        return Framing.SSE if content_type.startswith(b"text/event-stream") else None

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """Note content, and at the end the counts; an error is an event under 200."""
        try:
            message = _answer.decode(payload)
        except UNREADABLE:
            answer.malformed += 1
            return Event.KEEP
        content = bytes(message.content)
        if content not in _NOTHING:
            answer.content(len(content), now)
        _note(answer, message)
        return Event.KEEP

    def strip(self, event: bytes) -> bytes:
        """Nothing is added, so nothing is taken out."""
        return event

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note content, counts, an error; several prompts come as a list."""
        try:
            messages = _answers.decode(body) if body.lstrip()[:1] == b"[" else [_answer.decode(body)]
        except UNREADABLE:
            answer.malformed += 1
            return
        for message in messages:
            answer.content_bytes += len(bytes(message.content))
            _note(answer, message)


class LlamaCpp:
    """`base.Dialect`. Errors and refusals are those of its OpenAI endpoints, and of its native ones."""

    name = "llamacpp"
    backends = frozenset({"LlamaCpp"})

    def match(self, target: Target) -> Match | None:
        """Its native paths, of its own backend or of an unknown one."""
        found = _PATH.search(target.path)
        if target.method != "POST" or found is None or target.backend not in _BACKENDS:
            return None
        return Match(_ENDS[found[1].lower()])

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """As OpenAI's."""
        return OPENAI.error_body(status, code, message)

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """As OpenAI's."""
        return OPENAI.refusal(code, message, budget=budget, retry_after=retry_after)


def _note(answer: Answer, message: _Answer) -> None:
    answer.model = prompt.name(message.model) or answer.model
    error = message.error
    if error and not answer.error:
        answer.error = prompt.error_type(
            (error.get("type") or error.get("code")) if isinstance(error, dict) else "error"
        )
    if message.stop is not True:
        return  # the counts so far of an event are of this event
    if isinstance(message.stop_type, str):
        answer.finish(prompt.name(message.stop_type))
    read, output = count(message.tokens_evaluated), count(message.tokens_predicted)
    before = answer.usage or Tokens()  # several prompts end each on its own
    if max(read, output) > MOST_TOKENS:
        answer.malformed += 1
    elif message.tokens_evaluated is not None:
        cached = min(count(message.timings.cache_n if message.timings else None), read)
        answer.usage = Tokens(
            input=before.input + read, cached_input=before.cached_input + cached, output=before.output + output
        )


def _prompts(raw: bytes) -> int:
    """How many prompts there are: a list of strings; one with numbers in it is the tokens of one."""
    if raw[:1] != b"[":
        return 1
    try:
        items = _list.decode(raw)
    except UNREADABLE:
        return 1
    return 1 if any(bytes(item)[:1].isdigit() for item in items) else max(len(items), 1)


_COMPLETION: Final = Endpoint("text_completion")
_BACKENDS: Final = frozenset({"LlamaCpp", "OpenAICompatible"})
_ENDS: Final[dict[str, Api]] = {
    "completion": _COMPLETION,
    "infill": _COMPLETION,
    "embedding": Endpoint("embeddings"),
}
DIALECT: Final = LlamaCpp()
