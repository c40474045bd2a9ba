"""What the operator knows of the cluster: local copies, kept fresh by watches, and the marking of what they make dirty.

Our own kinds and Namespaces come from kopf's watches (`handlers.watches` calls `take`), all else from informers: those can select by
label at the server, leave what we do not need out of memory, live without an API that is not installed, and notice what was deleted
while a watch was away. Pods and Services are watched in namespaces that hold an LLMService only.
"""

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from llmwarden import names, wire
from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, LLMService, ModelPrice, parse
from llmwarden.desired import diff, pods, selected
from llmwarden.desired import status as statuses
from llmwarden.desired.dashboards.delivery import GRAFANA
from llmwarden.desired.monitors import TRITON_METRICS_PORT
from llmwarden.desired.sdk import CLIENTS
from llmwarden.desired.sidecar import renamed_port, services_upstream
from llmwarden.desired.snapshot import Capabilities, EngineIdentity, Figures, Problem, Snapshot, Source
from llmwarden.domain import budgets, objectives, prices, selectors, upstream
from llmwarden.errors import InvalidSpecError
from llmwarden.kube import Client, Informer
from llmwarden.observe.choosers import Choosers
from llmwarden.observe.engines import Address
from llmwarden.settings import Settings

logger = logging.getLogger(__name__)

Object = dict[str, Any]
Name = tuple[str, str]  # namespace (empty for what has none) and name


class Key(NamedTuple):
    """What is reconciled. `kind` is one of ours, or `Cluster` for what exists once."""

    kind: str
    namespace: str = ""
    name: str = ""


CLUSTER: Final = Key("Cluster")
KINDS: Final[Mapping[str, str]] = {
    "LLMService": "llmservices",
    "LLMBudget": "llmbudgets",
    "ClusterLLMBudget": "clusterllmbudgets",
    "ModelPrice": "modelprices",
}
NAMESPACE: Final = "Namespace"
MANAGED: Final = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
ROUTING: Final = "monitoring.coreos.com/v1alpha1"
MONITORING: Final = "monitoring.coreos.com/v1"
COVERED: Final = 0.99  # of an engine's calls; below, some go around the proxies
BESIDE: Final = (
    "ConfigMap",
    "PodMonitor",
    "PrometheusRule",
    "AlertmanagerConfig",
    "GrafanaDashboard",
)  # kinds of what stands beside a service
GONE: Final = frozenset({"Succeeded", "Failed"})
_VARIABLES: Final = frozenset(
    variable for clients in CLIENTS.values() for variable in (*(name for name, _ in clients.base_urls), *clients.keys)
)


