"""What an LLMService's status says of the GPUs that its own pods hold."""

from typing import Annotated

from pydantic import Field

from llmwarden.api.v1alpha1.common import ATOMIC, Count, Model, Money, Short, first


class GpuStatus(Model):
    """GPUs that the service's pods held in the last 24 closed hours, and what that makes of its tokens."""

    hours: Short
    """GPU-hours, decimal."""
    cost: Money | None = None
    """What they cost, used or idle; absent where no rate is known."""
    idle_cost: Money | None = None
    """The part of the cost in which no call was in flight: no call pays it, and it is in no budget."""
    idle_percent: Count | None = None
    """Its share of the cost, whole percent rounded down."""
    input_per_million_tokens: Money | None = None
    """What a million input tokens cost now, by the last hour in which there were any."""
    output_per_million_tokens: Money | None = None
    """What a million output tokens cost now, likewise."""
    effective_per_million_tokens: Money | None = None
    """All that the GPUs cost, idle time included, by a million tokens of those hours."""
    unpriced_hours: Short | None = None
    """GPU-hours whose rate is not known: nothing of their hours is in a cost."""
    unpriced_products: Annotated[tuple[Short, ...], Field(max_length=16, json_schema_extra=ATOMIC), first(16)] = ()
    """GPUs held now that need a ModelPrice."""
    vanished_pods: Count | None = None
    """Pods whose end nobody saw, in the last 24 hours: they count until they were last seen."""
