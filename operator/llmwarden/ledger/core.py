"""The ledger in memory: four parts, and what happens to them. It knows neither HTTP nor Kubernetes nor the database.

`history` is usage with its money, `standings` where budgets stand, `configuration` what proxies are told, `usage` what the operator is told.
Here is only the order in which an event concerns them: what the cluster says (`configure`), what reports added (`merged`), and that time
passes (`tick`).
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

from llmwarden.contracts import ledger as wire
from llmwarden.domain import leases
from llmwarden.domain.cost import Rates
from llmwarden.ledger.budgets.standing import Standings
from llmwarden.ledger.configuration import Configuration
from llmwarden.ledger.history import Clock, History
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.store import Batch, Delta, HeldSum, Issued
from llmwarden.ledger.usage import REPORTING_SECONDS, UsageAnswers
from llmwarden.ledger.view import View

logger = logging.getLogger(__name__)


class Core:
    """See the module. `clock` gives the present time, aware, in UTC. One event loop uses it."""

    def __init__(
        self, catalogue: Catalogue, prices: Mapping[Issued, Rates], clock: Clock, report_seconds: float
    ) -> None:
        """`prices` are those that were handed out in earlier lives."""
        self.clock = clock
        self.report_seconds = report_seconds
        self.history = History(catalogue, prices, clock)
        self.standings = Standings(self.history, clock, self._wake)
        self.configuration = Configuration(self.history, self.standings, clock, report_seconds)
        self.usage = UsageAnswers(self.history, self.standings, clock)
        self.view = View()
        self.synced = False  # whether `view` is complete: until then nothing may be called unknown
        self._seen: set[str] = set()  # every service that was ever there in this life
        self._next_sweep = 0.0

    def rebuild(self, sums: Iterable[Delta], last_reports: Mapping[str, int]) -> None:
        """Take everything from the store: at start, or when other replicas cannot be followed any more."""
        self.history.rebuild(sums)
        self.usage.last_reports = dict(last_reports)
        self._true_up()
        self.standings.judge_all()

    def configure(self, view: View) -> None:
        """Take what the cluster says now."""
        for name, fault in view.invalid.items():
            if self.view.invalid.get(name) != fault:
                logger.warning("%s is left out: %s", name, fault)
        before, self.view = self.view, view
        prices_changed = view.prices != before.prices
        first, self.synced = not self.synced, True
        self._seen.update(view.services)
        self.configuration.configure(view)
        self.usage.configure(view)
        self._trued_up(self.history.configure(view, prices_changed=prices_changed, first=first))
        moved = self.standings.configure(view, prices_changed=prices_changed)
        if prices_changed or first:
            self.configuration.moved(everything=True)
        else:
            self.configuration.moved(moved | view.changed(before))

    def hold(self, sums: Iterable[HeldSum], lost: Mapping[str, int]) -> None:
        """Take GPU time that pods held, as the store has it now, and how many pods of a service vanished in the last day."""
        self.history.take_gpus(sums, lost)
        self._true_up()

    def merged(self, reports: Sequence[tuple[wire.Report, int]], batch: Batch) -> None:
        """Take what reports added to the store, and before that what other replicas did."""
        now = self.clock()
        self.history.prices.update(batch.prices)
        self.history.count(batch.foreign)
        touched = {delta.service for delta in batch.foreign}
        for service in {
            delta.service for delta in batch.foreign if not delta.written_off
        }:  # reported to another replica since we last looked: a second ago
            self.usage.reported(service, int(now.timestamp()))
        self._lent(reports, batch)
        for (report, at), result in zip(reports, batch.merged, strict=True):
            self.history.count(result.deltas)
            touched.update(delta.service for delta in result.deltas)
            services = {f"{report.pod.namespace}/{row.service}" for row in report.rows}
            for service in services:
                self.usage.reported(service, at)
            self.usage.presence.seen(services, report.pod.uid, now.timestamp())
        self.standings.judge_services(touched)

    def corrected(self, batch: Batch) -> None:
        """Take what an order of the platform changed: nobody reported it."""
        self.history.count(batch.foreign)
        self.standings.judge_services({delta.service for delta in batch.foreign})

    def tick(self) -> None:
        """Let time pass: windows roll over, dated prices begin, silent pods are forgotten. Call it every second."""
        now = self.clock().timestamp()
        self.standings.judge_ended()
        if self.history.prices_began():
            self.configuration.moved(everything=True)
        self._true_up()
        if not 0 <= self._next_sweep - now <= REPORTING_SECONDS:
            self._next_sweep = now + REPORTING_SECONDS / 3
            self.usage.presence.forget(now)
            self.standings.desk.forget()
            if self.synced:
                self.history.forget()

    def remember(self, issued: Issued, rates: Rates) -> None:
        """Keep a price that the store has recorded, so that its rows can be rated."""
        self.history.prices[issued] = rates

    def stop(self) -> None:
        """Wake everyone who waits: the end has come."""
        self.configuration.moved(everything=True)

    def interval(self, services: Iterable[str]) -> float:
        """Seconds until a pod of these services (`namespace/name`) reports again: by how many report, and how near a budget is."""
        return leases.interval(
            pods=len(self.usage.presence.by_pod),
            base=self.report_seconds,
            near_end=self.standings.near_end(services),
        )

    def remember_services(self, services: Iterable[str]) -> None:
        """Take the services (`namespace/name`) that were there in earlier lives: their pods may still report."""
        self._seen.update(services)

    def knows(self, service: str) -> bool:
        """Whether a service (`namespace/name`) is there, was there, or has spent anything: whether it may be reported."""
        return service in self._seen or service in self.usage.last_reports or service in self.view.departed

    def _wake(self, namespaces: Iterable[str]) -> None:
        """Wake the proxies of namespaces where a budget's state or window has changed."""
        self.configuration.moved(namespaces)

    def _lent(self, reports: Sequence[tuple[wire.Report, int]], batch: Batch) -> None:
        """Take who holds what, and what its pods used. Before it is counted: after that, what it costs cannot be told apart."""
        holders = self.standings.desk.holders
        for (report, _), result in zip(reports, batch.merged, strict=True):
            if not report.leases:
                continue
            namespace, uid = report.pod.namespace, report.pod.uid
            holders.know(result.journal_id, namespace, uid, {f"{namespace}/{row.service}" for row in report.rows})
            for key, amount in self.standings.pending(result.deltas).items():
                holders.use(key, uid, amount)
        for (key, journal), balance in batch.balances.items():
            holders.put(key, journal, balance)
        holders.end(batch.ended)

    def _true_up(self) -> None:
        if self.synced:  # before that prices are not read, and all would be shared twice
            self._trued_up(self.history.true_up())

    def _trued_up(self, services: set[str]) -> None:
        """Look again at what hours of GPUs that closed have changed."""
        if services:
            self.standings.judge_services(services)
            self.configuration.moved({service.partition("/")[0] for service in services})
