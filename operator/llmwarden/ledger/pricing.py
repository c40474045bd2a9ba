"""What a token costs: the platform's `ModelPrice` objects over the public price table (genai-prices).

Only the ledger imports genai-prices (12 MiB); proxies get resolved numbers. Everything is exact: a price becomes whole
picodollars per token from its Decimal. A published price finer than that (a few of OpenRouter's cache writes) is rounded
half to even, which is logged once; our own ModelPrice cannot say one (its schema allows six decimals per million tokens).

What this version of the table's use leaves out, and says so here:
- tiered prices (dearer beyond so many input tokens in one call) count at their base tier;
- cache writes count at the default lifetime's price (Anthropic's one-hour cache is dearer);
- audio, images, searches and other units that are not tokens of text are not priced;
- GPU-hours (`ModelPrice` with `gpu`) are not turned into a price of tokens: such models are uncosted.

A price's id names its numbers by a hash of them: the same id always means the same price, whatever an object or the
table says later.
"""

import datetime as dt
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from types import MappingProxyType
from typing import Any, Final

import msgspec
from genai_prices import data_snapshot

from llmwarden import wire
from llmwarden.api.v1alpha1 import ModelPrice
from llmwarden.domain import prices as dated_prices
from llmwarden.domain import upstream
from llmwarden.domain.prices import Resolved

logger = logging.getLogger(__name__)

# GenAI provider names (OpenTelemetry) -> ids of genai-prices. Exact on purpose: genai-prices' own matching of provider
# names takes anything that contains "openai" for OpenAI, self-hosted engines included.
TABLE_PROVIDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "openai": "openai",
        "azure.ai.openai": "azure",
        "azure.ai.inference": "azure",
        "anthropic": "anthropic",
        "aws.bedrock": "aws",
        "gcp.gemini": "google",
        "gcp.vertex_ai": "google",
        "gcp.gen_ai": "google",
        "cohere": "cohere",
        "deepseek": "deepseek",
        "groq": "groq",
        "mistral_ai": "mistral",
        "perplexity": "perplexity",
        "x_ai": "x-ai",
        "moonshot_ai": "moonshotai",
    }
)

MODELS_KEPT = 4096  # looked-up models; names come from outside and must not fill the memory
_PICODOLLARS_PER_DOLLAR_A_MILLION = 10**6
_PICODOLLARS = 10**12


def per_token(usd_per_million: Decimal) -> tuple[int, bool]:
    """Picodollars per token, and whether that had to be rounded (half to even)."""
    return _whole(usd_per_million * _PICODOLLARS_PER_DOLLAR_A_MILLION)


def per_request(usd: Decimal) -> tuple[int, bool]:
    """Picodollars per request, and whether that had to be rounded (half to even)."""
    return _whole(usd * _PICODOLLARS)


def check(model_price: ModelPrice) -> None:
    """Raise InvalidSpecError where one of a ModelPrice's prices is malformed."""
    if model_price.spec.models is not None:
        for entry in model_price.spec.prices:
            dated_prices.picodollars(entry)


def price_id(source: str, numbers: wire.Picodollars) -> str:
    """Name of a price: where it is from, and a hash of its numbers."""
    digest = hashlib.sha256(msgspec.json.encode(numbers)).hexdigest()
    return f"{source}@{digest[:12]}"


def _whole(value: Decimal) -> tuple[int, bool]:
    whole = value.to_integral_value(rounding=ROUND_HALF_EVEN)
    return int(whole), whole != value


