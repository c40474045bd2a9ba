"""`/invocations`, SageMaker's one path for everything, as vLLM and TGI serve it: which API it is stands in the body alone."""

from typing import Final

from llmwarden.proxy.dialects import tgi
from llmwarden.proxy.dialects.base import Answer, Api, Asked, Event, Match, Target
from llmwarden.proxy.dialects.openai import DIALECT as OPENAI
from llmwarden.proxy.dialects.openai_chat import Chat
from llmwarden.proxy.framing import Framing
from llmwarden.proxy.seam import Refusal

_TAKES_USAGE: Final = frozenset({"VLLM", "TGI"})
_CHAT: Final = Chat("chat")
_OPENAIS: Final = (
    b'"choices"',
    b'"usage"',
    b'"object"',
)  # none can stand inside a JSON string: its quotes would be escaped there
_DONE: Final = b"[DONE]"


class Invocations:
    """`base.Api`: TGI's where the request has `inputs`, else OpenAI's chat, whose answers have `choices`."""

    operation = "chat"

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """As either would."""
        asked = tgi.GENERATE.read_request(body, match)
        return asked if asked is not None else _CHAT.read_request(body, match)

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:
        """As the one whose it is."""
        api: Api = tgi.GENERATE if tgi.GENERATE.read_request(body, Match(self)) is not None else _CHAT
        return api.write_request(body, asked, model=model, usage=usage)

    def write_target(self, target: bytes, model: str) -> bytes:  # noqa: ARG002 - the interface's
        """The path names no model."""
        return target

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:
        """The same for both."""
        return _CHAT.framing(content_type, asked)

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:
        """By its shape."""
        return _reader(payload).event(answer, payload, now)

    def strip(self, event: bytes) -> bytes:
        """By its shape."""
        return _reader(event).strip(event)

    def whole(self, answer: Answer, body: bytes) -> None:
        """By its shape."""
        _reader(body).whole(answer, body)


class SageMaker:
    """`base.Dialect`. Errors and refusals are OpenAI's."""

    name = "sagemaker"
    backends: frozenset[str] = frozenset()  # of none by nature: their other endpoints come first

    def match(self, target: Target) -> Match | None:
        """The path's end."""
        if target.method != "POST" or not target.path.lower().endswith("/invocations"):
            return None
        return Match(_INVOCATIONS, takes_usage=target.backend in _TAKES_USAGE, head=tgi.head)

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """As OpenAI's."""
        return OPENAI.error_body(status, code, message)

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """As OpenAI's."""
        return OPENAI.refusal(code, message, budget=budget, retry_after=retry_after)


def _reader(payload: bytes) -> Api:
    return _CHAT if payload == _DONE or any(mark in payload for mark in _OPENAIS) else tgi.GENERATE


_INVOCATIONS: Final = Invocations()
DIALECT: Final = SageMaker()
