"""observe -> build -> apply -> publish, for one key at a time (see ARCHITECTURE.md). Level-triggered: what made a key dirty is not asked."""

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from llmwarden import names, pki, reconciled
from llmwarden.act.apply import Applier
from llmwarden.act.events import Events
from llmwarden.act.gpus import tell
from llmwarden.act.move import evict
from llmwarden.act.publish import Publisher
from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, ModelPrice, ProviderAccount, ProviderAccountStatus
from llmwarden.api.v1alpha1.common import Condition, Model
from llmwarden.api.v1alpha1.llmservice import InjectionStatus, LLMServiceStatus
from llmwarden.desired import account_status, injection, shared_status
from llmwarden.desired import status as statuses
from llmwarden.desired.builder import build, build_cluster
from llmwarden.desired.manifest import Manifest
from llmwarden.desired.params import ClusterParams, Params
from llmwarden.desired.snapshot import Outcome, Snapshot, Source, queue_bounds
from llmwarden.domain import budgets, conditions, engine_objectives, upstream
from llmwarden.errors import InvalidSpecError, NotFoundError, UnavailableError
from llmwarden.kube import Client
from llmwarden.observe.engines import Engines
from llmwarden.observe.gpus import Gpus
from llmwarden.observe.ledger import Ledger
from llmwarden.observe.prometheus import Prometheus
from llmwarden.observe.resources import Key, Name
from llmwarden.observe.world import World
from llmwarden.settings import Settings

logger = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 5.0  # for the webhook's own watch to hear that injection has stopped, before pods are made anew
SETTLED_SECONDS: Final = 0.2
SECRETS: Final = (names.SECRET_CA, names.SECRET_WEBHOOK_TLS, names.SECRET_LEDGER_TLS)


