"""The counters of a row, as one tuple: what `store` merges and `aggregate` sums.

A row is what one journal says of one (service, provider, model, price, bucket): totals since the journal began, so a
later report can only be larger. Merging by the maximum of each counter makes duplicates, retries and reordered
reports harmless.
"""

from typing import NamedTuple

from llmwarden import wire


class Counts(NamedTuple):
    """Calls and tokens; `cached_input` and `cache_write` are parts of `input`, `reasoning` is a part of `output`."""

    requests: int = 0
    errors: int = 0
    estimated: int = 0
    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def budgeted_tokens(self) -> int:
        """What a token budget counts."""
        return self.input + self.output

    @property
    def tokens(self) -> wire.Tokens:
        """The token kinds as the wire has them."""
        return wire.Tokens(
            input=self.input,
            cached_input=self.cached_input,
            cache_write=self.cache_write,
            output=self.output,
            reasoning=self.reasoning,
        )


ZERO = Counts()


def of_row(row: wire.Row) -> Counts:
    """Counters of a reported row."""
    tokens = row.tokens
    return Counts(
        row.requests,
        row.errors,
        row.estimated,
        tokens.input,
        tokens.cached_input,
        tokens.cache_write,
        tokens.output,
        tokens.reasoning,
    )


def merge(known: Counts, reported: Counts) -> Counts:
    """Maximum of each counter, with the parts kept within their whole.

    Honest reports are snapshots of one growing journal, so the maximum of each counter is one of the snapshots. From
    contradicting ones it could be a row whose parts exceed the whole, and whose cost would be negative: then the whole
    grows. The result is the same in whatever order the reports come, since the parts' maxima only grow.
    """
    top = Counts(*map(max, known, reported))
    return top._replace(input=max(top.input, top.cached_input + top.cache_write), output=max(top.output, top.reasoning))


def add(left: Counts, right: Counts) -> Counts:
    """Sum of each counter."""
    return Counts(*(a + b for a, b in zip(left, right, strict=True)))


def difference(new: Counts, old: Counts) -> Counts:
    """Return what `new` has more than `old`."""
    return Counts(*(a - b for a, b in zip(new, old, strict=True)))


def went_backwards(known: Counts, reported: Counts) -> bool:
    """Whether any counter of a report is below what the ledger has: an old report, or a proxy that lost its journal."""
    return any(new < old for old, new in zip(known, reported, strict=True))
