"""OpenAI's embeddings."""

from typing import Any, Final

import msgspec

from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import openai_shared, prompt
from llmwarden.proxy.dialects.base import Answer, Asked, Event, Match
from llmwarden.proxy.dialects.openai_shared import Usage, note_error, note_usage
from llmwarden.proxy.framing import Framing


class _EmbeddingsRequest(msgspec.Struct):
    model: Any = None
    input: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()  # vLLM embeds conversations too


class _Message(msgspec.Struct):
    id: Any = None
    model: Any = None
    object: Any = None
    usage: Usage | None = None
    error: Any = None
    type: Any = None
    code: Any = None


_request: Final = msgspec.json.Decoder(_EmbeddingsRequest)
_message: Final = msgspec.json.Decoder(_Message)


class Embeddings(openai_shared.Endpoint):
    """`base.Api`; there is no output, and no stream."""

    operation = "embeddings"

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """Model and size."""
        try:
            request = _request.decode(body)
        except UNREADABLE:
            return None
        messages = bytes(request.messages)
        return Asked(
            model=openai_shared.model_of(request.model, match),
            max_tokens=0,
            input_bytes=len(bytes(request.input)) + len(messages),
            unbounded="media" if messages else "",
        )

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:  # noqa: ARG002 - the interface's
        """Another model."""
        return body if model is None else prompt.replaced(body, model=model)

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:  # noqa: ARG002 - the interface's
        """Never a stream."""
        return None

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:  # noqa: ARG002 - the interface's
        """Never called: there is no stream."""
        return Event.KEEP

    def strip(self, event: bytes) -> bytes:
        """Never called: the same."""
        return event

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note model, usage, an error."""
        try:
            message = _message.decode(body)
        except UNREADABLE:
            answer.malformed += 1
            return
        answer.model = prompt.name(message.model)
        answer.id = prompt.name(message.id)
        if message.error or message.object == "error":
            note_error(answer, message.error, message.type or message.code)
        if message.usage is not None:
            note_usage(answer, message.usage)
