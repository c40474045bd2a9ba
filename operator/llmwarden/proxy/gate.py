"""Whether a call may be made: budgets as the ledger last told them, plus what we have used since. Pure but for its state.

Times are POSIX seconds and arguments. Amounts are picodollars or tokens, as the budget's unit says.
"""

import datetime as dt
from collections.abc import Callable
from typing import Final

import msgspec

from llmwarden import names
from llmwarden.wire import BudgetConfig, BudgetUpdate, Config, ServiceConfig

_RETRY_SECONDS: Final = 60  # above that, SDKs hang their applications (shared conventions)
# After a window's end the old figures hold until the ledger has said the new ones, which it is asked for at once: a rolling
# window goes on with most of what was spent. Only when it does not say, the window counts as new.
_ROLL_SECONDS: Final = 10.0
_LOSS_INTERVALS: Final = 3  # reporting intervals without an answer after which the ledger counts as lost


class Denied(msgspec.Struct, frozen=True):
    """A refusal, before it has a dialect. Without `retry_after` the client is told not to try again."""

    budget: str
    code: str
    message: str
    retry_after: int | None = None


class Allowed(msgspec.Struct, frozen=True):
    """The call may be made; with `fallback`, only by that model."""

    fallback: str | None = None
    budget: str = ""  # which asked for the fallback


class NeedsPrice(msgspec.Struct, frozen=True):
    """A budget refuses models without a price: ask for this model's, then check again."""

    model: str


class _Budget:
    """One budget's present view."""

    __slots__ = ("config", "resets_at", "rolled", "spent", "state", "unacknowledged")

    def __init__(self, config: BudgetConfig) -> None:
        self.unacknowledged = 0
        self.renew(config)

    def renew(self, config: BudgetConfig) -> None:
        self.config = config
        self.spent = config.spent
        self.state = config.state
        self.resets_at = config.resets_at.timestamp()
        self.rolled = False

    def update(self, update: BudgetUpdate) -> None:
        self.spent = update.spent
        self.state = update.state
        self.resets_at = update.resets_at.timestamp()
        self.rolled = False

    def used(self, now: float) -> int:
        """What is spent, as far as is known."""
        if now >= self.resets_at + _ROLL_SECONDS and not self.rolled:
            self.rolled = True
            self.spent = 0
            self.unacknowledged = 0
            self.state = "Open"
        return self.spent + self.unacknowledged


