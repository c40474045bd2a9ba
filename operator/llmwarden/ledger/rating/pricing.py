"""What a token costs: the platform's `ModelPrice` objects over the public price table (genai-prices).

Only the ledger imports genai-prices (12 MiB); proxies get resolved numbers. Everything is exact: a price becomes whole
picodollars per token from its Decimal. A published price finer than that (a few of OpenRouter's cache writes) is rounded
half to even, which is logged once; our own ModelPrice cannot say one (its schema allows six decimals per million tokens).

Long inputs, service tiers and batches are variants of a price (`wire.PriceVariant`); a tier that has none has no known
price. genai-prices' tiers begin above a number of input tokens, ours from one on: one more.

What this leaves out, and says so here:
- audio that was read from a cache counts as cached input; images, searches and units that are not tokens are not priced;
- GPU-hours (`ModelPrice` with `gpu`) are turned into prices of tokens elsewhere (`gpu.py`): here are their rates.

A price's id names its numbers by a hash of them: the same id always means the same price, whatever an object or the
table says later.
"""

import bisect
import datetime as dt
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from types import MappingProxyType
from typing import Any, Final

from genai_prices import data_snapshot

from llmwarden.api.v1alpha1 import ModelPrice
from llmwarden.contracts import ledger as wire
from llmwarden.domain import money, upstream
from llmwarden.domain import prices as dated_prices
from llmwarden.domain.cost import ORDINARY, Rates
from llmwarden.domain.prices import Resolved, price_id

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

# The table's name of each kind's price. Cached input and cache writes cost what input does unless said.
KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "input": "input_mtok",
        "output": "output_mtok",
        "cached_input": "cache_read_mtok",
        "cache_write": "cache_write_mtok",
        "cache_write_1h": "cache_write_1h_mtok",
        "reasoning": "output_reasoning_mtok",
        "input_audio": "input_audio_mtok",
        "output_audio": "output_audio_mtok",
    }
)
TIER_KEYS: Final = frozenset({"processing", "service_tier", "speed"})
"""What the table's request-specific prices hang on that a proxy can see; the value is our name of the tier."""

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
    for entry in model_price.spec.prices:
        if model_price.spec.models is not None:
            dated_prices.rates(entry)
        elif entry.per_gpu_hour is not None:
            money.parse(entry.per_gpu_hour)


def _whole(value: Decimal) -> tuple[int, bool]:
    whole = value.to_integral_value(rounding=ROUND_HALF_EVEN)
    return int(whole), whole != value


