"""What was spent, in memory: per service and bucket, updated by what each report added, rebuilt from the store at start.

Budgets and usage are read from here and never scan the database. One event loop uses it: no locks.

What a row costs is decided in `rater`; here is kept what may be rated again.

Memory: about 0.4 KiB per service and bucket in which it was used (1.4 where GPU-hours price it), for `HORIZON_SECONDS`; older buckets live on in the
totals only.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from msgspec.structs import astuple

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.ledger.rating.rater import LateKey, Rater, Rating, rate
from llmwarden.ledger.store import Delta, counts, issued_of
from llmwarden.ledger.store.counts import Counts

DAY = 86400
# The longest window that a budget may have is 99 days (api: WholeWindow); one more for clocks and zones.
HORIZON_SECONDS = 100 * DAY
WINDOWS_KEPT = 32  # running sums per service


@dataclass(frozen=True, slots=True)
class Sums:
    """Counters and money (picodollars) over some span; `uncosted` counts input and output tokens without a price.

    `assumed` is money beside: what uncosted tokens cost at most whose model has a price, but not for their service tier.
    """

    counts: Counts = counts.ZERO
    picodollars: int = 0
    uncosted: int = 0
    assumed: int = 0

    def plus(self, other: "Sums") -> "Sums":
        """Return both together."""
        return Sums(
            self.counts if other.counts is counts.ZERO else counts.add(self.counts, other.counts),
            self.picodollars + other.picodollars,
            self.uncosted + other.uncosted,
            self.assumed + other.assumed,
        )

    def less(self, other: "Sums") -> "Sums":
        """Return this without a part of it."""
        return Sums(
            counts.less(self.counts, other.counts),
            self.picodollars - other.picodollars,
            self.uncosted - other.uncosted,
            self.assumed - other.assumed,
        )

    def spent(self, unit: wire.Unit) -> int:
        """In a budget's unit: picodollars, or tokens. A budget holds also against a tier whose price is unknown."""
        return self.picodollars + self.assumed if unit == "USD" else self.counts.budgeted_tokens


NOTHING = Sums()


def total(parts: Iterable[Sums]) -> Sums:
    """Sum of many, column by column: a month has 2,976 buckets."""
    found = list(parts)
    if not found:
        return NOTHING
    return Sums(
        Counts(*map(sum, zip(*(astuple(part.counts) for part in found), strict=True))),
        sum(part.picodollars for part in found),
        sum(part.uncosted for part in found),
        sum(part.assumed for part in found),
    )


@dataclass(frozen=True, slots=True)
class Rerated:
    """By how much rating again changed a service's figures: picodollars, and tokens that have a price now (negative: none any more)."""

    picodollars: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _Late:
    """Counters of a key that was reported without a usable price, and what rates them at present."""

    counts: Counts
    rating: Rating

    def sums(self) -> Sums:
        """Money and uncosted tokens of these counters; the counters themselves are not in it."""
        found = self.counts
        return Sums(
            picodollars=self.rating.picodollars(found),
            uncosted=self.rating.uncosted(found),
            assumed=self.rating.assumed(found),
        )


Lates = dict[int, dict[LateKey, _Late]]
"""By bucket, what a service reported without a usable price."""


@dataclass(slots=True)
class _Service:
    buckets: dict[int, Sums] = field(default_factory=dict)
    total: Sums = NOTHING
    late: Lates = field(default_factory=dict)
    since: dict[int, Sums] = field(default_factory=dict)  # running sums of the buckets from a time on

    def add(self, bucket: int, sums: Sums, *, keep: bool) -> None:
        """Count `sums` for a bucket; `keep` where the bucket is within the horizon."""
        self.total = self.total.plus(sums)
        if keep:
            self.buckets[bucket] = self.buckets.get(bucket, NOTHING).plus(sums)
            for start in self.since:
                if bucket >= start:
                    self.since[start] = self.since[start].plus(sums)


