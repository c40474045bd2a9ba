"""What a budget says to a call, before it has a dialect, and in which words."""

import datetime as dt
from typing import Final

import msgspec

from llmwarden import names
from llmwarden.proxy.money.lease import Budget

_UNTOLD_SECONDS: Final = (
    2  # until a call may be tried again whose price the ledger has not said: such a call has waited as long
)
_RETRY_SECONDS: Final = 60  # above that, SDKs hang their applications (shared conventions)


class Denied(msgspec.Struct, frozen=True):
    """A refusal. Without `retry_after` the client is told not to try again. `unready`: 503, not the budget's own status."""

    budget: str
    code: str
    message: str
    retry_after: int | None = None
    unready: bool = False


def stricter(first: Denied | None, second: Denied) -> Denied:
    """Of two refusals the one that lasts longer: what must not be tried again before what may; else the first."""
    if first is None or (first.retry_after is not None and second.retry_after is None):
        return second
    return first


def unpriced(key: str, model: str, name: str) -> Denied:
    """No price is known, and the budget needs one."""
    what = (
        f"there is no price for model {model!r} of {name}"
        if model
        else f"the model in a request to {name} cannot be read"
    )
    return Denied(
        key,
        "unknown_price",
        f"LLM Warden: {what}, and {_title(key)} refuses calls without a price. Ask the platform team for a ModelPrice, or set the budget's onUnknownPrice to Allow",
    )


def untold(key: str, model: str, name: str) -> Denied:
    """The ledger has not said whether the model has a price, and the budget does not go on without it: to be tried again."""
    return Denied(
        key,
        "ledger_unavailable",
        f"LLM Warden: the ledger cannot say at the moment what model {model!r} of {name} costs, and {_title(key)} cannot be checked without that, since its onLedgerLoss is Deny. Try again in a moment",
        _UNTOLD_SECONDS,
    )


def used_up(key: str, budget: Budget, spent: int, limit: int, name: str) -> Denied:
    """Nothing is left until the window ends."""
    unit = budget.config.unit
    return Denied(
        key,
        "insufficient_quota",
        f"LLM Warden: {_whose(key, name)} is used up: {amount(spent, unit)} of {amount(limit, unit)}; "
        f"it resets at {_clock(budget)}",
    )


def too_little(key: str, budget: Budget, need: int, name: str, now: float) -> Denied:
    """Something is left, but not what this call may cost."""
    unit = budget.config.unit
    left = max(budget.hard - budget.used(now), 0)
    return Denied(
        key,
        "insufficient_quota",
        f"LLM Warden: {_whose(key, name)} does not have enough left: this call may cost up to {amount(need, unit)}; "
        f"{amount(left, unit)} of {amount(budget.hard, unit)} is not spent, and calls under way may need it. "
        f"A smaller max_tokens lowers what a call may cost; it resets at {_clock(budget)}",
    )


def unbounded(key: str, why: str, name: str) -> Denied:
    """What the call may cost has no bound, and the proxy is set to refuse such calls."""
    return Denied(
        key,
        "unbounded_request",
        f"LLM Warden: {_whose(key, name)} admits only calls whose cost has an upper bound, and this one has none ({why}). Send max_tokens, or ask the platform team to set a cap for such calls",
    )


def paced(key: str, budget: Budget, spent: int, wait: float, name: str) -> Denied:
    """Too fast: to be tried again."""
    unit = budget.config.unit
    return Denied(
        key,
        "rate_limit_exceeded",
        f"LLM Warden: {_whose(key, name)} is being throttled: {amount(spent, unit)} of {amount(budget.config.limit, unit)} "
        f"is used; it resets at {_clock(budget)}",
        max(1, min(_RETRY_SECONDS, int(wait))),
    )


def unaccountable(key: str, seconds: float) -> Denied:
    """The ledger does not answer, and the budget does not go on without it."""
    return Denied(
        key,
        "ledger_unavailable",
        f"LLM Warden: {_title(key)} cannot be checked: the ledger has not answered for "
        f"{int(seconds)} s, and the budget's onLedgerLoss is Deny. Try again when the ledger is back",
    )


def unconfigured(key: str, name: str) -> Denied:
    """The ledger has never answered this pod, and a budget of its service does not go on without it: to be tried again."""
    return Denied(
        key,
        "ledger_unavailable",
        f"LLM Warden: calls of {name} wait for the ledger: it has not answered since this pod started, and the onLedgerLoss of {_title(key)} is Deny",
        _UNTOLD_SECONDS,
        unready=True,
    )


def amount(value: int, unit: str) -> str:
    """An amount for people: tokens, or dollars with as many decimals as it takes to see something (two at least, six at most)."""
    if unit != "USD":
        return f"{value} tokens"
    micro = value // (names.PICODOLLARS // 10**6)
    whole, fraction = divmod(micro, 10**6)
    digits = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"${whole}.{digits}"


def _clock(budget: Budget) -> str:
    return dt.datetime.fromtimestamp(budget.resets_at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _whose(key: str, name: str) -> str:
    """A budget in words; a shared one with the service that used it."""
    return _title(key) if key.startswith("LLMService/") else f"{_title(key)} (used by {name})"


def _title(key: str) -> str:
    """A budget's key in words."""
    kind, _, rest = key.partition("/")
    if kind == "LLMService":
        service, _, budget = rest.rpartition("/")
        return f"budget '{budget}' of {service}"
    return f"{kind} {rest}"
