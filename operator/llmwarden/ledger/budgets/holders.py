"""Who holds how much of a budget that others share, and how much more it may hold: pods, services and namespaces.

A copy of the store's leases in memory, in the event loop: what is granted is decided by the store's sums (`leases.py`), and here only
whether one holder has too much of it. The copy follows each commit; what other replicas grant comes with `reload`, moments later. So the
bound of a holder that speaks with several replicas at once may be passed by what they grant in between, and the limit by nothing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from llmwarden.domain.leases import HoldLimits, Room
from llmwarden.ledger.store.leases import Holding

Level = Literal["pod", "service", "namespace"]
MOST_SHOWN: Final = 5  # holders of one budget that metrics name
SHOWN_PERCENT: Final = 1  # of the limit: less is not worth naming


class Group(NamedTuple):
    """A holder: a pod by its UID, a service by `namespace/name`, a namespace by its name."""

    level: Level
    name: str


class Idle(NamedTuple):
    """What a holder holds of a budget beyond what it used lately, in the budget's unit."""

    group: Group
    amount: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is bounded of a budget: `levels`, and of `limit`. Nothing where nobody else shares it."""

    limit: int
    levels: Collection[Level] = ()


@dataclass(slots=True)
class _Pod:
    """What a pod used of a budget: in the present span of time and in the one before."""

    span: int
    used: int = 0
    before: int = 0

    def at(self, span: int) -> int:
        """What it used lately."""
        if span == self.span:
            return self.used + self.before
        return self.used if span == self.span + 1 else 0

    def use(self, span: int, amount: int) -> None:
        if span != self.span:
            self.before = self.used if span == self.span + 1 else 0
            self.span, self.used = span, 0
        self.used += amount


@dataclass(slots=True)
class _Budget:
    balances: dict[int, int] = field(default_factory=dict)  # by journal id
    sums: dict[Group, int] = field(default_factory=dict)

    def add(self, groups: Iterable[Group], amount: int) -> None:
        for group in groups:
            total = self.sums.get(group, 0) + amount
            if total > 0:
                self.sums[group] = total
            else:
                self.sums.pop(group, None)


class Holders:
    """See the module. `bounds` says what is bounded of a budget (by key), `used` what a service or a namespace used of it lately."""

    def __init__(
        self, bounds: Callable[[str], Bounds], used: Callable[[str, Group, int], int], now: Callable[[], float]
    ) -> None:
        self.limits = HoldLimits()
        self._bounds = bounds
        self._used = used
        self._now = now
        self._budgets: dict[str, _Budget] = {}
        self._groups: dict[int, tuple[Group, ...]] = {}  # by journal id
        self._pods: dict[tuple[str, str], _Pod] = {}  # by budget and pod UID

    def know(self, journal: int, namespace: str, uid: str, services: Iterable[str]) -> None:
        """Take whose journal it is. Services (`namespace/name`) that it was known for stay."""
        before = self._groups.get(journal, ())
        fresh = (Group("pod", uid), Group("namespace", namespace), *(Group("service", one) for one in services))
        added = tuple(group for group in dict.fromkeys(fresh) if group not in before)
        if not added:
            return
        self._groups[journal] = before + added
        for budget in self._budgets.values():
            if journal in budget.balances:
                budget.add(added, budget.balances[journal])

    def put(self, key: str, journal: int, balance: int) -> None:
        """Take what a journal holds of a budget now."""
        budget = self._budgets.setdefault(key, _Budget())
        change = balance - budget.balances.get(journal, 0)
        if balance > 0:
            budget.balances[journal] = balance
        else:
            budget.balances.pop(journal, None)
        budget.add(self._groups.get(journal, ()), change)

    def end(self, journals: Iterable[int]) -> None:
        """Take that these journals hold nothing any more."""
        for journal in journals:
            for key, budget in self._budgets.items():
                if journal in budget.balances:
                    self.put(key, journal, 0)
            self._groups.pop(journal, None)

    def use(self, key: str, uid: str, amount: int) -> None:
        """Count what a pod used of a budget."""
        if amount <= 0 or not self._bounds(key).levels:
            return
        span = self._span()
        self._pods.setdefault((key, uid), _Pod(span)).use(span, amount)

    def reload(self, holdings: Iterable[Holding]) -> None:
        """Take everything from the store. Services are known again when their pods report."""
        self._budgets = {}
        groups, self._groups = self._groups, {}
        for one in holdings:
            self._groups.setdefault(one.journal_id, groups.get(one.journal_id, ()))
            self.know(one.journal_id, one.namespace, one.pod_uid, ())
            self.put(one.budget, one.journal_id, one.outstanding)

    def room(self, key: str, journal: int) -> Room | None:
        """Return what a journal's holders may be granted of a budget on top of what they hold; None where nothing is bounded."""
        bounds = self._bounds(key)
        if not bounds.levels:
            return None
        budget = self._budgets.get(key) or _Budget()
        own = budget.balances.get(journal, 0)
        rooms = [
            Room(self._most(key, group, bounds.limit) - held, held - own)
            for group in self._groups.get(journal, ())
            if group.level in bounds.levels
            for held in (budget.sums.get(group, 0),)
        ]
        return min(rooms, key=lambda room: room.amount, default=None)

    def idle(self, key: str) -> list[Idle]:
        """Return the holders that hold much more of a budget than they used lately, the greatest first: a few, of its highest level."""
        bounds = self._bounds(key)
        budget = self._budgets.get(key)
        if not bounds.levels or budget is None:
            return []
        level: Level = "namespace" if "namespace" in bounds.levels else "service"
        found = [
            Idle(group, held - self._lately(key, group)) for group, held in budget.sums.items() if group.level == level
        ]
        found = [one for one in found if one.amount * 100 >= SHOWN_PERCENT * bounds.limit]
        return sorted(found, key=lambda one: (-one.amount, one.group))[:MOST_SHOWN]

    def share(self, balances: Mapping[str, int]) -> float:
        """Return the largest part of a shared budget's limit among these balances (by budget)."""
        return max(
            (amount / max(bounds.limit, 1) for key, amount in balances.items() if (bounds := self._bounds(key)).levels),
            default=0.0,
        )

    def forget(self) -> None:
        """Drop what pods used long ago, and journals that hold nothing. Call it now and then."""
        span = self._span()
        self._pods = {place: pod for place, pod in self._pods.items() if pod.at(span)}
        self._budgets = {key: budget for key, budget in self._budgets.items() if budget.balances}
        holding = {journal for budget in self._budgets.values() for journal in budget.balances}
        self._groups = {journal: groups for journal, groups in self._groups.items() if journal in holding}

    def _most(self, key: str, group: Group, limit: int) -> int:
        percent = {
            "pod": self.limits.pod_percent,
            "service": self.limits.service_percent,
            "namespace": self.limits.namespace_percent,
        }[group.level]
        return self.limits.most(percent, limit, self._lately(key, group))

    def _lately(self, key: str, group: Group) -> int:
        if group.level == "pod":
            pod = self._pods.get((key, group.name))
            return pod.at(self._span()) if pod is not None else 0
        return self._used(key, group, self.limits.window_seconds)

    def _span(self) -> int:
        return int(self._now() // self.limits.window_seconds)