class Aggregate:
    """See the module. `now` in its methods is in seconds since the epoch.

    Every sum is over all usage, quarantined usage included, less what was written off. `quarantined` has the same sums of what is
    quarantined, and `written_off` of what was written off, below zero: both are parts of ours.
    """

    def __init__(self, rater: Rater) -> None:
        self._rater = rater
        self._services: dict[str, _Service] = {}
        self.unpriced: Counter[str] = Counter()  # by namespace, how many keys without a usable price are kept
        self._parts: dict[str, Aggregate] = {}  # made when there is anything in them

    @property
    def quarantined(self) -> "Aggregate":
        """What of it shared budgets leave out."""
        return self._part("quarantined")

    @property
    def written_off(self) -> "Aggregate":
        """What was written off of it: negative."""
        return self._part("written_off")

    def _part(self, name: str) -> "Aggregate":
        return self._parts.get(name) or self._parts.setdefault(name, Aggregate(self._rater))

    def everywhere(self, service: str, start: float) -> Sums:
        """Return `since` without what is quarantined: what counts in every budget."""
        whole = self.since(service, start)
        aside = self._parts.get("quarantined")
        return whole if aside is None else whole.less(aside.since(service, start))

    @property
    def services(self) -> Iterable[str]:
        """Every service (`namespace/name`) that was ever reported."""
        return self._services.keys()

    def apply(self, deltas: Iterable[Delta], now: float) -> None:
        """Count what reports added, and what corrections moved."""
        oldest = now - HORIZON_SECONDS
        for delta in deltas:
            if delta.mark:
                plain = [replace(delta, mark="")]
                if delta.quarantined:
                    self.quarantined.apply(plain, now)
                if delta.written_off:
                    self.written_off.apply(plain, now)
            service = self._services.setdefault(delta.service, _Service())
            sums, key, late = self._rate(delta, service.late)
            keep = delta.bucket >= oldest
            service.add(delta.bucket, sums, keep=keep)
            if late is not None and keep:
                lates = service.late.setdefault(key.bucket, {})
                self.unpriced[delta.service.partition("/")[0]] += key not in lates
                lates[key] = late

    def rated(self, deltas: Iterable[Delta]) -> Iterable[Sums]:
        """What `apply` would count for each of these, in their order. Nothing is counted."""
        fresh: dict[str, Lates] = {}
        for delta in deltas:
            service = self._services.get(delta.service)
            known = service.late.get(delta.bucket, {}) if service is not None else {}
            lates = {delta.bucket: {**known, **fresh.get(delta.service, {}).get(delta.bucket, {})}}
            sums, key, late = self._rate(delta, lates)
            if late is not None:
                fresh.setdefault(delta.service, {}).setdefault(key.bucket, {})[key] = late
            yield sums

    def _rate(self, delta: Delta, lates: Lates) -> tuple[Sums, LateKey, _Late | None]:
        """What one report's growth is worth; and, where it has no usable price, all that is known of its key with it."""
        key = LateKey(delta.provider, delta.model, delta.bucket, delta.context, delta.tier)
        issued = issued_of(delta)
        price = self._rater.own(issued, key)
        if price is not None:
            return Sums(delta.counts, rate(delta.counts, price)), key, None
        known = lates.get(key.bucket, {}).get(key)
        if known is None:
            # The service never had this key: whatever price is found rates all of it.
            known = _Late(counts.ZERO, self._rater.late(delta.service, key, issued))
        grown = _Late(delta.counts, known.rating).sums()
        late = _Late(counts.add(known.counts, delta.counts), known.rating)
        return Sums(delta.counts, grown.picodollars, grown.uncosted, grown.assumed), key, late

    def reprice(
        self, only: Mapping[str, Collection[int]] | None = None, but: Callable[[str, int], bool] | None = None
    ) -> dict[str, Rerated]:
        """Rate again what was reported without a usable price; returns the services whose figures changed, and by how much.

        `only`: of these services these buckets; `but`: not this service's bucket.
        """
        for part in self._parts.values():
            part.reprice(only, but)
        changed: dict[str, Rerated] = {}
        for name in self._services if only is None else only:
            service = self._services.get(name)
            if service is None:
                continue
            wanted: Iterable[int] = service.late if only is None else only[name]
            if but is not None:
                wanted = [bucket for bucket in wanted if not but(name, bucket)]
            for key, late in [item for bucket in wanted for item in service.late.get(bucket, {}).items()]:
                rating = self._rater.late(name, key)
                rating = Rating(rating.price, rating.bound or late.rating.bound)
                if rating == late.rating:
                    continue
                before, before_price = late.sums(), late.rating.price
                late.rating = rating
                after = late.sums()
                difference = Sums(
                    picodollars=after.picodollars - before.picodollars,
                    uncosted=after.uncosted - before.uncosted,
                    assumed=after.assumed - before.assumed,
                )
                service.add(key.bucket, difference, keep=key.bucket in service.buckets)
                if rating.price == before_price:
                    continue  # only what it costs at most has changed
                so_far = changed.get(name, Rerated())
                changed[name] = Rerated(
                    so_far.picodollars + difference.picodollars, so_far.tokens - difference.uncosted
                )
        return changed

    def counts_of(self, service: str, buckets: Iterable[int]) -> Counts:
        """All that a service used in these buckets."""
        known = self._services.get(service)
        if known is None:
            return counts.ZERO
        return total(known.buckets[bucket] for bucket in buckets if bucket in known.buckets).counts

    def late_of(self, service: str, buckets: Iterable[int]) -> Iterable[tuple[LateKey, Counts]]:
        """What of it had no usable price when it was reported."""
        known = self._services.get(service)
        if known is not None:
            for bucket in buckets:
                for key, late in known.late.get(bucket, {}).items():
                    yield key, late.counts

    def forget(self, now: float) -> None:
        """Drop buckets beyond the horizon; they stay in the totals, rated as they are now."""
        for part in self._parts.values():
            part.forget(now)
        oldest = now - HORIZON_SECONDS
        for name, service in self._services.items():
            for bucket in [bucket for bucket in service.buckets if bucket < oldest]:
                del service.buckets[bucket]
            for bucket in [bucket for bucket in service.late if bucket < oldest]:
                self.unpriced[name.partition("/")[0]] -= len(service.late.pop(bucket))
            for start in [start for start in service.since if start < oldest]:
                del service.since[start]

    def since(self, service: str, start: float) -> Sums:
        """Return the sums of a service's buckets that begin at `start` or later.

        There is no upper bound: a proxy whose clock runs ahead spends in the present window, too.
        """
        known = self._services.get(service)
        if known is None:
            return NOTHING
        first = (
            -int(-start // names.BUCKET_SECONDS) * names.BUCKET_SECONDS
        )  # the first bucket that begins then or later
        found = known.since.pop(first, None)
        if found is None:
            found = total(sums for bucket, sums in known.buckets.items() if bucket >= first)
            if len(known.since) >= WINDOWS_KEPT:
                del known.since[next(iter(known.since))]
        known.since[first] = found  # at the end: the least recently asked for is the first
        return found

    def total(self, service: str) -> Sums:
        """Everything a service ever used."""
        known = self._services.get(service)
        return known.total if known else NOTHING

    def uncosted_models(self, service: str, start: float) -> list[str]:
        """Models of a service with uncosted tokens in buckets from `start` on, sorted."""
        known = self._services.get(service)
        if known is None:
            return []
        return sorted(
            {
                key.title
                for bucket, lates in known.late.items()
                if bucket >= start
                for key, late in lates.items()
                if late.rating.uncosted(late.counts)
            }
        )
