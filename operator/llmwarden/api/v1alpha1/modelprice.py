"""ModelPrice: what a provider's models, or a GPU, cost from a point in time on. The platform's to say."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from llmwarden.api.v1alpha1.common import (
    ATOMIC,
    SET,
    BackendType,
    Conditions,
    Count,
    Metadata,
    Model,
    ModelName,
    RequestPrice,
    Status,
    UnitPrice,
    list_map,
    rule,
    rules,
    short_name,
)


class GpuPrice(Model):
    """A kind of GPU."""

    product: Annotated[str, Field(min_length=1, max_length=128)]
    """Its product name, as NVIDIA's node label `nvidia.com/gpu.product` has it, such as NVIDIA-H100-80GB-HBM3."""


class KindPrices(Model):
    """Prices of token kinds, in US dollars. A kind without one costs what the kind does that it is a part of."""

    input_per_million_tokens: UnitPrice | None = None
    """A million input tokens."""
    cached_input_per_million_tokens: UnitPrice | None = None
    """A million input tokens read from a cache; as input unless set."""
    cache_write_per_million_tokens: UnitPrice | None = None
    """A million input tokens written to a cache; as input unless set."""
    cache_write_1h_per_million_tokens: Annotated[UnitPrice | None, Field(alias="cacheWrite1hPerMillionTokens")] = None
    """A million input tokens written to a cache for an hour; as other cache writes unless set."""
    output_per_million_tokens: UnitPrice | None = None
    """A million output tokens, reasoning included unless it has a price of its own."""
    reasoning_per_million_tokens: UnitPrice | None = None
    """A million output tokens that are reasoning; as output unless set."""
    input_audio_per_million_tokens: UnitPrice | None = None
    """A million input tokens that are audio and not read from a cache; as input unless set."""
    output_audio_per_million_tokens: UnitPrice | None = None
    """A million output tokens that are audio; as output unless set."""
    per_request: RequestPrice | None = None
    """A call, on top of its tokens."""


class PriceVariant(KindPrices):
    """What calls cost instead that have a long input, or are served in a tier. What it leaves out costs what the entry says."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.minInputTokens) || has(self.tier)",
                "a variant needs minInputTokens, or tier, or both: otherwise it would replace the price itself",
            ),
        )
    )

    min_input_tokens: Annotated[int | None, Field(ge=1, le=100_000_000)] = None
    """From so many input tokens of one call on, cached ones included; it then holds for all tokens of the call."""
    tier: Annotated[str | None, Field(min_length=1, max_length=32)] = None
    """The service tier that the provider answers with, such as batch, flex or priority. Unset: ordinary calls."""


class PriceEntry(KindPrices):
    """Prices from a point in time on, in US dollars."""

    from_: Annotated[AwareDatetime, Field(alias="from")]
    """From when they apply; the newest that is past does."""
    per_gpu_hour: Annotated[UnitPrice | None, Field(alias="perGPUHour")] = None
    """An hour of one GPU."""
    batch_discount_percent: Annotated[int | None, Field(ge=1, le=100)] = None
    """By how many percent the tokens of batch calls are cheaper, with long inputs too."""
    variants: Annotated[
        tuple[PriceVariant, ...],
        Field(
            max_length=16,
            json_schema_extra=ATOMIC
            | rules(
                rule(
                    "self.all(v, self.exists_one(o, (has(o.tier) ? o.tier : '') == (has(v.tier) ? v.tier : '') && "
                    "(has(o.minInputTokens) ? o.minInputTokens : 0) == (has(v.minInputTokens) ? v.minInputTokens : 0)))",
                    "two variants have the same tier and minInputTokens: merge them",
                )
            ),
        ),
    ] = ()
    """Prices of long inputs and of service tiers. A tier that is not named has no known price: its tokens are uncosted."""


class ModelPriceSpec(Model):
    """What costs how much."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "(has(self.provider) || has(self.models)) != has(self.gpu)",
                "set exactly one of gpu, and provider with models",
            ),
            rule(
                "has(self.provider) == has(self.models)",
                "provider and models go together: set both",
            ),
            rule(
                "!has(self.models) || self.prices.all(p, has(p.inputPerMillionTokens) && has(p.outputPerMillionTokens) && !has(p.perGPUHour))",
                'every price of models needs inputPerMillionTokens and outputPerMillionTokens ("0" if it is free), and no perGPUHour',
                ".prices",
            ),
            rule(
                "self.prices.all(p, !has(p.batchDiscountPercent) || !has(p.variants) || !p.variants.exists(v, has(v.tier) && v.tier == 'batch'))",
                "a price may have batchDiscountPercent or a variant for the tier batch, but not both",
                ".prices",
            ),
            rule(
                "!has(self.gpu) || self.prices.all(p, has(p.perGPUHour) && !has(p.inputPerMillionTokens) && "
                "!has(p.cachedInputPerMillionTokens) && !has(p.cacheWritePerMillionTokens) && "
                "!has(p.cacheWrite1hPerMillionTokens) && !has(p.reasoningPerMillionTokens) && "
                "!has(p.inputAudioPerMillionTokens) && !has(p.outputAudioPerMillionTokens) && "
                "!has(p.outputPerMillionTokens) && !has(p.perRequest) && !has(p.batchDiscountPercent) && "
                "!has(p.variants))",
                "every price of a gpu needs perGPUHour, and nothing else",
                ".prices",
            ),
        )
    )

    provider: BackendType | None = None
    """Whose models."""
    models: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=64, json_schema_extra=SET)] | None = None
    """Their exact names."""
    gpu: GpuPrice | None = None
    """Prices the tokens of models that run on this GPU, by GPU-hours."""
    prices: Annotated[
        tuple[PriceEntry, ...],
        Field(
            min_length=1,
            max_length=64,
            json_schema_extra={
                **list_map("from"),
                **rules(
                    rule(
                        "self.all(p, self.exists_one(o, o.from == p.from))",
                        "two prices begin at the same time: give each its own from",
                    )
                ),
            },
        ),
    ]
    """The newest `from` that is past applies."""


class ModelPriceSummary(Model):
    """Figures as `kubectl get` shows them."""

    current: Annotated[str, Field(max_length=64)] | None = None
    """The price that applies now."""


class ModelPriceStatus(Status):
    """What is."""

    observed_generation: Count = 0
    """The generation of the spec that this status is of."""
    summary: ModelPriceSummary | None = None
    """Figures as `kubectl get` shows them."""
    conditions: Conditions = ()
    """What holds and what does not."""


class ModelPrice(Model):
    """What a provider's models, or a GPU, cost from a point in time on."""

    model_config = ConfigDict(json_schema_extra=rules(short_name()))

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["ModelPrice"] = "ModelPrice"
    metadata: Metadata
    spec: ModelPriceSpec
    status: ModelPriceStatus | None = None
