"""What OpenAI's endpoints have in common: usage, tiers, errors, deployments in the path."""

import re
from typing import Any, Final
from urllib.parse import quote

import msgspec

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects.base import MOST_TOKENS, Answer, Match, count
from llmwarden.proxy.dialects.prompt import error_type, name

# What is priced apart from the ordinary ("default", "auto", "scale").
_TIERS: Final = frozenset({"flex", "priority", "batch"})
_IN_TARGET: Final = re.compile(rb"(?i)(/(?:deployments|engines)/)([^/?]+)(?=/)")


class InputDetails(msgspec.Struct):
    """Parts of the input; `cache_write_tokens` as some routers count them."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    """Parts of the output."""

    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class Usage(msgspec.Struct):
    """Both spellings: `prompt`/`completion` of the older endpoints, `input`/`output` of Responses; and what other servers add."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    total_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek
    cached_tokens: int | None = None  # Moonshot
    queue_time: float | None = None  # Groq, in seconds


class Endpoint:
    """Where the model stands, is the same for all of them."""

    def write_target(self, target: bytes, model: str) -> bytes:
        """The target with another deployment; the same where it names none."""
        path, mark, query = target.partition(b"?")
        return _IN_TARGET.sub(lambda found: found[1] + quote(model, safe="").encode(), path, count=1) + mark + query


def model_of(value: Any, match: Match) -> str:
    """The model: the path's, where it names one."""
    return match.model or name(value)


def note_usage(answer: Answer, usage: Usage) -> None:
    """As counted by the provider, held to what a count can be: parts never exceed their whole."""
    read = count(usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens)
    output = count(usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens)
    inputs = usage.prompt_tokens_details or usage.input_tokens_details
    outputs = usage.completion_tokens_details or usage.output_tokens_details
    cached = count(inputs.cached_tokens) if inputs else 0
    if not cached:
        cached = count(usage.prompt_cache_hit_tokens or usage.cached_tokens)
    reasoning = count(outputs.reasoning_tokens) if outputs else 0
    if reasoning and count(usage.total_tokens) == read + output + reasoning:
        output += reasoning  # xAI counts what was thought beside what was answered
    if max(read, output) > MOST_TOKENS:
        answer.malformed += 1
        return
    written = heard = spoken = 0
    if inputs:
        cached = min(cached, read)
        written = min(count(inputs.cache_write_tokens), read - cached) if inputs.cache_write_tokens else 0
        heard = min(count(inputs.audio_tokens), read - cached - written) if inputs.audio_tokens else 0
    if outputs:
        spoken = min(count(outputs.audio_tokens), output) if outputs.audio_tokens else 0
    answer.usage = Tokens(
        input=read,
        cached_input=min(cached, read),
        cache_write=written,
        output=output,
        reasoning=min(reasoning, output),
        input_audio=heard,
        output_audio=spoken,
    )
    if usage.queue_time is not None and usage.queue_time >= 0:
        answer.queue_seconds = usage.queue_time


def note_tier(answer: Answer, tier: Any) -> None:
    """The tier that the call was served in: the answer's word, not the request's."""
    if isinstance(tier, str):
        answer.tier = tier if tier in _TIERS else ""


def note_error(answer: Answer, error: Any, kind: Any = None) -> None:
    """The first error counts; `kind` is what names one that is no object."""
    if answer.error:
        return
    if isinstance(error, dict):
        kind = error.get("type") or error.get("code")
    elif isinstance(error, str):
        kind = "error"
    answer.error = error_type(kind)
