"""LLMBudget, which services of a namespace share, and ClusterLLMBudget, which whole namespaces share."""

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
    """The desired state: which services share the budget, its limit and what happens at the limit."""

    model_config = ConfigDict(json_schema_extra=rules(*BUDGET_RULES))

    selector: LabelSelector
    """Labels of the LLMServices in this namespace that share the budget; an empty selector selects all of them.
    Required.
    """


class ClusterLLMBudgetSpec(BudgetPolicy):
    """The desired state: which namespaces share the budget, its limit and what happens at the limit."""

    model_config = ConfigDict(json_schema_extra=rules(*BUDGET_RULES))

    namespace_selector: LabelSelector
    """Labels of the namespaces whose LLMServices all share the budget; an empty selector selects all namespaces.
    Required.
    """


class SpentBy(Model):
    """What one service used of a shared budget."""

    service: Short
    """Namespace and name of the service. Example: `shop/support-bot`."""
    spent: Short
    """What the service used in the present window, as a decimal number in the budget's unit. Example: `8.10`."""


class SharedBudgetSummary(Model):
    """Figures in the form that `kubectl get` shows."""

    limit: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """How much may be used in one window. Example: `$1,000.00`."""
    spent: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """How much is used in the present window. Absent before the first figures. Example: `$830.00`."""
    used: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Share of the limit that is used. Absent before the first figures. Example: `83%`."""
    resets: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """When the present window ends. Absent before the first figures. Example: `2026-12-01T00:00Z`."""


class SharedBudgetStatus(Status):
    """The observed state. Only the operator writes it."""

    observed_generation: Count = 0
    """The metadata.generation of the spec that this status describes."""
    as_of: Time | None = None
    """When the figures were taken. Absent before the first figures."""
    summary: SharedBudgetSummary | None = None
    """Figures in the form that `kubectl get` shows."""
    unit: Unit | None = None
    """Unit of the figures: USD or tokens. Absent before the first figures."""
    limit: Short | None = None
    """How much may be used in one window, as a decimal number in `unit`. Example: `1000.00`."""
    spent: Short | None = None
    """How much all services together used in the present window, as a decimal number in `unit`. Absent before the first
    figures. Example: `830.00`.
    """
    remaining: Short | None = None
    """What is left of the limit, as a decimal number in `unit`; never below zero. Absent before the first figures.
    Example: `170.00`.
    """
    used_percent: Count | None = None
    """Share of the limit that is used, in whole percent rounded down. Absent before the first figures. Example: `83`.
    """
    state: BudgetState | None = None
    """Open (nothing reached), Warned (a percentage in warnAtPercent is reached) or Exceeded (the limit is reached).
    Absent before the first figures.
    """
    window_start: Time | None = None
    """When the present window began. Absent where it is unknown."""
    resets_at: Time | None = None
    """When the present window ends; a rolling window moves on by 15 minutes then. Absent before the first figures."""
    forecast_exhausted_at: Time | None = None
    """When the budget will be used up at the present rate. Absent where that is not within the present window."""
    services: Count | None = None
    """Number of services that share the budget. Absent before the first figures."""
    top_services: Annotated[
        tuple[SpentBy, ...], Field(max_length=10, json_schema_extra=list_map("service")), first(10)
    ] = ()
    """The services that used most, at most ten."""
    conditions: Conditions = ()
    """Kubernetes conditions, such as Ready, with a reason and a remedy where one does not hold."""


class LLMBudget(Model):
    """A budget that LLMServices of one namespace share. If several budgets apply to a call, the strictest wins."""

    model_config = ConfigDict(json_schema_extra=rules(_NAME))

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["LLMBudget"] = "LLMBudget"
    metadata: Metadata
    spec: LLMBudgetSpec
    status: SharedBudgetStatus | None = None


class ClusterLLMBudget(Model):
    """A budget of the platform that whole namespaces share. No LLMService can loosen it."""

    model_config = ConfigDict(json_schema_extra=rules(_NAME))

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["ClusterLLMBudget"] = "ClusterLLMBudget"
    metadata: Metadata
    spec: ClusterLLMBudgetSpec
    status: SharedBudgetStatus | None = None
