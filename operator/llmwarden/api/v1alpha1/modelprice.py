"""ModelPrice: what a provider's models, or a GPU, cost from a point in time. The platform team writes it."""

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
    """A product of GPU."""

    product: Annotated[str, Field(min_length=1, max_length=128)]
    """Product name of the GPU, as in the node label `nvidia.com/gpu.product`. Required. Example:
    `NVIDIA-H100-80GB-HBM3`.
    """


class KindPrices(Model):
    """Prices by kind of token, in US dollars. A kind without a price costs as much as the kind that it is a part of."""

    input_per_million_tokens: UnitPrice | None = None
    """US dollars for a million input tokens, in quotes. Required in a price of models. Default: none. Example:
    `"0.12"`.
    """
    cached_input_per_million_tokens: UnitPrice | None = None
    """US dollars for a million input tokens read from a cache, in quotes. Default: as inputPerMillionTokens. Example:
    `"0.06"`.
    """
    cache_write_per_million_tokens: UnitPrice | None = None
    """US dollars for a million input tokens written to a cache, in quotes. Default: as inputPerMillionTokens. Example:
    `"0.15"`.
    """
    cache_write_1h_per_million_tokens: Annotated[UnitPrice | None, Field(alias="cacheWrite1hPerMillionTokens")] = None
    """US dollars for a million input tokens written to a cache for one hour, in quotes. Default: as
    cacheWritePerMillionTokens. Example: `"0.24"`.
    """
    output_per_million_tokens: UnitPrice | None = None
    """US dollars for a million output tokens, in quotes. Required in a price of models. Default: none. Example:
    `"0.48"`.
    """
    reasoning_per_million_tokens: UnitPrice | None = None
    """US dollars for a million output tokens that are reasoning, in quotes. Default: as outputPerMillionTokens.
    Example: `"0.48"`.
    """
    input_audio_per_million_tokens: UnitPrice | None = None
    """US dollars for a million input tokens that are audio and not read from a cache, in quotes. Default: as
    inputPerMillionTokens. Example: `"10.00"`.
    """
    output_audio_per_million_tokens: UnitPrice | None = None
    """US dollars for a million output tokens that are audio, in quotes. Default: as outputPerMillionTokens. Example:
    `"20.00"`.
    """
    per_request: RequestPrice | None = None
    """US dollars for a call, in addition to its tokens, in quotes. Default: none. Example: `"0.0001"`."""


