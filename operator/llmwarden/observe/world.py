"""What the operator knows of the cluster: local copies, kept fresh by watches, and the marking of what they make dirty.

Our own kinds and Namespaces come from kopf's watches (`handlers.watches` calls `take`), all else from informers: those can select by
label at the server, leave what we do not need out of memory, live without an API that is not installed, and notice what was deleted
while a watch was away. Pods and Services are watched in namespaces that hold an LLMService only.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from llmwarden import names, reconciled, wire
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.desired import diff, engine_scraping, gpu_choice, pods, selected
from llmwarden.desired import status as statuses
from llmwarden.desired.dashboards.delivery import GRAFANA
from llmwarden.desired.engine_scraping import TRITON_METRICS_PORT
from llmwarden.desired.sidecar import renamed_port, services_upstream
from llmwarden.desired.snapshot import Capabilities, EngineIdentity, Figures, Problem, Snapshot, Source, queue_bounds
from llmwarden.domain import upstream
from llmwarden.kube import Client, Informer
from llmwarden.observe import around, stripping
from llmwarden.observe.choosers import Choosers
from llmwarden.observe.engines import Address
from llmwarden.observe.exporters import Exporters
from llmwarden.observe.resources import CLUSTER, KINDS, Key, Name, Object, Resources
from llmwarden.settings import Settings

logger = logging.getLogger(__name__)

MANAGED: Final = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
ROUTING: Final = "monitoring.coreos.com/v1alpha1"
MONITORING: Final = "monitoring.coreos.com/v1"
BESIDE: Final = (
    "ConfigMap",
    "PodMonitor",
    "ServiceMonitor",
    "ScrapeConfig",
    "PrometheusRule",
    "AlertmanagerConfig",
    "GrafanaDashboard",
    "NetworkPolicy",
)  # kinds of what stands beside a service
GONE: Final = frozenset({"Succeeded", "Failed"})
MOST_GONE: Final = 10_000  # deleted pods that nobody asked for yet


class World(Resources):
    """See the module. `mark(key)` is called for what must be reconciled; `now` gives the time."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        mark: Callable[[Key], None],
        now: Callable[[], dt.datetime],
    ) -> None:
        super().__init__()
        self._client = client
        self._settings = settings
        self._mark = mark
        self._now = now
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._local: dict[str, tuple[Informer, Informer]] = {}
        self._gone: list[tuple[Object, dt.datetime]] = []  # pods that were deleted, until they are taken
        self._owned = self._informers()
        self._choosers = Choosers(client, lambda: self._mark_kind("LLMService"))
        self._exporters = Exporters(client, settings, lambda: self._mark(CLUSTER))
        self._gpu = (gpu_choice.NO_EXPORTER, gpu_choice.Facts())
        self.prometheus = Source(configured=bool(settings.prometheus_url))
        self.figures: Mapping[Name, Figures] = {}
        self.retention: int | None = None  # seconds for which the Prometheus that is asked keeps data
        self.engines: Mapping[Name, EngineIdentity] = {}
        self.ledger = Source()
        self.usage: wire.Usage | None = None
        self.accounts: Mapping[str, reconciled.Account] = {}
        self.ca_bundle = ""
        # Told of every object of ours that a watch saw deleted, with the last version seen.
        self.on_gone: Callable[[tuple[str, str, str], int], None] = lambda _identity, _version: None

    # Watching -------------------------------------------------------------------------------------------------------

    def _informers(self) -> dict[str, Informer]:
        def informer(api_version: str, plural: str, namespace: str | None = None, **more: Any) -> Informer:
            more = {"label_selector": MANAGED, "transform": diff.compact, "on_change": self._owned_changed, **more}
            return Informer(self._client, api_version, plural, namespace, **more)

        own = self._settings.namespace
        return {
            "ConfigMap": informer("v1", "configmaps"),
            "PodMonitor": informer(MONITORING, "podmonitors"),
            "ServiceMonitor": informer(MONITORING, "servicemonitors"),
            "ScrapeConfig": informer(ROUTING, "scrapeconfigs"),
            "PrometheusRule": informer(MONITORING, "prometheusrules"),
            "AlertmanagerConfig": informer(ROUTING, "alertmanagerconfigs"),
            "GrafanaDashboard": informer(GRAFANA, "grafanadashboards"),
            "NetworkPolicy": informer("networking.k8s.io/v1", "networkpolicies"),
            "ServiceAccount": informer("v1", "serviceaccounts", own),
            "Deployment": informer("apps/v1", "deployments", own),
            "Service": informer("v1", "services", own),
            "MutatingWebhookConfiguration": informer(
                "admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations"
            ),
            "DaemonSet": informer("apps/v1", "daemonsets", label_selector=None, transform=stripping.strip_exporter),
            "EndpointSlice": informer(
                "discovery.k8s.io/v1",
                "endpointslices",
                own,
                label_selector=f"kubernetes.io/service-name={names.WEBHOOK}",
                transform=stripping.strip_endpoints,
                on_change=self._webhook_changed,
            ),
        }

    async def run(self) -> None:
        """Watch for ever; ends by cancellation only."""
        try:
            async with asyncio.TaskGroup() as group:
                for informer in (*self._owned.values(), *self._choosers.informers, *self._exporters.informers):
                    group.create_task(informer.run())
                group.create_task(self._follow_capabilities())
        finally:
            for namespace in list(self._tasks):
                self._leave(namespace)

    async def synced(self) -> None:
        """Wait until every copy is complete, or its API is known to be absent: what is not known must not be written anew."""
        for informer in self._owned.values():
            while not informer.synced.is_set() and not informer.absent:  # noqa: ASYNC110 - either will do, and once only
                await asyncio.sleep(0.05)
        await self._exporters.synced()
        for informer, services in list(self._local.values()):
            await informer.synced.wait()
            await services.synced.wait()

    async def _follow_capabilities(self) -> None:
        """Notice that an optional API has come or gone: an empty list alone would change nothing. Local looks only."""
        known, listed = self.capabilities, self._choosers.listed
        while True:
            await asyncio.sleep(1.0)
            if self.capabilities != known:
                known = self.capabilities
                logger.info("optional APIs now: %s", known)
                self.mark_all()
            if self._choosers.listed != listed:
                listed = self._choosers.listed
                self._mark_kind("LLMService")

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
        """Mark everything dirty."""
        self._mark(CLUSTER)
        for kind in KINDS:
            self._mark_kind(kind)

    def take(self, kind: str, item: Object | None, name: Name) -> None:
        """Take in an object of our kinds, or a Namespace, as it is now; None where it is gone."""
        held = self._objects[kind]
        old = held.get(name)
        if item is None:
            held.pop(name, None)
            self._parsed.pop((kind, name), None)
        else:
            if old is not None and stripping.older(item, old):
                return  # a list that was begun before what we know
            # Whole managedFields of 1,000 objects are most of their memory, and nobody's need.
            held[name] = {
                **item,
                "metadata": {key: value for key, value in item["metadata"].items() if key != "managedFields"},
            }
        # Our own status patch must not wake us.
        if stripping.fingerprint(old) != stripping.fingerprint(item):
            self._changed(kind, name)

    def replace(self, kind: str, items: Iterable[Object], before: Collection[Name]) -> None:
        """Take in a whole list: what was known `before` it was asked for and is not in it is gone.

        What came or went meanwhile, the watch has told, and the list may be older.
        """
        found, held = {_name(item): item for item in items}, self._objects[kind]
        for name in before:
            if name not in found and name in held:
                self.take(kind, None, name)
        for name, item in found.items():
            if name in held or name not in before:
                self.take(kind, item, name)

    def _changed(self, kind: str, name: Name) -> None:
        """Mark what an object's change makes dirty: itself, and whoever reads it."""
        namespace: str | None = name[0]
        match kind:
            case "LLMService":
                self._follow(name[0])
                # Rivals for the same pods too: what one says of them, the other must hear.
                affected: tuple[str, ...] = ("LLMService", "LLMBudget")
                self._mark(Key(kind, *name))
                self._mark(CLUSTER)
                self._mark_kind("ClusterLLMBudget")
            case "LLMBudget":
                affected = ("LLMService",)
                self._mark(Key(kind, *name))
            case "ClusterLLMBudget":
                affected, namespace = ("LLMService",), None
                self._mark(Key(kind, *name))
            case "ModelPrice":
                affected, namespace = ("ModelPrice",), None
                self._mark(Key(kind, *name))
            case "ProviderAccount":
                affected = ()
                self._mark(Key(kind, *name))
                self._mark(CLUSTER)  # the first one brings the platform's alerts
            case _:  # a Namespace, by its labels
                # Ours holds the proxies' PodMonitor, which may be selected by its namespace's labels.
                affected, namespace = ("LLMService",), None if name[1] == self._settings.namespace else name[1]
                self._mark_kind("ClusterLLMBudget")
        for other in affected:
            self._mark_kind(other, namespace)

    def _mark_kind(self, kind: str, namespace: str | None = None) -> None:
        for name in self._objects[kind]:
            if namespace in {None, name[0]}:
                self._mark(Key(kind, *name))

    def _follow(self, namespace: str) -> None:
        """Watch pods and Services of a namespace while it holds an LLMService, and no longer."""
        wanted = any(key[0] == namespace for key in self._objects["LLMService"])
        if wanted and namespace not in self._tasks:
            both = (
                Informer(
                    self._client,
                    "v1",
                    "pods",
                    namespace,
                    transform=stripping.strip_pod,
                    on_change=lambda key, old, new: self._pod_changed(key[0], old, new),
                ),
                Informer(
                    self._client,
                    "v1",
                    "services",
                    namespace,
                    transform=stripping.strip_service,
                    on_change=lambda key, _old, _new: self._mark_kind("LLMService", key[0]),
                ),
            )
            self._local[namespace] = both
            self._tasks[namespace] = asyncio.create_task(_together(*both), name=f"watch {namespace}")
        elif not wanted and namespace in self._tasks:
            self._leave(namespace)

    def _leave(self, namespace: str) -> None:
        self._tasks.pop(namespace).cancel()
        self._local.pop(namespace, None)

    def _pod_changed(self, namespace: str, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None and len(self._gone) < MOST_GONE:
            self._gone.append((old, self._now()))
        for name in self._objects["LLMService"]:
            if name[0] != namespace:
                continue
            service = self.service(name)
            if service is not None and any(pod is not None and around.selects(service, pod) for pod in (old, new)):
                self._mark(Key("LLMService", *name))

    def _owned_changed(self, key: Name, old: Object | None, new: Object | None) -> None:
        item = new or old or {}
        if new is None:
            self.on_gone((item["kind"], *key), stripping.version_of(item))
        service = item["metadata"].get("labels", {}).get(names.LABEL_SERVICE)
        self._mark(Key("LLMService", key[0], service) if service else CLUSTER)
        if key == (self._settings.namespace, names.POD_MONITOR_PROXIES):
            self._mark_kind("LLMService")  # whether it is selected is said of each

    def _webhook_changed(self, key: Name, old: Object | None, new: Object | None) -> None:
        del key, old, new
        self._mark_kind("LLMService")

    # Reading --------------------------------------------------------------------------------------------------------

    def owned(self, kind: str, name: Name) -> Object | None:
        """Return an object of ours as the last watch event had it, compact."""
        return self._owned[kind].items.get(name)

    def owned_of(self, service: Name) -> list[Object]:
        """Return all objects beside a service."""
        return [
            item
            for kind in BESIDE
            for key, item in self._owned[kind].items.items()
            if key[0] == service[0] and item["metadata"].get("labels", {}).get(names.LABEL_SERVICE) == service[1]
        ]

    def owned_once(self) -> list[Object]:
        """Return all objects of ours that belong to no service, and that we have written (not Helm)."""
        return [
            item
            for kind, informer in self._owned.items()
            if kind != "EndpointSlice"
            for item in informer.items.values()
            if names.LABEL_SERVICE not in item["metadata"].get("labels", {})
            and item["metadata"].get("labels", {}).get(names.LABEL_MANAGED_BY) == names.MANAGED_BY
            and names.ANNOTATION_SPEC_HASH in item["metadata"].get("annotations", {})
        ]

    def gpu_choice(self) -> gpu_choice.Choice:
        """Choose which GPU exporter the cluster gets; services' snapshots tell of the last choice."""
        facts = self._exporters.facts(self._owned["DaemonSet"].items, (self._settings.namespace, names.GPU_EXPORTER))
        self._gpu = (gpu_choice.choose(self.services(), self._settings, facts, self._now()), facts)
        return self._gpu[0]

    @property
    def webhook_ready(self) -> bool:
        """Whether some endpoint of the webhook is ready, and the API server is told to call it."""
        ready = any(item["ready"] for item in self._owned["EndpointSlice"].items.values())
        return ready and bool(self._owned["MutatingWebhookConfiguration"].items)

    def snapshot(self, name: Name) -> Snapshot | None:
        """Return all that is known of a service; None where it is gone or being deleted. Raises InvalidSpecError."""
        service: LLMService | None = self._value("LLMService", LLMService, name)
        if service is None or service.metadata.deletion_timestamp is not None:
            return None
        namespace = name[0]
        rivals, labels = self.services(namespace), self.namespace_labels(namespace)
        local = self._local.get(namespace)
        chosen = [
            pod
            for pod in (local[0].items.values() if local else ())
            if around.selects(service, pod) and (pod.get("status") or {}).get("phase") not in GONE
        ]
        usage = self.usage
        figures, identity = self.figures.get(name, Figures()), self.engines.get(name)
        beside = self._beside(service, labels)
        return Snapshot(
            service=service,
            object=self._objects["LLMService"][name],
            pods=tuple(
                sorted(
                    (pods.view(pod, service, rivals, labels, self._settings) for pod in chosen),
                    key=lambda view: view.name,
                )
            ),
            capabilities=self.capabilities,
            prometheus=self.prometheus,
            figures=figures,
            engine=identity,
            ledger=self.ledger if usage is None or service.key in usage.services else _unknown_to(self.ledger),
            usage=usage.services.get(service.key) if usage else None,
            budgets=usage.budgets if usage else {},
            problems=(
                *statuses.problems(service),
                *around.unmeasurable(self.objectives(service), service, queue_bounds(identity, figures)),
                *engine_scraping.refusals(service, self._settings),
                *self._upstream(service),
            ),
            warnings=(
                *around.past_the_proxy(service, figures, chosen, local[1].items.values() if local else ()),
                *around.credentials(service, figures),
                *engine_scraping.not_installed(service, self.capabilities),
            ),
            selected=selected.verdicts(service, self._settings, beside),
            retention=selected.retention(service, beside) or self.retention,
            dashboard_kind=self._settings.grafana_delivery,
            gpu=gpu_choice.verdict(service, *self._gpu, self._settings),
        )

    def _beside(self, service: LLMService, labels: Mapping[str, str]) -> selected.Around:
        """Return our objects beside a service, the proxies' PodMonitor, and who may select them."""
        own, (namespace, name) = self._settings.namespace, (service.metadata.namespace, service.metadata.name)
        places = (
            ("PodMonitor", own, names.POD_MONITOR_PROXIES),
            *((kind, namespace, names.PREFIX_ENGINE + name) for kind in selected.ENGINE),
            ("PrometheusRule", namespace, names.PREFIX_ALERTS + name),
            ("PrometheusRule", own, names.RULES_SERVICES),
            ("AlertmanagerConfig", namespace, names.PREFIX_ROUTE + name),
            ("GrafanaDashboard", namespace, names.PREFIX_DASHBOARD + name),
        )
        found = {place: self.owned(place[0], place[1:]) for place in places}
        there = {place: item for place, item in found.items() if item is not None}
        return self._choosers.around(there, {own: self.namespace_labels(own), namespace: labels})

    def pods_there(self) -> list[tuple[Object, tuple[LLMService, ...]]]:
        """Return every pod of namespaces that hold services, with those services."""
        found = []
        for namespace, (informer, _) in self._local.items():
            services = self.services(namespace)
            found += [(pod, services) for pod in informer.items.values()]
        return found

    def take_gone(self) -> list[tuple[Object, dt.datetime, tuple[LLMService, ...]]]:
        """Return pods that were deleted since this was last asked, and when that was seen."""
        gone, self._gone = self._gone, []
        return [(pod, at, self.services(pod["metadata"]["namespace"])) for pod, at in gone]

    def engine_addresses(self) -> list[Address]:
        """Return where the engines behind Port services can be asked: of each service one pod that is ready."""
        found = []
        for service in self.services():
            interception = service.spec.workload.interception
            local = self._local.get(service.metadata.namespace)
            if upstream.interception(service) != "Port" or not interception or not interception.port or local is None:
                continue
            # Triton's metrics are on a port of their own.
            triton = service.spec.backend.type == "TensorRTLLM"
            port_name = TRITON_METRICS_PORT if triton else interception.port.name
            wanted = {port_name, renamed_port(port_name)}
            # Where a policy closes the engine's own port, the proxy passes the question on.
            through = interception.network_policy is not None and not triton
            for pod in sorted(local[0].items.values(), key=lambda pod: str(pod["metadata"]["name"])):
                numbers = (
                    sorted(around.port_numbers(pod, wanted, of_proxy=through))
                    if around.selects(service, pod) and around.ready(pod)
                    else []
                )
                if numbers and pod["status"].get("podIP"):
                    name = (service.metadata.namespace, service.metadata.name)
                    uid, ip = pod["metadata"]["uid"], pod["status"]["podIP"]
                    found.append(Address(name, uid, ip, numbers[0], service.spec.backend.type))
                    break
        return found

    def _upstream(self, service: LLMService) -> tuple[Problem, ...]:
        if upstream.interception(service) != "Env":
            return ()
        found = services_upstream(service, self._settings)
        return () if isinstance(found, str) else (Problem(found.reason, f"{found.message}."),)


def _unknown_to(ledger: Source) -> Source:
    """Say that the ledger answers, but does not know the service yet."""
    return Source(
        asked=ledger.asked, fresh=False, reason="NotKnownYet", message="The ledger does not know this service yet."
    )


async def _together(*informers: Informer) -> None:
    await asyncio.gather(*(informer.run() for informer in informers))


def _name(item: Mapping[str, Any]) -> Name:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
