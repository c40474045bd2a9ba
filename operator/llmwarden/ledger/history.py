"""Usage with its money: prices, GPU-hours and sums, and how history changes when a price arrives or an hour of GPUs closes.

It knows no budgets: who calls it judges them again where it says that something moved.
"""

import datetime as dt
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from llmwarden.contracts import ledger as wire
from llmwarden.domain import money
from llmwarden.domain.cost import Rates
from llmwarden.domain.prices import Resolved
from llmwarden.ledger.rating.aggregate import Aggregate, Rerated
from llmwarden.ledger.rating.dearest import Dearest
from llmwarden.ledger.rating.gpu import MOST_AT_ONCE, GpuHours
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.rating.rater import LateKey, Rater
from llmwarden.ledger.store import Delta, HeldSum, Issued, RowKey
from llmwarden.ledger.view import View

logger = logging.getLogger(__name__)

TOGETHER = dt.timedelta(minutes=2)  # parts of one re-rating
Clock = Callable[[], dt.datetime]


class History:
    """See the module. `clock` gives the present time, aware, in UTC."""

    def __init__(self, catalogue: Catalogue, prices: Mapping[Issued, Rates], clock: Clock) -> None:
        """`prices` are those that were handed out in earlier lives."""
        self.catalogue = catalogue
        self.prices: dict[Issued, Rates] = dict(prices)
        self._clock = clock
        self.gpu = GpuHours(
            rate_of=catalogue.gpu_hour,
            priced=catalogue.overrides,
            aggregate=lambda: self.aggregate,
        )
        self._dearest = Dearest(catalogue)
        self.rater = Rater(self.prices.get, self.late_price, self.gpu.price, self._dearest)
        self.aggregate = Aggregate(self.rater)
        self.view = View()
        self.trued_up_picodollars = 0  # money that closed hours moved to what their GPUs cost, up or down, in this life
        self.rerated_picodollars = 0  # money that moved in history, up or down, in this life
        self.rerated: dict[str, wire.Rerating] = {}  # by service, the last time that prices changed its history
        self._next_start: dt.datetime | None = None

    def rebuild(self, sums: Iterable[Delta]) -> None:
        """Take everything from the store."""
        self.aggregate = Aggregate(self.rater)
        self.aggregate.apply(sums, self._clock().timestamp())
        self.gpu.recheck()

    def count(self, deltas: Sequence[Delta]) -> None:
        """Count what reports added."""
        self.aggregate.apply(deltas, self._clock().timestamp())
        for delta in deltas:
            self.gpu.touched(delta.service, delta.bucket)

    def take_gpus(self, sums: Iterable[HeldSum], lost: Mapping[str, int]) -> None:
        """Take GPU time that pods held, as the store has it now, and how many pods of a service vanished in the last day."""
        self.gpu.take(sums)
        self.gpu.lost = lost

    def configure(self, view: View, *, prices_changed: bool, first: bool) -> set[str]:
        """Take the services, and the ModelPrices if they changed; returns services whose GPU-hours were rated by that.

        `first`: nothing had been read before.
        """
        self.view = view
        if not prices_changed and self._next_start is not None:
            return set()
        self._override(view)
        self._next_start = self.catalogue.next_start(self._clock())
        moved = self.true_up(sys.maxsize if first else MOST_AT_ONCE, announce=not first)
        # Also what was reported before the prices were known. At the start that is no change to announce: none had been read.
        self._reprice(announce=not first)
        return moved

    def prices_began(self) -> bool:
        """Tell whether a dated price has started to apply since the last call."""
        now = self._clock()
        if self._next_start is None or now < self._next_start:
            return False
        self._next_start = self.catalogue.next_start(now)
        return True

    def forget(self) -> None:
        """Drop what is beyond the horizon."""
        now = self._clock().timestamp()
        self.aggregate.forget(now)
        self.gpu.forget(now)

    def settled(self, key: RowKey) -> bool:
        """Whether a row names a price that it is rated by for good: others are kept in memory until a price comes."""
        issued = Issued(key.provider, key.model, key.price_id) if key.price_id else None
        return self.rater.own(issued, LateKey(key.provider, key.model, 0, key.context, key.tier)) is not None

    def late_price(self, provider: str, model: str, at: int) -> Rates | None:
        """Price of what had none when it was counted, at a time in seconds since the epoch, as known now."""
        found = self.catalogue.resolve(provider, model, dt.datetime.fromtimestamp(at, dt.UTC))
        return found.rates if found else None

    def price(self, service: str, model: str) -> tuple[Resolved | None, dt.datetime | None]:
        """Price of a model for a service (`namespace/name`) now, and until when that holds."""
        known = self.view.find(service)
        if known is None:
            return None, None
        return self.catalogue.resolve_until(known.provider, model, self._clock())

    def provisional_price(self, service: str, model: str) -> wire.Picodollars | None:
        """What gates calls of a service (`namespace/name`) whose tokens GPU-hours price; None where they do not, or it is not known."""
        known = self.view.services.get(service)
        if known is None or self.catalogue.overrides(known.provider, model, self._clock().timestamp()):
            return None
        return self.gpu.present(service) if self.gpu.prices(service) else None

    def true_up(self, most: int = MOST_AT_ONCE, *, announce: bool = True) -> set[str]:
        """Rate the tokens of hours that closed, or that changed since, by what their GPUs cost; so many hours at once.

        Returns the services whose hours those were.
        """
        now = self._clock()
        moved = self.gpu.true_up(now.timestamp(), most)
        for service, change in sorted(self.aggregate.reprice(moved).items()) if moved else ():
            if not announce:
                continue
            if change.tokens:
                self._announce(service, change, now)
                continue
            self.trued_up_picodollars += abs(change.picodollars)
            logger.info(
                "tokens of %s are rated by the GPU-hours they took: %s", service, money.human(change.picodollars)
            )
        return set(moved)

    def _reprice(self, *, announce: bool) -> None:
        """Rate again by new prices what had none, and say what that changed."""
        now = self._clock()
        for service, change in sorted(self.aggregate.reprice(but=self.gpu.shares).items()):
            if announce:
                self._announce(service, change, now)

    def _announce(self, service: str, change: Rerated, now: dt.datetime) -> None:
        self.rerated_picodollars += abs(change.picodollars)
        before = self.rerated.get(service)
        if before is not None and now - before.at < TOGETHER:  # many hours are rated again in several steps
            change = Rerated(before.picodollars + change.picodollars, before.tokens + change.tokens)
        self.rerated[service] = wire.Rerating(at=now, picodollars=change.picodollars, tokens=change.tokens)
        logger.info(
            "history of %s is rated again by new prices: %s for %d tokens that had none",
            service,
            money.human(change.picodollars),
            change.tokens,
        )

    def _override(self, view: View) -> None:
        """Take the ModelPrices, and see to it that hours of GPUs that they change are shared again."""
        rates, models = self.catalogue.gpus(), self.catalogue.priced_models()
        self.catalogue.override(view.prices)
        self._dearest.forget()
        fresh, priced = self.catalogue.gpus(), self.catalogue.priced_models()
        products = {product for product in {*rates, *fresh} if rates.get(product) != fresh.get(product)}
        providers = {key[0] for key in {*models, *priced} if models.get(key) != priced.get(key)}
        services = {name for name, service in view.services.items() if service.provider in providers}
        self.gpu.recheck(products, services)
