"""What a row of usage costs: decided here, and nowhere else. Status, budgets, `/v1/spend` and `kubectl llm cost` all come from it.

A row that has a price's id is rated by that price, for good, where the ledger handed it out for that very provider and model, and where it
has a price for the row's service tier. Any other row is rated at the start of its bucket by what is known now: by GPU-hours where those price
the model, else by the price tables. It is rated again whenever that changes. While nothing is known, its tokens are uncosted, never $0.

Rating is linear in the counters: what a report adds can be rated by itself.
"""

from collections.abc import Callable
from typing import NamedTuple

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.domain.cost import ORDINARY, Rates, cost, most_expensive
from llmwarden.ledger.store import Issued
from llmwarden.ledger.store.counts import Counts, negative

PriceOf = Callable[[Issued], Rates | None]
"""The rates of a price, None where the ledger never handed it out for this provider and model."""
LatePrice = Callable[[str, str, int], Rates | None]
"""The rates of (provider, model) at a time, in seconds since the epoch, as known now."""
GpuPrice = Callable[[str, str, str, int], wire.Picodollars | None]
"""What GPU-hours make of a service's (`namespace/name`) tokens of (provider, model) at a time; None where they do not price them."""
DearestPrice = Callable[[str, int], wire.Picodollars | None]
"""The most that any token of a provider costs at a time, in seconds since the epoch; None where no price is known."""


class LateKey(NamedTuple):
    """What counters without a usable price are rated by. `bucket` is in seconds since the epoch."""

    provider: str
    model: str
    bucket: int
    context: int
    tier: str

    @property
    def title(self) -> str:
        """The model, with the tier where that is what has no price."""
        return self.model if self.tier in ORDINARY else f"{self.model} ({self.tier})"


class Rating(NamedTuple):
    """What counters are rated by. `bound` is the most expensive price of the model where only its service tier has none."""

    price: wire.Picodollars | None
    bound: wire.Picodollars | None = None

    def picodollars(self, count: Counts) -> int:
        """Return what the counters cost; 0 while there is no price."""
        return rate(count, self.price) if self.price is not None else 0

    def uncosted(self, count: Counts) -> int:
        """Return how many input and output tokens of the counters have no price."""
        return count.budgeted_tokens if self.price is None else 0

    def assumed(self, count: Counts) -> int:
        """Return what uncosted tokens cost at most, in picodollars, where their model has a price: budgets count that."""
        return rate(count, self.bound) if self.price is None and self.bound is not None else 0


UNKNOWN = Rating(None)


def rate(count: Counts, price: wire.Picodollars) -> int:
    """Return the cost of counters in picodollars (`domain.cost` has the rules). What a correction takes off costs less than nothing."""
    taken_off = negative(count)
    if taken_off is not None:
        return -cost(taken_off, price, requests=taken_off.requests)
    return cost(count, price, requests=count.requests)


class Rater:
    """Rates rows. It asks the three sources each time, so a price that arrives counts at once."""

    def __init__(
        self,
        price_of: PriceOf,
        late_price: LatePrice,
        gpu_price: GpuPrice | None = None,
        dearest: DearestPrice | None = None,
    ) -> None:
        self._price_of = price_of
        self._late_price = late_price
        self._gpu_price = gpu_price
        self._dearest = dearest

    def own(self, issued: Issued | None, key: LateKey) -> wire.Picodollars | None:
        """Return the price that a row names; None if it names none, one that was never handed out, or one without the row's tier."""
        rates = self._handed_out(issued)
        return rates.at(key.context, key.tier) if rates is not None else None

    def late(self, service: str, key: LateKey, issued: Issued | None = None) -> Rating:
        """Rate what has no usable price of its own by what is known now. `issued`: the price that it names, whose tier has none."""
        if self._gpu_price is not None:
            price = self._gpu_price(service, key.provider, key.model, key.bucket)
            if price is not None:
                return Rating(price)
        if key.model == names.FOLDED:  # of which model it was is not known any more
            return Rating(None, self._dearest(key.provider, key.bucket) if self._dearest is not None else None)
        rates = self._late_price(key.provider, key.model, key.bucket)
        if rates is not None:
            price = rates.at(key.context, key.tier)
            return Rating(price) if price is not None else Rating(None, most_expensive(rates))
        handed_out = self._handed_out(issued)
        return Rating(None, most_expensive(handed_out)) if handed_out is not None else UNKNOWN

    def rating(self, service: str, issued: Issued | None, key: LateKey) -> Rating:
        """Rate a row of a service (`namespace/name`): by the price that it names, else by what is known now."""
        price = self.own(issued, key)
        return Rating(price) if price is not None else self.late(service, key, issued)

    def remembering(self) -> "Rater":
        """Return a rater that looks each late price up once: for one question, between whose rows nothing changes."""
        found: dict[tuple[str, str, int], Rates | None] = {}

        def late(provider: str, model: str, at: int) -> Rates | None:
            sought = (provider, model, at)
            if sought not in found:
                found[sought] = self._late_price(provider, model, at)
            return found[sought]

        return Rater(self._price_of, late, self._gpu_price, self._dearest)

    def _handed_out(self, issued: Issued | None) -> Rates | None:
        return self._price_of(issued) if issued is not None else None
