"""Answers of the ledger in the contract's shape: values as JSON, refusals with a code and a sentence."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.responses import Response

from llmwarden.contracts import ledger as wire

RETRY_SECONDS: Final = 2

_encoder = msgspec.json.Encoder()


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is not served: status, code and a sentence; `retry` seconds where it is worth it."""

    def __init__(self, status: int, code: str, message: str, retry: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry = status, code, message, retry


def as_json(value: msgspec.Struct | Mapping[str, Any]) -> Response:
    """Answer with a value, or with a document that is no Struct."""
    return Response(_encoder.encode(value), media_type="application/json")


def refuse(refusal: Refusal) -> Response:
    """Answer with a refusal."""
    body = wire.ErrorAnswer(wire.ErrorDetail(refusal.code, refusal.message))
    headers = {"Retry-After": str(refusal.retry)} if refusal.retry is not None else {}
    if refusal.status == 401:  # noqa: PLR2004 - HTTP
        headers["WWW-Authenticate"] = "Bearer"
    return Response(_encoder.encode(body), refusal.status, headers, media_type="application/json")
