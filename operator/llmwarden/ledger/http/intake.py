"""What of a report can be taken: one strange row must not cost the others.

A proxy sends the same totals until they are taken. A report that is refused for one row (an engine that claims 10^18
tokens, say) would be refused for ever, and with it all that the pod uses from then on: a way around every budget. So
what can be given a meaning gets one, and the rest is left out row by row, counted and logged.

How many labels there are is bounded by proxies (each takes so many in a quarter of an hour, then says "other"), and where
spend is asked by label: never here, nor in the store. Two labels of one journal that became one here would be merged by maximum, where a
sum is meant. (Beyond its quotas the store folds rows, and remembers each: `store.quotas`.) Text that cannot be kept as it is (too long, a
control character, the name of what is folded) keeps a hash, and stays one of its own.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from llmwarden import names
from llmwarden.contracts import ledger as wire

# More than any pod can use in a bucket, and so small that sums of millions of such rows fit 64 bits.
MAX_COUNT: Final = 2**40
FUTURE_SECONDS: Final = 86_400  # a bucket that begins later than this would count in every window for a long time
NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
LONGEST: Final = 256  # characters of a model or provider
LONGEST_TIER: Final = 32
LONGEST_LABEL: Final = 64
LONGEST_PRICE_ID: Final = 512
_HASH: Final = 12


def take(report: wire.Report, now: float, known: Callable[[str], bool]) -> tuple[wire.Report, Counter[str]]:
    """Return the report as it is stored, and how many rows were left out (or changed) for which reason.

    The same row always becomes the same row: sending it again still changes nothing. `now` is in seconds since the epoch.
    `known` says whether a name is, or was, an LLMService of the pod's namespace: else any pod of the cluster could fill the
    ledger with services that never were.
    """
    rows: list[wire.Row] = []
    reasons: Counter[str] = Counter()
    for row in report.rows:
        fault = _fault(row, now) or (None if known(row.service) else "unknown_service")
        if fault is not None:
            reasons[fault] += 1
            continue
        if _fits(row):
            rows.append(row)
            continue
        fit = msgspec.structs.replace(
            row,
            provider=_short(row.provider),
            model=_short(row.model),
            requests=_count(row.requests),
            errors=_count(row.errors),
            estimated=_count(row.estimated),
            busy_ms=_count(row.busy_ms),
            prefill_ms=_count(row.prefill_ms),
            decode_ms=_count(row.decode_ms),
            tokens=wire.Tokens(*(_count(value) for value in msgspec.structs.astuple(row.tokens))),
            context=_count(row.context),
            tier=_short(row.tier, LONGEST_TIER),
            labels=wire.Labels(*(_short(value, LONGEST_LABEL) for value in msgspec.structs.astuple(row.labels))),
        )
        reasons["changed"] += 1
        rows.append(fit)
    return msgspec.structs.replace(report, rows=tuple(rows)), reasons


def _fits(row: wire.Row) -> bool:
    """Whether a row can be taken as it is: nearly every one, and to look is a fifth of the work of making another."""
    counts = (
        *msgspec.structs.astuple(row.tokens),
        row.requests,
        row.errors,
        row.estimated,
        row.busy_ms,
        row.prefill_ms,
        row.decode_ms,
        row.context,
    )
    labels = msgspec.structs.astuple(row.labels)
    return (
        min(counts) >= 0
        and max(counts) <= MAX_COUNT
        and len(row.provider) <= LONGEST
        and len(row.model) <= LONGEST
        and len(row.tier) <= LONGEST_TIER
        and max(map(len, labels)) <= LONGEST_LABEL
        and all(map(_plain, (row.provider, row.model, row.tier, *labels)))
    )


def _fault(row: wire.Row, now: float) -> str | None:
    if not NAME.fullmatch(row.service):
        return "service"
    if row.price_id is not None and not (0 < len(row.price_id) <= LONGEST_PRICE_ID and row.price_id.isprintable()):
        return "price"
    if row.bucket < 0 or row.bucket % names.BUCKET_SECONDS:
        return "bucket"
    if row.bucket > now + FUTURE_SECONDS:
        return "future"
    return None


def _count(value: int) -> int:
    return min(max(value, 0), MAX_COUNT)


def _short(text: str, longest: int = LONGEST) -> str:
    # With a hash: two names must not become one key, whose maximum would be less than their sum.
    if len(text) <= longest and _plain(text):
        return text
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_HASH]
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: longest - _HASH - 1])
    return f"{shown}#{digest}"


def _plain(text: str) -> bool:
    """Whether text is what it looks like: no control characters, no direction marks, and not the name of what is folded."""
    return text.isprintable() and text != names.FOLDED
