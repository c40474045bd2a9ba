"""Which of a ModelPrice's entries applies when, and what it says; what tokens cost at it is `cost.cost`.

Prices are `wire.Picodollars`: whole picodollars per token of each kind, and per request.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from llmwarden.api.v1alpha1.modelprice import KindPrices, ModelPrice, PriceEntry
from llmwarden.contracts.ledger import Picodollars, PriceVariant
from llmwarden.domain import money
from llmwarden.domain.cost import Rates, bounds, cost, counted
from llmwarden.errors import InvalidSpecError

__all__ = [
    "BATCH",
    "Rates",
    "Resolved",
    "bounds",
    "cost",
    "counted",
    "duplicates",
    "entry_at",
    "gpu_hour_prices",
    "lookup",
    "next_change",
    "picodollars",
    "price_id",
    "rates",
]

BATCH: Final = "batch"  # the tier of calls through a provider's batch interface


@dataclass(frozen=True, slots=True)
class Resolved:
    """A price with its name (which changes when the price does) and the instant from which another entry applies."""

    price_id: str
    rates: Rates
    valid_until: dt.datetime | None = None

    @property
    def price(self) -> Picodollars:
        """The price of ordinary calls."""
        return self.rates.picodollars


def entry_at(entries: Iterable[PriceEntry], at: dt.datetime) -> PriceEntry | None:
    """Return the entry with the newest `from` that is not after `at`; None before the first."""
    past = [entry for entry in entries if entry.from_ <= at]
    return max(past, key=lambda entry: entry.from_, default=None)


def next_change(entries: Iterable[PriceEntry], at: dt.datetime) -> dt.datetime | None:
    """Return when another entry begins to apply; None when none will."""
    return min((entry.from_ for entry in entries if entry.from_ > at), default=None)


def picodollars(entry: PriceEntry) -> Picodollars:
    """Return the prices of an entry for ordinary calls of a provider's models.

    Cached input and cache writes cost what input does unless set. Raises InvalidSpecError where a price is missing or malformed.
    """
    if entry.input_per_million_tokens is None or entry.output_per_million_tokens is None:
        message = (
            'a price of models needs inputPerMillionTokens and outputPerMillionTokens: set both ("0" if it is free)'
        )
        raise InvalidSpecError(message)
    return _kinds(entry, entry)


def rates(entry: PriceEntry) -> Rates:
    """Return an entry's price whole: ordinary calls, and its variants. Raises InvalidSpecError where one is malformed."""
    plain = picodollars(entry)
    variants: dict[tuple[str, int], Picodollars] = {}
    for variant in entry.variants:
        key = (variant.tier or "", variant.min_input_tokens or 0)
        if key == ("", 0) or key in variants:
            message = (
                "two variants of a price have the same tier and minInputTokens, or one has neither: give each its own"
            )
            raise InvalidSpecError(message)
        variants[key] = _kinds(variant, entry)
    if entry.batch_discount_percent is not None:
        if any(tier == BATCH for tier, _ in variants):
            message = "a price may have batchDiscountPercent or a variant for tier batch, not both: remove one"
            raise InvalidSpecError(message)
        ordinary = {("", 0): plain, **{key: price for key, price in variants.items() if not key[0]}}
        for (_, context), price in ordinary.items():
            variants[BATCH, context] = _discounted(price, entry.batch_discount_percent)
    return Rates(plain, tuple(PriceVariant(context, tier, price) for (tier, context), price in _items(variants)))


def price_id(source: str, numbers: Rates) -> str:
    """Name of a price: where it is from, and a hash of its numbers. The same id always means the same price."""
    digest = hashlib.sha256(msgspec.json.encode(numbers)).hexdigest()
    return f"{source}@{digest[:12]}"


def lookup(model_prices: Iterable[ModelPrice], backend: str, model: str, at: dt.datetime) -> Resolved | None:
    """Return what a backend's model costs at an instant by the ModelPrices; None where none says.

    Where two name the same model, the first by name says: a stable choice that does not hang on the order of events.
    Raises InvalidSpecError where the price that applies is malformed.
    """
    for model_price in sorted(model_prices, key=lambda item: item.metadata.name):
        spec = model_price.spec
        if spec.provider != backend or spec.models is None or model not in spec.models:
            continue
        entry = entry_at(spec.prices, at)
        if entry is not None:
            start = entry.from_.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            picodollars = rates(entry)
            source = f"ModelPrice:{model_price.metadata.name}:{model}@{start}"
            return Resolved(price_id(source, picodollars), picodollars, next_change(spec.prices, at))
    return None


def duplicates(model_prices: Iterable[ModelPrice]) -> dict[str, tuple[str, ...]]:
    """Return, by `provider/model` (or GPU) that more than one ModelPrice names, their names in order; the first says what it costs."""
    named: dict[str, list[str]] = {}
    for model_price in sorted(model_prices, key=lambda item: item.metadata.name):
        spec = model_price.spec
        for model in spec.models or ():
            named.setdefault(f"{spec.provider}/{model}", []).append(model_price.metadata.name)
        if spec.gpu is not None:
            named.setdefault(f"GPU {spec.gpu.product}", []).append(model_price.metadata.name)
    return {model: tuple(by) for model, by in named.items() if len(by) > 1}


def gpu_hour_prices(entries: Iterable[PriceEntry]) -> list[tuple[dt.datetime, int]]:
    """Return since when an hour of a GPU costs how many picodollars, in order. Raises InvalidSpecError where one is malformed."""
    dated_prices = [
        (entry.from_, money.parse(entry.per_gpu_hour)) for entry in entries if entry.per_gpu_hour is not None
    ]
    return sorted(dated_prices)


def _items(variants: dict[tuple[str, int], Picodollars]) -> list[tuple[tuple[str, int], Picodollars]]:
    return [(key, variants[key]) for key in sorted(variants)]


def _kinds(own: KindPrices, entry: KindPrices) -> Picodollars:
    """Prices of `own`; what it leaves out is `entry`'s."""

    def each(name: str) -> int | None:
        text = getattr(own, name) if getattr(own, name) is not None else getattr(entry, name)
        return None if text is None else money.parse_per_million(text)

    plain = each("input_per_million_tokens") or 0
    cached, written = each("cached_input_per_million_tokens"), each("cache_write_per_million_tokens")
    request = own.per_request if own.per_request is not None else entry.per_request
    return Picodollars(
        input=plain,
        output=each("output_per_million_tokens") or 0,
        cached_input=plain if cached is None else cached,
        cache_write=plain if written is None else written,
        request=0 if request is None else money.parse(request),
        cache_write_1h=each("cache_write_1h_per_million_tokens"),
        reasoning=each("reasoning_per_million_tokens"),
        input_audio=each("input_audio_per_million_tokens"),
        output_audio=each("output_audio_per_million_tokens"),
    )


def _discounted(price: Picodollars, percent: int) -> Picodollars:
    """Tokens at so many percent less, rounded half to even where that is no whole picodollar; the price of a call stays."""

    def less(value: int) -> int:
        whole, rest = divmod(value * (100 - percent), 100)
        return whole + (rest > 50 or (rest == 50 and whole % 2))  # noqa: PLR2004 - half of 100

    reduced = {
        name: less(value)
        for name, value in msgspec.structs.asdict(price).items()
        if value is not None and name != "request"
    }
    return msgspec.structs.replace(price, **reduced)
