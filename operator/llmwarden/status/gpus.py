"""GPUs of a service in its status: their cost, what of it was idle, and what tokens cost by it."""

from llmwarden.api.v1alpha1.common import Money
from llmwarden.api.v1alpha1.gpu_status import GpuStatus
from llmwarden.contracts import ledger as wire
from llmwarden.domain import money
from llmwarden.domain.gpuhours import hours

MILLION = 10**6


def gpus(usage: wire.GpuUsage | None) -> GpuStatus | None:
    """Show what the ledger holds of the last day; None where the service holds no GPUs. It changes once an hour."""
    if usage is None:
        return None
    priced = usage.milliseconds > usage.unpriced_milliseconds
    return GpuStatus(
        hours=hours(usage.milliseconds),
        cost=_money(usage.picodollars) if priced else None,
        idle_cost=_money(usage.idle) if priced else None,
        idle_percent=100 * usage.idle // usage.picodollars if usage.picodollars else None,
        input_per_million_tokens=_per_million(usage.input_picodollars),
        output_per_million_tokens=_per_million(usage.output_picodollars),
        effective_per_million_tokens=_money(usage.picodollars * MILLION // usage.tokens)
        if priced and usage.tokens
        else None,
        unpriced_hours=hours(usage.unpriced_milliseconds) if usage.unpriced_milliseconds else None,
        unpriced_products=usage.products,
        vanished_pods=usage.lost_pods or None,
    )


def _per_million(each: int | None) -> Money | None:
    return None if each is None else _money(each * MILLION)


def _money(picodollars: int) -> Money:
    """To a millionth of a dollar: below, it says nothing."""
    return Money(amount=money.rounded(picodollars, 6).rstrip("0").rstrip(".") if picodollars else "0.00")