class World:
    """See the module. `mark(key)` is called for what must be reconciled; `now` gives the time."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        mark: Callable[[Key], None],
        now: Callable[[], dt.datetime],
    ) -> None:
        self._client = client
        self._settings = settings
        self._mark = mark
        self._now = now
        self._objects: dict[str, dict[Name, Object]] = {kind: {} for kind in (*KINDS, NAMESPACE)}
        self._parsed: dict[tuple[str, Name], tuple[str, Any]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._local: dict[str, tuple[Informer, Informer]] = {}
        self._owned = self._informers()
        self._choosers = Choosers(client, lambda: self._mark_kind("LLMService"))
        self.prometheus = Source(configured=bool(settings.prometheus_url))
        self.figures: Mapping[Name, Figures] = {}
        self.engines: Mapping[Name, EngineIdentity] = {}
        self.ledger = Source()
        self.usage: wire.Usage | None = None
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
            "PrometheusRule": informer(MONITORING, "prometheusrules"),
            "AlertmanagerConfig": informer(ROUTING, "alertmanagerconfigs"),
            "GrafanaDashboard": informer(GRAFANA, "grafanadashboards"),
            "ServiceAccount": informer("v1", "serviceaccounts", own),
            "MutatingWebhookConfiguration": informer(
                "admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations"
            ),
            "DaemonSet": informer("apps/v1", "daemonsets", label_selector=None, transform=_exporter),
            "EndpointSlice": informer(
                "discovery.k8s.io/v1",
                "endpointslices",
                own,
                label_selector=f"kubernetes.io/service-name={names.WEBHOOK}",
                transform=_endpoints,
                on_change=self._webhook_changed,
            ),
        }

    async def run(self) -> None:
        """Watch for ever; ends by cancellation only."""
        try:
            async with asyncio.TaskGroup() as group:
                for informer in (*self._owned.values(), *self._choosers.informers):
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
            if old is not None and _older(item, old):
                return  # a list that was begun before what we know
            # Whole managedFields of 1,000 objects are most of their memory, and nobody's need.
            held[name] = {
                **item,
                "metadata": {key: value for key, value in item["metadata"].items() if key != "managedFields"},
            }
        # Our own status patch must not wake us.
        if _fingerprint(old) != _fingerprint(item):
            self._changed(kind, name)

    def replace(self, kind: str, items: Iterable[Object]) -> None:
        """Take in a whole list: what is not in it is gone."""
        found = {_name(item): item for item in items}
        for name in [name for name in self._objects[kind] if name not in found]:
            self.take(kind, None, name)
        for name, item in found.items():
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
                    transform=strip_pod,
                    on_change=lambda key, old, new: self._pod_changed(key[0], old, new),
                ),
                Informer(
                    self._client,
                    "v1",
                    "services",
                    namespace,
                    transform=_strip_service,
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
        for name in self._objects["LLMService"]:
            if name[0] != namespace:
                continue
            service = self.service(name)
            if service is not None and any(pod is not None and _selects(service, pod) for pod in (old, new)):
                self._mark(Key("LLMService", *name))

    def _owned_changed(self, key: Name, old: Object | None, new: Object | None) -> None:
        item = new or old or {}
        if new is None:
            self.on_gone((item["kind"], *key), version_of(item))
        service = item["metadata"].get("labels", {}).get(names.LABEL_SERVICE)
        self._mark(Key("LLMService", key[0], service) if service else CLUSTER)
        if key == (self._settings.namespace, names.POD_MONITOR_PROXIES):
            self._mark_kind("LLMService")  # whether it is selected is said of each

    def _webhook_changed(self, key: Name, old: Object | None, new: Object | None) -> None:
        del key, old, new
        self._mark_kind("LLMService")

    # Reading --------------------------------------------------------------------------------------------------------

    def raw(self, kind: str, name: Name) -> Object | None:
        """Return an object of our kinds as its JSON."""
        return self._objects[kind].get(name)

    def names(self, kind: str) -> list[Name]:
        """Return the names of all objects of a kind."""
        return sorted(self._objects[kind])

    def _value(self, kind: str, model: Any, name: Name) -> Any:
        """Return an object as a value, parsed once per version. Raises InvalidSpecError."""
        item = self._objects[kind].get(name)
        if item is None:
            return None
        version = item["metadata"].get("resourceVersion", "")
        held = self._parsed.get((kind, name))
        if held is None or held[0] != version:
            try:
                held = (version, parse(model, item))
            except InvalidSpecError as error:
                held = (version, error)
            self._parsed[kind, name] = held
        if isinstance(held[1], InvalidSpecError):
            raise held[1]
        return held[1]

    def parsed(self, kind: str, name: Name) -> Any:
        """Return an object of our kinds as a value; None where it is gone. Raises InvalidSpecError."""
        models = {
            "LLMService": LLMService,
            "LLMBudget": LLMBudget,
            "ClusterLLMBudget": ClusterLLMBudget,
            "ModelPrice": ModelPrice,
        }
        return self._value(kind, models[kind], name)

    def service(self, name: Name) -> LLMService | None:
        """Return a service that can be read; None where it is gone, or is no longer valid."""
        try:
            found: LLMService | None = self._value("LLMService", LLMService, name)
        except InvalidSpecError:
            return None
        return found

    def services(self, namespace: str | None = None) -> tuple[LLMService, ...]:
        """Return all services that can be read and are not being deleted, in order."""
        found = (self.service(name) for name in self.names("LLMService") if namespace in {None, name[0]})
        return tuple(item for item in found if item is not None and item.metadata.deletion_timestamp is None)

    def namespace_labels(self, namespace: str) -> dict[str, str]:
        """Return the labels of a namespace."""
        item = self._objects[NAMESPACE].get(("", namespace)) or {}
        return dict(item.get("metadata", {}).get("labels") or {})

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

    @property
    def foreign_dcgm(self) -> bool:
        """Whether somebody else's dcgm-exporter is in the cluster."""
        return any(
            item["metadata"].get("labels", {}).get(names.LABEL_MANAGED_BY) != names.MANAGED_BY
            for item in self._owned["DaemonSet"].items.values()
        )

    @property
    def webhook_ready(self) -> bool:
        """Whether some endpoint of the webhook is ready, and the API server is told to call it."""
        ready = any(item["ready"] for item in self._owned["EndpointSlice"].items.values())
        return ready and bool(self._owned["MutatingWebhookConfiguration"].items)

    def applying(self, service: LLMService) -> tuple[budgets.Budget, ...]:
        """Return every budget that holds for a service and can work, shared ones included, in order."""
        found: list[budgets.Budget] = []
        with contextlib.suppress(InvalidSpecError):
            found += budgets.of_service(service)
        for name in self.names("LLMBudget"):
            with contextlib.suppress(InvalidSpecError):
                shared = self.parsed("LLMBudget", name)
                if budgets.namespace_applies(shared, service):
                    found.append(budgets.of_namespace(shared))
        labels = self.namespace_labels(service.metadata.namespace)
        for name in self.names("ClusterLLMBudget"):
            with contextlib.suppress(InvalidSpecError):
                platform = self.parsed("ClusterLLMBudget", name)
                if budgets.cluster_applies(platform, labels):
                    found.append(budgets.of_cluster(platform))
        return tuple(found)

    def sharing(self, budget: LLMBudget | ClusterLLMBudget) -> int:
        """Return how many services share a budget."""
        if isinstance(budget, LLMBudget):
            return sum(budgets.namespace_applies(budget, item) for item in self.services(budget.metadata.namespace))
        return sum(
            budgets.cluster_applies(budget, self.namespace_labels(item.metadata.namespace)) for item in self.services()
        )

    def price_rivals(self, name: Name) -> tuple[str, ...]:
        """Return the ModelPrices that come before this one by name and price one of its models."""
        found: list[ModelPrice] = []
        for other in self.names("ModelPrice"):
            with contextlib.suppress(InvalidSpecError):
                found.append(self.parsed("ModelPrice", other))
        rivals = {by[0] for by in prices.duplicates(found).values() if name[1] in by[1:]}
        return tuple(sorted(rivals))

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
            if _selects(service, pod) and (pod.get("status") or {}).get("phase") not in GONE
        ]
        usage = self.usage
        figures = self.figures.get(name, Figures())
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
            engine=self.engines.get(name),
            ledger=self.ledger if usage is None or service.key in usage.services else _unknown_to(self.ledger),
            usage=usage.services.get(service.key) if usage else None,
            budgets=usage.budgets if usage else {},
            problems=(*statuses.problems(service), *self._upstream(service)),
            warnings=(*self._around(service, chosen, local), *_credentials(service, figures), *_coverage(figures)),
            selected=selected.verdicts(service, self._settings, self._beside(service, labels)),
            dashboard_kind=self._settings.grafana_delivery,
        )

    def _beside(self, service: LLMService, labels: Mapping[str, str]) -> selected.Around:
        """Return our objects beside a service, the proxies' PodMonitor, and who may select them."""
        own, (namespace, name) = self._settings.namespace, (service.metadata.namespace, service.metadata.name)
        places = (
            ("PodMonitor", own, names.POD_MONITOR_PROXIES),
            ("PodMonitor", namespace, names.PREFIX_ENGINE + name),
            ("PrometheusRule", namespace, names.PREFIX_ALERTS + name),
            ("AlertmanagerConfig", namespace, names.PREFIX_ROUTE + name),
            ("GrafanaDashboard", namespace, names.PREFIX_DASHBOARD + name),
        )
        found = {place: self.owned(place[0], place[1:]) for place in places}
        there = {place: item for place, item in found.items() if item is not None}
        return self._choosers.around(there, {own: self.namespace_labels(own), namespace: labels})

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
            for pod in sorted(local[0].items.values(), key=lambda pod: str(pod["metadata"]["name"])):
                numbers = sorted(_numbers(pod, wanted)) if _selects(service, pod) and _ready(pod) else []
                if numbers and pod["status"].get("podIP"):
                    name = (service.metadata.namespace, service.metadata.name)
                    uid, ip = pod["metadata"]["uid"], pod["status"]["podIP"]
                    found.append(Address(name, uid, ip, numbers[0], service.spec.backend.type))
                    break
        return found

    def objectives(self, service: LLMService) -> tuple[objectives.Objective, ...]:
        """Return what can work of a service's objectives."""
        try:
            return objectives.of_service(service)
        except InvalidSpecError:
            return ()

    def _upstream(self, service: LLMService) -> tuple[Problem, ...]:
        if upstream.interception(service) != "Env":
            return ()
        found = services_upstream(service, self._settings)
        return () if isinstance(found, str) else (Problem(found.reason, f"{found.message}."),)

    def _around(
        self, service: LLMService, selected: list[Object], local: tuple[Informer, Informer] | None
    ) -> tuple[Problem, ...]:
        """Find Services that send calls to the application's port by number: those go around the proxy."""
        interception = service.spec.workload.interception
        if local is None or upstream.interception(service) != "Port" or not interception or not interception.port:
            return ()
        wanted = {interception.port.name, renamed_port(interception.port.name)}
        found = []
        for kube_service in local[1].items.values():
            selector = kube_service["selector"]
            for pod in selected:
                labels = pod["metadata"].get("labels") or {}
                if not selector or any(labels.get(key) != value for key, value in selector.items()):
                    continue
                numbers = _numbers(pod, wanted)
                if numbers & set(kube_service["numbers"]):
                    name = kube_service["metadata"]["name"]
                    found.append(
                        Problem(
                            "ServiceTargetsNumber",
                            f"Service {name} targets port {', '.join(map(str, sorted(numbers)))} by number: calls through it go around "
                            f"the proxy; set its targetPort to the name {interception.port.name}.",
                        )
                    )
                    break
        return tuple(found)


