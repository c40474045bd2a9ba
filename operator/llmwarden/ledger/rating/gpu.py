"""GPU-hours as prices of tokens: each service's closed hours, shared (`domain/gpuhours.py`) and shared again when anything of them comes late.

Everything here follows from what is stored: the GPU time that pods held, the tokens and times of calls, and the rates of the
ModelPrices (and OpenCost's, stored with the time). So a restart, another replica and a late report come to the same sums.

In the open hour calls are gated and counted at the last closed hour's rate; at its close, and whenever GPU time, calls or rates of a
closed hour change, its tokens are rated anew by `Aggregate.reprice`, as are tokens whose price was not known.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

from llmwarden.contracts import ledger as wire
from llmwarden.domain import gpuhours
from llmwarden.domain.gpuhours import WINDOW_SECONDS, GpuTime, Share, Work
from llmwarden.ledger.rating.aggregate import DAY, HORIZON_SECONDS, Aggregate
from llmwarden.ledger.store import HeldSum, counts
from llmwarden.names import BUCKET_SECONDS

MOST_AT_ONCE: Final = 500  # hours that are shared while others wait: about a tenth of a second
RECENT_SECONDS: Final = 2 * WINDOW_SECONDS  # GPUs that a service held so lately are those that it holds

Kind = tuple[str, int]  # product, OpenCost's rate
Piece = tuple[Kind, int, int]  # kind, gpu_ms, pod_ms


def buckets_of(window: int) -> range:
    """The buckets of a window."""
    return range(window, window + WINDOW_SECONDS, BUCKET_SECONDS)


class GpuHours:
    """See the module. Times are seconds since the epoch; services are `namespace/name`."""

    def __init__(
        self,
        *,
        rate_of: Callable[[str, float], int | None],
        priced: Callable[[str, str, float], bool],
        aggregate: Callable[[], Aggregate],
    ) -> None:
        """`rate_of` a GPU product at a time; `priced`: whether a ModelPrice prices a model's tokens; `aggregate`: the present one."""
        self._rate_of = rate_of
        self._priced = priced
        self._aggregate = aggregate
        self._held: dict[str, dict[int, tuple[Piece, ...]]] = {}
        self._kinds: dict[Kind, Kind] = {}  # each kept once: months of buckets name the same
        self._shares: dict[str, dict[int, Share]] = {}
        self._present: dict[str, wire.Picodollars | None] = {}
        self._dirty: dict[str, set[int]] = defaultdict(set)
        self._forced: dict[str, set[int]] = defaultdict(set)  # of them, those whose tokens are rated anew in any case
        self._closed: int | None = None  # the newest window that was looked at as closed
        self._oldest = 0.0  # beyond the horizon the hours are forgotten: tokens of then are shown at the present rate
        self.lost: Mapping[str, int] = {}  # pods whose end nobody saw, in the last day

    # What it is told --------------------------------------------------------------------------------------------------

    def take(self, sums: Iterable[HeldSum]) -> None:
        """Take sums of GPU time as they are now in the store."""
        for one in sums:
            held = self._held.setdefault(one.service, {})
            kind = self._kinds.setdefault((one.product, one.rate), (one.product, one.rate))
            others = [piece for piece in held.get(one.bucket, ()) if piece[0] != kind]
            held[one.bucket] = (*others, (kind, one.gpu_ms, one.pod_ms))
            self._dirty[one.service].add(gpuhours.window_of(one.bucket))

    def touched(self, service: str, bucket: int) -> None:
        """Say that calls of a service came to a bucket."""
        window = gpuhours.window_of(bucket)
        if service in self._held and self._closed is not None and window <= self._closed:
            self._dirty[service].add(window)

    def recheck(self, products: Collection[str] | None = None, services: Collection[str] = ()) -> None:
        """Say that all was read anew; or that rates of some products, or prices of some services' models, may have changed."""
        for service, buckets in self._held.items():
            if products is None or service in services or self._holds(service, products):
                windows = {gpuhours.window_of(bucket) for bucket in buckets}
                self._dirty[service].update(windows)
                self._forced[service].update(windows)

    def forget(self, now: float) -> None:
        """Drop what is beyond the aggregate's horizon."""
        oldest = now - HORIZON_SECONDS
        for held in self._held.values():
            for bucket in [bucket for bucket in held if bucket < oldest]:
                del held[bucket]
        for shares in self._shares.values():
            for window in [window for window in shares if window < oldest]:
                del shares[window]

    def true_up(self, now: float, most: int = MOST_AT_ONCE) -> dict[str, Collection[int]]:
        """Share what is closed by now and not shared as it is; returns, by service, the buckets whose tokens must be rated anew.

        At most so many hours, the newest first: call it again for the others.
        """
        last = gpuhours.last_closed(now)
        self._oldest = now - HORIZON_SECONDS
        if last != self._closed:
            # All that closed since: a process may have been stopped for hours. A clock that was ahead opens windows again.
            since = last if self._closed is None else max(self._closed + WINDOW_SECONDS, last - DAY)
            for service in self._held:
                self._dirty[service].update(range(since, last + 1, WINDOW_SECONDS))
                self._dirty[service].add(last)
            self._closed = last
        moved: dict[str, Collection[int]] = {}
        for service, windows in self._next(now, most).items():
            shares = self._shares.setdefault(service, {})
            changed: set[int] = set()
            for window in windows:
                share = self._share(service, window)
                before = shares.get(window)
                shares[window] = share
                if before is None or before.rates != share.rates or window in self._forced[service]:
                    changed.update(buckets_of(window))
            self._forced[service].difference_update(windows)
            present = self._find_present(service, now)
            if service not in self._present or present != self._present[service]:
                self._present[service] = present
                changed.update(range(last + WINDOW_SECONDS, int(now) + DAY, BUCKET_SECONDS))
            if changed:
                moved[service] = changed
        return moved

    def _next(self, now: float, most: int) -> dict[str, list[int]]:
        """Take the closed windows to be shared next out of the dirty ones; services of which none is closed have an empty list."""
        dirty, self._dirty = self._dirty, defaultdict(set)
        found: dict[str, list[int]] = {service: [] for service in dirty}
        closed = [
            (window, service)
            for service, windows in dirty.items()
            for window in windows
            if gpuhours.is_closed(window, now)
        ]
        if len(closed) > most:
            closed.sort(reverse=True)
        for window, service in closed[:most]:
            found[service].append(window)
        for window, service in closed[most:]:
            self._dirty[service].add(window)
        return found

    # What it answers --------------------------------------------------------------------------------------------------

    def prices(self, service: str) -> bool:
        """Whether a service's tokens are priced by GPU-hours, where no ModelPrice prices them."""
        return service in self._held

    def present(self, service: str) -> wire.Picodollars | None:
        """What gates and counts calls of the open hour; None where that is not known."""
        return self._present.get(service)

    def price(self, service: str, provider: str, model: str, at: int) -> wire.Picodollars | None:
        """What tokens of a model cost at a time: by its hour's share, or what is present while that is open; None where GPU-hours do not say."""
        if service not in self._held or self._priced(provider, model, at):
            return None
        window = gpuhours.window_of(at)
        share = self._shares.get(service, {}).get(window)
        if share is not None and (share.rates is not None or share.unpriced_gpu_ms):
            return share.price
        if self._closed is not None and window <= self._closed and share is None and window >= self._oldest:
            return None  # it held no GPUs then, as far as anybody told
        return self._present.get(service)

    def share(self, service: str, window: int) -> Share | None:
        """A closed window of a service; None where it held nothing."""
        share = self._shares.get(service, {}).get(window)
        return share if share is not None and share.gpu_ms else None

    def shares(self, service: str, bucket: int) -> bool:
        """Whether a bucket is of an hour that is shared: then its tokens are rated when that hour is."""
        return gpuhours.window_of(bucket) in self._shares.get(service, ())

    def services(self) -> Iterator[str]:
        """Every service that ever held GPUs, as far back as is remembered."""
        yield from sorted(self._held)

    def newest(self, service: str) -> Share | None:
        """The newest closed window; None where the service held no GPUs in it."""
        return None if self._closed is None else self.share(service, self._closed)

    def usage(self, service: str, start: float, end: float) -> wire.GpuUsage | None:
        """GPUs that a service held in the closed windows that begin in a span; None where it never held any."""
        if service not in self._held:
            return None
        first = gpuhours.window_of(int(start) + WINDOW_SECONDS - 1)
        windows = range(first, int(end), WINDOW_SECONDS)
        found = [(window, share) for window in windows if (share := self.share(service, window)) is not None]
        present = self.present(service)
        used = [self._aggregate().counts_of(service, buckets_of(window)) for window, _ in found]
        return wire.GpuUsage(
            milliseconds=sum(share.gpu_ms for _, share in found),
            picodollars=sum(share.cost for _, share in found),
            idle=sum(share.idle for _, share in found),
            covered=sum(share.covered for _, share in found),
            tokens=sum(each.budgeted_tokens for each in used),
            unpriced_milliseconds=sum(share.unpriced_gpu_ms for _, share in found),
            products=self._unpriced(service, end),
            input_picodollars=present.input if present is not None else None,
            output_picodollars=present.output if present is not None else None,
            lost_pods=self.lost.get(service, 0),
        )

    # Inside -----------------------------------------------------------------------------------------------------------

    def _holds(self, service: str, products: Collection[str]) -> bool:
        return any(kind[0] in products for pieces in self._held[service].values() for kind, _, _ in pieces)

    def _rate(self, kind: Kind, bucket: int) -> int | None:
        product, observed = kind
        known = self._rate_of(product, bucket)
        return known if known is not None else observed or None

    def _pieces(self, service: str, buckets: Iterable[int]) -> list[tuple[Kind, GpuTime, int]]:
        held = self._held.get(service, {})
        return [
            (kind, GpuTime(gpu_ms, self._rate(kind, bucket)), pod_ms)
            for bucket in buckets
            for kind, gpu_ms, pod_ms in held.get(bucket, ())
            if gpu_ms > 0
        ]

    def _share(self, service: str, window: int) -> Share:
        buckets = buckets_of(window)
        pieces = self._pieces(service, buckets)
        # What is quarantined takes no share: else it would take the cost of plausible calls out of shared budgets. It is rated as they are.
        aggregate = self._aggregate()
        aside = aggregate.quarantined
        whole = counts.less(aggregate.counts_of(service, buckets), aside.counts_of(service, buckets))
        shared_input = shared_output = 0
        for sign, of in ((1, aggregate), (-1, aside)):
            for key, late in of.late_of(service, buckets):
                if not self._priced(key.provider, key.model, key.bucket):
                    shared_input += sign * late.input
                    shared_output += sign * late.output
        work = Work(
            whole.input,
            whole.output,
            whole.input - shared_input,
            whole.output - shared_output,
            whole.busy_ms,
            whole.prefill_ms,
            whole.decode_ms,
        )
        return gpuhours.share([held for _, held, _ in pieces], sum(pod_ms for _, _, pod_ms in pieces), work)

    def _lately(self, service: str, now: float) -> list[tuple[Kind, GpuTime, int]]:
        held = self._held.get(service, {})
        newest = max((bucket for bucket in held if bucket <= now), default=None)
        if newest is None or newest < now - RECENT_SECONDS:
            return []
        return self._pieces(service, [newest])

    def _unpriced(self, service: str, now: float) -> tuple[str, ...]:
        return tuple(sorted({product for (product, _), held, _ in self._lately(service, now) if held.rate is None}))

    def _find_present(self, service: str, now: float) -> wire.Picodollars | None:
        rates = [held.rate for _, held, _ in self._lately(service, now)]
        if None in rates:
            return None
        shares = self._shares.get(service, {})
        window = gpuhours.last_closed(now)
        oldest = window - gpuhours.MOST_IDLE_SECONDS
        while window > oldest:
            share = shares.get(window)
            if share is not None and share.is_telling:
                return share.price
            window -= WINDOW_SECONDS
        return gpuhours.first_price(rates)
