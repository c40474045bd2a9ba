"""Whether a provider's figures of a day and the ledger's agree, and what it means where they do not. Pure."""

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from llmwarden.api.v1alpha1 import LabelSelector, ProviderAccount
from llmwarden.contracts.reconciliation import Day, Side, Verdict
from llmwarden.domain import money, selectors
from llmwarden.errors import InvalidSpecError

HOSTS: Final = {"OpenAI": "https://api.openai.com", "Anthropic": "https://api.anthropic.com"}
PROVIDERS: Final = {
    "OpenAI": "openai",
    "Anthropic": "anthropic",
}  # GenAI provider names, as the ledger's rows have them
SETTLE: Final = dt.timedelta(hours=6)
"""After a day's end. Anthropic says minutes, OpenAI nothing; both correct figures later, so the last days are read again."""
PERCENT: Final = Fraction(2)
AMOUNT: Final = 10**12  # picodollars: one dollar
CHEAPEST: Final = Fraction(100_000)  # picodollars a token is worth at least where tokens part: ten cents a million


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Two figures agree unless they differ by more than both: a share of the greater, and an amount (picodollars)."""

    share: Fraction = PERCENT / 100
    amount: int = AMOUNT


@dataclass(frozen=True, slots=True)
class Account:
    """A ProviderAccount as it is worked with. `selector` None is all namespaces; `created` is the UTC day of its making."""

    name: str
    api: str  # OpenAI or Anthropic
    base_url: str
    admin_key: str
    projects: tuple[str, ...] = ()
    selector: LabelSelector | None = None
    tolerance: Tolerance = Tolerance()
    created: dt.date = dt.date.min

    @property
    def provider(self) -> str:
        """GenAI provider name of the rows that it is compared with."""
        return PROVIDERS[self.api]

    @property
    def scope(self) -> str:
        """Names what its figures are of: another project, host or provider means other figures."""
        parts = "\0".join((self.name, self.api, self.base_url, *sorted(self.projects)))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def account(item: ProviderAccount) -> Account:
    """Read a ProviderAccount. Raises InvalidSpecError naming the field."""
    spec = item.spec
    percent = spec.tolerance.percent
    try:
        share = PERCENT if percent is None else Fraction(percent)
        amount = AMOUNT if spec.tolerance.amount is None else money.parse(spec.tolerance.amount)
    except ValueError as error:
        message = f"tolerance.percent {percent!r} is no percentage"
        raise InvalidSpecError(message) from error
    created = item.metadata.creation_timestamp
    return Account(
        name=item.metadata.name,
        api=spec.provider,
        base_url=(spec.base_url or HOSTS[spec.provider]).rstrip("/"),
        admin_key=spec.admin_key,
        projects=spec.projects,
        selector=spec.namespace_selector,
        tolerance=Tolerance(share / 100, amount),
        created=created.astimezone(dt.UTC).date() if created else dt.date.min,
    )


def namespaces(of: Account, labels: Mapping[str, Mapping[str, str]]) -> tuple[str, ...] | None:
    """Namespaces whose services use an account, of those with these labels; None is all, those that are gone included."""
    if of.selector is None:
        return None
    return tuple(sorted(name for name, of_namespace in labels.items() if selectors.matches(of.selector, of_namespace)))


def overlapping(accounts: Iterable[Account], labels: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Accounts (by name) that share services with one that comes first by name: the same call would count in both."""
    first_by_name: dict[str, str] = {}
    seen: list[tuple[Account, tuple[str, ...] | None]] = []
    for one in sorted(accounts, key=lambda item: item.name):
        mine = namespaces(one, labels)
        for other, theirs in seen:
            together = mine is None or theirs is None or not set(mine).isdisjoint(theirs)
            if other.provider == one.provider and together:
                first_by_name.setdefault(one.name, other.name)
        seen.append((one, mine))
    return first_by_name


def last_settled(now: dt.datetime) -> dt.date:
    """The newest UTC day that is over for long enough."""
    return (now.astimezone(dt.UTC) - SETTLE).date() - dt.timedelta(days=1)


def judge(provider: Side, ledger: Side, tolerance: Tolerance) -> Verdict:
    """Compare a day. Tokens count as parting only where what they cost is more than the tolerated amount, too."""
    apart = provider.tokens - ledger.tokens
    most = max(provider.tokens, ledger.tokens)
    # What the difference is worth, at what the dearer side pays for a token on average.
    worth = max(
        CHEAPEST, *(Fraction(side.picodollars, side.tokens) if side.tokens else CHEAPEST for side in (provider, ledger))
    )
    if abs(apart) > tolerance.share * most and abs(apart) * worth > tolerance.amount:
        return "ProviderHasMore" if apart > 0 else "LedgerHasMore"
    dearer = provider.picodollars - ledger.picodollars
    greater = max(provider.picodollars, ledger.picodollars)
    if abs(dearer) > tolerance.share * greater and abs(dearer) > tolerance.amount:
        return "ProviderDearer" if dearer > 0 else "LedgerDearer"
    return "Agrees"


def sentence(day: Day) -> str:
    """What a day's verdict says, for people: which side is greater, by how much, and what that means."""
    billed, counted = money.human(day.provider.picodollars), money.human(day.ledger.picodollars)
    tokens = f"{day.provider.tokens:,} tokens billed, {day.ledger.tokens:,} counted"
    costs = f"{billed} billed, {counted} counted"
    uncosted = f" {day.uncosted_tokens:,} of the counted tokens have no price here." if day.uncosted_tokens else ""
    match day.verdict:
        case "ProviderHasMore":
            meaning = "The provider billed more tokens than the ledger counted: calls bypassed the proxies (a pod that is not selected, another key of this account), or pods were lost before they reported."
        case "LedgerHasMore":
            meaning = "The ledger counted more tokens than the provider billed: some of these services use another account or project, or estimated calls were counted that the provider does not charge."
        case "ProviderDearer":
            meaning = (
                "The tokens agree, but the provider charges more for them: a price in the ledger is too low or missing."
            )
        case "LedgerDearer":
            meaning = "The tokens agree, but the provider charges less for them: there is a discount or credit that no ModelPrice has."
        case "Partial":
            meaning = "The ledger did not count the whole day."
        case "Agrees":
            meaning = "Both agree."
    return f"{day.day}: {costs}; {tokens}. {meaning}{uncosted}"
