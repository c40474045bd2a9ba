"""Which of a ModelPrice's entries applies when, and what it says; what tokens cost at it is `cost.cost`.

Prices are `wire.Picodollars`: whole picodollars per token of each kind, and per request.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from llmwarden.api.v1alpha1.modelprice import ModelPrice, PriceEntry
from llmwarden.domain import money
from llmwarden.domain.cost import cost, counted
from llmwarden.errors import InvalidSpecError
from llmwarden.wire import Picodollars

__all__ = [
    "Resolved",
    "cost",
    "counted",
    "duplicates",
    "entry_at",
    "gpu_hour_price",
    "lookup",
    "next_change",
    "picodollars",
]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A price with its name (which changes when the price does) and the instant from which another entry applies."""

    price_id: str
    price: Picodollars
    valid_until: dt.datetime | None = None


def entry_at(entries: Iterable[PriceEntry], at: dt.datetime) -> PriceEntry | None:
    """Return the entry with the newest `from` that is not after `at`; None before the first."""
    past = [entry for entry in entries if entry.from_ <= at]
    return max(past, key=lambda entry: entry.from_, default=None)


def next_change(entries: Iterable[PriceEntry], at: dt.datetime) -> dt.datetime | None:
    """Return when another entry begins to apply; None when none will."""
    return min((entry.from_ for entry in entries if entry.from_ > at), default=None)


def picodollars(entry: PriceEntry) -> Picodollars:
    """Return the prices of an entry for a provider's models.

    Cached input and cache writes cost what input does unless set. Raises InvalidSpecError where a price is missing or malformed.
    """
    if entry.input_per_million_tokens is None or entry.output_per_million_tokens is None:
        message = "a price of models needs inputPerMillionTokens and outputPerMillionTokens"
        raise InvalidSpecError(message)
    plain = money.parse_per_million(entry.input_per_million_tokens)
    return Picodollars(
        input=plain,
        output=money.parse_per_million(entry.output_per_million_tokens),
        cached_input=plain
        if (text := entry.cached_input_per_million_tokens) is None
        else money.parse_per_million(text),
        cache_write=plain if (text := entry.cache_write_per_million_tokens) is None else money.parse_per_million(text),
        request=0 if entry.per_request is None else money.parse(entry.per_request),
    )


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
            price_id = f"ModelPrice:{model_price.metadata.name}:{model}@{start}/{_digest(picodollars(entry))}"
            return Resolved(price_id, picodollars(entry), next_change(spec.prices, at))
    return None


def duplicates(model_prices: Iterable[ModelPrice]) -> dict[str, tuple[str, ...]]:
    """Return, by `provider/model` that more than one ModelPrice names, their names in order; the first says what it costs."""
    named: dict[str, list[str]] = {}
    for model_price in sorted(model_prices, key=lambda item: item.metadata.name):
        for model in model_price.spec.models or ():
            named.setdefault(f"{model_price.spec.provider}/{model}", []).append(model_price.metadata.name)
    return {model: tuple(by) for model, by in named.items() if len(by) > 1}


def gpu_hour_price(model_prices: Iterable[ModelPrice], product: str, at: dt.datetime) -> int | None:
    """Return the picodollars of an hour of a GPU at an instant; None where no ModelPrice says."""
    for model_price in sorted(model_prices, key=lambda item: item.metadata.name):
        spec = model_price.spec
        if spec.gpu is None or spec.gpu.product != product:
            continue
        entry = entry_at(spec.prices, at)
        if entry is not None and entry.per_gpu_hour is not None:
            return money.parse(entry.per_gpu_hour)
    return None


def _digest(price: Picodollars) -> str:
    # In the id, so that an entry edited in place is another price: usage that was counted under the old one keeps it.
    return ".".join(
        f"{value:x}" for value in (price.input, price.cached_input, price.cache_write, price.output, price.request)
    )
