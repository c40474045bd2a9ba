"""The ledger's judgement, in memory and in one event loop: budgets' states, configuration per namespace, usage.

`core` knows neither HTTP nor Kubernetes nor the database: it is told what the cluster says (`configure`), what reports
added (`merged`) and that time passes (`tick`), and it wakes whoever waits (`changed`).
"""

import asyncio
import datetime as dt
import hashlib
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.domain import budgets as policy
from llmwarden.domain import leases, money, windows
from llmwarden.domain.cost import Rates
from llmwarden.domain.prices import Resolved
from llmwarden.errors import InvalidSpecError
from llmwarden.ledger.budgets import leases as lending
from llmwarden.ledger.rating.aggregate import DAY, Aggregate, Rerated, Sums
from llmwarden.ledger.rating.gpu import MOST_AT_ONCE, GpuHours
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.rating.rater import Rater
from llmwarden.ledger.store import Batch, Delta, HeldSum, Issued
from llmwarden.ledger.view import Service, Shared, View

logger = logging.getLogger(__name__)

HOUR = 3600
TOLD_TOGETHER = dt.timedelta(minutes=2)  # parts of one re-rating
REPORTING_SECONDS = 90.0  # a pod that neither reported nor asked for so long no longer counts as reporting
YIELD_EVERY = 50  # services whose usage is summed before others may run
TOP_SERVICES = 10

Clock = Callable[[], dt.datetime]


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