class Gate:
    """Budgets of this pod's services."""

    def __init__(self) -> None:
        self._budgets: dict[str, _Budget] = {}
        self._interval = 5.0
        self.failing_since = 0.0  # since when the ledger has not answered what it was asked; 0: it answers

    def configure(self, config: Config) -> None:
        """Take the ledger's configuration; what we used and it does not know yet stays counted."""
        self._interval = config.report_interval_seconds
        budgets: dict[str, _Budget] = {}
        for key, budget in config.budgets.items():
            known = self._budgets.get(key)
            if known is None:
                budgets[key] = _Budget(budget)
            else:
                known.renew(budget)
                budgets[key] = known
        self._budgets = budgets

    def charge(self, service: ServiceConfig, picodollars: int, tokens: int) -> None:
        """Count a finished call against its service's budgets."""
        for key in service.budgets:
            budget = self._budgets.get(key)
            if budget is not None:
                budget.unacknowledged += picodollars if budget.config.unit == "USD" else tokens

    def unacknowledged(self) -> dict[str, int]:
        """What a report that is built now will tell, by budget."""
        return {key: budget.unacknowledged for key, budget in self._budgets.items() if budget.unacknowledged}

    def acknowledge(self, told: dict[str, int], updates: dict[str, BudgetUpdate]) -> None:
        """The ledger took the report: its figures replace ours."""
        for key, amount in told.items():
            budget = self._budgets.get(key)
            if budget is not None:
                budget.unacknowledged = max(budget.unacknowledged - amount, 0)
        for key, update in updates.items():
            budget = self._budgets.get(key)
            if budget is not None:
                budget.update(update)

    def next_reset(self, now: float) -> float | None:
        """Seconds until some window ends, 0 when one has and the ledger has not said what is new; None when none will."""
        ends = [budget.resets_at for budget in self._budgets.values() if not budget.rolled]
        return max(min(ends) - now, 0.0) if ends else None

    def check(  # noqa: C901 - the rules in their order
        self,
        service: ServiceConfig | None,
        name: str,
        model: str,
        *,
        priced: Callable[[str], bool | None],
        asked: bool,
        now: float,
    ) -> Allowed | Denied | NeedsPrice:
        """Decide. `name` is namespace/service, `model` empty where the request's cannot be read.

        `priced` says whether a model has a price, None when that is not known. `asked`: the ledger was asked for it already;
        if it did not answer, a budget's onLedgerLoss decides.
        """
        allowed = Allowed()
        if service is None or service.state == "Released":
            return allowed
        strict: list[tuple[str, BudgetConfig]] = []
        for key in service.budgets:
            budget = self._budgets.get(key)
            if budget is None:
                continue
            outcome = self._check_budget(key, budget, name=name, model=model, now=now)
            if isinstance(outcome, Denied):
                return outcome
            if outcome.fallback and not allowed.fallback:
                allowed = outcome
            config = budget.config
            if config.on_unknown_price == "Deny" and config.action in {"Block", "Fallback"} and config.unit == "USD":
                strict.append((key, config))
        if not strict:
            return allowed
        target = allowed.fallback or model
        known = priced(target) if target else False
        if known is None and not asked:
            return NeedsPrice(target)
        for key, config in strict:
            if known is False or (known is None and config.on_ledger_loss == "Deny"):
                return _unpriced(key, target, name)
        return allowed

    def _check_budget(self, key: str, budget: _Budget, *, name: str, model: str, now: float) -> Allowed | Denied:
        config = budget.config
        outcome = Allowed()
        spent = budget.used(now)
        if spent >= config.limit or budget.state == "Exceeded":
            exceeded = _exceeded(key, budget, spent, name=name, model=model, now=now)
            if isinstance(exceeded, Denied):
                return exceeded
            outcome = exceeded
        if config.on_ledger_loss == "Deny" and config.action != "Alert" and self._lost(now):
            return Denied(
                key,
                "ledger_unavailable",
                f"LLM Warden: {_title(key)} cannot be accounted for: the ledger has not answered for "
                f"{int(now - self.failing_since)} s, and its onLedgerLoss is Deny; try again when it is back",
            )
        return outcome

    def _lost(self, now: float) -> bool:
        return self.failing_since > 0 and now - self.failing_since > _LOSS_INTERVALS * self._interval


def _unpriced(key: str, model: str, name: str) -> Denied:
    what = (
        f"no price is known for model {model!r} of {name}"
        if model
        else f"the model of a request of {name} cannot be read"
    )
    return Denied(
        key,
        "unknown_price",
        f"LLM Warden: {what}, and {_title(key)} refuses what it cannot price; "
        "ask the platform team for a ModelPrice, or set the budget's onUnknownPrice to Allow",
    )


def _exceeded(key: str, budget: _Budget, spent: int, *, name: str, model: str, now: float) -> Allowed | Denied:
    config = budget.config
    if config.action == "Alert":
        return Allowed()
    limit = config.limit
    if config.action == "Fallback" and config.fallback_model:
        if config.ceiling is None or spent < config.ceiling:
            fallback = config.fallback_model
            return Allowed() if model == fallback else Allowed(fallback, key)
        limit = config.ceiling
    resets = dt.datetime.fromtimestamp(budget.resets_at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    message = (
        f"LLM Warden: {_title(key)} (used by {name}) is used up: {amount(spent, config.unit)} of {amount(limit, config.unit)}; "
        f"it resets at {resets}"
    )
    if key.startswith("LLMService/"):
        message = message.replace(f" (used by {name})", "")
    if config.action == "Throttle":
        wait = max(1, min(_RETRY_SECONDS, int(budget.resets_at - now)))
        return Denied(key, "rate_limit_exceeded", message, wait)
    return Denied(key, "insufficient_quota", message)


def _title(key: str) -> str:
    """A budget's key in words."""
    kind, _, rest = key.partition("/")
    if kind == "LLMService":
        service, _, budget = rest.rpartition("/")
        return f"budget '{budget}' of {service}"
    return f"{kind} {rest}"


def amount(value: int, unit: str) -> str:
    """An amount for people: tokens, or dollars with as many decimals as it takes to see something (two at least, six at most)."""
    if unit != "USD":
        return f"{value} tokens"
    micro = value // (names.PICODOLLARS // 10**6)
    whole, fraction = divmod(micro, 10**6)
    digits = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"${whole}.{digits}"
