"""The ledger's prices: what a call costs by them, and what it can cost at most.

They serve the metrics, the spans and the gate. What was really spent is the ledger's sum, by the same arithmetic. A quote is fresh for one
generation of prices; that of another generation is only better than none.
"""

import msgspec

from llmwarden.contracts.ledger import Picodollars, Price, Tokens
from llmwarden.domain.cost import Rates, cost, most_expensive

_RETRY_SECONDS = 5.0  # after a question that the ledger did not answer
_ENTRIES = 1000


class Quote(msgspec.Struct, frozen=True):
    """The ledger's answer about a model's price. `window` is the model's context window in tokens, 0 where it is not known."""

    price_id: (
        str | None
    )  # None: the ledger knows no price; "": a provisional price, whose calls are reported without an id
    rates: Rates | None
    window: int = 0
    # The highest price of a token of input, a token of output and a request, whatever the context, the tier and the kind.
    highest: tuple[int, int, int] = (0, 0, 0)

    def cost(self, tokens: Tokens, tier: str) -> int | None:
        """Picodollars of one call; None where no price is known, or none for its tier."""
        rates = self.rates
        if rates is None:
            return None
        price = rates.picodollars if not tier and not rates.variants else rates.at(tokens.input, tier)
        return cost(tokens, price, requests=1) if price is not None else None

    def charge(self, tokens: Tokens, tier: str) -> int:
        """What budgets are charged: the cost; if only the call's tier has no price, the cost in the most expensive tier that has one."""
        exact = self.cost(tokens, tier)
        if exact is not None or self.rates is None:
            return exact or 0
        return cost(tokens, most_expensive(self.rates), requests=1)

    def at_most(self, tokens_in: int, tokens_out: int) -> int | None:
        """Picodollars that a call of so many tokens can cost at most; None where no price is known."""
        if self.rates is None:
            return None
        read, written, request = self.highest
        return tokens_in * read + tokens_out * written + request


class _Slot(msgspec.Struct):
    quote: Quote | None = None
    price: Price | None = None  # the answer that `quote` was made of
    generation: str = ""
    valid_until: float = 0.0  # 0: until the generation changes
    asked_at: float = 0.0


class PriceBook:
    """Prices by (service, model). Times are POSIX seconds."""

    def __init__(self) -> None:
        self._slots: dict[tuple[str, str], _Slot] = {}

    def get(self, service: str, model: str, generation: str, now: float) -> Quote | None:
        """The quote of this generation, which may say that there is no price; None while the ledger has not told."""
        slot = self._slots.get((service, model))
        if slot is None or slot.quote is None or slot.generation != generation:
            return None
        if slot.valid_until and now >= slot.valid_until:
            return None
        return slot.quote

    def last(self, service: str, model: str) -> Quote | None:
        """The last quote, fresh or not: better than none while a new one is on its way."""
        slot = self._slots.get((service, model))
        return slot.quote if slot is not None else None

    def should_ask(self, service: str, model: str, now: float) -> bool:
        """Whether it is time to ask the ledger; notes that it is asked now."""
        slot = self._slots.get((service, model))
        if slot is None:
            if len(self._slots) >= _ENTRIES:
                self._slots.pop(next(iter(self._slots)))
            slot = self._slots[service, model] = _Slot()
        elif abs(now - slot.asked_at) < _RETRY_SECONDS:
            return False
        slot.asked_at = now
        return True

    def put(self, service: str, model: str, generation: str, price: Price) -> None:
        """Keep the ledger's answer, of this generation of prices."""
        rates = None
        price_id = "" if price.provisional else price.price_id
        if price_id is not None and price.picodollars is not None:
            rates = Rates(price.picodollars, price.variants)
        self._slots[service, model] = _Slot(
            quote=Quote(price_id, rates, price.window, _highest(rates)),
            price=price,
            generation=generation,
            valid_until=price.valid_until.timestamp() if price.valid_until is not None else 0.0,
        )

    def newest(self, most: int) -> list[tuple[str, str, str, Price]]:
        """(service, model, generation, answer) of models that have a price: the newest, so many at most."""
        answers = [
            (service, model, slot.generation, slot.price)
            for (service, model), slot in self._slots.items()
            if slot.price is not None and slot.quote is not None and slot.quote.price_id is not None
        ]
        return answers[-most:]


def _highest(rates: Rates | None) -> tuple[int, int, int]:
    if rates is None:
        return 0, 0, 0
    prices: list[Picodollars] = [rates.picodollars, *(variant.picodollars for variant in rates.variants)]
    return (
        max(
            max(price.input, price.cached_input, price.cache_write, price.cache_write_1h or 0, price.input_audio or 0)
            for price in prices
        ),
        max(max(price.output, price.reasoning or 0, price.output_audio or 0) for price in prices),
        max(price.request for price in prices),
    )