def _credentials(service: LLMService, figures: Figures) -> tuple[Problem, ...]:
    secret = service.spec.backend.credentials_secret_ref
    if secret is None or not figures.credential_errors:
        return ()
    text = (
        f"The proxy cannot read key {secret.key} of Secret {secret.name}, so calls go out with the application's own key: "
        "create the Secret, or correct backend.credentialsSecretRef."
    )
    return (Problem("SecretMissing", text),)


def _coverage(figures: Figures) -> tuple[Problem, ...]:
    if figures.coverage is None or figures.coverage >= COVERED:
        return ()
    text = (
        f"In the last hour the engine counted more calls than its proxies saw ({figures.coverage * 100:.0f} %): the others go around them, "
        "unmeasured and outside every budget. Let Services target the port by its name, and callers use a Service, not pods' addresses."
    )
    return (Problem("TrafficAroundProxy", text),)


def _unknown_to(ledger: Source) -> Source:
    """Say that the ledger answers, but does not know the service yet."""
    return Source(
        asked=ledger.asked, fresh=False, reason="NotKnownYet", message="The ledger does not know this service yet."
    )


def _ready(pod: Mapping[str, Any]) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"]["conditions"])


def _selects(service: LLMService, pod: Mapping[str, Any]) -> bool:
    return selectors.matches(service.spec.workload.selector, pod["metadata"].get("labels") or {})


