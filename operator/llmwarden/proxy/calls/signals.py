"""What headers say beside the bodies: retries, an upstream's rate limits, labels for attribution.

Headers come from outside, so whatever is remembered of them is bounded.
"""

import re
from datetime import datetime
from typing import Final

import msgspec

from llmwarden import names
from llmwarden.contracts.ledger import Labels
from llmwarden.proxy.seam import Header

# Request headers that are read. Those of the labels are for us and are not sent upstream.
_FEATURE: Final = names.HEADER_FEATURE
_TEAM: Final = names.HEADER_TEAM
_COHORT: Final = names.HEADER_COHORT
LABEL_HEADERS: Final = frozenset({_FEATURE, _TEAM, _COHORT})
_READ: Final = LABEL_HEADERS | {
    b"traceparent",
    b"idempotency-key",
    b"x-stainless-retry-count",  # the SDKs of OpenAI and Anthropic
    b"amz-sdk-request",  # botocore: `attempt=2; max=3`
}
_LABEL_LENGTH: Final = 63
_LABEL_UNSAFE: Final = re.compile(r"[^A-Za-z0-9 ._/@:+-]")
_LABELS: Final = 100  # combinations of labels in one proxy; further ones are counted as `other`
_OTHER: Final = Labels("other", "other", "other")
_WINDOW: Final = 60.0  # seconds in which the same body again is taken for a retry of the call that failed
_FAILED: Final = 1000
_KEYS: Final = 5000
_EPOCH: Final = 10**9  # seconds above this are no duration
_DURATION: Final = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
_UNITS: Final = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_NUMBER_LENGTH: Final = 32


def read(headers: list[Header]) -> dict[bytes, bytes]:
    """Pick the request headers that are read here."""
    return {low: value for low, _, value in headers if low in _READ}


class LabelBook:
    """Labels by what headers say; a bounded number of combinations."""

    def __init__(self) -> None:
        self._by_headers: dict[tuple[bytes, bytes, bytes, Labels], Labels] = {}
        self._made: set[Labels] = set()

    def of(self, heads: dict[bytes, bytes], default: Labels) -> Labels:
        """The request's labels; the service's where the request has none."""
        if LABEL_HEADERS.isdisjoint(heads):
            return default
        key = (heads.get(_FEATURE, b""), heads.get(_TEAM, b""), heads.get(_COHORT, b""), default)
        labels = self._by_headers.get(key)
        if labels is not None:
            return labels
        labels = Labels(
            _label(key[0]) or default.feature, _label(key[1]) or default.team, _label(key[2]) or default.cohort
        )
        if labels not in self._made:
            if len(self._made) >= _LABELS:
                return _OTHER
            self._made.add(labels)
        if len(self._by_headers) < 10 * _LABELS:
            self._by_headers[key] = labels
        return labels


class Retries:
    """Recognises requests that a client sends again."""

    def __init__(self) -> None:
        self._keys: dict[bytes, None] = {}
        self._failed: dict[int, float] = {}  # when a call with this body failed

    def seen(self, heads: dict[bytes, bytes]) -> str:
        """Why the head shows a retry: its client says so ("header"), or its idempotency key came before; "" where it does not."""
        if heads.get(b"x-stainless-retry-count", b"0") != b"0":
            return "header"
        attempt = heads.get(b"amz-sdk-request")
        if attempt is not None and not attempt.startswith(b"attempt=1;"):
            return "header"
        key = heads.get(b"idempotency-key")
        if key:
            key = key[:128]
            if key in self._keys:
                return "idempotency_key"
            if len(self._keys) >= _KEYS:
                del self._keys[next(iter(self._keys))]
            self._keys[key] = None
        return ""

    def expected(self) -> bool:
        """Whether any call has failed. If none has, bodies need not be compared."""
        return bool(self._failed)

    def came_again(self, body: int, now: float) -> bool:
        """Whether a call with this body failed just now."""
        failed = self._failed.get(body)
        return failed is not None and now - failed < _WINDOW

    def failed(self, body: int, now: float) -> None:
        """Note that a call with this body failed: it may come again."""
        self._failed.pop(body, None)
        if len(self._failed) >= _FAILED:
            del self._failed[next(iter(self._failed))]
        self._failed[body] = now


class Limit(msgspec.Struct, frozen=True):
    """The meaning of one rate-limit header of an answer."""

    what: str  # "requests", "tokens", "input_tokens", "output_tokens"
    reset: bool  # when the limit is whole again; otherwise what remains of it


_OPENAI: Final = ("requests", "tokens", "input-tokens", "output-tokens")
RATE_LIMITS: Final[dict[bytes, Limit]] = {
    **{f"x-ratelimit-remaining-{what}".encode(): Limit(what.replace("-", "_"), reset=False) for what in _OPENAI},
    **{f"x-ratelimit-reset-{what}".encode(): Limit(what.replace("-", "_"), reset=True) for what in _OPENAI},
    **{
        f"anthropic-ratelimit-{what}-remaining".encode(): Limit(what.replace("-", "_"), reset=False) for what in _OPENAI
    },
    **{f"anthropic-ratelimit-{what}-reset".encode(): Limit(what.replace("-", "_"), reset=True) for what in _OPENAI},
}


def limit_value(limit: Limit, value: bytes, now: float) -> float | None:
    """What remains, or when the limit is whole again (POSIX seconds); None if the value cannot be read."""
    text = value[:_NUMBER_LENGTH].decode("latin-1").strip()
    if limit.reset:
        return _reset_at(text, now)
    return float(text) if text.isascii() and text.isdigit() else None


def _reset_at(text: str, now: float) -> float | None:
    """POSIX seconds of a reset, given as a duration (`6m0s`, `20ms`, `1.5`), a time (RFC 3339), or seconds of the epoch."""
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return None if number != number or number < 0 else number if number > _EPOCH else now + number  # noqa: PLR0124 - not a number
    if "T" in text:
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            return None
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return None
    return now + sum(float(part) * unit for part, unit in zip(match.groups(), _UNITS, strict=True) if part)


def _label(value: bytes) -> str:
    return _LABEL_UNSAFE.sub("_", value[:_LABEL_LENGTH].decode("utf-8", "replace")).strip()
