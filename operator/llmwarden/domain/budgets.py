"""A budget as one value, whichever kind it comes from; its state, and when it will be used up.

Amounts are whole picodollars or tokens, as `unit` says. A budget is keyed by names, so deleting and recreating it resets nothing.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from llmwarden.api.v1alpha1.common import Admit, BudgetPolicy, BudgetScope, Limit
from llmwarden.api.v1alpha1.llmbudget import ClusterLLMBudget, LLMBudget
from llmwarden.api.v1alpha1.llmservice import LLMService
from llmwarden.contracts.ledger import BudgetAction, BudgetState, Unit
from llmwarden.domain import money, selectors, windows
from llmwarden.errors import InvalidSpecError

_FARTHEST = 366 * 86400  # seconds; a forecast beyond a year says nothing


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget. `namespace` is empty for a ClusterLLMBudget; `name` is its name within the scope.

    `limit` and `ceiling` are in `unit` (picodollars or tokens); `warn_at` are whole percentages, rising.
    """

    key: str
    scope: BudgetScope
    namespace: str
    name: str
    unit: Unit
    limit: int
    window: windows.Window
    warn_at: tuple[int, ...]
    action: BudgetAction
    on_unknown_price: Admit
    on_ledger_loss: Admit
    fallback_model: str | None = None
    ceiling: int | None = None


def service_key(namespace: str, service: str, budget: str) -> str:
    """Return the key of an LLMService's budget."""
    return f"LLMService/{namespace}/{service}/{budget}"


def namespace_key(namespace: str, name: str) -> str:
    """Return the key of an LLMBudget."""
    return f"LLMBudget/{namespace}/{name}"


def cluster_key(name: str) -> str:
    """Return the key of a ClusterLLMBudget."""
    return f"ClusterLLMBudget/{name}"


def split_key(key: str) -> tuple[BudgetScope, str, str, str]:
    """Return scope, namespace, service and name of a key; what the scope does not have is empty.

    Raises ValueError when it is no key.
    """
    match key.split("/"):
        case ["LLMService", namespace, service, name]:
            return "LLMService", namespace, service, name
        case ["LLMBudget", namespace, name]:
            return "LLMBudget", namespace, "", name
        case ["ClusterLLMBudget", name]:
            return "ClusterLLMBudget", "", "", name
    message = f"{key!r} is not a budget's key"
    raise ValueError(message)


def of_service(service: LLMService) -> tuple[Budget, ...]:
    """Return the service's own budgets. Raises InvalidSpecError, naming the budget, where one can never work."""
    namespace, name = service.metadata.namespace, service.metadata.name
    return tuple(
        _budget(budget, service_key(namespace, name, budget.name), "LLMService", namespace, budget.name)
        for budget in service.spec.budgets
    )


def of_service_readable(service: LLMService) -> tuple[Budget, ...]:
    """Return those of the service's own budgets that can work; its conditions name the others."""
    good: list[Budget] = []
    for budget in service.spec.budgets:
        with suppress(InvalidSpecError):
            good += of_service(service.replace(spec=service.spec.replace(budgets=(budget,))))
    return tuple(good)


def of_namespace(budget: LLMBudget) -> Budget:
    """Return the budget. Raises InvalidSpecError where it can never work."""
    namespace, name = budget.metadata.namespace, budget.metadata.name
    return _budget(budget.spec, namespace_key(namespace, name), "LLMBudget", namespace, name)


def of_cluster(budget: ClusterLLMBudget) -> Budget:
    """Return the budget. Raises InvalidSpecError where it can never work."""
    name = budget.metadata.name
    return _budget(budget.spec, cluster_key(name), "ClusterLLMBudget", "", name)


def namespace_applies(budget: LLMBudget, service: LLMService) -> bool:
    """Whether an LLMBudget holds for a service: same namespace, and its labels match."""
    return budget.metadata.namespace == service.metadata.namespace and selectors.matches(
        budget.spec.selector, service.metadata.labels
    )


def cluster_applies(budget: ClusterLLMBudget, namespace_labels: Mapping[str, str]) -> bool:
    """Whether a ClusterLLMBudget holds for the services of a namespace with these labels."""
    return selectors.matches(budget.spec.namespace_selector, namespace_labels)


def stops_without_ledger(budget: Budget) -> bool:
    """Whether calls must be refused while the ledger does not answer: `onLedgerLoss: Deny`, of a budget that does more than alert."""
    return budget.on_ledger_loss == "Deny" and budget.action != "Alert"


