"""The counters of a row: what `store` merges and `aggregate` sums. The token kinds are `wire.Tokens`' fields, nowhere else named.

A row is what one journal says of one key (service, provider, model, price, bucket, …): totals since the journal began,
so a later report can only be larger. Merging by the maximum of each counter makes duplicates, retries and reordered
reports harmless.
"""

from operator import add as _plus
from operator import sub
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import astuple, replace

from llmwarden.contracts import ledger as wire


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
    return whole(Counts(*map(max, astuple(known), astuple(reported))))


def whole(count: Counts) -> Counts:
    """Return the counters with every whole at least as large as its parts together: themselves, if they are so already."""
    written = max(count.cache_write, count.cache_write_1h)
    taken = max(count.input, count.cached_input + written + count.input_audio)
    answered = max(count.output, count.reasoning + count.output_audio)
    if (written, taken, answered) == (count.cache_write, count.input, count.output):
        return count
    return replace(count, cache_write=written, input=taken, output=answered)


class Growth(NamedTuple):
    """What a report makes of a row: its counters now, by how much they grew, and whether any was below what was known.

    It is below in an old report, or in one of a proxy that lost its journal.
    """

    new: Counts
    delta: Counts
    backwards: bool = False


def grow(known: Counts, reported: Counts) -> Growth:
    """Merge what a report says into what is known of its row; `reported` must be `whole`.

    Nearly every report is above what is known in each counter. Then it is itself the maximum, and one subtraction says so.
    """
    delta = tuple(map(sub, astuple(reported), astuple(known)))
    if min(delta) >= 0:
        return Growth(reported, Counts(*delta))
    new = merge(known, reported)
    return Growth(new, Counts(*map(sub, astuple(new), astuple(known))), backwards=True)


def add(left: Counts, right: Counts) -> Counts:
    """Sum of each counter. Where one is nothing it is the other itself: months of buckets are kept, most of one row each."""
    if left is ZERO or right is ZERO:
        return right if left is ZERO else left
    return Counts(*map(_plus, astuple(left), astuple(right)))


def bounded(counts: Counts, largest: int) -> Counts:
    """The counters, none above `largest`."""
    values = astuple(counts)
    return counts if max(values) <= largest else Counts(*(min(value, largest) for value in values))


def less(left: Counts, right: Counts) -> Counts:
    """Difference of each counter."""
    return left if right is ZERO else Counts(*map(sub, astuple(left), astuple(right)))


def negative(counts: Counts) -> Counts | None:
    """The counters with the other sign where some is below zero, as a correction's are; else None."""
    values = astuple(counts)
    return Counts(*(-value for value in values)) if min(values) < 0 else None


def portion(whole_of: Counts, numerator: int, denominator: int) -> Counts:
    """Return a share of the counters, each rounded down, from nothing to all of them.

    Each kind by itself, without its parts: so what is left has no part that exceeds its whole.
    """
    if numerator >= denominator:
        return whole_of
    c = whole_of

    def cut(value: int) -> int:
        return max(value, 0) * numerator // denominator

    cached, hour, heard = cut(c.cached_input), cut(c.cache_write_1h), cut(c.input_audio)
    reasoning, spoken = cut(c.reasoning), cut(c.output_audio)
    written = hour + cut(c.cache_write - c.cache_write_1h)
    return Counts(
        input=cut(c.input - c.cached_input - c.cache_write - c.input_audio) + cached + written + heard,
        cached_input=cached,
        cache_write=written,
        output=cut(c.output - c.reasoning - c.output_audio) + reasoning + spoken,
        reasoning=reasoning,
        cache_write_1h=hour,
        input_audio=heard,
        output_audio=spoken,
        requests=cut(c.requests),
        errors=cut(c.errors),
        estimated=cut(c.estimated),
        busy_ms=cut(c.busy_ms),
        prefill_ms=cut(c.prefill_ms),
        decode_ms=cut(c.decode_ms),
    )


def as_dict(counts: Counts) -> dict[str, int]:
    """Counters by name."""
    return msgspec.structs.asdict(counts)
