"""LLMBudget, shared by services of a namespace; ClusterLLMBudget, the platform's, over whole namespaces."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from llmwarden.api.v1alpha1.common import (
    BECOMES_A_LABEL,
    BUDGET_RULES,
    BudgetPolicy,
    Conditions,
    Count,
    LabelSelector,
    Metadata,
    Model,
    Short,
    Status,
    Time,
    cut,
    first,
    list_map,
    rules,
    short_name,
)
from llmwarden.contracts.ledger import BudgetState, Unit

_NAME = short_name(BECOMES_A_LABEL)


class LLMBudgetSpec(BudgetPolicy):
    """What is wanted."""

    model_config = ConfigDict(json_schema_extra=rules(*BUDGET_RULES))

    selector: LabelSelector
    """LLMServices of this namespace by their labels; an empty selector is all of them."""


class ClusterLLMBudgetSpec(BudgetPolicy):
    """What is wanted."""

    model_config = ConfigDict(json_schema_extra=rules(*BUDGET_RULES))

    namespace_selector: LabelSelector
    """Namespaces by their labels; an empty selector is all of them. Every LLMService in them counts."""


class SpentBy(Model):
    """What one service used of a shared budget."""

    service: Short
    """namespace/name."""
    spent: Short
    """Decimal, in the budget's unit."""


class SharedBudgetSummary(Model):
    """Figures as `kubectl get` shows them."""

    limit: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """How much may be spent in a window."""
    spent: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """What is spent in the present window."""
    used: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Share of the limit that is spent."""
    resets: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """When the present window ends."""


class SharedBudgetStatus(Status):
    """What is."""

    observed_generation: Count = 0
    """The generation of the spec that this status is of."""
    as_of: Time | None = None
    """When the figures were taken."""
    summary: SharedBudgetSummary | None = None
    """Figures as `kubectl get` shows them."""
    unit: Unit | None = None
    """USD or tokens."""
    limit: Short | None = None
    """Decimal, in `unit`."""
    spent: Short | None = None
    """Decimal, in `unit`."""
    remaining: Short | None = None
    """Decimal, in `unit`; never below zero."""
    used_percent: Count | None = None
    """Whole percent of the limit that is spent, rounded down."""
    state: BudgetState | None = None
    """Open, Warned or Exceeded."""
    window_start: Time | None = None
    """When the present window began."""
    resets_at: Time | None = None
    """When the present window ends."""
    forecast_exhausted_at: Time | None = None
    """When it will be used up at the present rate; absent where that is not in the present window."""
    services: Count | None = None
    """How many services share it."""
    top_services: Annotated[
        tuple[SpentBy, ...], Field(max_length=10, json_schema_extra=list_map("service")), first(10)
    ] = ()
    """Those that used most."""
    conditions: Conditions = ()
    """What holds and what does not."""


class LLMBudget(Model):
    """A budget shared by services of a namespace; the strictest budget wins."""

    model_config = ConfigDict(json_schema_extra=rules(_NAME))

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["LLMBudget"] = "LLMBudget"
    metadata: Metadata
    spec: LLMBudgetSpec
    status: SharedBudgetStatus | None = None


class ClusterLLMBudget(Model):
    """The platform's budget over whole namespaces, which no LLMService can loosen."""

    model_config = ConfigDict(json_schema_extra=rules(_NAME))

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["ClusterLLMBudget"] = "ClusterLLMBudget"
    metadata: Metadata
    spec: ClusterLLMBudgetSpec
    status: SharedBudgetStatus | None = None