def matters_without_ledger(budget: Budget) -> bool:
    """Whether a proxy must know of the budget before the ledger has ever answered."""
    return stops_without_ledger(budget)


def state(limit: int, spent: int, warn_at: Iterable[int] = ()) -> BudgetState:
    """Return Exceeded once all of the limit is spent, Warned from the first warning percentage on, else Open."""
    if spent >= limit:
        return "Exceeded"
    if any(spent * 100 >= percent * limit for percent in warn_at):
        return "Warned"
    return "Open"


def newly_reached(warn_at: Iterable[int], before: int, now: int) -> tuple[int, ...]:
    """Return the warning percentages, rising, that are reached at `now` percent and were not at `before` percent."""
    return tuple(percent for percent in sorted(set(warn_at)) if before < percent <= now)


def used_percent(limit: int, spent: int) -> int:
    """Return the whole percent of the limit that is spent, rounded down: 100 means that nothing is left. May exceed 100."""
    return max(0, spent) * 100 // limit


def forecast_exhausted_at(
    *, limit: int, spent: int, recent: int, recent_seconds: int, now: dt.datetime, ends: dt.datetime | None
) -> dt.datetime | None:
    """Return when a budget will be used up if spending goes on as in the recent past; None where it will not.

    Linear: what remains, at the rate of `recent` in the last `recent_seconds` (the last hour, say), rounded up to whole seconds. None
    when nothing was spent recently, or when the window `ends` first. `now` when it is used up already. For a rolling
    window give `ends=None`: what leaves the window is not counted, so the forecast is early rather than late.
    """
    if spent >= limit:
        return now
    if recent <= 0 or recent_seconds <= 0:
        return None
    seconds = -((limit - spent) * recent_seconds // -recent)
    if ends is not None and seconds >= (ends - now).total_seconds():
        return None
    if seconds > _FARTHEST:
        return None
    return now + dt.timedelta(seconds=seconds)


def decimal(unit: Unit, value: int) -> str:
    """Return the exact text of a status: "25.00" for picodollars, "5000000" for tokens."""
    return money.to_decimal(value) if unit == "USD" else str(value)


def _budget(policy: BudgetPolicy, key: str, scope: BudgetScope, namespace: str, name: str) -> Budget:
    try:
        unit, limit = _amount(policy.limit)
        ceiling = _ceiling(policy, unit, limit)
        window = windows.from_spec(policy.window)
    except InvalidSpecError as error:
        message = f"budget {key}: {error}"
        raise InvalidSpecError(message) from error
    action = policy.on_exceeded.action
    return Budget(
        key=key,
        scope=scope,
        namespace=namespace,
        name=name,
        unit=unit,
        limit=limit,
        window=window,
        warn_at=tuple(sorted(set(policy.warn_at_percent))),
        action=action,
        # A budget that blocks would be walked around by a model without a price.
        on_unknown_price=policy.on_unknown_price or ("Deny" if action == "Block" else "Allow"),
        on_ledger_loss=policy.on_ledger_loss,
        fallback_model=policy.on_exceeded.model,
        ceiling=ceiling,
    )


def _ceiling(policy: BudgetPolicy, unit: Unit, limit: int) -> int | None:
    exceeded = policy.on_exceeded
    if exceeded.action == "Fallback" and exceeded.model is None:
        message = "onExceeded.model is required with action Fallback: name the cheaper model that calls are sent to"
        raise InvalidSpecError(message)
    if exceeded.ceiling is None:
        return None
    ceiling_unit, ceiling = _amount(exceeded.ceiling)
    if ceiling_unit != unit or ceiling <= limit:
        message = "onExceeded.ceiling must be above limit and in the same unit: raise the ceiling, or remove it"
        raise InvalidSpecError(message)
    return ceiling


def _amount(limit: Limit) -> tuple[Unit, int]:
    if (limit.amount is None) == (limit.tokens is None):
        message = "limit needs exactly one of amount (US dollars) and tokens"
        raise InvalidSpecError(message)
    unit: Unit = "USD"
    if limit.amount is not None:
        value = money.parse(limit.amount)
    else:
        unit, value = "tokens", limit.tokens or 0
    if value <= 0:
        message = "limit must be above zero: raise limit.amount or limit.tokens"
        raise InvalidSpecError(message)
    return unit, value
