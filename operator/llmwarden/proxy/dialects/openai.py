"""OpenAI's API, as OpenAI, Azure OpenAI, vLLM, SGLang, NIM and many others speak it: its endpoints, errors and refusals."""

import re
from typing import Final
from urllib.parse import parse_qs

import msgspec

from llmwarden import names
from llmwarden.proxy.dialects.base import Api, Match, Target
from llmwarden.proxy.dialects.openai_chat import Chat
from llmwarden.proxy.dialects.openai_embeddings import Embeddings
from llmwarden.proxy.dialects.openai_responses import Responses
from llmwarden.proxy.seam import Refusal

_AZURE: Final = "AzureOpenAI"
# Backends that are known to take `stream_options.include_usage`; others might refuse a field they do not know.
_TAKES_USAGE: Final = frozenset({"OpenAI", "VLLM", "SGLang", "NIM", "TensorRTLLM", "LlamaCpp", "Ollama", "TGI"})
_AZURE_TAKES_USAGE: Final = "2024-09-01-preview"  # the first api-version that does; its v1 API does
_DEPLOYMENT: Final = re.compile(r"/(?:deployments|engines)/([^/]+)/", re.IGNORECASE)
_POLL: Final = re.compile(r"/responses/(resp_[^/]+)")


class OpenAI:
    """`base.Dialect`."""

    name = "openai"
    backends: Final = frozenset(
        {"OpenAI", _AZURE, "VLLM", "SGLang", "NIM", "TensorRTLLM", "LlamaCpp", "OpenAICompatible", "TGI"}
    )

    def match(self, target: Target) -> Match | None:
        """By the path's end: prefixes differ (`/v1`, `/openai/deployments/NAME`, `/api/v1`)."""
        path = target.path.lower()
        if target.method != "POST":
            poll = _POLL.search(target.path) if target.method == "GET" else None
            return Match(RESPONSES, poll=poll[1]) if poll and poll.end() == len(target.path) else None
        api = next((api for end, api in _ENDS if path.endswith(end)), None)
        if api is None:
            return None
        deployment = _DEPLOYMENT.search(target.path)
        return Match(
            api,
            model=deployment[1] if deployment else "",
            takes_usage=_takes_usage(target),
            alias=target.backend == _AZURE or "/deployments/" in path,
        )

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """OpenAI's error shape."""
        kind = "invalid_request_error" if status < 500 else "upstream_error"  # noqa: PLR2004 - HTTP's classes
        return _error(message, kind, code)

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """429, with the type and code by which the SDK names its exception."""
        headers = [(names.HEADER_BUDGET, budget.encode())]
        if retry_after is None:
            headers.append((b"x-should-retry", b"false"))
        else:
            headers.append((b"Retry-After", b"%d" % retry_after))
        kind = "insufficient_quota" if retry_after is None else "rate_limit_exceeded"
        return Refusal(status=429, body=_error(message, kind, code), headers=tuple(headers))


def _takes_usage(target: Target) -> bool:
    if target.backend != _AZURE:
        return target.backend in _TAKES_USAGE
    version = parse_qs(target.query).get("api-version", [""])[0]
    return version >= _AZURE_TAKES_USAGE if version[:1].isdigit() else "/v1/" in target.path


def _error(message: str, kind: str, code: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


RESPONSES: Final = Responses()
_ENDS: Final[tuple[tuple[str, Api], ...]] = (
    ("/chat/completions", Chat("chat")),
    ("/completions", Chat("text_completion")),
    ("/responses", RESPONSES),
    ("/responses/compact", RESPONSES),
    ("/embeddings", Embeddings()),
)
DIALECT: Final = OpenAI()
