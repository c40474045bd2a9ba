"""Gemini's `embedContent` and `batchEmbedContents`, and the embeddings of Vertex AI's `predict`."""

from typing import Any, Final

import msgspec

from llmwarden.contracts.ledger import Tokens
from llmwarden.errors import UNREADABLE
from llmwarden.proxy.dialects import gemini_shared, prompt
from llmwarden.proxy.dialects.base import MOST_TOKENS, Answer, Asked, Event, Match, count
from llmwarden.proxy.dialects.gemini_shared import NEVER_SENT, Usage, note_error, note_usage

_MEDIA: Final = (b'"inlineData"', b'"inline_data"', b'"fileData"', b'"file_data"')


class _EmbedRequest(msgspec.Struct):
    content: msgspec.Raw = NEVER_SENT
    requests: msgspec.Raw = NEVER_SENT
    instances: msgspec.Raw = NEVER_SENT


class _Statistics(msgspec.Struct):
    token_count: float | None = None


class _Embedding(msgspec.Struct):
    statistics: _Statistics | None = None


class _Prediction(msgspec.Struct):
    embeddings: _Embedding | None = None


class _Answer(msgspec.Struct, rename="camel"):
    usage_metadata: Usage | None = None
    predictions: list[_Prediction] | None = None
    error: Any = None


_request: Final = msgspec.json.Decoder(_EmbedRequest)
_answer: Final = msgspec.json.Decoder(_Answer)


class Embeddings(gemini_shared.Endpoint):
    """`base.Api`. The Gemini API reports usage for its newer models; where it does not, the input is estimated."""

    operation = "embeddings"

    def read_request(self, body: bytes, match: Match) -> Asked | None:
        """How much there is to embed; None for what is not a JSON object."""
        try:
            request = _request.decode(body)
        except UNREADABLE:
            return None
        parts = [bytes(part) for part in (request.content, request.requests, request.instances)]
        media = any(mark in part for part in parts for mark in _MEDIA)
        return Asked(
            model=match.model,
            max_tokens=0,
            input_bytes=sum(map(len, parts)),
            unbounded="media" if media else "",
        )

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:
        """Another model; each request of a batch names it again."""
        body = super().write_request(body, asked, model=model, usage=usage)
        requests = bytes(_request.decode(body).requests)
        if model is None or not requests:
            return body
        items = msgspec.json.decode(requests, type=list[dict[str, msgspec.Raw]])
        name = msgspec.Raw(msgspec.json.encode(f"models/{model}"))
        return prompt.replaced(body, requests=[{**item, "model": name} for item in items])

    def event(self, answer: Answer, payload: bytes, now: float) -> Event:  # noqa: ARG002 - the interface's
        """Never called: there is no stream."""
        return Event.KEEP

    def whole(self, answer: Answer, body: bytes) -> None:
        """Note usage, an error."""
        try:
            message = _answer.decode(body)
        except UNREADABLE:
            answer.malformed += 1
            return
        note_error(answer, message.error)
        if message.usage_metadata is not None:
            note_usage(answer, message.usage_metadata)
        elif message.predictions:
            _note_statistics(answer, message.predictions)


class Predict(Embeddings):
    """Vertex AI's older way: a count beside each embedding."""


def _note_statistics(answer: Answer, predictions: list[_Prediction]) -> None:
    counts = [
        count(int(item.embeddings.statistics.token_count))
        for item in predictions
        if item.embeddings and item.embeddings.statistics and item.embeddings.statistics.token_count is not None
    ]
    if len(counts) != len(predictions):
        return  # of some there is no count: the sum would be none
    if sum(counts) > MOST_TOKENS:
        answer.malformed += 1
    else:
        answer.usage = Tokens(input=sum(counts))