class Reconciler:
    """Reconciles keys. `now` is the time, `clock` monotonic seconds."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        world: World,
        now: Callable[[], dt.datetime],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._settings = settings
        self._world = world
        self._now = now
        self._clock = clock
        self._applier = Applier(client, world.owned, clock)
        self._publisher = Publisher(client, clock)
        self._events = Events(client, now)
        self._built: dict[Key, tuple[tuple[object, ...], list[Manifest]]] = {}
        self._tried: dict[str, dt.datetime] = {}
        world.on_gone = self._applier.seen_gone

    async def reconcile_once(self, key: Key) -> float | None:
        """Bring one key to what it should be; returns after how many seconds to look again, None where an event or the next tick will do.

        Raises UnavailableError and ConflictError: try again with backoff.
        """
        match key.kind:
            case "Cluster":
                await self._cluster()
                return None
            case "LLMService":
                return await self._service(key)
            case "LLMBudget" | "ClusterLLMBudget":
                return await self._shared(key, self._budget_status)
            case "ProviderAccount":
                return await self._account(key)
            case _:
                return await self._shared(key, self._price_status)

    # LLMService -----------------------------------------------------------------------------------------------------

    async def _service(self, key: Key) -> float | None:
        name = (key.namespace, key.name)
        if not self._world.settled(key.namespace) and self._world.raw(key.kind, name) is not None:
            return SETTLED_SECONDS  # its pods are being read: none would be news
        try:
            snapshot = self._world.snapshot(name)
        except InvalidSpecError as error:
            return await self._invalid(key, error)
        if snapshot is None:
            self._built.pop(key, None)
            self._publisher.forget(*key)
            return None
        failed = self._world.unread()
        wanted = [manifest for manifest in self._build(key, snapshot) if manifest["kind"] not in failed]
        failed |= await self._applier.apply(wanted)
        await self._applier.prune(self._world.owned_of(name), wanted)
        now = self._now()
        state = injection.decide(snapshot.service, snapshot.pods, self._settings, now)
        status = statuses.build(snapshot, Outcome(failed), state, now)
        again = await self._publisher.publish(snapshot.object, status.dump())
        await self._tell(snapshot, status)
        return _sooner(again, await self._move(snapshot, state, now))

    def _build(self, key: Key, snapshot: Snapshot) -> list[Manifest]:
        """Build the children, or take those of the last time where nothing that they are made of has changed."""
        service = snapshot.service
        held = self._world.applying(service)
        bounds = queue_bounds(snapshot.engine, snapshot.figures)
        made_of = (service.metadata.uid, service.metadata.generation, snapshot.capabilities, held, bounds)
        known = self._built.get(key)
        if known is None or known[0] != made_of:
            wanted = engine_objectives.holdable(
                self._world.objectives(service), upstream.scraped_engine(service), bounds
            )
            params = Params(service, self._settings, snapshot.capabilities, wanted, held)
            known = (made_of, build(params))
            self._built[key] = known
        return known[1]

    async def _invalid(self, key: Key, error: InvalidSpecError) -> float | None:
        """Say of an object that cannot be read (stored under another schema) that it cannot; others go on."""
        item = self._world.raw(key.kind, (key.namespace, key.name))
        if item is None:
            return None
        old: tuple[Condition, ...] = ()
        for entry in (item.get("status") or {}).get("conditions") or []:
            old = (*old, Condition.model_validate(entry))
        generation = item["metadata"].get("generation", 0)
        text = f"The spec does not fit this version's schema: {error}. Edit it; nothing is done for it until then."
        found = conditions.set_condition(
            old, "Ready", "False", "InvalidSpec", text, generation=generation, now=self._now()
        )
        status = {
            **(item.get("status") or {}),
            "observedGeneration": generation,
            "conditions": [entry.dump() for entry in found],
        }
        return await self._publisher.publish(item, status)

    async def _tell(self, snapshot: Snapshot, status: LLMServiceStatus) -> None:
        """Record as an Event what turned: injection that stopped, a budget that ran out, a spec that cannot work."""
        old = snapshot.service.status or LLMServiceStatus()
        for kind, reason in (
            ("Instrumented", "InjectionStopped"),
            ("WithinBudget", "Exceeded"),
            ("Ready", "InvalidBudget"),
            ("Ready", "InvalidObjective"),
            ("Ready", "UpstreamNotAllowed"),
        ):
            new, before = conditions.find(status.conditions, kind), conditions.find(old.conditions, kind)
            if new is not None and new.reason == reason and (before is None or before.reason != reason):
                await self._events.say(snapshot.object, reason, new.message, warning=True)
        again = statuses.rerated(old, status)
        if again:
            await self._events.say(snapshot.object, "Rerated", again)
        applying = self._world.applying(snapshot.service)
        for budget, percent in statuses.thresholds(old.budgets, status.budgets, applying):
            text = f"{percent} % of {statuses.called(budget)} ({budget.limit} {budget.unit}) is used."
            await self._events.say(snapshot.object, "BudgetThreshold", text, warning=True)

    async def _move(self, snapshot: Snapshot, state: InjectionStatus, now: dt.datetime) -> float | None:
        """Make pods anew that hang on their proxy, or that `rollout: Evict` wants injected."""
        service = snapshot.service
        stuck = injection.to_unstick(snapshot.pods, state, self._settings, now)
        if stuck:
            since = state.since if state.state == "Stopped" else None
            if since is not None and (now - since).total_seconds() < SETTLE_SECONDS:
                return SETTLE_SECONDS
            for pod in stuck:
                if await evict(self._client, service.metadata.namespace, pod.name, pod.uid):
                    text = f"Pod {pod.name} hung on its proxy ({pod.reason}) and is made anew without it."
                    await self._events.say(snapshot.object, "PodReleased", text, warning=True)
            return SETTLE_SECONDS
        chosen = injection.to_evict(service, snapshot.pods, state, self._tried, webhook_ready=self._world.webhook_ready)
        if chosen is None or chosen.owner is None:
            return None
        # Before the call: its replacement is made while we wait for the answer.
        self._tried.setdefault(chosen.owner.template, now.replace(microsecond=0))
        if await evict(self._client, service.metadata.namespace, chosen.name, chosen.uid):
            await self._events.say(
                snapshot.object, "PodEvicted", f"Pod {chosen.name} is evicted, so that it comes back with the proxy."
            )
        return SETTLE_SECONDS

    # Shared budgets and prices --------------------------------------------------------------------------------------

    async def _shared(self, key: Key, status_of: Callable[[Any, Name], Model]) -> float | None:
        """Publish what `status_of` says of a parsed object and its name."""
        name = (key.namespace, key.name)
        item = self._world.raw(key.kind, name)
        if item is None:
            self._publisher.forget(*key)
            return None
        try:
            parsed = self._world.parsed(key.kind, name)
        except InvalidSpecError as error:
            return await self._invalid(key, error)
        return await self._publisher.publish(item, status_of(parsed, name).dump())

    def _budget_status(self, budget: LLMBudget | ClusterLLMBudget, name: Name) -> Model:
        of = budgets.namespace_key(*name) if isinstance(budget, LLMBudget) else budgets.cluster_key(name[1])
        usage = self._world.usage.budgets.get(of) if self._world.usage else None
        return shared_status.budget(budget, usage, self._world.ledger, self._world.sharing(budget), self._now())

    def _price_status(self, price: ModelPrice, name: Name) -> Model:
        return shared_status.price(price, self._world.price_rivals(name), self._now())

    async def _account(self, key: Key) -> float | None:
        """Publish how a ProviderAccount stands, and say it once a day where the provider and the ledger part."""
        again = await self._shared(key, self._account_status)
        item = self._world.raw(key.kind, (key.namespace, key.name))
        if item is None:
            return again
        try:
            account = self._world.parsed(key.kind, (key.namespace, key.name))
        except InvalidSpecError:
            return again
        status, old = (
            self._account_status(account, (key.namespace, key.name)),
            account.status or ProviderAccountStatus(),
        )
        drifting = conditions.find(status.conditions, "CostDrift")
        day = status.summary.day if status.summary else None
        told = conditions.is_true(old.conditions, "CostDrift") and old.summary is not None and old.summary.day == day
        if drifting is not None and drifting.status == "True" and not told:
            await self._events.say(item, "CostDrift", drifting.message, warning=True)
        return again

    def _account_status(self, account: ProviderAccount, name: Name) -> ProviderAccountStatus:
        return account_status.build(account, self._world.accounts.get(name[1]), self._world.ledger, self._now())

    # What exists once -----------------------------------------------------------------------------------------------

    async def _cluster(self) -> None:
        """Certificates first: without their CA the API server could not call the webhook."""
        bundle = await self._certificates()
        if bundle != self._world.ca_bundle:
            self._world.ca_bundle = bundle
        params = ClusterParams(
            services=self._world.services(),
            settings=self._settings,
            capabilities=self._world.capabilities,
            ca_bundle=bundle,
            accounts=bool(self._world.names("ProviderAccount")),
            gpu=self._world.gpu_choice(),
        )
        failed = self._world.unread()
        wanted = [manifest for manifest in build_cluster(params) if manifest["kind"] not in failed]
        failed |= await self._applier.apply(wanted)
        for kind, why in failed.items():
            logger.error("%s cannot be applied: %s", kind, why)
        await self._applier.prune(self._world.owned_once(), wanted)

    async def _certificates(self) -> str:
        existing: dict[str, dict[str, Any]] = {}
        for secret in SECRETS:
            try:
                existing[secret] = await self._client.get("v1", "secrets", secret, self._settings.namespace)
            except NotFoundError:
                continue
        wanted = pki.secrets_wanted(existing, self._now(), self._settings.namespace, self._settings.cluster_domain)
        for manifest in wanted:
            name = manifest["metadata"]["name"]
            existing[name] = await self._client.apply(manifest)
            logger.info("Secret %s written", name)
        return pki.ca_bundle(existing.get(names.SECRET_CA)) or ""


class Sources:
    """Asks Prometheus, the ledger and engines, once a tick for all, and lets the world know. An answer that fails keeps the last figures."""

    def __init__(
        self,
        world: World,
        prometheus: Prometheus | None,
        ledger: Ledger,
        engines: Engines,
        *,
        gpus: Gpus,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._world = world
        self._engines = engines
        self._gpus = gpus
        self._prometheus = prometheus
        self._ledger = ledger
        self._now = now

    async def ask(self) -> None:
        """Ask all."""
        await self._ask_prometheus()
        await self._tell_gpus()
        await self._ask_ledger()
        self._world.engines = await self._engines.ask(self._world.engine_addresses())

    async def _tell_gpus(self) -> None:
        """Tell the ledger which pods hold GPUs; what it was not told now it is told the next time, with the time between."""
        if not self._world.ca_bundle:
            return
        pods = await self._gpus.told(self._world.pods_there(), self._world.take_gone(), self._now())
        if not pods:
            return
        try:
            await self._ledger.trust(self._world.ca_bundle)
            await tell(self._ledger.post, pods)
        except UnavailableError as error:
            logger.warning("the ledger cannot be told which pods hold GPUs, trying again: %s", error)
        else:
            self._gpus.delivered(pods)

    async def _ask_prometheus(self) -> None:
        if self._prometheus is None:
            return
        try:
            figures = await self._prometheus.figures()
        except UnavailableError as error:
            self._world.prometheus = _stale(self._world.prometheus, "PrometheusUnavailable", error)
        else:
            self._world.figures = figures
            self._world.retention = await self._retention()
            self._world.prometheus = Source(asked=True, fresh=True, as_of=self._now())

    async def _retention(self) -> int | None:
        """Ask for how long data is kept; what was known before where it does not answer this time."""
        try:
            return await self._prometheus.retention() if self._prometheus is not None else None
        except UnavailableError:
            return self._world.retention

    async def _accounts(self) -> Mapping[str, reconciled.Account]:
        """Ask for providers' own figures; what was known before where the ledger does not answer this time."""
        if not self._world.names("ProviderAccount"):
            return {}
        try:
            return (await self._ledger.reconciliation()).accounts
        except UnavailableError as error:
            logger.warning("%s", error)
            return self._world.accounts

    async def _ask_ledger(self) -> None:
        if not self._world.ca_bundle:
            return  # the certificates are made first: a moment's matter, and no fault of the ledger
        try:
            await self._ledger.trust(self._world.ca_bundle)
            usage = await self._ledger.usage()
        except UnavailableError as error:
            self._world.ledger = _stale(self._world.ledger, "LedgerUnavailable", error)
        else:
            self._world.usage = usage
            self._world.accounts = await self._accounts()
            self._world.ledger = Source(asked=True, fresh=True, as_of=usage.as_of)


def _stale(old: Source, reason: str, error: UnavailableError) -> Source:
    if old.fresh or not old.asked:
        logger.warning("%s", error)
    return replace(old, asked=True, fresh=False, reason=reason, message=str(error))


def _sooner(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)
