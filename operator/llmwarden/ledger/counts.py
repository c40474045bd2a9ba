"""The counters of a row: what `store` merges and `aggregate` sums. The token kinds are `wire.Tokens`' fields, nowhere else named.

A row is what one journal says of one key (service, provider, model, price, bucket, …): totals since the journal began,
so a later report can only be larger. Merging by the maximum of each counter makes duplicates, retries and reordered
reports harmless.
"""

from operator import add as _plus
from operator import lt, sub
from typing import Final

import msgspec
from msgspec.structs import astuple, replace

from llmwarden import wire


class Counts(wire.Tokens, frozen=True):
    """Tokens by kind, calls, and times of calls in milliseconds; kinds are parts of each other as `wire.Tokens` says."""

    requests: int = 0
    errors: int = 0
    estimated: int = 0
    busy_ms: int = 0  # see wire.Row
    prefill_ms: int = 0
    decode_ms: int = 0

    @property
    def budgeted_tokens(self) -> int:
        """What a token budget counts."""
        return self.input + self.output

    @property
    def tokens(self) -> wire.Tokens:
        """The token kinds as the wire has them."""
        return wire.Tokens(*astuple(self)[:_KINDS])


FIELDS: Final[tuple[str, ...]] = Counts.__struct_fields__
"""Names of all counters, in the order of `msgspec.structs.astuple`."""
_KINDS: Final = len(wire.Tokens.__struct_fields__)
ZERO: Final = Counts()


def of_row(row: wire.Row) -> Counts:
    """Counters of a reported row."""
    times = (row.busy_ms, row.prefill_ms, row.decode_ms)
    return Counts(*(*astuple(row.tokens), row.requests, row.errors, row.estimated, *times))


def merge(known: Counts, reported: Counts) -> Counts:
    """Maximum of each counter, with the parts kept within their whole.

    Honest reports are snapshots of one growing journal, so the maximum of each counter is one of the snapshots. From
    contradicting ones it could be a row whose parts exceed the whole, and whose cost would be negative: then the whole
    grows. The result is the same in whatever order the reports come, since the parts' maxima only grow.
    """
    top = Counts(*map(max, astuple(known), astuple(reported)))
    written = max(top.cache_write, top.cache_write_1h)
    whole = max(top.input, top.cached_input + written + top.input_audio)
    answered = max(top.output, top.reasoning + top.output_audio)
    if (written, whole, answered) == (top.cache_write, top.input, top.output):
        return top
    return replace(top, cache_write=written, input=whole, output=answered)


def add(left: Counts, right: Counts) -> Counts:
    """Sum of each counter. Where one is nothing it is the other itself: months of buckets are kept, most of one row each."""
    if left is ZERO or right is ZERO:
        return right if left is ZERO else left
    return Counts(*map(_plus, astuple(left), astuple(right)))


def difference(new: Counts, old: Counts) -> Counts:
    """Return what `new` has more than `old`."""
    return Counts(*map(sub, astuple(new), astuple(old)))


def went_backwards(known: Counts, reported: Counts) -> bool:
    """Whether any counter of a report is below what the ledger has: an old report, or a proxy that lost its journal."""
    return any(map(lt, astuple(reported), astuple(known)))


def as_dict(counts: Counts) -> dict[str, int]:
    """Counters by name."""
    return msgspec.structs.asdict(counts)
