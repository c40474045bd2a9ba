"""Text Generation Inference's own API: `/generate`, `/generate_stream`, and `/`, which is either by the body's `stream`.

A whole answer has its counts in the answer's head, a stream in its last event's `details`, where they were asked for. There is no model in
a request: it is called `tgi`, as TGI's own documentation does, or by the adapter's name. SGLang has a `/generate` too: see `sglang`.
"""

import re
from typing import Any, Final

import msgspec

from llmwarden import names
from llmwarden.contracts.ledger import Tokens
from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import prompt
from llmwarden.proxy.dialects.base import MOST_TOKENS, Answer, Asked, Event, Match, Target, count
from llmwarden.proxy.framing import Framing
from llmwarden.proxy.seam import Header, Refusal

_MODEL: Final = "tgi"
_NEVER_SENT: Final = msgspec.Raw()
_MILLI: Final = 1e3
_DETAILS: Final = re.compile(rb'"details":\{[^{}]*\}')
_IMAGE: Final = b"![]("  # an image stands in the prompt as Markdown
_TYPES: Final = {400: "validation", 413: "validation", 429: "overloaded"}


class _Parameters(msgspec.Struct):
    details: Any = None
    best_of: Any = None
    max_new_tokens: Any = None
    temperature: Any = None
    top_p: Any = None
    seed: Any = None
    adapter_id: Any = None


class _GenerateRequest(msgspec.Struct):
    inputs: msgspec.Raw
    parameters: _Parameters | msgspec.UnsetType | None = msgspec.UNSET
    stream: Any = None


class _Token(msgspec.Struct):
    text: msgspec.Raw = _NEVER_SENT
    special: Any = None


class _Sequence(msgspec.Struct):
    generated_tokens: int | None = None


class _Details(msgspec.Struct):
    finish_reason: Any = None
    generated_tokens: int | None = None
    input_length: int | None = None
    best_of_sequences: list[_Sequence] | None = None


class _Answer(msgspec.Struct):
    """One event, or a whole answer."""

    token: _Token | None = None
    generated_text: msgspec.Raw = _NEVER_SENT
    details: _Details | None = None
    error: Any = None
    error_type: Any = None


_request: Final = msgspec.json.Decoder(_GenerateRequest)
_answer: Final = msgspec.json.Decoder(_Answer)
_answers: Final = msgspec.json.Decoder(list[_Answer])


