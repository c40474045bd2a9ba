"""The part of an LLMService's status about the GPUs that its own pods hold."""

from typing import Annotated

from pydantic import Field

from llmwarden.api.v1alpha1.common import ATOMIC, Count, Model, Money, Short, first


class GpuStatus(Model):
    """GPUs that the service's pods held in the last 24 full hours, and the resulting cost of tokens."""

    hours: Short
    """GPU-hours, as a decimal number. Example: `47.5`."""
    cost: Money | None = None
    """Cost of the GPUs in US dollars, in use or idle. Absent where no price is known."""
    idle_cost: Money | None = None
    """Part of `cost` in which no call was in progress. It is charged to no call and to no budget. Absent where no price
    is known.
    """
    idle_percent: Count | None = None
    """Share of `idleCost` in `cost`, in whole percent rounded down. Absent where no price is known. Example: `35`."""
    input_per_million_tokens: Money | None = None
    """Present cost of a million input tokens in US dollars, from the last hour with calls. Absent where there was none.
    """
    output_per_million_tokens: Money | None = None
    """Present cost of a million output tokens in US dollars, from the last hour with calls. Absent where there was
    none.
    """
    effective_per_million_tokens: Money | None = None
    """Whole cost of the GPUs, idle time included, divided by the tokens of these hours, in US dollars a million. Absent
    where there were no tokens or no price.
    """
    unpriced_hours: Short | None = None
    """GPU-hours without a known price, as a decimal number; no cost includes them. Absent where there are none."""
    unpriced_products: Annotated[tuple[Short, ...], Field(max_length=16, json_schema_extra=ATOMIC), first(16)] = ()
    """Products of the GPUs that are held now and need a ModelPrice. Example: `[NVIDIA-H100-80GB-HBM3]`."""
    vanished_pods: Count | None = None
    """Number of pods in the last 24 hours whose end was not seen; they count until they were last seen. Absent where
    there are none.
    """
