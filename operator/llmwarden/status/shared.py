"""The status of the budgets that services share, and of prices. Pure; the clock is an argument."""

import datetime as dt

from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, ModelPrice
from llmwarden.api.v1alpha1.common import ConditionStatus
from llmwarden.api.v1alpha1.llmbudget import SharedBudgetStatus, SharedBudgetSummary, SpentBy
from llmwarden.api.v1alpha1.modelprice import ModelPriceStatus, ModelPriceSummary, PriceEntry
from llmwarden.contracts import ledger as wire
from llmwarden.domain import budgets, money, prices
from llmwarden.domain.conditions import set_condition
from llmwarden.errors import InvalidSpecError
from llmwarden.snapshot import Source
from llmwarden.status import forecast, human_count


def budget(
    item: LLMBudget | ClusterLLMBudget,
    usage: wire.BudgetUsage | None,
    ledger: Source,
    services: int,
    now: dt.datetime,
) -> SharedBudgetStatus:
    """Build a shared budget's status. While the ledger does not answer, its last figures stay: unknown is not zero."""
    old = item.status or SharedBudgetStatus()
    generation = item.metadata.generation
    try:
        budgets.of_namespace(item) if isinstance(item, LLMBudget) else budgets.of_cluster(item)
    except InvalidSpecError as error:
        conditions = set_condition(
            old.conditions, "Ready", "False", "InvalidBudget", f"{error}.", generation=generation, now=now
        )
        return old.replace(observed_generation=generation, services=services, conditions=conditions)
    base = old.replace(observed_generation=generation, services=services)
    if usage is None or not ledger.fresh:
        if not ledger.asked and item.status is not None:
            return base
        message = ledger.message or "The ledger has not read this budget yet."
        conditions = set_condition(
            old.conditions, "Ready", "Unknown", ledger.reason or "NotKnownYet", message, generation=generation, now=now
        )
        return base.replace(conditions=conditions)
    unit, limit, spent = usage.unit, usage.limit, usage.spent
    percent = budgets.used_percent(limit, spent)
    conditions = set_condition(
        old.conditions,
        "Ready",
        "True",
        "Counted",
        "The ledger counts spending against it.",
        generation=generation,
        now=now,
    )
    over = usage.state == "Exceeded"
    text = f"{percent} % of {_human(unit, limit)} is used."
    status: ConditionStatus = "False" if over else "True"
    conditions = set_condition(
        conditions, "WithinBudget", status, "Exceeded" if over else usage.state, text, generation=generation, now=now
    )
    return base.replace(
        as_of=ledger.as_of,
        unit=unit,
        limit=budgets.decimal(unit, limit),
        spent=budgets.decimal(unit, spent),
        remaining=budgets.decimal(unit, max(0, limit - spent)),
        used_percent=percent,
        state=usage.state,
        window_start=usage.window_start,
        resets_at=usage.resets_at,
        forecast_exhausted_at=forecast(usage),
        top_services=tuple(
            SpentBy(service=share.service, spent=budgets.decimal(unit, share.spent))
            for share in usage.top_services[:10]
        ),
        conditions=conditions,
        summary=SharedBudgetSummary(
            limit=_human(unit, limit),
            spent=_human(unit, spent),
            used=f"{percent}%",
            resets=usage.resets_at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%MZ"),
        ),
    )


def price(item: ModelPrice, rivals: tuple[str, ...], now: dt.datetime) -> ModelPriceStatus:
    """Build a price's status: what is in effect. `rivals`: ModelPrices that name one of its models and come first by name."""
    old = item.status or ModelPriceStatus()
    generation = item.metadata.generation
    entry = prices.entry_at(item.spec.prices, now)
    status: ConditionStatus = "True"
    reason, message = "InEffect", "It applies."
    try:
        if entry is not None and item.spec.models is not None:
            prices.rates(entry)
        elif entry is not None and entry.per_gpu_hour is not None:
            money.parse(entry.per_gpu_hour)
    except InvalidSpecError as error:
        status, reason, message = "False", "InvalidPrice", f"{error}."
    if entry is None:
        status, reason = "False", "NotYet"
        message = "No price applies yet: `from` is in the future in every entry."
    elif rivals and status == "True":
        status, reason = "False", "Contested"
        message = f"Some of its models or GPUs are already priced by {', '.join(rivals)}, whose name comes first. Name each model and each GPU in one ModelPrice only."
    conditions = set_condition(old.conditions, "Ready", status, reason, message, generation=generation, now=now)
    return ModelPriceStatus(
        observed_generation=generation,
        summary=ModelPriceSummary(current=_current(entry)) if entry is not None else None,
        conditions=conditions,
    )


def _current(entry: PriceEntry) -> str:
    if entry.per_gpu_hour is not None:
        return f"${entry.per_gpu_hour}/GPU-hour"
    return f"in ${entry.input_per_million_tokens} out ${entry.output_per_million_tokens} per 1M"


def _human(unit: wire.Unit, value: int) -> str:
    return money.human(value) if unit == "USD" else human_count(value)