class Generate:
    """`base.Api`."""

    operation = "text_completion"

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """Read what matters; None for what has no `inputs`."""
        try:
            request = _request.decode(body)
        except UNREADABLE:
            return None
        parameters = request.parameters if isinstance(request.parameters, _Parameters) else _Parameters()
        stream = request.stream is True if match.stream is None else match.stream
        inputs = bytes(request.inputs)
        return Asked(
            model=prompt.name(parameters.adapter_id) or _MODEL,
            stream=stream,
            wants_usage=parameters.details is True or not stream,
            has_options=request.parameters is not msgspec.UNSET,
            max_tokens=prompt.positive(parameters.max_new_tokens),
            choices=prompt.positive(parameters.best_of) or 1,
            temperature=prompt.number(parameters.temperature),
            top_p=prompt.number(parameters.top_p),
            seed=prompt.positive(parameters.seed),
            input_bytes=len(inputs),
            unbounded="media" if _IMAGE in inputs else "",
        )

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:
        """Ask for details. Another model is another adapter."""
        values: dict[str, Any] = {}
        if model is not None and model != _MODEL:
            values["adapter_id"] = model
        if usage:
            values["details"] = True
        if not values:
            return body
        if not asked.has_options:
            return prompt.replaced(body, parameters=values)
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        parameters = msgspec.json.decode(fields["parameters"], type=dict[str, msgspec.Raw] | None) or {}
        return prompt.replaced(body, parameters={**parameters, **values})

    def write_target(self, target: bytes, model: str) -> bytes:  # noqa: ARG002 - the interface's
        """The path names no model."""
        return target

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:  # noqa: ARG002 - the interface's
        """Server-sent events, where the server says so."""
        return Framing.SSE if content_type.startswith(b"text/event-stream") else None

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """One token each; the last has the whole text, and the details. An error is an event under 200."""
        try:
            message = _answer.decode(payload)
        except UNREADABLE:
            answer.malformed += 1
            return Event.KEEP
        token = message.token
        if token is not None and token.special is not True and (size := len(bytes(token.text))) > len(b'""'):
            answer.content(size, now)
        _note_error(answer, message)
        if message.details is None:
            return Event.KEEP
        _note_details(answer, message.details)
        return Event.STRIP

    def strip(self, event: bytes) -> bytes:
        """The details as they are without having been asked for."""
        return _DETAILS.sub(b'"details":null', event)

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note the details, an error. The counts were in the head."""
        try:
            # `/` answers with a list, as Hugging Face's Inference API did.
            messages = _answers.decode(body) if body.lstrip()[:1] == b"[" else [_answer.decode(body)]
        except UNREADABLE:
            answer.malformed += 1
            return
        for message in messages:
            answer.content_bytes += len(bytes(message.generated_text))
            _note_error(answer, message)
            if message.details is not None:
                _note_details(answer, message.details)


class TGI:
    """`base.Dialect`."""

    name = "tgi"
    backends = frozenset({"TGI"})

    def match(self, target: Target) -> Match | None:
        """Its paths, but not SGLang's nor Ollama's `/generate`."""
        path = target.path.lower()
        if target.method != "POST" or target.backend == "SGLang":
            return None
        if path.endswith("/generate_stream"):
            return Match(GENERATE, stream=True, takes_usage=target.backend == _BACKEND)
        if path.endswith("/generate") and target.backend == _BACKEND:
            return Match(GENERATE, stream=False, head=head)
        if path == "/" and target.backend == _BACKEND:
            return Match(GENERATE, takes_usage=True, head=head)
        return None

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """TGI's error shape."""
        return msgspec.json.encode({"error": message, "error_type": _TYPES.get(status, code)})

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """429 under the budget's own code: `overloaded`, TGI's type for 429, would ask for another try."""
        headers = [(names.HEADER_BUDGET, budget.encode())]
        if retry_after is None:
            headers.append((b"x-should-retry", b"false"))
        else:
            headers.append((b"Retry-After", b"%d" % retry_after))
        body = msgspec.json.encode({"error": message, "error_type": code if retry_after is None else _TYPES[429]})
        return Refusal(status=429, body=body, headers=tuple(headers))


def head(answer: Answer, headers: list[Header]) -> None:
    """The counts of a whole answer, and its time in the queue (in milliseconds)."""
    found = {low: value for low, _, value in headers if low.startswith(b"x-")}
    read, output = _number(found.get(b"x-prompt-tokens")), _number(found.get(b"x-generated-tokens"))
    if read is not None and output is not None and max(read, output) <= MOST_TOKENS:
        answer.usage = Tokens(input=read, output=output)
    queued = _number(found.get(b"x-queue-time"))
    if queued is not None:
        answer.queue_seconds = queued / _MILLI


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) <= len(str(MOST_TOKENS)) else None


def _note_error(answer: Answer, message: _Answer) -> None:
    if message.error and not answer.error:
        answer.error = prompt.error_type(message.error_type)


def _note_details(answer: Answer, details: _Details) -> None:
    if isinstance(details.finish_reason, str):
        answer.finish(prompt.name(details.finish_reason))
    output = count(details.generated_tokens)
    output += sum(count(item.generated_tokens) for item in details.best_of_sequences or ())  # made, if not chosen
    read = details.input_length if details.input_length is not None else answer.usage.input if answer.usage else None
    if max(count(read), output) > MOST_TOKENS:
        answer.malformed += 1
    elif read is not None:
        answer.usage = Tokens(input=count(read), output=output)


GENERATE: Final = Generate()
_BACKEND: Final = "TGI"
DIALECT: Final = TGI()
