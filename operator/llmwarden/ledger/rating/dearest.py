"""What folded usage costs at most: the highest price of each kind over all models of a provider.

Beyond its quotas the ledger counts rows under `names.FOLDED` (`store.quotas`), and which model they were of is not known any more. Their
tokens are uncosted for people. A budget in dollars counts them at this price, so that many models are no way to pay less.
"""

import datetime as dt
from typing import Final

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.domain.cost import Rates, most_expensive
from llmwarden.ledger.rating.pricing import Catalogue

_DAY: Final = 86_400
_KEPT: Final = 200  # answers; a provider's price list of a day is one


class Dearest:
    """See the module. Prices are looked up as of the day's start."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._known: dict[tuple[str, int], wire.Picodollars | None] = {}

    def __call__(self, provider: str, at: int) -> wire.Picodollars | None:
        """Return the most that any token of a provider costs at a time (seconds since the epoch); None where no price is known.

        `names.FOLDED` is any provider.
        """
        place = (provider, at - at % _DAY)
        if place not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[place] = self._look(*place)
        return self._known[place]

    def forget(self) -> None:
        """Say that prices have changed."""
        self._known.clear()

    def _look(self, provider: str, at: int) -> wire.Picodollars | None:
        when = dt.datetime.fromtimestamp(at, dt.UTC)
        found = [
            most_expensive(resolved.rates)
            for owner, model in self._catalogue.models()
            if provider in {owner, names.FOLDED}
            and (resolved := self._catalogue.resolve(owner, model, when)) is not None
        ]
        if not found:
            return None
        variants = tuple(wire.PriceVariant(number, "", price) for number, price in enumerate(found[1:], 1))
        return most_expensive(Rates(found[0], variants))
