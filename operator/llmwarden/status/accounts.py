"""The status of a ProviderAccount: what the ledger says of it. Pure; the clock is an argument."""

import datetime as dt

from llmwarden.api.v1alpha1 import ProviderAccount, ProviderAccountStatus
from llmwarden.api.v1alpha1.provideraccount import DAYS_SHOWN, AccountDay, ProviderAccountSummary
from llmwarden.contracts.reconciliation import DRIFTS, Account, Day
from llmwarden.domain import drift, money
from llmwarden.domain.conditions import set_condition
from llmwarden.snapshot import Source


def build(item: ProviderAccount, account: Account | None, ledger: Source, now: dt.datetime) -> ProviderAccountStatus:
    """Build the status. While the ledger does not answer, its last figures stay: unknown is no agreement."""
    old = item.status or ProviderAccountStatus()
    generation = item.metadata.generation
    if account is None or not ledger.fresh:
        if not ledger.asked and item.status is not None:
            return old.replace(observed_generation=generation)
        message = ledger.message or "The ledger has not read this account yet."
        conditions = set_condition(
            old.conditions, "Ready", "Unknown", ledger.reason or "NotKnownYet", message, generation=generation, now=now
        )
        return old.replace(observed_generation=generation, conditions=conditions)
    newest = next((day for day in account.days if day.verdict != "Partial"), None)
    if account.fault is not None:
        again = f" The next try is at {_clock(account.retry_at)}." if account.retry_at else ""
        ready = ("False", account.fault.reason, f"{account.fault.message}.{again}")
    elif account.read_at is None:
        ready = ("Unknown", "NotAskedYet", "The provider has not been asked yet.")
    else:
        ready = ("True", "Read", "The provider answers.")
    conditions = set_condition(old.conditions, "Ready", *ready, generation=generation, now=now)  # type: ignore[arg-type]
    if newest is None:
        message = "There is no day yet that was counted here completely and for which the provider's figures are final."
        parted = ("Unknown", "NotComparedYet", message)
    else:
        parted = (
            "True" if newest.verdict in DRIFTS else "False",
            newest.verdict,
            drift.sentence(newest) + _others(account, newest),
        )
    conditions = set_condition(conditions, "CostDrift", *parted, generation=generation, now=now)  # type: ignore[arg-type]
    return ProviderAccountStatus(
        observed_generation=generation,
        as_of=account.read_at,
        summary=_summary(newest),
        days=tuple(_day(day) for day in account.days[:DAYS_SHOWN]),
        problem=account.fault.message if account.fault else None,
        conditions=conditions,
    )


def _summary(newest: Day | None) -> ProviderAccountSummary | None:
    if newest is None:
        return None
    return ProviderAccountSummary(
        day=newest.day,
        provider=money.human(newest.provider.picodollars),
        ledger=money.human(newest.ledger.picodollars),
        verdict=newest.verdict,
    )


def _day(day: Day) -> AccountDay:
    return AccountDay(
        day=day.day,
        provider_cost=money.to_decimal(day.provider.picodollars),
        ledger_cost=money.to_decimal(day.ledger.picodollars),
        other_cost=money.to_decimal(day.other_picodollars),
        provider_tokens=day.provider.tokens,
        ledger_tokens=day.ledger.tokens,
        verdict=day.verdict,
    )


def _others(account: Account, newest: Day) -> str:
    """How many of the other days that are shown part, too: once is chance, each day is a way around."""
    others = [day for day in account.days if day is not newest and day.verdict != "Partial"]
    parted = sum(day.verdict in DRIFTS for day in others)
    return f" So do {parted} of the {len(others)} days before." if parted and newest.verdict in DRIFTS else ""


def _clock(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%MZ")
