"""Observe, build, apply, publish: for one key at a time. Level-triggered: which event made a key dirty does not matter."""

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from llmwarden import names, tracing
from llmwarden import status as statuses
from llmwarden.api.v1alpha1 import (
    ClusterLLMBudget,
    LLMBudget,
    LLMService,
    ModelPrice,
    ProviderAccount,
    ProviderAccountStatus,
)
from llmwarden.api.v1alpha1.common import Condition, Model
from llmwarden.api.v1alpha1.llmservice import InjectionStatus, LLMServiceStatus
from llmwarden.control.act.apply import Applier, Part, part_of
from llmwarden.control.act.events import Events
from llmwarden.control.act.move import evict
from llmwarden.control.act.publish import Publisher
from llmwarden.control.judge import judge
from llmwarden.control.observe.resources import Name, WorkKey
from llmwarden.control.observe.world import World
from llmwarden.domain import budgets, conditions, engine_objectives, upstream
from llmwarden.errors import ForbiddenError, InvalidSpecError, NotFoundError
from llmwarden.injection import rollout
from llmwarden.injection.sidecar import REFUSING
from llmwarden.kube import Client
from llmwarden.manifests import gpu_choice
from llmwarden.manifests.builder import build, build_cluster
from llmwarden.manifests.params import ClusterParams, Owner, Params
from llmwarden.serving import pki
from llmwarden.settings import Settings
from llmwarden.snapshot import Figures, Outcome, Snapshot, queue_bounds
from llmwarden.status import accounts, shared

