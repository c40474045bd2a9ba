"""Who gets how much of a budget: `domain.leases` over what the ledger knows. In memory, in the event loop.

What is out of each budget is in the store (`store/leases.py`); here is only who asked lately and whose calls wait, which a restart may
forget: it changes who gets how much, never how much there is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from llmwarden.contracts import ledger as wire
from llmwarden.domain import leases as policy
from llmwarden.domain.budgets import Budget
from llmwarden.ledger.budgets.holders import Holders
from llmwarden.ledger.store import Held

CLAIM_SECONDS = 60.0  # a journal that wanted nothing for so long claims no share
DRY_SECONDS = 900.0  # a budget that refused calls for what was left counts as used up for so long
RECALL_LEAST = 1  # a balance above this is worth being asked back

Room = Callable[[str], tuple[Budget, int] | None]
"""A budget and what is spent of it in its present window, by key; None where there is none."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one journal says of one budget, in a report that is its latest. `kept`: its balance, as far as the ledger granted it."""

    journal_id: int
    use: wire.LeaseUse
    kept: int | None = None

    @property
    def balance(self) -> int:
        """What it holds: what it says where the ledger did not look."""
        return self.use.balance if self.kept is None else self.kept


@dataclass(slots=True)
class _Claims:
    """Who wants some of a budget: when each journal last did, and whose calls wait (until when that is believed)."""

    wanted: dict[int, float] = field(default_factory=dict)
    hungry: dict[int, float] = field(default_factory=dict)


def is_leased(budget: Budget) -> bool:
    """Whether calls need a lease: where something must not be overrun."""
    return budget.action == "Block" or (budget.action == "Fallback" and budget.ceiling is not None)


def hard(budget: Budget) -> int:
    """What must not be overrun: the ceiling of a fallback, else the limit."""
    return budget.ceiling if budget.action == "Fallback" and budget.ceiling is not None else budget.limit


class Desk:
    """See the module. `now` gives seconds since the epoch."""

    def __init__(self, room: Room, now: Callable[[], float], holders: Holders) -> None:
        self.holders = holders
        self._room = room
        self._now = now
        self._claims: dict[str, _Claims] = {}
        self._dry: dict[str, tuple[float, int]] = {}  # by budget: when a call last found too little, and of what limit
        self.near: set[str] = set()  # budgets near their end: their proxies report at short intervals

    def take(self, report: wire.Report, allowed: Callable[[str], bool]) -> wire.Report:
        """The report with those leases only that its pod may have: of budgets that hold for its namespace, and no more than the limit."""
        kept: list[wire.LeaseUse] = []
        for use in {use.budget: use for use in report.leases}.values():  # one that names a budget twice is heard once
            found = self._room(use.budget)
            if found is not None and allowed(use.budget):
                most = hard(found[0])
                kept.append(msgspec.structs.replace(use, balance=min(use.balance, most), wanted=min(use.wanted, most)))
        return msgspec.structs.replace(report, leases=tuple(kept))

    def notes(self, asked: Iterable[Asked]) -> None:
        """Note who wants something, and who does not any more."""
        now = self._now()
        for one in asked:
            claims = self._claims.setdefault(one.use.budget, _Claims())
            if one.use.wanted > 0:
                claims.wanted[one.journal_id] = now
            if not one.use.needed:
                claims.hungry.pop(one.journal_id, None)

    def decide(
        self, asked: Sequence[Asked], held: Mapping[str, Held], pending: Mapping[str, int]
    ) -> dict[tuple[str, int], policy.Grant]:
        """What each gets, one after the other, given what is out of each budget (the balances that they keep included).

        `pending` is what is spent of each beside what is counted: what these very reports say (`Core.pending`).
        """
        now = self._now()
        out = {key: one.outstanding for key, one in held.items()}
        grants: dict[tuple[str, int], policy.Grant] = {}
        # Those whose calls wait come first: for the others it is only stock.
        for one in sorted(asked, key=lambda one: not one.use.needed):
            key = one.use.budget
            found = self._room(key)
            # A budget that is leased since this very moment was not asked about: what is out of it is not known here.
            if key not in out or found is None or not is_leased(found[0]):
                continue
            budget, spent = found[0], found[1] + pending.get(key, 0)
            grant = policy.divide(
                limit=hard(budget),
                spent=spent,
                outstanding=out[key],
                claimants=self._claimants(key),
                ask=policy.Ask(one.balance, one.use.wanted, one.use.needed),
                room=self.holders.room(key, one.journal_id),
            )
            out[key] += grant.granted
            self.holders.put(key, one.journal_id, one.balance + grant.granted)
            claims = self._claims.setdefault(key, _Claims())
            if grant.hungry and (not grant.retry_seconds or hard(budget) - spent < one.use.needed):
                self._dry[key] = (now, hard(budget))
            if grant.hungry:
                claims.hungry[one.journal_id] = now + policy.HUNGRY_SECONDS
            else:
                claims.hungry.pop(one.journal_id, None)
            grants[key, one.journal_id] = grant
        for key, outstanding in out.items():
            found = self._room(key)
            if found is not None:
                spent = found[1] + pending.get(key, 0)
                near = policy.near(limit=hard(found[0]), spent=spent, outstanding=outstanding)
                (self.near.add if near else self.near.discard)(key)
        return grants

    def recalls(self, one: Asked) -> bool:
        """Whether what lies idle with this journal should come back: calls of others wait."""
        claims = self._claims.get(one.use.budget)
        if claims is None or one.balance < RECALL_LEAST:
            return False
        now = self._now()
        return any(journal != one.journal_id and now < until for journal, until in claims.hungry.items())

    def dry(self, key: str, since: float) -> bool:
        """Whether calls find too little left: lately, within the window that began at `since`, and of the present limit."""
        at, limit = self._dry.get(key, (0.0, 0))
        found = self._room(key)
        return found is not None and at >= since and 0 <= self._now() - at < DRY_SECONDS and limit >= hard(found[0])

    def leased(self, key: str) -> bool:
        """Whether a budget is there and leased."""
        found = self._room(key)
        return found is not None and is_leased(found[0])

    def forget(self) -> None:
        """Drop those who asked long ago, and budgets that are gone. Call it now and then."""
        now = self._now()
        for key, claims in list(self._claims.items()):
            for journal in [journal for journal, at in claims.wanted.items() if not 0 <= now - at <= CLAIM_SECONDS]:
                del claims.wanted[journal]
            for journal in [journal for journal, until in claims.hungry.items() if now >= until]:
                del claims.hungry[journal]
            if not claims.wanted or self._room(key) is None:
                del self._claims[key]
        self._dry = {key: dry for key, dry in self._dry.items() if self._room(key) is not None}
        self.near = {key for key in self.near if self._room(key) is not None}
        self.holders.forget()

    def _claimants(self, key: str) -> int:
        claims = self._claims.get(key)
        return len(claims.wanted) if claims is not None else 1
