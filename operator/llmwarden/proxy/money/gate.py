"""Whether a call may be made: it must fit every budget of its service, and is given its upper bound from their leases.

Pure but for its state. Times are POSIX seconds by the ledger's clock, and arguments. Amounts are picodollars or tokens, as the budget's
unit says.
"""

import datetime as dt
from collections.abc import Callable
from typing import Final

import msgspec

from llmwarden.contracts.ledger import BudgetConfig, BudgetUpdate, Config, LeaseGrant, LeaseUse, ServiceConfig
from llmwarden.proxy.money import refusals
from llmwarden.proxy.money.lease import Budget, Reservations
from llmwarden.proxy.money.refusals import Denied
from llmwarden.proxy.record import Record

__all__ = ["Allowed", "Bound", "Denied", "Gate", "NeedsPrice", "Outcome", "Reservations", "Short"]

_LOSS_INTERVALS: Final = 3  # reporting intervals without an answer after which the ledger counts as lost
# A call that does not say what it may use reserves at most this part of the limit: else a small budget would admit none of them.
_CAPPED_SHARE: Final = 50
_FAILING_SECONDS: Final = 2.0  # without an answer after which no call waits for one any more


class Bound(msgspec.Struct, frozen=True):
    """What one call can use at most; `picodollars` is None where its price is not known.

    `capped`: the request itself says nothing, this is a cap of ours. With `unbounded` there is none: why.
    """

    picodollars: int | None
    tokens: int
    unbounded: str = ""
    capped: bool = False


class Allowed(msgspec.Struct, frozen=True):
    """The call may be made; with `fallback`, only by that model. `Gate.charge` gives the reservations back."""

    fallback: str | None = None
    budget: str = ""  # which asked for the fallback
    reservations: Reservations = ()


class NeedsPrice(msgspec.Struct, frozen=True):
    """A budget refuses models without a price, or reserves by it: ask for this model's, then check again."""

    model: str


class Short(msgspec.Struct, frozen=True):
    """A lease does not cover the call: ask the ledger for more, then check again. `needs`: of every budget that the call must fit."""

    needs: tuple[tuple[str, int], ...]


Outcome = Allowed | Denied | NeedsPrice | Short
Priced = Callable[[str], bool | None]

_ALLOWED: Final = Allowed()


