"""What the operator is told: the usage of every service and of every budget, and which pods report."""

import asyncio
import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.domain import budgets as policy
from llmwarden.domain import windows
from llmwarden.ledger.budgets.standing import Standing, Standings
from llmwarden.ledger.history import Clock, History
from llmwarden.ledger.rating.aggregate import DAY, Aggregate, Sums
from llmwarden.ledger.view import View

HOUR = 3600
REPORTING_SECONDS = 90.0  # a pod that neither reported nor asked for so long no longer counts as reporting
YIELD_EVERY = 50  # services whose usage is summed before others may run
TOP_SERVICES = 10


@dataclass(slots=True)
class Presence:
    """Which pods speak for which services, and when they last did (seconds since the epoch)."""

    by_service: dict[str, dict[str, float]] = field(default_factory=dict)  # service -> pod UID -> time
    by_pod: dict[str, set[str]] = field(default_factory=dict)

    def seen(self, services: Iterable[str], pod_uid: str, now: float) -> None:
        """Note that a pod asked or reported for services (`namespace/name`)."""
        for service in services:
            self.by_service.setdefault(service, {})[pod_uid] = now
            self.by_pod.setdefault(pod_uid, set()).add(service)

    def forget(self, now: float) -> None:
        """Drop pods that were silent for too long."""
        for service, pods in list(self.by_service.items()):
            for uid in [uid for uid, seen in pods.items() if now - seen > REPORTING_SECONDS]:
                del pods[uid]
                known = self.by_pod.get(uid)
                if known is not None:
                    known.discard(service)
                    if not known:
                        del self.by_pod[uid]
            if not pods:
                del self.by_service[service]


class UsageAnswers:
    """See the module."""

    def __init__(self, history: History, standings: Standings, clock: Clock) -> None:
        self._history = history
        self._standings = standings
        self._clock = clock
        self._view = View()
        self.presence = Presence()
        self.elsewhere: Mapping[str, Collection[str]] = {}  # by service, pods that other replicas hear from
        self.last_reports: dict[str, int] = {}  # by service, in seconds since the epoch

    def configure(self, view: View) -> None:
        """Take what the cluster says."""
        self._view = view

    def reported(self, service: str, at: int) -> None:
        """Note that a report of a service (`namespace/name`) came at a time."""
        self.last_reports[service] = max(at, self.last_reports.get(service, 0))

    async def usage(self) -> wire.Usage:
        """Return every service and every budget. Lets others run in between: with many services it takes a while."""
        now = self._clock()
        services: dict[str, wire.ServiceUsage] = {}
        wanted = sorted({*self._view.services, *self._history.aggregate.services})
        for count, name in enumerate(wanted):
            services[name] = self._service_usage(name, now)
            if count % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        budgets: dict[str, wire.BudgetUsage] = {}
        for count, (key, standing) in enumerate(list(self._standings.by_key.items())):
            budgets[key] = self._budget_usage(standing, now)
            if count % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        return wire.Usage(contract=names.CONTRACT, as_of=now, services=services, budgets=budgets)

    def _service_usage(self, name: str, now: dt.datetime) -> wire.ServiceUsage:
        day, hour = _rolling(now, DAY), _rolling(now, HOUR)
        known = self._view.services.get(name)
        last = self.last_reports.get(name)
        return wire.ServiceUsage(
            last24h=_totals(self._history.aggregate, lambda of: of.since(name, day)),
            last_hour=_totals(self._history.aggregate, lambda of: of.since(name, hour)),
            total=_totals(self._history.aggregate, lambda of: of.total(name)),
            uncosted_models=tuple(self._history.aggregate.uncosted_models(name, day)),
            budgets=known.budgets if known else (),
            reporting_pods=len({*self.presence.by_service.get(name, ()), *self.elsewhere.get(name, ())}),
            last_reported_at=None if last is None else dt.datetime.fromtimestamp(last, dt.UTC),
            rerated=self._history.rerated.get(name),
            gpu=self._history.gpu.usage(name, day, now.timestamp()),
        )

    def _budget_usage(self, standing: Standing, now: dt.datetime) -> wire.BudgetUsage:
        budget, start = standing.shared.budget, standing.start
        hour = _rolling(now, HOUR)
        # What was spent in this window only: at its beginning the last hour still shows the one before.
        since = max(hour, start)
        recent = 0
        shares: list[wire.ServiceShare] = []
        for member in standing.shared.members:
            recent += self._standings.spent(budget, member, since)
            spent = self._standings.spent(budget, member, start)
            if spent:
                shares.append(wire.ServiceShare(service=member, spent=spent))
        shares.sort(key=lambda share: (-share.spent, share.service))
        forecast = policy.forecast_exhausted_at(
            limit=budget.limit,
            spent=standing.spent,
            recent=recent,
            recent_seconds=int(now.timestamp() - since),
            now=now,
            ends=None if budget.window.rolling_seconds else standing.span.end,
        )
        return wire.BudgetUsage(
            unit=budget.unit,
            limit=budget.limit,
            spent=standing.spent,
            state=self._standings.shown_state(standing),
            action=budget.action,
            window_start=standing.span.start,
            resets_at=standing.span.end,
            forecast_exhausted_at=forecast,
            top_services=tuple(shares[:TOP_SERVICES]),
        )


def _rolling(now: dt.datetime, seconds: int) -> float:
    """Start of the rolling window of so many seconds that ends with the present bucket."""
    return windows.span(windows.Window(rolling_seconds=seconds), now).start.timestamp()


def _totals(aggregate: Aggregate, of: Callable[[Aggregate], Sums]) -> wire.UsageTotals:
    sums, aside, off = of(aggregate), of(aggregate.quarantined), of(aggregate.written_off)
    return wire.UsageTotals(
        requests=sums.counts.requests,
        errors=sums.counts.errors,
        tokens=sums.counts.tokens,
        picodollars=sums.picodollars,
        uncosted_tokens=sums.uncosted,
        quarantined_picodollars=aside.picodollars,
        quarantined_tokens=aside.counts.budgeted_tokens,
        written_off_picodollars=-off.picodollars,
        written_off_tokens=-off.counts.budgeted_tokens,
    )
