"""Google's Gemini API, as generativelanguage.googleapis.com and Vertex AI speak it.

`countTokens`, files, caches and batches pass unmeasured: they make nothing, or are paid for when they are done. Vertex AI's Claude is
`anthropic`'s, its OpenAI-compatible endpoint `openai`'s.
"""

import re
from typing import Final

import msgspec

from llmwarden import names
from llmwarden.proxy.dialects.base import Match, Target
from llmwarden.proxy.dialects.gemini_content import Content
from llmwarden.proxy.dialects.gemini_embeddings import Embeddings, Predict
from llmwarden.proxy.dialects.gemini_interactions import Interactions
from llmwarden.proxy.seam import Refusal

# `/v1beta/models/NAME:generateContent`; on Vertex AI `/v1/projects/P/locations/L/publishers/google/models/NAME:generateContent`.
_PATH: Final = re.compile(r"/(models|tunedModels|endpoints)/([^/:]+):([A-Za-z]+)", re.IGNORECASE)
_OTHERS: Final = re.compile(r"/publishers/(?!google/)", re.IGNORECASE)  # their own shapes behind rawPredict
_INTERACTION: Final = re.compile(r"(?:/v1[a-z0-9]*|/locations/[^/]+)/interactions(?:/([^/]+))?", re.IGNORECASE)
# google.rpc.Code by HTTP status, as google.api lays down; others are UNKNOWN there.
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Gemini:
    """`base.Dialect`."""

    name = "gemini"
    backends = frozenset({"Gemini"})

    def match(self, target: Target) -> Match | None:
        """By the method after the colon."""
        found = _PATH.search(target.path)
        if found is None or found.end() != len(target.path):
            return _interaction(target)
        if target.method != "POST":
            return None
        kind, model, method = found.groups()
        if _OTHERS.search(target.path):
            return None
        api, stream = _METHODS.get(method.lower(), (None, False))
        if api is None or (api is PREDICT and "embedding" not in model.lower()):
            return None
        return Match(api, model=model, stream=stream, alias=kind.lower() != "models")

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """Google's error shape: the SDK names its exception by `status`."""
        return _error(status, _STATUSES.get(status, "UNKNOWN"), code, message)

    def refusal(self, code: str, message: str, *, budget: str, retry_after: int | None) -> Refusal:
        """429 RESOURCE_EXHAUSTED, as where Google's own quota is used up. The SDK tries again only where it was told to."""
        headers = [(names.HEADER_BUDGET, budget.encode())]
        if retry_after is None:
            headers.append(
                (b"x-should-retry", b"false")
            )  # no SDK of Google's heeds it; other clients of this API might
        else:
            headers.append((b"Retry-After", b"%d" % retry_after))
        return Refusal(status=429, body=_error(429, _STATUSES[429], code, message), headers=tuple(headers))


def _interaction(target: Target) -> Match | None:
    """One that begins, or a question for one that was begun in the background."""
    found = _INTERACTION.search(target.path)
    if found is None or found.end() != len(target.path):
        return None
    if target.method == "POST":
        return None if found[1] else Match(INTERACTIONS)
    return Match(INTERACTIONS, poll=found[1]) if target.method == "GET" and found[1] else None


def _error(status: int, name: str, code: str, message: str) -> bytes:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code.upper(), "domain": names.GROUP}]
    return msgspec.json.encode({"error": {"code": status, "message": message, "status": name, "details": details}})


INTERACTIONS: Final = Interactions()
PREDICT: Final = Predict()
_CONTENT: Final = Content()
_EMBEDDINGS: Final = Embeddings()
_METHODS: Final[dict[str, tuple[Content | Embeddings | Predict, bool]]] = {
    "generatecontent": (_CONTENT, False),
    "streamgeneratecontent": (_CONTENT, True),
    "embedcontent": (_EMBEDDINGS, False),
    "batchembedcontents": (_EMBEDDINGS, False),
    "predict": (PREDICT, False),
}
DIALECT: Final = Gemini()
