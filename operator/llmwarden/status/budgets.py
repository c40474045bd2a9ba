"""Budgets in a status: what is spent of each, what was newly reached."""

import datetime as dt
from decimal import Decimal
from fractions import Fraction
from typing import Final

from llmwarden.api.v1alpha1 import llmservice as api
from llmwarden.contracts import ledger as wire
from llmwarden.domain import budgets
from llmwarden.snapshot import Snapshot

FORECAST_SECONDS: Final = 300


def budget_statuses(snapshot: Snapshot) -> tuple[api.BudgetStatus, ...]:
    """Show what the ledger holds of each budget that applies, in order."""
    statuses = []
    for key in snapshot.usage.budgets if snapshot.usage else ():
        usage = snapshot.budgets.get(key)
        if usage is None:
            continue
        scope, _, _, name = budgets.split_key(key)
        statuses.append(
            api.BudgetStatus(
                scope=scope,
                name=name,
                unit=usage.unit,
                limit=budgets.decimal(usage.unit, usage.limit),
                spent=budgets.decimal(usage.unit, usage.spent),
                remaining=budgets.decimal(usage.unit, max(0, usage.limit - usage.spent)),
                used_percent=budgets.used_percent(usage.limit, usage.spent),
                state=usage.state,
                action=usage.action,
                window_start=usage.window_start,
                resets_at=usage.resets_at,
                forecast_exhausted_at=forecast(usage),
            )
        )
    return tuple(sorted(statuses, key=lambda item: (item.scope, item.name)))


def thresholds(
    old: tuple[api.BudgetStatus, ...], new: tuple[api.BudgetStatus, ...], applying: tuple[budgets.Budget, ...]
) -> list[tuple[api.BudgetStatus, int]]:
    """Find the budgets' warning percentages that were reached since the last status, each with its budget: what is told once a window."""
    before = {(item.scope, item.name): item for item in old}
    reached: list[tuple[api.BudgetStatus, int]] = []
    for budget in applying:
        key = (budget.scope, budget.name)
        item = next((item for item in new if (item.scope, item.name) == key), None)
        if item is None:
            continue
        last = before.get(key)
        # A rolling window begins anew every quarter of an hour, with most of what was spent.
        same = last is not None and (
            last.window_start == item.window_start or budget.window.rolling_seconds is not None
        )
        before_percent = last.used_percent if last is not None and same else 0
        reached += [
            (item, percent) for percent in budgets.newly_reached(budget.warn_at, before_percent, item.used_percent)
        ]
    return reached


def forecast(usage: wire.BudgetUsage) -> dt.datetime | None:
    """Give when a budget will be used up, rounded up to five minutes: it moves with every call, and is no better than that."""
    if usage.forecast_exhausted_at is None or usage.state == "Exceeded":
        return None
    return dt.datetime.fromtimestamp(
        -(-usage.forecast_exhausted_at.timestamp() // FORECAST_SECONDS) * FORECAST_SECONDS, dt.UTC
    )


def called(budget: api.BudgetStatus) -> str:
    """Name a budget as a sentence does."""
    return f"{budget.scope} budget {budget.name}" if budget.scope == "LLMService" else f"{budget.scope} {budget.name}"


def nearest(statuses: tuple[api.BudgetStatus, ...]) -> api.BudgetStatus | None:
    """Give the budget of which the largest share is spent."""
    return max(statuses, key=lambda item: Fraction(Decimal(item.spent)) / Fraction(Decimal(item.limit)), default=None)
