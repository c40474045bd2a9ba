"""Keeps what the operator knows of the cluster: local copies that watches update. Marks the objects that a change concerns.

Our own kinds and Namespaces come from kopf's watches (`handlers.watches` calls `take`). Everything else comes from informers. They
select by label at the server, drop fields that we do not need, work without an API that is not installed, and notice what was deleted
while a watch was interrupted. Pods and Services are watched once for the whole cluster, but kept only for namespaces with an LLMService.

Nothing is judged here: `control.judge` does that.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.contracts import ledger as wire
from llmwarden.contracts import reconciliation
from llmwarden.control import around
from llmwarden.control.child import Child, Identity
from llmwarden.control.judge import Seen
from llmwarden.control.observe import stripping
from llmwarden.control.observe.choosers import Choosers
from llmwarden.control.observe.engines import Address
from llmwarden.control.observe.exporters import Exporters
from llmwarden.control.observe.owned import OwnedInformer
from llmwarden.control.observe.resources import CLUSTER, KINDS, NAMESPACE, Essence, Name, Object, Resources, WorkKey
from llmwarden.domain import gpus
from llmwarden.injection.sidecar import renamed_port
from llmwarden.kube import Client, Informer, ScopedInformer, version_of
from llmwarden.kube.informer import key_of
from llmwarden.manifests import gpu_choice
from llmwarden.manifests.dashboards.delivery import GRAFANA
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities, EngineIdentity, Figures, Source
from llmwarden.status import selected

logger = logging.getLogger(__name__)

MANAGED: Final = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
ROUTING: Final = "monitoring.coreos.com/v1alpha1"
MONITORING: Final = "monitoring.coreos.com/v1"
Labels = Mapping[str, str]
GONE: Final = frozenset({"Succeeded", "Failed"})
UNREAD_SECONDS: Final = 10.0  # at the start: how long a first list may fail before the rest goes on
FAULT_SECONDS: Final = 30.0  # a watch that fails for a shorter time is not reported: the API server restarts
MOST_GONE: Final = 10_000  # deleted pods that are kept until `take_gone` is called


class Mark(Protocol):
    """Marks what must be reconciled. Urgent means that somebody waits for it: an edit, a pod. Other keys wait for their turn."""

    def __call__(self, key: WorkKey, *, urgent: bool = True) -> None:
        """Mark a key."""


class Listing:
    """A whole list of one kind, which arrives page by page. The watch may already know of newer changes than the list does."""

    def __init__(self, world: "World", kind: str, before: Iterable[Name]) -> None:
        self._world = world
        self._kind = kind
        self._unseen = set(before)
        self._went: set[Name] = set()

    def went(self, name: Name) -> None:
        """Note that an object was deleted while the list arrived."""
        self._went.add(name)

    def take(self, item: Object) -> None:
        """Take in an object of the list."""
        name = key_of(item)
        self._unseen.discard(name)
        if name not in self._went or self._world.raw(self._kind, name) is not None:
            self._world.take(self._kind, item, name)

    def end(self) -> None:
        """Note that the list is complete: objects that were known before and are not in it are gone."""
        for name in self._unseen - self._went:
            self._world.take(self._kind, None, name)


class World(Resources):
    """See the module. `now` gives the time."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        mark: Mark,
        now: Callable[[], dt.datetime],
    ) -> None:
        super().__init__()
        self._client = client
        self._settings = settings
        self._mark = mark
        self._now = now
        self._pods = ScopedInformer(
            client,
            "v1",
            "pods",
            transform=stripping.strip_pod,
            on_change=self._pod_changed,
        )
        self._kube_services = ScopedInformer(
            client,
            "v1",
            "services",
            transform=stripping.strip_service,
            on_change=lambda key, _old, _new: self._mark_kind("LLMService", key[0]),
        )
        self._gpu_pods: set[Name] = set()  # pods that hold GPUs
        self._local = (self._pods, self._kube_services)
        self._listed = asyncio.Event()  # our own kinds are read: it is known which namespaces' pods are wanted
        self._gone: list[tuple[Object, dt.datetime]] = []  # pods that were deleted, until they are taken
        self._owned = self._informers()
        self._children: dict[Name, set[Identity]] = {}  # by the service that they stand beside
        self._daemon_sets = Informer(
            client,
            "apps/v1",
            "daemonsets",
            transform=stripping.strip_exporter,
            on_change=lambda *_: self._mark(CLUSTER, urgent=False),
        )
        self._endpoints = Informer(
            client,
            "discovery.k8s.io/v1",
            "endpointslices",
            settings.namespace,
            label_selector=f"kubernetes.io/service-name={names.WEBHOOK}",
            transform=stripping.strip_endpoints,
            on_change=lambda *_: self._mark_kind("LLMService", urgent=False),
        )
        self._choosers = Choosers(client, lambda: self._mark_kind("LLMService"))
        self._exporters = Exporters(client, settings, lambda: self._mark(CLUSTER))
        self._listings: dict[str, Listing] = {}  # by kind, the last one
        self._facets_marked = 0
        self._gpu = (gpu_choice.NO_EXPORTER, gpu_choice.Facts())
        # Why the watches of our own kinds fail, where they do for so many seconds; "" otherwise.
        self.kinds_fault: Callable[[float], str] = lambda _seconds: ""
        self.prometheus = Source(configured=bool(settings.prometheus_url))
        self.figures: Mapping[Name, Figures] = {}
        self.retention: int | None = None  # seconds for which the Prometheus that is asked keeps data
        self.engines: Mapping[Name, EngineIdentity] = {}
        self.ledger = Source()
        self.usage: wire.Usage | None = None
        self.accounts: Mapping[str, reconciliation.Account] = {}
        self.ca_bundle = ""
        self.webhook_told = False  # whether the API server is told to call the webhook
        # Told of every object of ours that a watch saw deleted.
        self.on_gone: Callable[[Identity], None] = lambda _identity: None

    # Watching -------------------------------------------------------------------------------------------------------

    def _informers(self) -> dict[str, OwnedInformer]:
        def informer(api_version: str, plural: str, namespace: str | None = None, **more: Any) -> OwnedInformer:
            return OwnedInformer(
                self._client,
                api_version,
                plural,
                namespace,
                on_change=lambda _key, old, new: self._owned_changed(old, new),
                **(more or {"label_selector": MANAGED}),
            )

        own, gpu = self._settings.namespace, self._settings.gpu_enabled
        accounts = gpu or self._settings.collector.enabled  # the chart gives the rights to ServiceAccounts only then
        return {
            "ConfigMap": informer("v1", "configmaps"),
            "PodMonitor": informer(MONITORING, "podmonitors"),
            "ServiceMonitor": informer(MONITORING, "servicemonitors"),
            "ScrapeConfig": informer(ROUTING, "scrapeconfigs"),
            "PrometheusRule": informer(MONITORING, "prometheusrules"),
            "AlertmanagerConfig": informer(ROUTING, "alertmanagerconfigs"),
            "GrafanaDashboard": informer(GRAFANA, "grafanadashboards"),
            "NetworkPolicy": informer("networking.k8s.io/v1", "networkpolicies"),
            **({"ServiceAccount": informer("v1", "serviceaccounts", own)} if accounts else {}),
            "Deployment": informer("apps/v1", "deployments", own),
            **({"DaemonSet": informer("apps/v1", "daemonsets", own)} if gpu else {}),
            "Service": informer("v1", "services", own),
            # By name, for the operator has no right to others. Its labels are the chart's.
            "MutatingWebhookConfiguration": informer(
                "admissionregistration.k8s.io/v1",
                "mutatingwebhookconfigurations",
                field_selector=f"metadata.name={names.WEBHOOK_CONFIGURATION}",
            ),
        }

    @property
    def _needed(self) -> tuple[Informer, ...]:
        """The informers without which no status can be computed."""
        return (*self._owned.values(), *self._exporters_there, self._endpoints, *self._local)

    @property
    def _exporters_there(self) -> tuple[Informer, ...]:
        """The informer of other GPU exporters, where they are looked for."""
        return (self._daemon_sets,) if self._settings.gpu_enabled else ()

    async def run(self) -> None:
        """Watch for ever; ends by cancellation only."""
        async with asyncio.TaskGroup() as group:
            for informer in (*self._owned.values(), *self._choosers.informers, *self._exporters.informers):
                group.create_task(informer.run())
            for informer in self._exporters_there:
                group.create_task(informer.run())
            group.create_task(self._endpoints.run())
            group.create_task(self._follow_capabilities())
            await self._listed.wait()
            for local in self._local:
                group.create_task(local.run())

    async def synced(self) -> None:
        """Wait until every copy is complete, or cannot be: then its fault is reported, and the rest goes on.

        Call it once our own kinds have been listed.
        """
        self._listed.set()
        for informer in self._needed:
            while not (informer.synced.is_set() or informer.absent or informer.fault(UNREAD_SECONDS)):  # noqa: ASYNC110 - any will do, and once only
                await asyncio.sleep(0.05)
        await self._exporters.synced()

    async def _follow_capabilities(self) -> None:
        """Notice that an optional API was installed or removed: an empty list alone would mark nothing. Looks at local state only."""
        capabilities, listed = self.capabilities, self._choosers.listed
        failing, unread = self._failing(), self.unread().keys()
        while True:
            await asyncio.sleep(1.0)
            if self._failing() != failing:
                failing = self._failing()
                self._mark_kind("LLMService", urgent=False)
            if self.unread().keys() != unread:
                unread = self.unread().keys()
                self.mark_all()  # what is read now may be written
            if self.capabilities != capabilities:
                capabilities = self.capabilities
                logger.info("optional APIs now: %s", capabilities)
                self.mark_all()
            if self._choosers.listed != listed:
                listed = self._choosers.listed
                self._mark_kind("LLMService", urgent=False)

    def _failing(self) -> list[str]:
        """Return which watches `unwatched` tells of. The words of a fault may be others at each attempt."""
        own = ["our own kinds"] if self.kinds_fault(FAULT_SECONDS) else []
        return own + [informer.name for informer in self._needed if informer.fault(FAULT_SECONDS)]

    def unwatched(self) -> tuple[str, ...]:
        """Return what has not been watched for a while though a status rests on it, each with why."""
        faults = [f"{informer.name}: {fault}" for informer in self._needed if (fault := informer.fault(FAULT_SECONDS))]
        own = self.kinds_fault(FAULT_SECONDS)
        return (*([own] if own else []), *faults)

    def unread(self) -> dict[str, str]:
        """Return the kinds of our objects that have never been read, each with why: they must not be written, for they may be there."""
        return {
            kind: f"It cannot be read: {informer.fault(0)}"
            for kind, informer in self._owned.items()
            if not informer.synced.is_set() and not informer.absent
        }

    def settled(self, namespace: str) -> bool:
        """Tell whether a namespace's pods and Services are known, or cannot be had at present."""
        return all(local.complete(namespace) or local.fault(0) for local in self._local)

    @property
    def capabilities(self) -> Capabilities:
        """Which optional APIs are there."""

        def there(kind: str) -> bool:
            return self._owned[kind].synced.is_set() and not self._owned[kind].absent

        return Capabilities(
            pod_monitors=there("PodMonitor"),
            service_monitors=there("ServiceMonitor"),
            scrape_configs=there("ScrapeConfig"),
            rules=there("PrometheusRule"),
            alertmanager_configs=there("AlertmanagerConfig"),
            grafana_dashboards=there("GrafanaDashboard"),
        )

    def mark_all(self) -> None:
        """Mark everything, to be looked at in its turn."""
        self._mark(CLUSTER, urgent=False)
        for kind in KINDS:
            self._mark_kind(kind, urgent=False)

    def take(self, kind: str, item: Object | None, name: Name) -> None:
        """Take in an object of our kinds, or a Namespace, as it is now; None where it is gone."""
        stored = self._objects[kind].get(name)
        before = stored.essence if stored is not None else None
        after = self._essence(item) if item is not None else None
        if stored is not None and item is not None:
            # Versions of a kind rise, also from an object to the next of the same name: a list may still hold the old one.
            version = version_of(item)
            if version < stored.version or version == stored.version != 0:
                return  # a list that was started before what we know, or what our own write has told already
        rivals = self.selected(name[0]).rivals(name[1]) if kind == "LLMService" and before != after else set()
        if item is None or after is None:
            self._drop(kind, name)
            if kind in self._listings:
                self._listings[kind].went(name)
        else:
            self._put(kind, name, item, after)
        if before == after:
            return  # our own status patch must not wake us
        for other in rivals:  # what one says of pods that several select, the others must hear
            self._mark(WorkKey(kind, name[0], other))
        self._changed(kind, name, before, after)

    def answered(self, kind: str, item: Object, name: Name) -> None:
        """Take in what the API server answered to a status write, unless the object was deleted before the answer came."""
        stored = self._objects[kind].get(name)
        if stored is not None and stored.essence.uid == item["metadata"].get("uid", ""):
            self.take(kind, item, name)

    def listing(self, kind: str) -> "Listing":
        """Begin to take in a whole list of a kind, before it is asked for."""
        self._listings[kind] = Listing(self, kind, self._objects[kind])
        return self._listings[kind]

    def _changed(self, kind: str, name: Name, before: Essence | None, after: Essence | None) -> None:
        """Mark what an object's change makes dirty: itself, and whoever reads it. `before`, `after`: None where it is not there."""
        namespace = name[0]
        if kind != NAMESPACE:
            self._mark(WorkKey(kind, *name))
        match kind:
            case "LLMService":
                self._follow(namespace)
                for other in self.selected(namespace).rivals(name[1]):
                    self._mark(WorkKey(kind, namespace, other))
                self._cluster_changed()
                if before is None or after is None or before.labels != after.labels:
                    self._mark_kind("LLMBudget", namespace)  # how many share it
                if before is None or after is None:
                    self._mark_kind("ClusterLLMBudget", urgent=False)
            case "LLMBudget":
                self._mark_kind("LLMService", namespace)
            case "ClusterLLMBudget":
                self._mark_kind("LLMService", urgent=False)
            case "ModelPrice":
                self._mark_kind("ModelPrice")
            case "ProviderAccount":
                self._mark(CLUSTER)  # the first one brings the platform's alerts
            case _:  # a Namespace, by its labels
                # Ours holds the proxies' PodMonitor, which may be selected by its namespace's labels.
                own = name[1] == self._settings.namespace
                self._mark_kind("LLMService", None if own else name[1], urgent=not own)
                self._mark_kind("ClusterLLMBudget", urgent=False)

    def _cluster_changed(self) -> None:
        """Mark what exists once where what it is made of has changed: hardly any service's change does that."""
        if self._facets != self._facets_marked:
            self._facets_marked = self._facets
            self._mark(CLUSTER)

    def _mark_kind(self, kind: str, namespace: str | None = None, *, urgent: bool = True) -> None:
        if namespace is None:
            for name in self._objects[kind]:
                self._mark(WorkKey(kind, *name), urgent=urgent)
        else:
            for name in self.names(kind, namespace):
                self._mark(WorkKey(kind, *name), urgent=urgent)

    def _follow(self, namespace: str) -> None:
        """Keep pods and Services of a namespace while it holds an LLMService, and no longer."""
        wanted = bool(self.names("LLMService", namespace))
        for informer in self._local:
            if wanted:
                informer.include(namespace)
            else:
                informer.exclude(namespace)
        if not wanted:
            self._gpu_pods = {pod for pod in self._gpu_pods if pod[0] != namespace}

    def _pod_changed(self, key: Name, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None and key in self._gpu_pods and len(self._gone) < MOST_GONE:
            self._gone.append((old, self._now()))
        there = self._selection(key[0])
        touched = set(there.services(key[1]))
        if new is None:
            there.drop_pod(key[1])
            self._gpu_pods.discard(key)
        else:
            there.put_pod(key[1], new["metadata"].get("labels") or {})
            every = (*new["spec"]["containers"], *new["spec"]["initContainers"])
            (self._gpu_pods.add if any(map(gpus.limits, every)) else self._gpu_pods.discard)(key)
        for service in touched.union(there.services(key[1])):
            self._mark(WorkKey("LLMService", key[0], service))

    def _owned_changed(self, old: Child | None, new: Child | None) -> None:
        item = new or old
        if item is None:
            return
        place = (item.namespace, item.service)
        if old is not None and old.service != item.service:  # somebody has moved its label
            self._forget_child(old.identity, (old.namespace, old.service))
            self._mark(WorkKey("LLMService", old.namespace, old.service) if old.service else CLUSTER)
        if new is None:
            self.on_gone(item.identity)
            self._forget_child(item.identity, place)
        elif item.service:
            self._children.setdefault(place, set()).add(item.identity)
        self._mark(WorkKey("LLMService", *place) if item.service else CLUSTER)
        if item.identity in self._shared_places:
            self._mark_kind("LLMService", urgent=False)  # whether it is selected is said of each

    def _forget_child(self, identity: Identity, place: Name) -> None:
        children = self._children.get(place)
        if children is not None:
            children.discard(identity)
            if not children:
                del self._children[place]

    # Reading --------------------------------------------------------------------------------------------------------

    def owned(self, identity: Identity) -> Child | None:
        """Return an object of ours as the cluster has it, our own writes included."""
        child: Child | None = self._owned[identity[0]].items.get(identity[1:])
        return child

    def written(self, item: Object) -> Child:
        """Take in what the API server answered to a write of ours."""
        kept: Child = self._owned[item["kind"]].written(item)
        if kept.service and self.owned(kept.identity) is not None:
            self._children.setdefault((kept.namespace, kept.service), set()).add(kept.identity)
        return kept

    def deleted(self, identity: Identity) -> None:
        """Take in that we have deleted an object of ours."""
        item = self.owned(identity)
        if item is not None:
            self._owned[identity[0]].deleted(identity[1:])
            self._forget_child(identity, (item.namespace, item.service))

    def owned_of(self, service: Name) -> list[Child]:
        """Return all objects beside a service."""
        children = (self.owned(identity) for identity in sorted(self._children.get(service, ())))
        return [item for item in children if item is not None and item.service == service[1]]

    def owned_once(self) -> list[Child]:
        """Return all objects of ours that belong to no service, and that we have written (not Helm)."""
        return [
            item
            for informer in self._owned.values()
            for item in informer.items.values()
            if not item.service and item.managed
        ]

    def exporter_facts(self) -> tuple[set[str], gpu_choice.Facts]:
        """Return which GPU exporters services ask for, and what the choice of one depends on."""
        facts = self._exporters.facts(self._daemon_sets.items, (self._settings.namespace, names.GPU_EXPORTER))
        return set(+self._exporters_asked), facts

    def exporter_chosen(self, choice: gpu_choice.Choice, facts: gpu_choice.Facts) -> None:
        """Remember which GPU exporter was chosen, for services' snapshots; mark the services if it is another one."""
        if (choice, facts) != self._gpu:
            self._gpu = (choice, facts)
            for name in self._gpu_services:
                self._mark(WorkKey("LLMService", *name), urgent=False)

    @property
    def webhook_ready(self) -> bool:
        """Whether some endpoint of the webhook is ready, and the API server is told to call it."""
        ready = any(item["ready"] for item in self._endpoints.items.values())
        return ready and self.webhook_told

    def seen(self, name: Name) -> Seen | None:
        """Return all that is known of a service; None where it is gone or being deleted. Raises InvalidSpecError."""
        service: LLMService | None = self.parsed("LLMService", name)
        if service is None or service.metadata.deletion_timestamp is not None:
            return None
        namespace = name[0]
        selection, labels, kept = self.selected(namespace), self.namespace_labels(namespace), self._pods.of(namespace)
        usage = self.usage
        return Seen(
            service=service,
            object=self.raw("LLMService", name) or {},
            namespace_labels=labels,
            rivals=self.services((namespace, other) for other in sorted(selection.rivals(name[1]))),
            pods=tuple(
                pod
                for pod in (kept[namespace, one] for one in selection.pods(name[1]) if (namespace, one) in kept)
                if (pod.get("status") or {}).get("phase") not in GONE
            ),
            kube_services=tuple(self._kube_services.of(namespace).values()),
            objectives=self.objectives(service),
            capabilities=self.capabilities,
            beside=self._beside(service, labels),
            retention=self.retention,
            prometheus=self.prometheus,
            figures=self.figures.get(name, Figures()),
            engine=self.engines.get(name),
            ledger=self.ledger,
            all_usage=usage is not None,
            usage=usage.services.get(service.key) if usage else None,
            budgets=usage.budgets if usage else {},
            unwatched=self.unwatched(),
            pods_known=self._pods.complete(namespace),
            gpu=self._gpu,
        )

    @property
    def _shared_places(self) -> tuple[Identity, ...]:
        """Our objects of which it is said of each service whether they are selected."""
        own = self._settings.namespace
        return ("PodMonitor", own, names.POD_MONITOR_PROXIES), ("PrometheusRule", own, names.RULES_SERVICES)

    def _beside(self, service: LLMService, labels: Mapping[str, str]) -> selected.Around:
        """Return our objects beside a service, those that all share, and who may select them."""
        own, (namespace, name) = self._settings.namespace, (service.metadata.namespace, service.metadata.name)
        places = (
            *self._shared_places,
            *((kind, namespace, names.PREFIX_ENGINE + name) for kind in selected.ENGINE),
            ("PrometheusRule", namespace, names.PREFIX_ALERTS + name),
            ("AlertmanagerConfig", namespace, names.PREFIX_ROUTE + name),
            ("GrafanaDashboard", namespace, names.PREFIX_DASHBOARD + name),
        )
        children = {place: self.owned(place) for place in places}
        there = {
            place: {"metadata": {"labels": dict(item.labels)}} for place, item in children.items() if item is not None
        }
        return self._choosers.around(there, {own: self.namespace_labels(own), namespace: labels})

    def pods_there(self) -> list[tuple[Object, tuple[LLMService, ...]]]:
        """Return every pod that holds GPUs, with the services that select it."""
        kept = ((key, self._pods.of(key[0]).get(key)) for key in sorted(self._gpu_pods))
        return [(pod, self._services_of(key)) for key, pod in kept if pod is not None]

    def take_gone(self) -> list[tuple[Object, dt.datetime, tuple[LLMService, ...]]]:
        """Return pods with GPUs that were deleted since this was last asked, and when that was seen."""
        gone, self._gone = self._gone, []
        ended = []
        for pod, at in gone:
            namespace, labels = pod["metadata"]["namespace"], pod["metadata"].get("labels") or {}
            outlines = self.selected(namespace).outlines
            chosen = [(namespace, name) for name in sorted(outlines) if outlines[name].selects(labels)]
            ended.append((pod, at, self.services(chosen)))
        return ended

    def _services_of(self, pod: Name) -> tuple[LLMService, ...]:
        return self.services((pod[0], name) for name in self.selected(pod[0]).services(pod[1]))

    def engine_addresses(self) -> list[Address]:
        """Return where the engines behind Port services can be asked: of each service one pod that is ready."""
        addresses = []
        for name in sorted(self._ports):
            there, kept = self.selected(name[0]), self._pods.of(name[0])
            outline = there.outlines[name[1]]
            wanted = {outline.port, renamed_port(outline.port)}
            for pod in (kept[name[0], one] for one in there.pods(name[1]) if (name[0], one) in kept):
                numbers = (
                    sorted(around.port_numbers(pod, wanted, of_proxy=outline.through)) if around.ready(pod) else []
                )
                if numbers and pod["status"].get("podIP"):
                    uid, ip = pod["metadata"]["uid"], pod["status"]["podIP"]
                    addresses.append(Address(name, uid, ip, numbers[0], outline.backend))
                    break
        return addresses