class Core:
    """See the module. `clock` gives the present time, aware, in UTC."""

    def __init__(
        self, catalogue: Catalogue, prices: Mapping[Issued, Rates], clock: Clock, report_seconds: float
    ) -> None:
        """`prices` are those that were handed out in earlier lives."""
        self.catalogue = catalogue
        self.prices: dict[Issued, Rates] = dict(prices)
        self.clock = clock
        self.report_seconds = report_seconds
        self.gpu = GpuHours(
            rate_of=catalogue.gpu_hour,
            priced=catalogue.overrides,
            aggregate=lambda: self.aggregate,
        )
        self.rater = Rater(self.prices.get, self.late_price, self.gpu.price)
        self.aggregate = Aggregate(self.rater)
        self.presence = Presence()
        self.elsewhere: Mapping[str, Collection[str]] = {}  # by service, pods that other replicas hear from
        self.view = View()
        self.standings: dict[str, Standing] = {}
        self.last_reports: dict[str, int] = {}
        self.trued_up_picodollars = 0  # money that closed hours moved to what their GPUs cost, up or down, in this life
        self.rerated_picodollars = 0  # money that moved in history, up or down, in this life
        self.rerated: dict[str, wire.Rerating] = {}  # by service, the last time that prices changed its history
        self._seen: set[str] = set()  # every service that was ever there in this life
        self.desk = lending.Desk(self.room, lambda: clock().timestamp())
        self._spends: dict[str, list[str]] = {}  # by service, also one that is gone, the budgets it spends from
        self._namespaces: dict[str, set[str]] = {}  # by budget, where it holds, once asked
        self.synced = False  # whether `view` is complete: until then nothing may be called unknown
        self._changed: dict[str, asyncio.Event] = {}  # by namespace, of those whose proxies wait
        self._generations: dict[str, str] = {}
        self._price_generations: dict[str, str] = {}
        self._next_start: dt.datetime | None = None
        self._next_sweep = 0.0

    # What happens to it -----------------------------------------------------------------------------------------------

    def rebuild(self, sums: Iterable[Delta], last_reports: Mapping[str, int]) -> None:
        """Take everything from the store: at start, or when other replicas cannot be followed any more."""
        self.aggregate = Aggregate(self.rater)
        self.aggregate.apply(sums, self.clock().timestamp())
        self.last_reports = dict(last_reports)
        self.gpu.recheck()
        self._true_up()
        self._judge(list(self.standings), self.clock())

    def configure(self, view: View) -> None:
        """Take what the cluster says now."""
        for name, fault in view.invalid.items():
            if self.view.invalid.get(name) != fault:
                logger.warning("%s is left out: %s", name, fault)
        prices_changed = view.prices != self.view.prices
        before, self.view = self.view, view
        known, self.synced = self.synced, True
        self._seen.update(view.services)
        now = self.clock()
        if prices_changed or self._next_start is None:
            self._override(view)
            self._next_start = self.catalogue.next_start(now)
            self._true_up(sys.maxsize if not known else MOST_AT_ONCE, tell=known)
            # Also what was reported before the prices were known. At the start that is no change to tell of: we had read none.
            self._reprice(tell=known)
        stood = self.standings
        self.standings = {
            key: self._stand(shared, now) if prices_changed else self._still(shared, now)
            for key, shared in view.budgets.items()
        }
        self._spends = {}
        for key, shared in view.budgets.items():
            for member in shared.members:
                self._spends.setdefault(member, []).append(key)
        self._namespaces = {}
        if prices_changed or not known:
            self._moved(everything=True)
            return
        moved = view.changed(before)
        for key, standing in self.standings.items():
            was = stood.get(key)
            if was is not None and was is not standing and (was.state, was.span) != (standing.state, standing.span):
                moved.update(self._namespaces_of(key))
        self._moved(moved)

    def hold(self, sums: Iterable[HeldSum], lost: Mapping[str, int]) -> None:
        """Take GPU time that pods held, as the store has it now, and how many pods of a service vanished in the last day."""
        self.gpu.take(sums)
        self.gpu.lost = lost
        self._true_up()

    def merged(self, reports: Sequence[tuple[wire.Report, int]], batch: Batch) -> None:
        """Take what reports added to the store, and before that what other replicas did."""
        now = self.clock()
        self.prices.update(batch.prices)
        self.aggregate.apply(batch.foreign, now.timestamp())
        for delta in batch.foreign:
            self.gpu.touched(delta.service, delta.bucket)
        touched = {delta.service for delta in batch.foreign}
        for service in touched:  # reported to another replica since we last looked: a second ago
            self.last_reports[service] = max(int(now.timestamp()), self.last_reports.get(service, 0))
        for (report, at), result in zip(reports, batch.merged, strict=True):
            self.aggregate.apply(result.deltas, now.timestamp())
            touched.update(delta.service for delta in result.deltas)
            for delta in result.deltas:
                self.gpu.touched(delta.service, delta.bucket)
            for row in report.rows:
                service = f"{report.pod.namespace}/{row.service}"
                self.last_reports[service] = max(at, self.last_reports.get(service, 0))
            self.presence.seen(
                {f"{report.pod.namespace}/{row.service}" for row in report.rows}, report.pod.uid, now.timestamp()
            )
        self._judge({key for service in touched for key in self._spends.get(service, ())}, now)

    def tick(self) -> None:
        """Let time pass: windows roll over, dated prices begin, silent pods are forgotten. Call it every second."""
        now = self.clock()
        self._judge({key for key, standing in self.standings.items() if not _within(standing.span, now)}, now)
        if self._next_start is not None and now >= self._next_start:
            self._next_start = self.catalogue.next_start(now)
            self._moved(everything=True)
        self._true_up()
        if not 0 <= self._next_sweep - now.timestamp() <= REPORTING_SECONDS:
            self._next_sweep = now.timestamp() + REPORTING_SECONDS / 3
            self.presence.forget(now.timestamp())
            self.desk.forget()
            if self.synced:
                self.aggregate.forget(now.timestamp())
                self.gpu.forget(now.timestamp())

    def remember(self, issued: Issued, rates: Rates) -> None:
        """Keep a price that the store has recorded, so that its rows can be rated."""
        self.prices[issued] = rates

    def stop(self) -> None:
        """Wake everyone who waits: the end has come."""
        self._moved(everything=True)

    # What it answers --------------------------------------------------------------------------------------------------

    async def changed(self, namespace: str, seconds: float) -> bool:
        """Wait until anything changes for a namespace's proxies, at most so long; returns whether something did."""
        event = self._changed.setdefault(namespace, asyncio.Event())
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def generation(self, namespace: str) -> str:
        """Return what changes whenever some proxy of the namespace must act differently: not with every dollar spent."""
        known = self._generations.get(namespace)
        if known is None:
            services = [
                (service.name, self._service_config(service)) for service in self.view.by_namespace.get(namespace, ())
            ]
            keys = sorted({key for _, config in services for key in config.budgets})
            rules = [(key, msgspec.structs.replace(self._budget_config(key), spent=0)) for key in keys]
            told = (services, rules, self.catalogue.bounds)
            known = hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]
            self._generations[namespace] = known
        return known

    def config(self, namespace: str, services: Iterable[str]) -> wire.Config:
        """Return the configuration of these services (bare names); one that does not exist is Released."""
        found = {name: self.view.services.get(f"{namespace}/{name}") for name in services}
        keys = {key for service in found.values() if service for key in service.budgets}
        return wire.Config(
            contract=names.CONTRACT,
            generation=self.generation(namespace),
            report_interval_seconds=self.report_seconds,
            services={
                name: self._service_config(service) if service else wire.ServiceConfig(state="Released")
                for name, service in found.items()
            },
            budgets={key: self._budget_config(key) for key in sorted(keys)},
            now=self.clock(),
            context_bounds=self.catalogue.bounds,
        )

    def budget_updates(self, services: Iterable[str]) -> dict[str, wire.BudgetUpdate]:
        """Return where the budgets of these services (`namespace/name`) stand."""
        keys = {key for name in services if (service := self.view.services.get(name)) for key in service.budgets}
        return {
            key: wire.BudgetUpdate(spent=standing.spent, state=standing.state, resets_at=standing.span.end)
            for key in sorted(keys)
            if (standing := self.standings.get(key))
        }

    def room(self, key: str) -> tuple[policy.Budget, int] | None:
        """Return a budget and what is spent of it in the window that holds now; None where there is none."""
        standing = self.standings.get(key)
        if standing is None:
            return None
        now = self.clock()
        if not _within(standing.span, now):
            self._judge([key], now)
            standing = self.standings[key]
        return standing.shared.budget, standing.spent

    def pending(self, deltas: Iterable[Delta]) -> dict[str, int]:
        """By budget, what these would add to what is spent of it: growth that is not on the disk yet, and so not counted."""
        found: dict[str, int] = {}
        told = list(deltas)
        for delta, sums in zip(told, self.aggregate.rated(told), strict=True):
            for key in self._spends.get(delta.service, ()):
                room = self.room(key)  # looks whether its window still holds
                if room is not None and delta.bucket >= self.standings[key].start:
                    found[key] = found.get(key, 0) + sums.spent(room[0].unit)
        return found

    def shown_state(self, standing: Standing) -> wire.BudgetState:
        """The state for people: used up also where what is left is too little for the calls that come.

        Proxies are told the other one: a smaller call may still fit.
        """
        dry = self.desk.dry(standing.shared.budget.key, standing.start)
        return "Exceeded" if dry else standing.state

    def holds_for(self, key: str, namespace: str) -> bool:
        """Whether a budget holds for some service of a namespace: whether its pods may have a lease of it."""
        return namespace in self._namespaces_of(key)

    def interval(self, services: Iterable[str]) -> float:
        """Seconds until a pod of these services (`namespace/name`) reports again: by how many report, and how near a budget is."""
        keys = {key for name in services if (service := self.view.services.get(name)) for key in service.budgets}
        return leases.interval(
            pods=len(self.presence.by_pod), base=self.report_seconds, near_end=not self.desk.near.isdisjoint(keys)
        )

    def knows(self, service: str) -> bool:
        """Whether a service (`namespace/name`) is there, was there, or has spent anything: whether it may be reported."""
        return service in self._seen or service in self.last_reports

    def price(self, service: str, model: str) -> tuple[Resolved | None, dt.datetime | None]:
        """Price of a model for a service (`namespace/name`) now, and until when that holds."""
        known = self.view.services.get(service)
        if known is None:
            return None, None
        return self.catalogue.resolve_until(known.provider, model, self.clock())

    def price_generation(self, service: str) -> str:
        """Of which generation the prices of a service (`namespace/name`) are now; "" for one that is not there (yet)."""
        known = self.view.services.get(service)
        return "" if known is None else self._service_config(known).price_generation

    def provisional_price(self, service: str, model: str) -> wire.Picodollars | None:
        """What gates calls of a service (`namespace/name`) whose tokens GPU-hours price; None where they do not, or it is not known."""
        known = self.view.services.get(service)
        if known is None or self.catalogue.overrides(known.provider, model, self.clock().timestamp()):
            return None
        return self.gpu.present(service) if self.gpu.prices(service) else None

    async def usage(self) -> wire.Usage:
        """Return every service and every budget. Lets others run in between: with many services it takes a while."""
        now = self.clock()
        services: dict[str, wire.ServiceUsage] = {}
        wanted = sorted({*self.view.services, *self.aggregate.services})
        for count, name in enumerate(wanted):
            services[name] = self._service_usage(name, now)
            if count % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        budgets: dict[str, wire.BudgetUsage] = {}
        for count, (key, standing) in enumerate(list(self.standings.items())):
            budgets[key] = self._budget_usage(standing, now)
            if count % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        return wire.Usage(contract=names.CONTRACT, as_of=now, services=services, budgets=budgets)

    # Inside -----------------------------------------------------------------------------------------------------------

    def late_price(self, provider: str, model: str, at: int) -> Rates | None:
        """Price of what had none when it was counted, at a time in seconds since the epoch, as known now."""
        found = self.catalogue.resolve(provider, model, dt.datetime.fromtimestamp(at, dt.UTC))
        return found.rates if found else None

    def _reprice(self, *, tell: bool) -> None:
        """Rate again by new prices what had none, and say what that changed."""
        now = self.clock()
        for service, change in sorted(self.aggregate.reprice(but=self.gpu.shares).items()):
            if tell:
                self._tell_rerated(service, change, now)

    def _tell_rerated(self, service: str, change: Rerated, now: dt.datetime) -> None:
        self.rerated_picodollars += abs(change.picodollars)
        before = self.rerated.get(service)
        if before is not None and now - before.at < TOLD_TOGETHER:  # many hours are rated again in several steps
            change = Rerated(before.picodollars + change.picodollars, before.tokens + change.tokens)
        self.rerated[service] = wire.Rerating(at=now, picodollars=change.picodollars, tokens=change.tokens)
        logger.info(
            "history of %s is rated again by new prices: %s for %d tokens that had none",
            service,
            money.human(change.picodollars),
            change.tokens,
        )

    def _override(self, view: View) -> None:
        """Take the ModelPrices, and see to it that hours of GPUs that they change are shared again."""
        rates, models = self.catalogue.gpus(), self.catalogue.priced_models()
        self.catalogue.override(view.prices)
        fresh, priced = self.catalogue.gpus(), self.catalogue.priced_models()
        products = {product for product in {*rates, *fresh} if rates.get(product) != fresh.get(product)}
        providers = {key[0] for key in {*models, *priced} if models.get(key) != priced.get(key)}
        services = {name for name, service in view.services.items() if service.provider in providers}
        self.gpu.recheck(products, services)

    def _true_up(self, most: int = MOST_AT_ONCE, *, tell: bool = True) -> None:
        """Rate the tokens of hours that closed, or that changed since, by what their GPUs cost; so many hours at once."""
        if not self.synced:
            return  # prices are not read yet: all would be shared twice
        now = self.clock()
        moved = self.gpu.true_up(now.timestamp(), most)
        if not moved:
            return
        for service, change in sorted(self.aggregate.reprice(moved).items()):
            if not tell:
                continue
            if change.tokens:
                self._tell_rerated(service, change, now)
                continue
            self.trued_up_picodollars += abs(change.picodollars)
            logger.info(
                "tokens of %s are rated by the GPU-hours they took: %s", service, money.human(change.picodollars)
            )
        self._judge({key for service in moved for key in self._spends.get(service, ())}, self.clock())
        self._moved({service.partition("/")[0] for service in moved})

    def _namespaces_of(self, key: str) -> Collection[str]:
        found = self._namespaces.get(key)
        if found is None:
            shared = self.view.budgets.get(key)
            members = shared.members if shared is not None else ()
            found = {member.partition("/")[0] for member in members if member in self.view.services}
            if shared is not None:
                self._namespaces[key] = found
        return found

    def _still(self, shared: Shared, now: dt.datetime) -> Standing:
        """A budget's standing after an edit: what it was, unless the edit was about this one. Of ten thousand services one is edited."""
        before = self.standings.get(shared.budget.key)
        same = before is not None and before.shared == shared and _within(before.span, now)
        return before if before is not None and same else self._stand(shared, now)

    def _stand(self, shared: Shared, now: dt.datetime) -> Standing:
        before = self.standings.get(shared.budget.key)
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
        spent = sum(self.aggregate.since(member, start).spent(shared.budget.unit) for member in shared.members)
        return Standing(shared, span, spent, policy.state(shared.budget.limit, spent, shared.budget.warn_at))

    def _judge(self, keys: Iterable[str], now: dt.datetime) -> None:
        """Look at these budgets again; wake the proxies whose budget's state or window has changed."""
        moved: set[str] = set()
        for key in keys:
            before = self.standings.get(key)
            if before is None:
                continue
            after = self._stand(before.shared, now)
            self.standings[key] = after
            if (after.state, after.span) != (before.state, before.span):
                moved.update(member.partition("/")[0] for member in after.shared.members)
                if after.state != before.state:
                    logger.info("budget %s was %s and is %s", key, before.state, after.state)
        if moved:
            self._moved(moved)

    def _moved(self, namespaces: Iterable[str] = (), *, everything: bool = False) -> None:
        if everything:
            self._generations.clear()
            self._price_generations.clear()
            namespaces = list(self._changed)
        for namespace in namespaces:
            self._generations.pop(namespace, None)
            event = self._changed.pop(namespace, None)
            if event is not None:
                event.set()

    def _service_config(self, service: Service) -> wire.ServiceConfig:
        prices = self._price_generations.get(service.provider)
        if prices is None:
            prices = self.catalogue.generation(service.provider, self.clock())
            self._price_generations[service.provider] = prices
        present = self.gpu.present(service.key)
        if present is not None:
            prices += f"+{present.input}+{present.output}"
        return wire.ServiceConfig(
            state="Active",
            provider=service.provider,
            sample_percent=service.sample_percent,
            budgets=service.budgets,
            price_generation=prices,
        )

    def _budget_config(self, key: str) -> wire.BudgetConfig:
        standing = self.standings[key]
        budget = standing.shared.budget
        return wire.BudgetConfig(
            unit=budget.unit,
            limit=budget.limit,
            spent=standing.spent,
            state=standing.state,
            action=budget.action,
            window_start=standing.span.start,
            resets_at=standing.span.end,
            warn_at_percent=budget.warn_at,
            on_unknown_price=budget.on_unknown_price,
            on_ledger_loss=budget.on_ledger_loss,
            fallback_model=budget.fallback_model,
            ceiling=budget.ceiling,
            leased=lending.is_leased(budget),
        )

    def _service_usage(self, name: str, now: dt.datetime) -> wire.ServiceUsage:
        day, hour = _rolling(now, DAY), _rolling(now, HOUR)
        known = self.view.services.get(name)
        last = self.last_reports.get(name)
        return wire.ServiceUsage(
            last24h=_totals(self.aggregate.since(name, day)),
            last_hour=_totals(self.aggregate.since(name, hour)),
            total=_totals(self.aggregate.total(name)),
            uncosted_models=tuple(self.aggregate.uncosted_models(name, day)),
            budgets=known.budgets if known else (),
            reporting_pods=len({*self.presence.by_service.get(name, ()), *self.elsewhere.get(name, ())}),
            last_reported_at=None if last is None else dt.datetime.fromtimestamp(last, dt.UTC),
            rerated=self.rerated.get(name),
            gpu=self.gpu.usage(name, day, now.timestamp()),
        )

    def _budget_usage(self, standing: Standing, now: dt.datetime) -> wire.BudgetUsage:
        budget, start = standing.shared.budget, standing.start
        hour = _rolling(now, HOUR)
        # What was spent in this window only: at its beginning the last hour still shows the one before.
        since = max(hour, start)
        recent = 0
        shares: list[wire.ServiceShare] = []
        for member in standing.shared.members:
            recent += self.aggregate.since(member, since).spent(budget.unit)
            spent = self.aggregate.since(member, start).spent(budget.unit)
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
            state=self.shown_state(standing),
            action=budget.action,
            window_start=standing.span.start,
            resets_at=standing.span.end,
            forecast_exhausted_at=forecast,
            top_services=tuple(shares[:TOP_SERVICES]),
        )


def _within(span: windows.Span, now: dt.datetime) -> bool:
    # Both bounds: a clock that jumps back leaves the window by its start.
    return span.start <= now < span.end


def _rolling(now: dt.datetime, seconds: int) -> float:
    """Start of the rolling window of so many seconds that ends with the present bucket."""
    return windows.span(windows.Window(rolling_seconds=seconds), now).start.timestamp()


def _totals(sums: Sums) -> wire.UsageTotals:
    return wire.UsageTotals(
        requests=sums.counts.requests,
        errors=sums.counts.errors,
        tokens=sums.counts.tokens,
        picodollars=sums.picodollars,
        uncosted_tokens=sums.uncosted,
    )
