"""From the API server's answers to our errors (`llmwarden.errors`), and the few that only this API has."""

from collections.abc import Mapping
from typing import Any

import msgspec

from llmwarden.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotInstalledError,
    RefusedError,
    UnavailableError,
    WardenError,
)


class ExpiredError(WardenError):
    """410: the resourceVersion or the page's continue token is too old: list again from the start."""


class ThrottledError(UnavailableError):
    """429: the API server asks us to wait; `retry_after` is in seconds, None where it did not say."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedByBudgetError(ThrottledError):
    """429 to an eviction: a PodDisruptionBudget does not allow it now."""


_NOT_FOUND, _THROTTLED, _SERVER = 404, 429, 500
_BY_STATUS: dict[int, type[WardenError]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    409: ConflictError,
    410: ExpiredError,
}


def error_of(what: str, status: int, body: bytes, headers: Mapping[str, str]) -> WardenError:
    """Our error for an answer of `status`, with a sentence that says what was asked and what was answered.

    `what` is the request in words, such as `GET /api/v1/pods`.
    """
    answer = _status_object(body)
    inner = answer.get("error")  # as a Service's own answers have it that come through the API server's proxy
    told = answer.get("message") or (inner.get("message") if isinstance(inner, dict) else None)
    message = f"{what}: {told or body[:300].decode(errors='replace').strip() or 'no reason given'} ({status})"
    details = answer.get("details")
    details = details if isinstance(details, dict) else {}
    if status == _NOT_FOUND:
        # A missing object is named in the details; a missing API is not, or comes as plain text.
        return NotFoundError(message) if details.get("name") else NotInstalledError(message)
    if status == _THROTTLED:
        causes = details.get("causes")
        budget = isinstance(causes, list) and any(
            isinstance(cause, dict) and cause.get("reason") == "DisruptionBudget" for cause in causes
        )
        kind = RefusedByBudgetError if budget else ThrottledError
        return kind(message, _seconds(headers.get("Retry-After")))
    if status >= _SERVER:
        return UnavailableError(message)
    return _BY_STATUS.get(status, RefusedError)(message)


def _status_object(body: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds; the API server never sends the date form, so that is unknown here."""
    try:
        return float(value) if value else None
    except ValueError:
        return None
