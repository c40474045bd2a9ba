"""Whether what Prometheus and the ledger say of a service would change its status, without building one. Pure.

Thousands of services' figures come at each tick; most have not moved, or not by as much as a status shows.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from llmwarden.contracts import ledger as wire
from llmwarden.snapshot import COVERED, Figures, Quantiles
from llmwarden.status import budgets
from llmwarden.status import figures as shown

MILLION: Final = (
    10**6
)  # parts in which a share of good calls is compared: a tight objective's error budget shows as little


class Reading(NamedTuple):
    """What is known of one service; None is unknown. `budgets`: of every budget that holds for it, with its key."""

    figures: Figures | None
    usage: wire.ServiceUsage | None
    budgets: tuple[tuple[str, wire.BudgetUsage | None], ...] = ()


class Mark(NamedTuple):
    """Hashes of a reading. `state`: of what conditions, Events and rules follow from; `figures`: of all that a status shows of it."""

    state: int
    figures: int


def reading(
    figures: Figures | None, usage: wire.ServiceUsage | None, budgets: Mapping[str, wire.BudgetUsage]
) -> Reading:
    """Put together what is known of one service."""
    keys = usage.budgets if usage is not None else ()
    return Reading(figures, usage, tuple((key, budgets.get(key)) for key in keys))


def mark(reading: Reading, spend_limits: Iterable[int], targets: Iterable[tuple[str, Decimal]]) -> Mark:
    """Hash a reading. `spend_limits`: picodollars an hour of the service's objectives; `targets`: percent by objective that is a share."""
    return Mark(hash(_state(reading, spend_limits, targets)), hash(_shown(reading)))


def budget(usage: wire.BudgetUsage | None) -> int:
    """Hash what the status of a budget shows of its usage."""
    if usage is None:
        return 0
    top = tuple((share.service, share.spent) for share in usage.top_services)
    return hash((*_budget_state(usage), usage.spent, budgets.forecast(usage), top))


def _state(reading: Reading, spend_limits: Iterable[int], targets: Iterable[tuple[str, Decimal]]) -> tuple[object, ...]:
    figures, usage = reading.figures or Figures(), reading.usage
    hour = usage.last_hour.picodollars if usage is not None else None
    return (
        reading.figures is None,
        usage is None,
        figures.scraped,
        figures.credential_errors,
        figures.coverage is None or figures.coverage >= COVERED,
        figures.unusual,
        figures.queue_bounds,
        bool(figures.requests_per_second),
        *((name, name in figures.good and figures.good[name] * 100 >= target) for name, target in targets),
        *((None if hour is None else hour > limit) for limit in spend_limits),
        *(
            (
                usage.uncosted_models,
                bool(usage.last24h.uncosted_tokens),
                bool(usage.last24h.requests),
                usage.rerated and (usage.rerated.picodollars, usage.rerated.tokens),
                usage.gpu and usage.gpu.products,
            )
            if usage is not None
            else ()
        ),
        tuple((key, one and _budget_state(one)) for key, one in reading.budgets),
    )


def _budget_state(one: wire.BudgetUsage) -> tuple[object, ...]:
    # By whole percent: an Event is recorded at a warning percentage.
    return one.unit, one.limit, one.state, one.action, one.window_start, one.resets_at, one.spent * 100 // one.limit


def _shown(reading: Reading) -> tuple[object, ...]:
    figures, usage = reading.figures or Figures(), reading.usage
    engine = figures.engine
    return (
        *(_quantiles(one) for one in (figures.ttft, figures.duration, figures.tpot)),
        shown.percent(figures.error_ratio),
        shown.rate(figures.requests_per_second, shown.MINUTE),
        shown.rate(figures.output_tokens_per_second, 1),
        None if figures.coverage is None else int(figures.coverage * 100),
        *(
            None if value is None else round(value * scale)
            for value, scale in (
                (engine.running, 1),
                (engine.waiting, 1),
                (engine.cache_used, 100),
                (engine.prefix_hits, 100),
            )
        ),
        tuple((name, int(good * MILLION)) for name, good in sorted(figures.good.items())),
        usage and (usage.last24h, usage.last_hour.picodollars, usage.gpu),
        tuple((key, one and (one.spent, budgets.forecast(one))) for key, one in reading.budgets),
    )


def _quantiles(values: Quantiles) -> tuple[int | None, ...]:
    return shown.milliseconds(values.p50), shown.milliseconds(values.p95), shown.milliseconds(values.p99)