def _numbers(pod: Mapping[str, Any], wanted: set[str]) -> set[int]:
    """Return the numbers of the application's own ports with these names."""
    return {
        port["containerPort"]
        for container in (*pod["spec"].get("containers", ()), *pod["spec"].get("initContainers", ()))
        if container.get("name") != names.PROXY_CONTAINER
        for port in container.get("ports") or ()
        if port.get("name") in wanted
    }


async def _together(*informers: Informer) -> None:
    await asyncio.gather(*(informer.run() for informer in informers))


def _name(item: Mapping[str, Any]) -> Name:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _older(item: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    return item["metadata"].get("uid") == held["metadata"].get("uid") and version_of(item) < version_of(held)


def version_of(item: Mapping[str, Any]) -> int:
    """Return the resourceVersion as the number that it is (KEP-5504); 0 where it is none."""
    text = item["metadata"].get("resourceVersion", "")
    return int(text) if text.isdigit() else 0


def _fingerprint(item: Mapping[str, Any] | None) -> tuple[object, ...] | None:
    """Return what of an object is worth waking for."""
    if item is None:
        return None
    metadata = item["metadata"]
    return (
        metadata.get("uid"),
        metadata.get("generation"),
        metadata.get("labels"),
        metadata.get("deletionTimestamp"),
    )


def strip_pod(pod: Object) -> Object:
    """Keep of a pod what decides whether it is metered."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    kept = (
        names.ANNOTATION_SERVICES,
        names.ANNOTATION_FINDINGS,
        names.ANNOTATION_INJECT,
        "kubernetes.io/config.mirror",
    )
    stripped: Object = {
        "metadata": {
            **{
                key: metadata[key]
                for key in ("name", "namespace", "uid", "labels", "creationTimestamp", "deletionTimestamp")
                if key in metadata
            },
            "annotations": {key: annotations[key] for key in kept if key in annotations},
            "ownerReferences": [item for item in metadata.get("ownerReferences") or [] if item.get("controller")],
        },
        "spec": {
            **{key: spec[key] for key in ("hostNetwork", "os", "nodeSelector") if key in spec},
            "containers": [_strip_container(item) for item in spec.get("containers") or []],
            "initContainers": [_strip_container(item) for item in spec.get("initContainers") or []],
            # An application's volume with one of our names is why a pod is left alone.
            "volumes": [
                {"name": item["name"]} for item in spec.get("volumes") or [] if item.get("name") in names.VOLUMES
            ],
        },
        "status": {
            "phase": status.get("phase"),
            "conditions": [
                item for item in status.get("conditions") or [] if item.get("type") in {"Ready", "PodScheduled"}
            ],
            **{
                key: [_strip_status(item) for item in status[key]]
                for key in ("containerStatuses", "initContainerStatuses")
                if key in status
            },
            **({"podIP": status["podIP"]} if "podIP" in status else {}),
        },
    }
    return stripped


def _strip_container(container: Mapping[str, Any]) -> Object:
    if container.get("name") == names.PROXY_CONTAINER:
        return {"name": container["name"], "image": container.get("image", "")}
    kept: Object = {key: container[key] for key in ("name", "image", "ports") if key in container}
    variables = [item for item in container.get("env") or [] if item.get("name") in _VARIABLES]
    if variables:
        kept["env"] = variables
    if container.get("envFrom"):
        kept["envFrom"] = [{}]
    return kept


def _strip_status(item: Mapping[str, Any]) -> Object:
    return {key: item[key] for key in ("name", "state", "lastState", "started", "restartCount") if key in item}


def _strip_service(item: Object) -> Object:
    """Keep of a Service whom it selects, and the numbers that it targets."""
    spec = item.get("spec") or {}
    numbers = []
    for port in spec.get("ports") or []:
        target = port.get("targetPort", port.get("port"))
        if isinstance(target, int):
            numbers.append(target)
    name, namespace = item["metadata"]["name"], item["metadata"].get("namespace", "")
    return {
        "metadata": {"name": name, "namespace": namespace},
        "selector": spec.get("selector") or {},
        "numbers": numbers,
    }


def _exporter(item: Object) -> Object | None:
    """Keep our own DaemonSets, and of others only those that run a dcgm-exporter."""
    if (item["metadata"].get("labels") or {}).get(names.LABEL_MANAGED_BY) == names.MANAGED_BY:
        return diff.compact(item)
    containers = item.get("spec", {}).get("template", {}).get("spec", {}).get("containers") or []
    if any("dcgm-exporter" in container.get("image", "") for container in containers):
        return {
            "kind": "DaemonSet",
            "metadata": {key: item["metadata"].get(key) for key in ("name", "namespace")} | {"labels": {}},
        }
    return None


def _endpoints(item: Object) -> Object:
    ready = any((endpoint.get("conditions") or {}).get("ready", True) for endpoint in item.get("endpoints") or [])
    return {"metadata": {"name": item["metadata"]["name"]}, "ready": ready}
