"""Where budgets stand: what is spent of each in its present window, its state, and who must hear when that changes."""

import datetime as dt
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.domain import budgets as policy
from llmwarden.domain import windows
from llmwarden.errors import InvalidSpecError
from llmwarden.ledger.budgets import leases as lending
from llmwarden.ledger.budgets.holders import Bounds, Group, Holders
from llmwarden.ledger.history import Clock, History
from llmwarden.ledger.store import Delta
from llmwarden.ledger.view import Shared, View

logger = logging.getLogger(__name__)

RECENT_SECONDS: Final = 2.0  # for so long what a holder used lately is not looked up again


@dataclass(slots=True)
class Standing:
    """A budget in its present window. `spent` is in the budget's unit."""

    shared: Shared
    span: windows.Span
    spent: int
    state: wire.BudgetState

    @property
    def start(self) -> float:
        """Start of the window, in seconds since the epoch."""
        return self.span.start.timestamp()


class Standings:
    """See the module. `moved` is told of namespaces whose proxies must act differently."""

    def __init__(self, history: History, clock: Clock, moved: Callable[[Iterable[str]], None]) -> None:
        self._history = history
        self._clock = clock
        self._tell = moved
        self._view = View()
        self.by_key: dict[str, Standing] = {}
        seconds: Callable[[], float] = lambda: clock().timestamp()  # noqa: E731 - a name for both
        self.desk = lending.Desk(self.room, seconds, Holders(self.bounds, self._lately, seconds))
        self._recent: dict[tuple[str, Group], tuple[float, int]] = {}  # what holders used, and until when that is good
        self._spends: dict[str, list[str]] = {}  # by service, also one that is gone, the budgets it spends from
        self._bounds: dict[str, Bounds] = {}
        self._namespaces: dict[str, set[str]] = {}  # by budget, where it holds, once asked

    def configure(self, view: View, *, prices_changed: bool) -> set[str]:
        """Take what the cluster says; returns the namespaces of budgets whose state or window that changed."""
        now = self._clock()
        self._view = view
        stood = self.by_key
        self.by_key = {
            key: self._stand(shared, now) if prices_changed else self._still(shared, now)
            for key, shared in view.budgets.items()
        }
        self._spends = {}
        for key, shared in view.budgets.items():
            for member in shared.members:
                self._spends.setdefault(member, []).append(key)
        self._namespaces = {}
        self._bounds = {}
        self._recent = {}
        moved: set[str] = set()
        for key, standing in self.by_key.items():
            was = stood.get(key)
            if was is not None and was is not standing and (was.state, was.span) != (standing.state, standing.span):
                moved.update(self._namespaces_of(key))
        return moved

    def judge_services(self, services: Iterable[str]) -> None:
        """Look again at the budgets that these services (`namespace/name`) spend from."""
        self._judge({key for service in services for key in self._spends.get(service, ())}, self._clock())

    def judge_all(self) -> None:
        """Look at every budget again."""
        self._judge(list(self.by_key), self._clock())

    def judge_ended(self) -> None:
        """Look again at the budgets whose window has ended."""
        now = self._clock()
        self._judge({key for key, standing in self.by_key.items() if not _within(standing.span, now)}, now)

    def budget_updates(self, services: Iterable[str]) -> dict[str, wire.BudgetUpdate]:
        """Return where the budgets of these services (`namespace/name`) stand."""
        return {
            key: wire.BudgetUpdate(spent=standing.spent, state=standing.state, resets_at=standing.span.end)
            for key in sorted(self._keys_of(services))
            if (standing := self.by_key.get(key))
        }

    def room(self, key: str) -> tuple[policy.Budget, int] | None:
        """Return a budget and what is spent of it in the window that holds now; None where there is none."""
        standing = self.by_key.get(key)
        if standing is None:
            return None
        now = self._clock()
        if not _within(standing.span, now):
            self._judge([key], now)
            standing = self.by_key[key]
        return standing.shared.budget, standing.spent

    def bounds(self, key: str) -> Bounds:
        """Return what is bounded of what holders hold of a budget: of one that several services, or several namespaces, share."""
        found = self._bounds.get(key)
        if found is None:
            found = self._bounds[key] = self._bounded(key)
        return found

    def pending(self, deltas: Iterable[Delta]) -> dict[str, int]:
        """By budget, what these would add to what is spent of it: growth that is not on the disk yet, and so not counted."""
        found: dict[str, int] = {}
        told = list(deltas)
        for delta, sums in zip(told, self._history.aggregate.rated(told), strict=True):
            for key in self._spends.get(delta.service, ()):
                if delta.quarantined and is_shared(self.by_key[key].shared.budget):
                    continue
                room = self.room(key)  # looks whether its window still holds
                if room is not None and delta.bucket >= self.by_key[key].start:
                    found[key] = found.get(key, 0) + sums.spent(room[0].unit)
        return found

    def spent(self, budget: policy.Budget, service: str, start: float) -> int:
        """What a service (`namespace/name`) has spent of a budget from `start` on, in the budget's unit.

        Quarantined usage counts in the budgets of the service and of its namespace only: it must not exhaust what others share.
        """
        aggregate = self._history.aggregate
        sums = aggregate.everywhere(service, start) if is_shared(budget) else aggregate.since(service, start)
        return sums.spent(budget.unit)

    def shown_state(self, standing: Standing) -> wire.BudgetState:
        """The state for people: used up also where what is left is too little for the calls that come.

        Proxies are told the other one: a smaller call may still fit.
        """
        dry = self.desk.dry(standing.shared.budget.key, standing.start)
        return "Exceeded" if dry else standing.state

    def may_lease(self, key: str, services: Iterable[str]) -> bool:
        """Whether one of these services (`namespace/name`), also one that is gone, spends from a budget: who may have a lease of it."""
        return any(key in self._spends.get(service, ()) for service in services)

    def near_end(self, services: Iterable[str]) -> bool:
        """Tell whether a budget of these services (`namespace/name`) is near its end."""
        return not self.desk.near.isdisjoint(self._keys_of(services))

    def _bounded(self, key: str) -> Bounds:
        shared = self._view.budgets.get(key)
        if shared is None or shared.budget.scope == "LLMService" or not lending.is_leased(shared.budget):
            return Bounds(0)
        limit = lending.hard(shared.budget)
        if sum(member in self._view.services for member in shared.members) < 2:  # noqa: PLR2004 - nobody to share it with
            return Bounds(limit)
        several = len(self._namespaces_of(key)) > 1
        return Bounds(limit, ("pod", "service", "namespace") if several else ("pod", "service"))

    def _lately(self, key: str, group: Group, seconds: int) -> int:
        """What a service or a namespace used of a budget in so many seconds, to the bucket; looked up every few seconds."""
        now = self._clock().timestamp()
        until, used = self._recent.get((key, group), (0.0, 0))
        if 0 <= until - now <= RECENT_SECONDS:
            return used
        shared = self._view.budgets.get(key)
        used = 0
        if shared is not None:
            prefix = f"{group.name}/"
            start = now - seconds - names.BUCKET_SECONDS
            used = sum(
                self._history.aggregate.since(member, start).spent(shared.budget.unit)
                for member in ([group.name] if group.level == "service" else shared.members)
                if group.level == "service" or member.startswith(prefix)
            )
        self._recent[key, group] = (now + RECENT_SECONDS, used)
        return used

    def _keys_of(self, services: Iterable[str]) -> set[str]:
        """Return the keys of the budgets of these services (`namespace/name`)."""
        return {key for name in services if (service := self._view.find(name)) for key in service.budgets}

    def _namespaces_of(self, key: str) -> Collection[str]:
        found = self._namespaces.get(key)
        if found is None:
            shared = self._view.budgets.get(key)
            members = shared.members if shared is not None else ()
            found = {member.partition("/")[0] for member in members}
            if shared is not None:
                self._namespaces[key] = found
        return found

    def _still(self, shared: Shared, now: dt.datetime) -> Standing:
        """A budget's standing after an edit: what it was, unless the edit was about this one. Of ten thousand services one is edited."""
        before = self.by_key.get(shared.budget.key)
        same = before is not None and before.shared == shared and _within(before.span, now)
        return before if before is not None and same else self._stand(shared, now)

    def _stand(self, shared: Shared, now: dt.datetime) -> Standing:
        before = self.by_key.get(shared.budget.key)
        if before is not None and before.shared.budget.window == shared.budget.window and _within(before.span, now):
            span = before.span
        else:
            try:
                span = windows.span(shared.budget.window, now)
            except InvalidSpecError as error:
                # Its zone was known when the object was read: the machine's zone data went away under us.
                logger.warning("budget %s stays in its last window: %s", shared.budget.key, error)
                span = before.span if before else windows.Span(now, now + dt.timedelta(seconds=names.BUCKET_SECONDS))
        start = span.start.timestamp()
        spent = sum(self.spent(shared.budget, member, start) for member in shared.members)
        return Standing(shared, span, spent, policy.state(shared.budget.limit, spent, shared.budget.warn_at))

    def _judge(self, keys: Iterable[str], now: dt.datetime) -> None:
        """Look at these budgets again; wake the proxies whose budget's state or window has changed."""
        moved: set[str] = set()
        for key in keys:
            before = self.by_key.get(key)
            if before is None:
                continue
            after = self._stand(before.shared, now)
            self.by_key[key] = after
            if (after.state, after.span) != (before.state, before.span):
                moved.update(member.partition("/")[0] for member in after.shared.members)
                if after.state != before.state:
                    logger.info("budget %s was %s and is %s", key, before.state, after.state)
        if moved:
            self._tell(moved)


def is_shared(budget: policy.Budget) -> bool:
    """Whether namespaces share a budget."""
    return not budget.namespace


def _within(span: windows.Span, now: dt.datetime) -> bool:
    # Both bounds: a clock that jumps back leaves the window by its start.
    return span.start <= now < span.end