class Catalogue:
    """Resolves prices: overrides first, then the public table. Not thread-safe; pure but for its caches."""

    def __init__(self) -> None:
        self._overrides: dict[tuple[str, str], list[ModelPrice]] = {}  # by GenAI provider and model, first name first
        self._gpus: dict[str, list[list[tuple[float, int]]]] = {}  # by product, first name first: since when, how much
        self._contested: dict[str, tuple[str, ...]] = {}
        self._providers = {provider.id: provider for provider in data_snapshot.get_snapshot().providers}
        self._models: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._table_prices: dict[tuple[str, str, tuple[bool, ...]], Resolved | None] = {}
        self._rounded: set[str] = set()
        self._table_bounds = frozenset(
            _from(tier.start)
            for owner in TABLE_PROVIDERS.values()
            for model in self._providers[owner].models
            for prices in _all_prices(model)
            for value in vars(prices).values()
            for tier in getattr(value, "tiers", ())
        )
        self._bounds = tuple(sorted(self._table_bounds))

    @property
    def bounds(self) -> tuple[int, ...]:
        """Input tokens of one call from which some price changes, rising: `Config.context_bounds`."""
        return self._bounds

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
        contested = dated_prices.duplicates(model_prices)
        for model, objects in sorted(contested.items()):
            if self._contested.get(model) != objects:
                logger.warning(
                    "ModelPrices %s all price %s: of those that apply at a time, the first of these names says; "
                    "remove it from the others",
                    ", ".join(objects),
                    model,
                )
        self._contested = contested
        own = {
            variant.min_input_tokens
            for item in model_prices
            for entry in item.spec.prices
            for variant in entry.variants
            if variant.min_input_tokens
        }
        self._bounds = tuple(sorted(self._table_bounds | own))
        self._overrides, self._gpus = {}, {}
        for item in sorted(model_prices, key=lambda item: item.metadata.name):
            if item.spec.gpu is not None:
                rates = [(start.timestamp(), rate) for start, rate in dated_prices.gpu_hour_prices(item.spec.prices)]
                self._gpus.setdefault(item.spec.gpu.product, []).append(rates)
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

    def models(self) -> set[tuple[str, str]]:
        """Return every model that has or had a price, by GenAI provider."""
        table = {(name, model.id) for name, owner in TABLE_PROVIDERS.items() for model in self._providers[owner].models}
        return table | self._overrides.keys()

    def next_start(self, now: dt.datetime) -> dt.datetime | None:
        """Return when the next dated ModelPrice begins to apply."""
        changes = (
            dated_prices.next_change(item.spec.prices, now) for items in self._overrides.values() for item in items
        )
        return min((change for change in changes if change is not None), default=None)

    def resolve(self, provider: str, model: str, at: dt.datetime) -> Resolved | None:
        """Price of a model at a time; None where none is known then. `provider` is a GenAI provider name.

        How long it holds is not said: history is rated by this, bucket by bucket.
        """
        table, model, items = self._find(provider, model)
        found = _override(items, model, at)
        if found is None and table is not None:
            found = self._table_price(provider, table, at)
        return found

    def resolve_until(self, provider: str, model: str, at: dt.datetime) -> tuple[Resolved | None, dt.datetime | None]:
        """Price of a model at a time, and until when that answer holds, which a None may do, too."""
        table, model, items = self._find(provider, model)
        changes = [change for item in items if (change := dated_prices.next_change(item.spec.prices, at)) is not None]
        found = _override(items, model, at)
        if found is None and table is not None:
            changes += _table_changes(table, at)
            found = self._table_price(provider, table, at)
        until = min(changes, default=None)
        return (None if found is None else Resolved(found.price_id, found.rates, until)), until

    def gpu_hour(self, product: str, at: float) -> int | None:
        """Picodollars of an hour of a GPU at a time (seconds since the epoch), by the ModelPrices; None where none says."""
        for rates in self._gpus.get(product, ()):
            place = bisect.bisect_right(rates, at, key=lambda rate: rate[0])
            if place:
                return rates[place - 1][1]
        return None

    def gpus(self) -> dict[str, list[list[tuple[float, int]]]]:
        """Rates of GPUs by product: two answers are equal where nothing changed."""
        return dict(self._gpus)

    def priced_models(self) -> dict[tuple[str, str], list[tuple[dt.datetime, ...]]]:
        """From when on ModelPrices price models, by provider and model."""
        return {
            key: [tuple(entry.from_ for entry in item.spec.prices) for item in items]
            for key, items in self._overrides.items()
        }

    def overrides(self, provider: str, model: str, at: float) -> bool:
        """Whether a ModelPrice prices the tokens of a model at a time (seconds since the epoch)."""
        items = self._overrides.get(
            (provider, model)
        )  # most often there is none: asked for each quarter of an hour of months
        return items is not None and _override(items, model, dt.datetime.fromtimestamp(at, dt.UTC)) is not None

    def window(self, provider: str, model: str) -> int:
        """Return how many tokens a model can read in one call; 0 where the table does not say."""
        table = self._table_model(provider, _plain_name(model))
        return 0 if table is None else int(table.context_window or 0)

    def _find(self, provider: str, model: str) -> tuple[Any, str, list[ModelPrice]]:
        """Return the public table's model, the name that prices go by, and the ModelPrices that name it."""
        table = self._table_model(provider, _plain_name(model))
        items = self._overrides.get((provider, model), [])
        if not items and table is not None:
            # An alias or a dated name of a model that the platform has priced: the table knows that it is the same.
            model = table.id
            items = self._overrides.get((provider, model), [])
        return table, model, items

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
        # Which dated entries apply says all: a restart rates a hundred thousand buckets.
        key = (provider, table.id, tuple(constraint.active(at) for constraint in _constraints(table)))
        if key not in self._table_prices:
            if len(self._table_prices) >= MODELS_KEPT:
                self._table_prices.clear()
            self._table_prices[key] = self._read_table_price(provider, table, at)
        return self._table_prices[key]

    def _read_table_price(self, provider: str, table: Any, at: dt.datetime) -> Resolved | None:
        name = f"{provider}:{table.id}"
        standard = table.get_prices(at)
        plain = self._numbers(name, standard, 0)
        if plain is None:
            # Priced by the hour, the character or the picture, or by output alone: not by what we count.
            return None
        variants: list[wire.PriceVariant] = []
        # Tiers are a provider's own: a model that it only hosts (OpenAI's at Azure) may cost something else there.
        own = any(table is model for model in self._providers[TABLE_PROVIDERS[provider]].models)
        for tier, prices in [("", standard), *(_tiers(table, at) if own else ())]:
            for context in sorted({0, *_starts(prices)}):
                numbers = self._numbers(name, prices, context)
                if numbers is not None and (tier or context):
                    variants.append(wire.PriceVariant(context, tier, numbers))
        rates = Rates(plain, tuple(variants))
        return Resolved(price_id(f"genai-prices:{TABLE_PROVIDERS[provider]}:{table.id}", rates), rates)

    def _numbers(self, name: str, prices: Any, context: int) -> wire.Picodollars | None:
        """Prices of calls with at least `context` input tokens; None without a price of input."""
        found: dict[str, int | None] = {}
        for kind, field in KINDS.items():
            value = _value(getattr(prices, field), context)
            found[kind] = None if value is None else self._exact(name, kind, *per_token(value))
        plain, output = found["input"], found["output"]
        if plain is None:
            return None
        request = _value(prices.requests_kcount, context)
        return wire.Picodollars(
            input=plain,
            # An embedding model has no output, and so no price of it.
            output=output or 0,
            cached_input=plain if (cached := found["cached_input"]) is None else cached,
            cache_write=plain if (written := found["cache_write"]) is None else written,
            request=0 if request is None else self._exact(name, "request", *per_request(request / 1000)),
            cache_write_1h=found["cache_write_1h"],
            reasoning=found["reasoning"],
            input_audio=found["input_audio"],
            output_audio=found["output_audio"],
        )

    def _exact(self, name: str, kind: str, value: int, inexact: bool) -> int:  # noqa: FBT001 - as `_whole` gives it
        if inexact and f"{name}:{kind}" not in self._rounded:
            self._rounded.add(f"{name}:{kind}")
            logger.info("the public price of %s:%s is finer than a picodollar: rounded half to even", name, kind)
        return value