class Catalogue:
    """Resolves prices: overrides first, then the public table. Not thread-safe; pure but for its caches."""

    def __init__(self) -> None:
        self._overrides: dict[tuple[str, str], list[ModelPrice]] = {}  # by GenAI provider and model, first name first
        self._contested: dict[str, tuple[str, ...]] = {}
        self._providers = {provider.id: provider for provider in data_snapshot.get_snapshot().providers}
        self._models: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._rounded: set[str] = set()

    @property
    def rounded(self) -> int:
        """How many published prices were rounded to whole picodollars so far."""
        return len(self._rounded)

    @property
    def contested(self) -> int:
        """For how many models there is more than one ModelPrice."""
        return len(self._contested)

    def override(self, model_prices: Sequence[ModelPrice]) -> None:
        """Use these ModelPrices from now on; they must be well-formed (`check`)."""
        contested = dated_prices.duplicates(item for item in model_prices if item.spec.models)
        for model, objects in sorted(contested.items()):
            if self._contested.get(model) != objects:
                logger.warning(
                    "ModelPrices %s all price %s: of those that apply at a time, the first of these names says; "
                    "remove the model from the others",
                    ", ".join(objects),
                    model,
                )
        self._contested = contested
        self._overrides = {}
        for item in sorted(model_prices, key=lambda item: item.metadata.name):
            if item.spec.provider is not None:
                provider = upstream.backend_provider(item.spec.provider)
                for model in item.spec.models or ():
                    self._overrides.setdefault((provider, model), []).append(item)

    def generation(self, provider: str, now: dt.datetime) -> str:
        """Return what changes whenever a price of this provider may have: by an edit, or by a date that has come."""
        digest = hashlib.sha256()
        for (owner, model), items in sorted(self._overrides.items(), key=lambda pair: pair[0]):
            if owner == provider:
                current = _override(items, model, now)
                digest.update(f"{model}\0{current.price_id if current else ''}\0".encode())
        return digest.hexdigest()[:16]

    def next_start(self, now: dt.datetime) -> dt.datetime | None:
        """Return when the next dated ModelPrice begins to apply."""
        changes = (
            dated_prices.next_change(item.spec.prices, now) for items in self._overrides.values() for item in items
        )
        return min((change for change in changes if change is not None), default=None)

    def resolve(self, provider: str, model: str, at: dt.datetime) -> Resolved | None:
        """Price of a model at a time; None where none is known then. `provider` is a GenAI provider name."""
        return self.resolve_until(provider, model, at)[0]

    def resolve_until(self, provider: str, model: str, at: dt.datetime) -> tuple[Resolved | None, dt.datetime | None]:
        """Price of a model at a time, and until when that answer holds, which a None may do, too."""
        table = self._table_model(provider, model.lower())
        items = self._overrides.get((provider, model), [])
        if not items and table is not None:
            # An alias or a dated name of a model that the platform has priced: the table knows that it is the same.
            model = table.id
            items = self._overrides.get((provider, model), [])
        changes = [change for item in items if (change := dated_prices.next_change(item.spec.prices, at)) is not None]
        found = _override(items, model, at)
        if found is None and table is not None:
            changes += _table_changes(table, at)
            found = self._table_price(provider, table, at)
        until = min(changes, default=None)
        return (None if found is None else Resolved(found.price_id, found.price, until)), until

    def _table_model(self, provider: str, model: str) -> Any:
        """Return the public table's model, None where it has none."""
        key = (provider, model)
        if key in self._models:
            self._models.move_to_end(key)
            return self._models[key]
        found = None
        owner = self._providers.get(TABLE_PROVIDERS.get(provider, ""))
        if owner is not None and model:
            found = owner.find_model(model, all_providers=[*self._providers.values()])
        self._models[key] = found
        if len(self._models) > MODELS_KEPT:
            self._models.popitem(last=False)
        return found

    def _table_price(self, provider: str, table: Any, at: dt.datetime) -> Resolved | None:
        prices = table.get_prices(at)
        plain = _base(prices.input_mtok)
        output = _base(prices.output_mtok)
        request = _base(prices.requests_kcount)
        if plain is None:
            # Priced by the hour, the character or the picture, or by output alone: not by what we count.
            return None
        cached, written = _base(prices.cache_read_mtok), _base(prices.cache_write_mtok)
        numbers = {
            "input": per_token(plain),
            # An embedding model has no output, and so no price of it.
            "output": per_token(Decimal(0) if output is None else output),
            "cached_input": per_token(plain if cached is None else cached),
            "cache_write": per_token(plain if written is None else written),
            "request": per_request(Decimal(0) if request is None else request / 1000),
        }
        for kind, (_, inexact) in numbers.items():
            name = f"{provider}:{table.id}:{kind}"
            if inexact and name not in self._rounded:
                self._rounded.add(name)
                logger.info("the public price of %s is finer than a picodollar a token: rounded half to even", name)
        price = wire.Picodollars(**{kind: value for kind, (value, _) in numbers.items()})
        return Resolved(price_id(f"genai-prices:{TABLE_PROVIDERS[provider]}:{table.id}", price), price)


def _base(price: Any) -> Decimal | None:
    """Price of the base tier, None where there is none."""
    value = getattr(price, "base", price)
    return value if isinstance(value, Decimal) else None


def _override(items: Sequence[ModelPrice], model: str, at: dt.datetime) -> Resolved | None:
    """Price by the first of these ModelPrices that says one at a time."""
    if not items or items[0].spec.provider is None:
        return None
    return dated_prices.lookup(items, items[0].spec.provider, model, at)


def _table_changes(table: Any, at: dt.datetime) -> list[dt.datetime]:
    """When the public table's price of a model may change next: dates that come, and hours of the day."""
    if not isinstance(table.prices, list):
        return []
    at = at.astimezone(dt.UTC)
    changes: list[dt.datetime] = []
    for conditional in table.prices:
        constraint = conditional.constraint
        if constraint is None:
            continue
        if hasattr(constraint, "start_date"):
            changes.append(dt.datetime.combine(constraint.start_date, dt.time(), dt.UTC))
            continue
        for clock in (constraint.start_time, constraint.end_time):
            aware = clock if clock.tzinfo else clock.replace(tzinfo=dt.UTC)
            today = dt.datetime.combine(at.date(), aware).astimezone(dt.UTC)
            changes += [today + dt.timedelta(days=days) for days in (-1, 0, 1, 2)]
    return [change for change in changes if change > at]
