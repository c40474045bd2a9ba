"""What was spent, by whatever is asked: sums of the database, rated and put together.

Costs are what budgets count: by the price that was handed out, or by what is known now for what had none.
"""

import asyncio
import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from llmwarden.contracts import ledger as wire
from llmwarden.contracts.spend import By, GpuSpend, Spend, SpendRow
from llmwarden.domain import money
from llmwarden.domain.gpuhours import hours
from llmwarden.ledger.rating.rater import LateKey, Rater, Rating
from llmwarden.ledger.store import Issued, counts
from llmwarden.ledger.store.counts import Counts
from llmwarden.ledger.store.model import RowKey
from llmwarden.ledger.store.queries import Sum

OTHER: Final = "other"
MOST_LABELS: Final = 200  # of one label and service; the smaller ones together are "other"
YIELD_EVERY: Final = 1000  # sums that are rated before others may run


class Figures(msgspec.Struct):
    """Sums under way."""

    counts: Counts = counts.ZERO
    picodollars: int = 0
    uncosted: int = 0
    quarantined: int = 0
    quarantined_tokens: int = 0
    written_off: int = 0
    written_off_tokens: int = 0

    def add(self, part: Counts, rating: Rating, key: RowKey) -> None:
        """Count a part of a key's usage."""
        spent, tokens = rating.picodollars(part), part.budgeted_tokens
        self.counts = counts.add(self.counts, part)
        self.picodollars += spent
        self.uncosted += rating.uncosted(part)
        if key.quarantined:
            self.quarantined += spent
            self.quarantined_tokens += tokens
        if key.written_off:  # it is negative in itself
            self.written_off -= spent
            self.written_off_tokens -= tokens


async def summarise(
    sums: Sequence[Sum],
    by: Sequence[By],
    *,
    span: tuple[int, int],
    rater: Rater,
) -> Spend:
    """Put sums together by these dimensions. `span` is what was asked for, in seconds since the epoch."""
    groups: dict[tuple[str, ...], Figures] = defaultdict(Figures)
    rater = rater.remembering()
    folded = _folded(sums, by)
    total = Figures()
    for number, one in enumerate(sums):
        rating = _rating(one, rater)
        for kind, part in _kinds(one.counts) if "kind" in by else (("", one.counts),):
            for figures in (groups[_place(one, kind, by, folded)], total):
                figures.add(part, rating, one.key)
        if number % YIELD_EVERY == YIELD_EVERY - 1:
            await asyncio.sleep(0)
    timed = [index for index, dimension in enumerate(by) if dimension in {"hour", "day"}]

    def order(item: tuple[tuple[str, ...], Figures]) -> tuple[object, ...]:
        place, figures = item
        return (*(place[index] for index in timed), -figures.picodollars, -figures.counts.budgeted_tokens, place)

    start, end = (dt.datetime.fromtimestamp(at, dt.UTC) for at in span)
    rows = tuple(
        _row(dict(zip(by, place, strict=True)), figures) for place, figures in sorted(groups.items(), key=order)
    )
    return Spend(start=start, end=end, by=tuple(by), rows=rows, total=_row({}, total))


def _rating(one: Sum, rater: Rater) -> Rating:
    key = one.key
    issued = Issued(key.provider, key.model, key.price_id) if key.price_id else None
    late = LateKey(key.provider, key.model, one.start, key.context, key.tier)
    return rater.rating(f"{key.namespace}/{key.service}", issued, late)


def _kinds(whole: Counts) -> Iterable[tuple[str, Counts]]:
    """Each token kind by itself: its own part only, as `cost` prices it; a sum of all is the whole."""
    hour = whole.cache_write_1h
    written = whole.cache_write - hour
    plain = whole.input - whole.cached_input - whole.cache_write - whole.input_audio
    parts = {
        "input": Counts(input=plain),
        "cached_input": Counts(input=whole.cached_input, cached_input=whole.cached_input),
        "cache_write": Counts(input=written, cache_write=written),
        "cache_write_1h": Counts(input=hour, cache_write=hour, cache_write_1h=hour),
        "input_audio": Counts(input=whole.input_audio, input_audio=whole.input_audio),
        "output": Counts(output=whole.output - whole.reasoning - whole.output_audio),
        "reasoning": Counts(output=whole.reasoning, reasoning=whole.reasoning),
        "output_audio": Counts(output=whole.output_audio, output_audio=whole.output_audio),
        "request": Counts(requests=whole.requests, errors=whole.errors, estimated=whole.estimated),
    }
    return [(kind, part) for kind, part in parts.items() if part != counts.ZERO]


def _time(one: Sum, step: int) -> str:
    at = dt.datetime.fromtimestamp(one.start - one.start % step, dt.UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


_VALUES: Final[dict[By, Callable[[Sum, str], str]]] = {
    "service": lambda one, _: f"{one.key.namespace}/{one.key.service}",
    "provider": lambda one, _: one.key.provider,
    "model": lambda one, _: one.key.model,
    "tier": lambda one, _: one.key.tier,
    "kind": lambda _, kind: kind,
    "label.feature": lambda one, _: one.key.feature,
    "label.team": lambda one, _: one.key.team,
    "label.cohort": lambda one, _: one.key.cohort,
    "pod": lambda one, _: f"{one.key.namespace}/{one.pod}",
    "hour": lambda one, _: _time(one, 3600),
    "day": lambda one, _: _time(one, 86_400),
}


def _folded(sums: Sequence[Sum], by: Sequence[By]) -> dict[tuple[str, str, By], set[str]]:
    """By service and label, the values that are shown; only where there are more than may be."""
    found: dict[tuple[str, str, By], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    labels = [dimension for dimension in by if dimension.startswith("label.")]
    for one in sums:
        for label in labels:
            seen = found[one.key.namespace, one.key.service, label]
            seen[_VALUES[label](one, "")] += one.counts.budgeted_tokens
    return {
        place: {value for value, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:MOST_LABELS]}
        for place, seen in found.items()
        if len(seen) > MOST_LABELS
    }


def _place(one: Sum, kind: str, by: Sequence[By], folded: dict[tuple[str, str, By], set[str]]) -> tuple[str, ...]:
    values = []
    for dimension in by:
        value = _VALUES[dimension](one, kind)
        shown = folded.get((one.key.namespace, one.key.service, dimension))
        values.append(value if shown is None or value in shown else OTHER)
    return tuple(values)


def _row(by: dict[str, str], figures: Figures) -> SpendRow:
    return SpendRow(
        by=by,
        requests=figures.counts.requests,
        errors=figures.counts.errors,
        tokens=figures.counts.tokens,
        picodollars=figures.picodollars,
        usd=money.to_decimal(figures.picodollars),
        uncosted_tokens=figures.uncosted,
        quarantined_picodollars=figures.quarantined,
        quarantined_tokens=figures.quarantined_tokens,
        written_off_picodollars=figures.written_off,
        written_off_tokens=figures.written_off_tokens,
    )


def gpu_spend(service: str, usage: wire.GpuUsage) -> GpuSpend:
    """Say of a service's GPUs what they cost."""
    return GpuSpend(
        service,
        hours(usage.milliseconds),
        usage.picodollars,
        money.to_decimal(usage.picodollars),
        usage.idle,
        money.to_decimal(usage.idle),
        usage.covered,
        hours(usage.unpriced_milliseconds),
    )
