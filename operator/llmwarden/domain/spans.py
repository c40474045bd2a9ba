"""Since when and until when something was held, as it is learned bit by bit. Pure; times are milliseconds since the epoch.

Merging is the same in any order and changes nothing when repeated: what was told once is never lost, and a gap between two
tellings is no gap.
"""

from collections.abc import Iterator
from typing import NamedTuple

from llmwarden.names import BUCKET_SECONDS

BUCKET_MS = BUCKET_SECONDS * 1000


class Span(NamedTuple):
    """From `since` to `until`. `ended`: `until` is the end itself; else it is the last time at which it was still held."""

    since: int
    until: int
    ended: bool = False

    def within(self, earliest: int, latest: int) -> "Span":
        """Cut to what can be: nobody saw the future."""
        until = min(self.until, latest)
        return Span(min(max(self.since, earliest), until), until, self.ended)


def merge(stored: Span, told: Span) -> Span:
    """Both together. Of two ends the earlier counts, whatever was seen later: a clock may have been ahead."""
    since = min(stored.since, told.since)
    ends = [span.until for span in (stored, told) if span.ended]
    until = min(ends) if ends else max(stored.until, told.until)
    return Span(since, max(since, until), bool(ends))


def growth(old: Span | None, new: Span) -> dict[int, int]:
    """Milliseconds by bucket (its start, in seconds) that `new` has more than `old`; negative where an end moved back."""
    buckets: dict[int, int] = {}
    pieces = [(new.since, new.until, 1)]
    if old is not None:
        pieces = [
            (new.since, min(old.since, new.until), 1),
            (max(old.until, new.since), new.until, 1),
            (max(new.until, old.since), old.until, -1),
        ]
    for start, end, sign in pieces:
        for bucket, milliseconds in _buckets(start, end):
            buckets[bucket] = buckets.get(bucket, 0) + sign * milliseconds
    return {bucket: value for bucket, value in buckets.items() if value}


def _buckets(start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        after = (start // BUCKET_MS + 1) * BUCKET_MS
        yield start // BUCKET_MS * BUCKET_SECONDS, min(after, end) - start
        start = after
