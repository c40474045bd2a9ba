"""ModelPrice: what a provider's models, or a GPU, cost from a point in time on. The platform's to say."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from llmwarden.api.v1alpha1.common import (
    SET,
    BackendType,
    Conditions,
    Count,
    Metadata,
    Model,
    ModelName,
    RequestPrice,
    UnitPrice,
    list_map,
    rule,
    rules,
)


class GpuPrice(Model):
    """A kind of GPU."""

    product: Annotated[str, Field(min_length=1, max_length=128)]
    """Its product name, as NVIDIA's node label `nvidia.com/gpu.product` has it, such as NVIDIA-H100-80GB-HBM3."""


class PriceEntry(Model):
    """Prices from a point in time on, in US dollars."""

    from_: Annotated[AwareDatetime, Field(alias="from")]
    """From when they apply; the newest that is past does."""
    input_per_million_tokens: UnitPrice | None = None
    """A million input tokens."""
    cached_input_per_million_tokens: UnitPrice | None = None
    """A million input tokens read from a cache; as input unless set."""
    cache_write_per_million_tokens: UnitPrice | None = None
    """A million input tokens written to a cache; as input unless set."""
    output_per_million_tokens: UnitPrice | None = None
    """A million output tokens, reasoning included."""
    per_request: RequestPrice | None = None
    """A call, on top of its tokens."""
    per_gpu_hour: Annotated[UnitPrice | None, Field(alias="perGPUHour")] = None
    """An hour of one GPU."""


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
                "!has(self.gpu) || self.prices.all(p, has(p.perGPUHour) && !has(p.inputPerMillionTokens) && "
                "!has(p.cachedInputPerMillionTokens) && !has(p.cacheWritePerMillionTokens) && "
                "!has(p.outputPerMillionTokens) && !has(p.perRequest))",
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


class ModelPriceStatus(Model):
    """What is."""

    observed_generation: Count = 0
    """The generation of the spec that this status is of."""
    summary: ModelPriceSummary | None = None
    """Figures as `kubectl get` shows them."""
    conditions: Conditions = ()
    """What holds and what does not."""


class ModelPrice(Model):
    """What a provider's models, or a GPU, cost from a point in time on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.metadata.name.size() <= 63",
                "metadata.name must have at most 63 characters: choose a shorter name",
            )
        )
    )

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["ModelPrice"] = "ModelPrice"
    metadata: Metadata
    spec: ModelPriceSpec
    status: ModelPriceStatus | None = None