logger = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 5.0  # for the webhook's own watch to hear that injection has stopped, before pods are made anew
SETTLED_SECONDS: Final = 0.2
TRIED: Final = 10_000  # pod templates that are remembered; one that is forgotten may be tried once more
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
        self._applier = Applier(client, world)
        self.publisher = Publisher(client, world.answered, settings.status_writes_per_second, clock)
        self._events = Events(client, now)
        self._built: dict[WorkKey, _Built] = {}
        self._tried: dict[str, dt.datetime] = {}
        self._owned_before = False
        self._old_configuration_gone = False
        world.on_gone = self._applier.forget

    async def reconcile_once(self, key: WorkKey) -> float | None:
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

    async def _service(self, key: WorkKey) -> float | None:
        name = (key.namespace, key.name)
        if not self._world.settled(key.namespace) and self._world.raw(key.kind, name) is not None:
            return SETTLED_SECONDS  # its pods are being read: none would be news
        failed: dict[str, str] = {}
        try:
            service = self._world.parsed(key.kind, name)
            if service is not None and service.metadata.deletion_timestamp is None:
                failed = await self._children(key, service)
            seen = self._world.seen(name)
            snapshot = None if seen is None else judge(seen, self._settings)
        except InvalidSpecError as error:
            return await self._invalid(key, error)
        if snapshot is None:
            self._built.pop(key, None)
            self.publisher.forget(*key)
            return None
        now = self._now()
        state = rollout.decide(snapshot.service, snapshot.pods, self._settings, now)
        status = statuses.build(snapshot, Outcome(failed), state, now)
        with tracing.span("publish status"):
            again = await self.publisher.publish(snapshot.object, status.dump())
        await self._tell(snapshot, status)
        looks = rollout.next_look(snapshot.pods, state, self._settings, now)
        return _sooner(again, looks, await self._move(snapshot, state, now))

    async def _children(self, key: WorkKey, service: LLMService) -> dict[str, str]:
        """Bring the objects beside a service to what they should be; returns what went wrong for good, as a sentence by kind.

        They are built only where what they are made of has changed, or one of them is not as it was left.
        """
        name = (key.namespace, key.name)
        budgets_applying = self._world.applying(service)
        bounds = queue_bounds(self._world.engines.get(name), self._world.figures.get(name, Figures()))
        capabilities, failed = self._world.capabilities, self._world.unread()
        made_of = hash(
            (service.metadata.uid, service.metadata.generation, capabilities, budgets_applying, bounds, *failed)
        )
        built = self._built.get(key)
        if built is not None and built.made_of == made_of and self._stand(name, built):
            return dict(built.failed)
        wanted = engine_objectives.holdable(self._world.objectives(service), upstream.scraped_engine(service), bounds)
        with tracing.span("build"):
            every = build(Params(service, self._settings, capabilities, wanted, budgets_applying))
        manifests = [manifest for manifest in every if manifest["kind"] not in failed]
        self._built.pop(key, None)
        with tracing.span("apply", {"llmwarden.objects": len(manifests)}):
            failed |= await self._applier.apply(manifests)
            await self._applier.prune(self._world.owned_of(name), manifests)
        parts = tuple(part_of(item) for item in manifests)
        # What was refused is tried again at each look.
        self._built[key] = _Built(made_of if not failed else None, parts, failed)
        return failed

    def _stand(self, name: Name, built: "_Built") -> bool:
        """Tell whether the objects beside a service are those that were built, and no others."""
        return all(map(self._applier.stands, built.parts)) and len(built.parts) == len(self._world.owned_of(name))

    async def _invalid(self, key: WorkKey, error: InvalidSpecError) -> float | None:
        """Say of an object that cannot be read (stored under another schema) that it cannot; others go on."""
        item = self._world.raw(key.kind, (key.namespace, key.name))
        if item is None:
            return None
        old: tuple[Condition, ...] = ()
        for entry in (item.get("status") or {}).get("conditions") or []:
            old = (*old, Condition.model_validate(entry))
        generation = item["metadata"].get("generation", 0)
        text = f"The spec is invalid in this version: {error}. Nothing is done for it until it is edited."
        new = conditions.set_condition(
            old, "Ready", "False", "InvalidSpec", text, generation=generation, now=self._now()
        )
        status = {
            **(item.get("status") or {}),
            "observedGeneration": generation,
            "conditions": [entry.dump() for entry in new],
        }
        return await self.publisher.publish(item, status)

    async def _tell(self, snapshot: Snapshot, status: LLMServiceStatus) -> None:
        """Record as an Event what turned: injection that stopped, a budget that ran out, a spec that cannot work."""
        old = snapshot.service.status or LLMServiceStatus()
        for kind, reason in (
            ("Instrumented", "InjectionStopped"),
            *(("Instrumented", reason) for reason in REFUSING),
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
        stuck = rollout.to_unstick(snapshot.pods, state, self._settings, now)
        if stuck:
            since = state.since if state.state == "Stopped" else None
            if since is not None and (now - since).total_seconds() < SETTLE_SECONDS:
                return SETTLE_SECONDS
            for pod in stuck:
                if await evict(self._client, service.metadata.namespace, pod.name, pod.uid):
                    text = f"Pod {pod.name} hung on its proxy ({pod.reason}) and is replaced by a pod without it."
                    await self._events.say(snapshot.object, "PodReleased", text, warning=True)
            return SETTLE_SECONDS
        chosen = rollout.to_evict(service, snapshot.pods, state, self._tried, webhook_ready=self._world.webhook_ready)
        if chosen is None or chosen.owner is None:
            return None
        # Before the call: its replacement is made while we wait for the answer.
        self._tried.setdefault(chosen.owner.template, now.replace(microsecond=0))
        while len(self._tried) > TRIED:
            del self._tried[next(iter(self._tried))]
        if await evict(self._client, service.metadata.namespace, chosen.name, chosen.uid):
            await self._events.say(
                snapshot.object, "PodEvicted", f"Pod {chosen.name} is evicted, so that its replacement has the proxy."
            )
        return SETTLE_SECONDS

    # Shared budgets and prices --------------------------------------------------------------------------------------

    async def _shared(self, key: WorkKey, status_of: Callable[[Any, Name], Model]) -> float | None:
        """Publish what `status_of` says of a parsed object and its name."""
        name = (key.namespace, key.name)
        item = self._world.raw(key.kind, name)
        if item is None:
            self.publisher.forget(*key)
            return None
        try:
            parsed = self._world.parsed(key.kind, name)
        except InvalidSpecError as error:
            return await self._invalid(key, error)
        return await self.publisher.publish(item, status_of(parsed, name).dump())

    def _budget_status(self, budget: LLMBudget | ClusterLLMBudget, name: Name) -> Model:
        of = budgets.namespace_key(*name) if isinstance(budget, LLMBudget) else budgets.cluster_key(name[1])
        usage = self._world.usage.budgets.get(of) if self._world.usage else None
        return shared.budget(budget, usage, self._world.ledger, self._world.sharing(budget), self._now())

    def _price_status(self, price: ModelPrice, name: Name) -> Model:
        return shared.price(price, self._world.price_rivals(name), self._now())

    async def _account(self, key: WorkKey) -> float | None:
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
        return accounts.build(account, self._world.accounts.get(name[1]), self._world.ledger, self._now())

    # What exists once -----------------------------------------------------------------------------------------------

    async def _cluster(self) -> None:
        """Certificates first: without their CA the API server could not call the webhook."""
        owner = await self._owner()
        if owner is None and self._owned_before:
            return  # the release is being uninstalled: what was made now would stay
        bundle, webhook_path = await self._certificates(owner)
        if bundle != self._world.ca_bundle:
            self._world.ca_bundle = bundle
        params = ClusterParams(
            services=self._world.services(self._world.tracing()),
            namespaces=tuple(self._world.namespaces()),
            settings=self._settings,
            capabilities=self._world.capabilities,
            ca_bundle=bundle,
            webhook_path=webhook_path,
            accounts=bool(self._world.count("ProviderAccount")),
            gpu=self._choose_exporter(),
            owner=owner,
        )
        failed = self._world.unread()
        wanted = [manifest for manifest in build_cluster(params) if manifest["kind"] not in failed]
        failed |= await self._applier.apply(wanted)
        for kind, why in failed.items():
            logger.error("%s cannot be applied: %s", kind, why)
        await self._applier.prune(self._world.owned_once(), wanted)
        await self._webhook_told(wanted)

    async def _webhook_told(self, applied: list[dict[str, Any]]) -> None:
        """Note whether the API server is told to call the webhook. Then what operators of earlier versions made is not needed any more."""
        configuration = next((item for item in applied if item["kind"] == "MutatingWebhookConfiguration"), None)
        stands = configuration is not None and self._applier.stands(part_of(configuration))
        self._world.webhook_told = stands and bool((configuration or {}).get("webhooks"))
        if not stands or self._old_configuration_gone:
            return
        kind, name = (
            ("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations"),
            names.OLD_WEBHOOK_CONFIGURATION,
        )
        try:
            old = await self._client.get(*kind, name)
            if (old["metadata"].get("labels") or {}).get(names.LABEL_MANAGED_BY) == names.MANAGED_BY:
                await self._client.delete(*kind, name, uid=old["metadata"]["uid"])
                logger.info("MutatingWebhookConfiguration %s of an earlier version deleted", name)
        except NotFoundError:
            pass
        except ForbiddenError as error:
            logger.warning(
                "MutatingWebhookConfiguration %s of an earlier version cannot be looked for: %s", name, error
            )
        self._old_configuration_gone = True

    async def _owner(self) -> Owner | None:
        """Return the chart's object with which ours go; None where the operator runs without the chart, or the chart's release goes."""
        try:
            item = await self._client.get("v1", "configmaps", names.SETTINGS, self._settings.namespace)
        except (NotFoundError, ForbiddenError):
            return None
        if item["metadata"].get("deletionTimestamp"):
            return None
        self._owned_before = True
        return Owner(names.SETTINGS, item["metadata"]["uid"])

    def _choose_exporter(self) -> gpu_choice.Choice:
        """Choose which GPU exporter the cluster gets."""
        exporters, facts = self._world.exporter_facts()
        choice = gpu_choice.choose(exporters, self._settings, facts, self._now())
        self._world.exporter_chosen(choice, facts)
        return choice

    async def _certificates(self, owner: Owner | None) -> tuple[str, str]:
        """Write the Secrets that are due; returns the CA's bundle and the path under which the webhook is called."""
        existing: dict[str, dict[str, Any]] = {}
        for secret in SECRETS:
            try:
                existing[secret] = await self._client.get("v1", "secrets", secret, self._settings.namespace)
            except NotFoundError:
                continue
        wanted = pki.secrets_wanted(existing, self._now(), self._settings.namespace, self._settings.cluster_domain)
        due = {manifest["metadata"]["name"] for manifest in wanted}
        references = [owner.reference()] if owner is not None else []
        # Those that an earlier version wrote, or another release, get their owner.
        wanted += [
            pki.as_written(secret)
            for name, secret in existing.items()
            if name not in due and not _has(secret, references)
        ]
        for manifest in wanted:
            name = manifest["metadata"]["name"]
            if references:
                manifest["metadata"]["ownerReferences"] = references
            existing[name] = await self._client.apply(manifest)
            logger.info("Secret %s written", name)
        authority = existing.get(names.SECRET_CA)
        return pki.ca_bundle(authority) or "", pki.called_path(authority, self._now())


class _Built(NamedTuple):
    """What was last built beside a service: of what (a hash; None: to be built again), and of each object its manifest's hash and digest."""

    made_of: int | None
    parts: tuple[Part, ...]
    failed: Mapping[str, str]


def _has(secret: Mapping[str, Any], references: list[dict[str, object]]) -> bool:
    """Tell whether a Secret has these owners."""
    there = {entry.get("uid") for entry in secret["metadata"].get("ownerReferences") or ()}
    return all(reference["uid"] in there for reference in references)


def _sooner(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)
