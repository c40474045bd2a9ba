"""What clients read: the variables by which each SDK finds its server and its key, and how a base URL is taken apart.

Source of the table: the SDKs' behaviour as measured (openai 2.54, anthropic 2.11, google-genai 3.4, ollama 0.6, litellm 1.106,
langchain-openai 1.7, LlamaIndex). A variable that an SDK does not read is not set: it could only mislead.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from llmwarden.api.v1alpha1 import BackendType

DUMMY_KEY: Final = "llmwarden"  # what an application gets for a key when the proxy holds the real one
AWS_ENDPOINT: Final = "AWS_ENDPOINT_URL_BEDROCK_RUNTIME"
AWS_BEARER: Final = (
    "AWS_BEARER_TOKEN_BEDROCK"  # an API key of Bedrock; AWS' SDKs send it over HTTPS only, so never to a loopback port
)
_VERSION: Final = re.compile(r"v[0-9]+[a-z0-9]*")
_OLLAMA_PORT: Final = 11434


@dataclass(frozen=True, slots=True)
class Clients:
    """Variables of one API's clients.

    `base_urls`: variable and what follows the origin in it by default. `keys`: variables that hold the key, any of which
    suffices; the first is the one to set.
    """

    base_urls: tuple[tuple[str, str], ...]
    keys: tuple[str, ...] = ()


_OPENAI: Final = Clients((("OPENAI_BASE_URL", "/v1"), ("OPENAI_API_BASE", "/v1")), ("OPENAI_API_KEY",))

CLIENTS: Final[dict[BackendType, Clients]] = {
    "OpenAI": _OPENAI,
    "OpenAICompatible": _OPENAI,
    "VLLM": _OPENAI,
    "SGLang": _OPENAI,
    "TGI": _OPENAI,
    "NIM": _OPENAI,
    "TensorRTLLM": _OPENAI,
    "LlamaCpp": _OPENAI,
    "AzureOpenAI": Clients(
        (("AZURE_OPENAI_ENDPOINT", ""), ("AZURE_API_BASE", "")), ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY")
    ),
    "Anthropic": Clients(
        (("ANTHROPIC_BASE_URL", ""), ("ANTHROPIC_API_BASE", "")), ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
    ),
    "Gemini": Clients((("GOOGLE_GEMINI_BASE_URL", ""), ("GEMINI_API_BASE", "")), ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    "Ollama": Clients((("OLLAMA_HOST", ""), ("OLLAMA_API_BASE", ""))),
    # AWS' SDKs, Anthropic's own client, litellm. Calls are signed over the host they are sent to: the proxy signs again. There is no
    # dummy for a key: keys in variables would come before the role that the application has for all else at AWS.
    "Bedrock": Clients(((AWS_ENDPOINT, ""), ("ANTHROPIC_BEDROCK_BASE_URL", ""), ("AWS_BEDROCK_RUNTIME_ENDPOINT", ""))),
}


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """An application's base URL in two: where the proxy sends, and what the client puts before its own paths.

    `https://gateway.example/llm/v1` is `https://gateway.example/llm` and `/v1`.
    """

    upstream: str
    version: str


def split_base_url(variable: str, value: str) -> BaseUrl | None:
    """Take an application's base URL apart; None where it is none that a proxy can stand in for."""
    if variable == "OLLAMA_HOST":
        value = _ollama_url(value)
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        return None
    if parts.query or parts.fragment or port == 0 or parts.hostname in {"0.0.0.0", "::"}:  # noqa: S104 - compared only
        return None
    prefix, _, last = parts.path.rstrip("/").rpartition("/")
    if _VERSION.fullmatch(last):
        return BaseUrl(f"{parts.scheme}://{parts.netloc}{prefix}", f"/{last}")
    return BaseUrl(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", "")


def _ollama_url(value: str) -> str:
    """Complete what OLLAMA_HOST may leave out: the scheme and the port (11434; a scheme's own where it is given)."""
    if "://" in value:
        return value
    host = value.rstrip("/")
    return f"http://{host}" if re.search(r":\d+$", host) else f"http://{host}:{_OLLAMA_PORT}"
