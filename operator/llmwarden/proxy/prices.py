"""What the ledger said that models cost, and what a call costs by it.

For metrics, spans and the gate: the ledger's own arithmetic is what was spent.
"""

import msgspec

from llmwarden.wire import Picodollars, Price, Tokens

_RETRY_SECONDS = 5.0  # after a question that the ledger did not answer
_ENTRIES = 1000


class Known(msgspec.Struct, frozen=True):
    """A ledger's answer: with `price_id` None, that it knows no price."""

    price_id: str | None
    picodollars: Picodollars | None


class _Slot(msgspec.Struct):
    known: Known | None = None
    generation: str = ""
    valid_until: float = 0.0  # 0: until the generation changes
    asked_at: float = 0.0


class PriceBook:
    """Prices by (service, model). Times are POSIX seconds."""

    def __init__(self) -> None:
        self._slots: dict[tuple[str, str], _Slot] = {}

    def get(self, service: str, model: str, generation: str, now: float) -> Known | None:
        """The price, or that there is none; None when the ledger has not said (for this generation)."""
        slot = self._slots.get((service, model))
        if slot is None or slot.known is None or slot.generation != generation:
            return None
        if slot.valid_until and now >= slot.valid_until:
            return None
        return slot.known

    def last(self, service: str, model: str) -> Known | None:
        """The last answer, fresh or not: better than none while a new one is on its way."""
        slot = self._slots.get((service, model))
        return slot.known if slot is not None else None

    def should_ask(self, service: str, model: str, now: float) -> bool:
        """Whether it is time to ask; notes that it was done."""
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
        """Keep an answer."""
        self._slots[service, model] = _Slot(
            known=Known(price.price_id, price.picodollars if price.price_id is not None else None),
            generation=generation,
            valid_until=price.valid_until.timestamp() if price.valid_until is not None else 0.0,
        )


def cost(price: Picodollars, tokens: Tokens) -> int:
    """Picodollars of one call (operator/ARCHITECTURE.md, Keys)."""
    plain = tokens.input - tokens.cached_input - tokens.cache_write
    return (
        plain * price.input
        + tokens.cached_input * price.cached_input
        + tokens.cache_write * price.cache_write
        + tokens.output * price.output
        + price.request
    )