class PriceVariant(KindPrices):
    """Other prices for calls with a long input, or for a service tier.

    A kind of token without a price here costs what the price entry says.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.minInputTokens) || has(self.tier)",
                "a variant needs minInputTokens, tier or both: add one, or set the price in the entry itself",
            ),
        )
    )

    min_input_tokens: Annotated[int | None, Field(ge=1, le=100_000_000)] = None
    """Number of input tokens, cached ones included, from which a call costs these prices, for all of its tokens.
    Default: none, so that the length does not matter. Example: `200001`.
    """
    tier: Annotated[str | None, Field(min_length=1, max_length=32)] = None
    """Service tier that the provider names in its answer, such as batch, flex or priority. Default: none, which is
    ordinary calls. Example: `priority`.
    """


class PriceEntry(KindPrices):
    """Prices from a point in time, in US dollars."""

    from_: Annotated[AwareDatetime, Field(alias="from")]
    """When these prices begin to apply (RFC 3339). If several have started, the newest applies. Required.
    Example: `"2026-01-01T00:00:00Z"`.
    """
    per_gpu_hour: Annotated[UnitPrice | None, Field(alias="perGPUHour")] = None
    """US dollars for one hour of one GPU, in quotes. Required in a price of a gpu, not allowed in a price of models.
    Default: none. Example: `"2.50"`.
    """
    batch_discount_percent: Annotated[int | None, Field(ge=1, le=100)] = None
    """By how many percent the tokens of batch calls are cheaper, also for long inputs. Default: none. Example: `50`."""
    variants: Annotated[
        tuple[PriceVariant, ...],
        Field(
            max_length=16,
            json_schema_extra=ATOMIC
            | rules(
                rule(
                    "self.all(v, self.exists_one(o, (has(o.tier) ? o.tier : '') == (has(v.tier) ? v.tier : '') && "
                    "(has(o.minInputTokens) ? o.minInputTokens : 0) == (has(v.minInputTokens) ? v.minInputTokens : 0)))",
                    "two variants have the same tier and minInputTokens: merge them into one",
                )
            ),
        ),
    ] = ()
    """Prices of long inputs and of service tiers. Set it where the provider charges them differently; calls in a tier
    that is not listed have no known price. Default: none.
    """


class ModelPriceSpec(Model):
    """The desired state: what the price is for, and what it is from when."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "(has(self.provider) || has(self.models)) != has(self.gpu)",
                "set either gpu, or provider and models: remove one, or add the missing one",
            ),
            rule(
                "has(self.provider) == has(self.models)",
                "provider and models are only allowed together: set both",
            ),
            rule(
                "!has(self.models) || self.prices.all(p, has(p.inputPerMillionTokens) && has(p.outputPerMillionTokens) && !has(p.perGPUHour))",
                'every price of models needs inputPerMillionTokens and outputPerMillionTokens ("0" if it is free), and no perGPUHour',
                ".prices",
            ),
            rule(
                "self.prices.all(p, !has(p.batchDiscountPercent) || !has(p.variants) || !p.variants.exists(v, has(v.tier) && v.tier == 'batch'))",
                "a price may have batchDiscountPercent or a variant for tier batch, not both: remove one",
                ".prices",
            ),
            rule(
                "!has(self.gpu) || self.prices.all(p, has(p.perGPUHour) && !has(p.inputPerMillionTokens) && "
                "!has(p.cachedInputPerMillionTokens) && !has(p.cacheWritePerMillionTokens) && "
                "!has(p.cacheWrite1hPerMillionTokens) && !has(p.reasoningPerMillionTokens) && "
                "!has(p.inputAudioPerMillionTokens) && !has(p.outputAudioPerMillionTokens) && "
                "!has(p.outputPerMillionTokens) && !has(p.perRequest) && !has(p.batchDiscountPercent) && "
                "!has(p.variants))",
                "every price of a gpu needs perGPUHour and no other price: set perGPUHour and remove the others",
                ".prices",
            ),
        )
    )

    provider: BackendType | None = None
    """Provider of the models. Set provider with models, or gpu. Default: none. Example: `OpenAI`."""
    models: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=64, json_schema_extra=SET)] | None = None
    """Exact names of the models that have these prices. Set provider with models, or gpu. Default: none. Example:
    `[gpt-4o-mini, gpt-4o-mini-2024-07-18]`.
    """
    gpu: GpuPrice | None = None
    """GPU whose hours are priced. Set it for models that run on your own GPUs: their tokens cost a share of the
    GPU-hours. Default: none.
    """
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
    """Prices, each from a point in time. The newest whose `from` has passed applies. Required."""


class ModelPriceSummary(Model):
    """Figures in the form that `kubectl get` shows."""

    current: Annotated[str, Field(max_length=64)] | None = None
    """The price that applies now. Absent if no price has started yet. Example: `in $0.10 out $0.40 per 1M`."""


class ModelPriceStatus(Status):
    """The observed state. Only the operator writes it."""

    observed_generation: Count = 0
    """The metadata.generation of the spec that this status describes."""
    summary: ModelPriceSummary | None = None
    """Figures in the form that `kubectl get` shows."""
    conditions: Conditions = ()
    """Kubernetes conditions, such as Ready, with a reason and a remedy where one does not hold."""


class ModelPrice(Model):
    """What a provider's models, or a GPU, cost from a point in time."""

    model_config = ConfigDict(json_schema_extra=rules(short_name()))

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["ModelPrice"] = "ModelPrice"
    metadata: Metadata
    spec: ModelPriceSpec
    status: ModelPriceStatus | None = None