class Gate:
    """Budgets of this pod's services."""

    def __init__(self) -> None:
        self._budgets: dict[str, Budget] = {}
        self._gone: list[tuple[str, Budget]] = []  # leased once, not configured any more: to be returned
        self.interval = 5.0  # between two reports
        self.failing_since = 0.0  # since when the ledger has not answered; 0: it answers
        self._figures_of: dt.datetime | None = None  # the time of the latest report's answer, by the ledger's clock

    def configure(self, config: Config) -> None:
        """Take the ledger's configuration; what we used and it does not know yet stays counted, and leases stay ours.

        It may have been made before a report and arrive after that report's answer: then its figures lack what was just acknowledged.
        """
        self.interval = config.report_interval_seconds
        stale = config.now is not None and self._figures_of is not None and config.now < self._figures_of
        budgets: dict[str, Budget] = {}
        for key, budget in config.budgets.items():
            current = self._budgets.pop(key, None)
            if current is None:
                budgets[key] = Budget(budget)
            else:
                current.renew(budget, figures=not stale)
                budgets[key] = current
        self._gone += [(key, budget) for key, budget in self._budgets.items() if budget.balance]
        self._budgets = budgets

    # Reports.

    def unacknowledged(self) -> dict[str, int]:
        """Usage that a report built now contains, by budget."""
        return {key: budget.unacknowledged for key, budget in self._budgets.items() if budget.unacknowledged}

    def acknowledge(
        self, reported: dict[str, int], updates: dict[str, BudgetUpdate], now: dt.datetime | None = None
    ) -> None:
        """The ledger took the report: its figures, of `now` by its clock, replace ours."""
        self._figures_of = now or self._figures_of
        for key, amount in reported.items():
            budget = self._budgets.get(key)
            if budget is not None:
                budget.unacknowledged = max(budget.unacknowledged - amount, 0)
        for key, update in updates.items():
            budget = self._budgets.get(key)
            if budget is not None:
                budget.update(update)

    def leases(self, now: float, *, final: bool = False) -> tuple[LeaseUse, ...]:
        """What a report that is built now says of our leases; what it does not keep is not ours any more, whether it arrives or not.

        A lost report so makes the ledger believe that we have more than we do, never less.
        """
        uses = [budget.give_back(key) for key, budget in self._gone]
        self._gone = [(key, budget) for key, budget in self._gone if budget.reserved]
        for key, budget in self._budgets.items():
            if budget.config.leased and not final:
                uses.append(budget.report(key, now, self.interval))
            elif budget.config.leased or budget.balance:
                uses.append(budget.give_back(key))
        return tuple(uses)

    def granted(self, grants: tuple[LeaseGrant, ...], now: float) -> None:
        """Take what the answer to the latest report gives."""
        for grant in grants:
            budget = self._budgets.get(grant.budget)
            if budget is not None:
                budget.granted(grant, now)

    def waits(self, short: Short) -> None:
        """Note that a call waits for a grant; reports ask for it from now on."""
        for key, need in short.needs:
            budget = self._budgets.get(key)
            if budget is not None:
                budget.waiting.append(need)

    def waited(self, short: Short) -> None:
        """The call waits no longer."""
        for key, need in short.needs:
            budget = self._budgets.get(key)
            if budget is not None and need in budget.waiting:
                budget.waiting.remove(need)

    def has_business(self) -> bool:
        """Whether a report would change a lease: something lies idle, or is wanted."""
        return bool(self._gone) or any(budget.waiting or budget.idles() for budget in self._budgets.values())

    def next_reset(self, now: float) -> float | None:
        """Seconds until some window ends, 0 when one has and the ledger has not said what is new; None when none will."""
        ends = [budget.resets_at for budget in self._budgets.values() if budget.awaits_reset]
        return max(min(ends) - now, 0.0) if ends else None

    # Calls.

    def check(  # noqa: C901 - the rules in their order
        self,
        service: ServiceConfig | None,
        name: str,
        model: str,
        *,
        priced: Priced,
        price_asked: bool,
        now: float,
        bound: Callable[[str], Bound] | None = None,
        last: bool = False,
    ) -> Outcome:
        """Decide, and reserve `bound(model)` from the leases for an allowed call.

        `name` is namespace/service, `model` empty where the request's cannot be read. `priced` says whether a model has a price, None while
        the ledger has not said. `price_asked`: the ledger was asked for it already; if it has still not said, a budget's onLedgerLoss decides.
        `last`: the call has waited for a grant as long as it may.
        """
        if service is None or service.state == "Released":
            return _ALLOWED
        allowed = _ALLOWED
        denied: Denied | None = None
        strict = leased = False
        for key in service.budgets:
            budget = self._budgets.get(key)
            if budget is None:
                continue
            config = budget.config
            if (
                budget.spent + budget.unacknowledged >= budget.soft
                or now >= budget.resets_at
                or budget.state == "Exceeded"
            ):
                outcome = _over(key, budget, name=name, model=model, now=now)
                if isinstance(outcome, Denied):
                    denied = refusals.stricter(denied, outcome)
                elif not allowed.fallback:
                    allowed = outcome
            if self.failing_since and self._refuses_loss(config, now):
                denied = refusals.stricter(denied, refusals.unaccountable(key, now - self.failing_since))
            leased = leased or config.leased
            strict = strict or config.leased or config.on_unknown_price == "Deny"
        if denied is not None:
            return denied
        target = allowed.fallback or model
        if strict and not (target and priced(target)):  # most often it has one: nothing to look at
            refused = self._check_price(service, target, name, priced=priced, price_asked=price_asked)
            if refused is not None:
                return refused
        if not leased or bound is None:
            return allowed
        return self._reserve(service, name, bound(target), allowed, now=now, last=last)

    def finished(self, record: Record) -> None:
        """Charge a call (the gate is a sink). A refused one has used nothing, and holds no reservation."""
        if not record.refused:
            tokens = record.tokens
            self.charge(record.config, record.charge, tokens.input + tokens.output, record.reservations)

    def charge(
        self, service: ServiceConfig | None, picodollars: int, tokens: int, reservations: Reservations = ()
    ) -> None:
        """Count usage against a service's budgets, and give back what was reserved for it."""
        for budget, amount in reservations:
            budget.reserved -= amount
        for key in service.budgets if service is not None else ():
            charged = self._budgets.get(key)
            if charged is not None:
                charged.use(picodollars if charged.config.unit == "USD" else tokens)

    def _reserve(
        self, service: ServiceConfig, name: str, bound: Bound, allowed: Allowed, *, now: float, last: bool
    ) -> Outcome:
        """From all budgets or from none."""
        reservations: list[tuple[Budget, int]] = []
        needs: list[tuple[str, int]] = []
        short = False
        for key in service.budgets:
            budget = self._budgets.get(key)
            if budget is None or not budget.config.leased:
                continue
            if bound.unbounded:
                return refusals.unbounded(key, bound.unbounded, name)
            need = bound.tokens if budget.config.unit == "tokens" else bound.picodollars or 0
            if bound.capped:
                need = min(need, -(-budget.hard // _CAPPED_SHARE))
            needs.append((key, need))
            free = budget.balance - budget.reserved
            if need > free:
                outcome = self._short(key, budget, need, name=name, now=now, last=last)
                if isinstance(outcome, Denied):
                    return outcome
                short = short or not outcome
                need = max(free, 0)
            reservations.append((budget, need))
        if short:
            return Short(tuple(needs))
        for budget, need in reservations:
            budget.reserve(need)
        return Allowed(allowed.fallback, allowed.budget, tuple(reservations))

    def lost(self, now: float) -> bool:
        """Whether the ledger has not answered for so long that no call waits for it any more."""
        return bool(self.failing_since) and not 0 <= now - self.failing_since <= _FAILING_SECONDS

    def _short(self, key: str, budget: Budget, need: int, *, name: str, now: float, last: bool) -> Denied | bool:
        """What becomes of a call that the lease does not cover: refused, or whether it may pass all the same; else it waits."""
        if self.failing_since and (last or self.lost(now)):
            if budget.config.on_ledger_loss == "Allow":
                return True
            return refusals.unaccountable(key, now - self.failing_since)
        if last or need > budget.hard or budget.dry(need, now):
            return refusals.too_little(key, budget, need, name, now)
        return False

    def _check_price(
        self, service: ServiceConfig, model: str, name: str, *, priced: Priced, price_asked: bool
    ) -> Denied | NeedsPrice | None:
        strict = [
            (key, budget.config)
            for key in service.budgets
            if (budget := self._budgets.get(key)) is not None and _needs_price(budget.config)
        ]
        if not strict:
            return None
        has_price = priced(model) if model else False
        if has_price is None and not price_asked:
            return NeedsPrice(model)
        for key, config in strict:
            if has_price is False and config.on_unknown_price == "Deny":
                return refusals.unpriced(key, model, name)
            if has_price is None and config.on_ledger_loss == "Deny":
                return refusals.untold(key, model, name)
        return None

    def _refuses_loss(self, config: BudgetConfig, now: float) -> bool:
        """A budget without a lease; with one, calls go on to the lease's end."""
        return (
            config.on_ledger_loss == "Deny"
            and not config.leased
            and config.action != "Alert"
            and now - self.failing_since > _LOSS_INTERVALS * self.interval
        )


def _needs_price(config: BudgetConfig) -> bool:
    if config.unit != "USD":
        return False
    return config.leased or (config.on_unknown_price == "Deny" and config.action in {"Block", "Fallback"})


def _over(key: str, budget: Budget, *, name: str, model: str, now: float) -> Allowed | Denied:
    """Decide by what is spent, for a budget that is near or over its end."""
    config = budget.config
    spent = budget.used(now)
    if config.action == "Throttle":
        wait = budget.pace(spent, now)
        return refusals.paced(key, budget, spent, wait, name) if wait else _ALLOWED
    if config.action == "Alert" or (spent < config.limit and budget.state != "Exceeded"):
        return _ALLOWED
    limit = config.limit
    if config.action == "Fallback" and config.fallback_model:
        if config.ceiling is None or spent < config.ceiling:
            return _ALLOWED if model == config.fallback_model else Allowed(config.fallback_model, key)
        limit = config.ceiling
    return refusals.used_up(key, budget, spent, limit, name)
