"""What Gemini's endpoints have in common: the model in the path, usage, tiers, errors."""

import re
from typing import Any, Final
from urllib.parse import quote

import msgspec

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects import prompt
from llmwarden.proxy.dialects.base import MOST_TOKENS, Answer, Asked, count
from llmwarden.proxy.framing import Framing

NEVER_SENT: Final = msgspec.Raw()
AROUND: Final = 16  # a message costs about four tokens beside its text
_IN_TARGET: Final = re.compile(rb"(?i)/(models|tunedModels|endpoints)/([^/:?%]+)(?=:|%3a)")
# Vertex AI says in `trafficType` by what a call was served, the Gemini API in `serviceTier`.
_TIERS: Final = {
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
    "PRIORITY": "priority",
    "FLEX": "flex",
    "BATCH": "batch",
}


class Modality(msgspec.Struct, rename="camel"):
    """Tokens of one kind of content."""

    modality: Any = None
    token_count: int | None = None


class Usage(msgspec.Struct, rename="camel"):
    """`usageMetadata`. The prompt's count has what came from a cache in it, but neither what tools read nor the thoughts."""

    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    response_token_count: int | None = None  # as newer models call it
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    prompt_tokens_details: list[Modality] | None = None
    cache_tokens_details: list[Modality] | None = None
    candidates_tokens_details: list[Modality] | None = None
    traffic_type: Any = None
    service_tier: Any = None


class Endpoint:
    """What is the same for all of them: usage comes by itself, and the model stands in the path."""

    def write_request(self, body: bytes, asked: Asked, *, model: str | None, usage: bool) -> bytes:  # noqa: ARG002 - the interface's
        """Another model, where the body names one beside the path."""
        if model is None:
            return body
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return prompt.replaced(body, model=f"models/{model}") if "model" in fields else body

    def write_target(self, target: bytes, model: str) -> bytes:
        """Another model in the path; what was tuned, or deployed, becomes a model as it is."""
        path, mark, query = target.partition(b"?")
        return (
            _IN_TARGET.sub(lambda found: _models(found[1]) + quote(model, safe="@").encode(), path, count=1)
            + mark
            + query
        )

    def framing(self, content_type: bytes, asked: Asked) -> Framing | None:
        """Events with `alt=sse`; without it a stream is one JSON array that grows."""
        if content_type.startswith(b"text/event-stream"):
            return Framing.SSE
        return Framing.JSON_ARRAY if asked.stream and content_type.startswith(b"application/json") else None

    def strip(self, event: bytes) -> bytes:
        """Nothing is added, so nothing is taken out."""
        return event


def note_usage(answer: Answer, usage: Usage) -> None:
    """As counted by Google, held to what a count can be: parts never exceed their whole."""
    note_tier(answer, usage.traffic_type or usage.service_tier)
    if usage.prompt_token_count is None and usage.candidates_token_count is None:
        return  # Vertex AI's events before the last tell the tier only
    thoughts = count(usage.thoughts_token_count)
    read = count(usage.prompt_token_count) + count(usage.tool_use_prompt_token_count)
    output = count(usage.candidates_token_count) or count(usage.response_token_count)
    output += thoughts
    if max(read, output) > MOST_TOKENS:
        answer.malformed += 1
        return
    cached = min(count(usage.cached_content_token_count), read)
    audio = _audio(usage.prompt_tokens_details) - _audio(usage.cache_tokens_details)
    answer.usage = Tokens(
        input=read,
        cached_input=cached,
        output=output,
        reasoning=thoughts,
        input_audio=min(max(audio, 0), read - cached),
        output_audio=min(_audio(usage.candidates_tokens_details), output - thoughts),
    )


def note_tier(answer: Answer, tier: Any) -> None:
    """The tier that the call was served in."""
    if isinstance(tier, str):
        answer.tier = _TIERS.get(tier.upper(), "")


def note_error(answer: Answer, error: Any) -> None:
    """The first error counts, by its canonical name."""
    if error and not answer.error:
        known = isinstance(error, dict)
        answer.error = prompt.error_type((error.get("status") or error.get("code")) if known else "error")


def _models(kind: bytes) -> bytes:
    return b"/publishers/google/models/" if kind.lower() == b"endpoints" else b"/models/"


def _audio(details: list[Modality] | None) -> int:
    return sum(count(part.token_count) for part in details or () if part.modality == "AUDIO")