def _plain_name(model: str) -> str:
    """A model's name as the table knows it: Bedrock takes the ARN of an inference profile as well."""
    name = model.lower()
    return name.rpartition("/")[2] if name.startswith("arn:") else name


def _from(start: int) -> int:
    """The first number of input tokens to which a tier of the table applies: it begins above `start`."""
    return start + 1


def _starts(prices: Any) -> set[int]:
    return {_from(tier.start) for value in vars(prices).values() for tier in getattr(value, "tiers", ())}


def _value(price: Any, context: int) -> Decimal | None:
    """Price for calls with at least `context` input tokens, None where there is none."""
    value = getattr(price, "base", price)
    for tier in getattr(price, "tiers", ()):
        if _from(tier.start) <= context:
            value = tier.price
    return value if isinstance(value, Decimal) else None


def _all_prices(table: Any) -> list[Any]:
    standard = [table.prices] if not isinstance(table.prices, list) else [each.prices for each in table.prices]
    return [*standard, *(variant.prices for variant in table.price_variants or ())]


def _tiers(table: Any, at: dt.datetime) -> list[tuple[str, Any]]:
    """The table's service tiers of a model at a time, with their prices."""
    found: dict[str, Any] = {}
    for variant in table.price_variants or ():
        if variant.constraint is not None and not variant.constraint.active(at):
            continue
        if len(variant.when) == 1 and (key := next(iter(variant.when))) in TIER_KEYS:
            tier = str(variant.when[key])
            if tier not in ORDINARY and tier not in found:
                found[tier] = table.get_prices(at, dict(variant.when))
    return list(found.items())


def _override(items: Sequence[ModelPrice], model: str, at: dt.datetime) -> Resolved | None:
    """Price by the first of these ModelPrices that says one at a time."""
    if not items or items[0].spec.provider is None:
        return None
    return dated_prices.lookup(items, items[0].spec.provider, model, at)


def _constraints(table: Any) -> list[Any]:
    """From when, or at which hours, the table's prices of a model apply."""
    dated = table.prices if isinstance(table.prices, list) else []
    return [each.constraint for each in (*dated, *(table.price_variants or ())) if each.constraint is not None]


def _table_changes(table: Any, at: dt.datetime) -> list[dt.datetime]:
    """When the public table's price of a model may change next: dates that come, and hours of the day."""
    at = at.astimezone(dt.UTC)
    changes: list[dt.datetime] = []
    for constraint in _constraints(table):
        if hasattr(constraint, "start_date"):
            changes.append(dt.datetime.combine(constraint.start_date, dt.time(), dt.UTC))
            continue
        for clock in (constraint.start_time, constraint.end_time):
            aware = clock if clock.tzinfo else clock.replace(tzinfo=dt.UTC)
            today = dt.datetime.combine(at.date(), aware).astimezone(dt.UTC)
            changes += [today + dt.timedelta(days=days) for days in (-1, 0, 1, 2)]
    return [change for change in changes if change > at]
