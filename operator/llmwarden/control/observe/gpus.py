"""Which pods of services hold GPUs, since when and until when, by what the API server says: what GPU-hours are made of.

A GPU belongs to the service whose port its container has; what no container with such a port holds, to the first service by name.
It is held from the pod's binding to a node until its containers ended. Nothing is added up here: the ledger merges what it is told
(`domain/spans.py`), so a restart, a second telling or a gap changes nothing.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.contracts import ledger as wire
from llmwarden.control.observe.prometheus import Prometheus
from llmwarden.domain import gpus, selectors, upstream
from llmwarden.errors import NotFoundError, WardenError
from llmwarden.injection.sidecar import renamed_port
from llmwarden.kube import Client

logger = logging.getLogger(__name__)

OPENCOST: Final = "max by (node) (node_gpu_hourly_cost > 0)"
"""US dollars an hour of one GPU of a node: OpenCost's own metric, in the Prometheus that is asked anyway."""
LABELS_SECONDS: Final = 600.0  # a node's product does not change; its labels may come late, with GPU feature discovery
UNLABELLED_SECONDS: Final = 30.0
AT_ONCE: Final = 8  # nodes that are asked for
MOST_GONE: Final = 10_000  # pods whose end the ledger was not told yet
_DEAREST: Final = 10**17  # picodollars an hour of one GPU: beyond, it is no rate

Object = Mapping[str, Any]


class Holding(NamedTuple):
    """GPUs of one resource that a pod holds for a service; `node` says which product that is."""

    service: str
    uid: str
    name: str
    node: str
    resource: str
    gpus: int
    since: dt.datetime
    serves: bool


def ended(pod: Object, gone: dt.datetime | None) -> dt.datetime | None:
    """When a pod let its GPUs go; None while it holds them. `gone`: when it was seen to be deleted."""
    status = pod.get("status") or {}
    states = [(one.get("state") or {}).get("terminated") for one in status.get("containerStatuses") or ()]
    if gone is None and status.get("phase") not in {"Succeeded", "Failed"}:
        return None
    finished = [_time(state["finishedAt"]) for state in states if state and state.get("finishedAt")]
    last = max((time for time in finished if time is not None), default=None)
    if last is not None and len(finished) == len(states):
        return last
    # Evicted before it ran: it held them for no time that anybody could tell.
    return gone or _time(_ready_change(status)) or _time(pod["metadata"].get("creationTimestamp"))


def holdings(pod: Object, services: Iterable[LLMService]) -> list[Holding]:
    """Return what a pod holds, and for which of the services that select it; those that have a port of its, or any of `Port`."""
    status, metadata, spec = pod.get("status") or {}, pod["metadata"], pod["spec"]
    labels = metadata.get("labels") or {}
    bound: Object = next((one for one in status.get("conditions") or () if one["type"] == "PodScheduled"), {})
    since = _time(bound.get("lastTransitionTime")) if bound.get("status") == "True" else None
    serving = sorted(
        (
            one
            for one in services
            if upstream.interception(one) == "Port" and selectors.matches(one.spec.workload.selector, labels)
        ),
        key=lambda one: one.metadata.name,
    )
    if not spec.get("nodeName") or since is None or not serving:
        return []
    counts: dict[tuple[str, str], int] = {}
    ports = {one.key: _ports(one) for one in serving}
    for container in _lasting(spec):
        own = {port.get("name") for port in container.get("ports") or ()}
        owner = next((key for key, wanted in ports.items() if own & wanted), serving[0].key)
        for resource, count in gpus.limits(container).items():
            counts[owner, resource] = counts.get((owner, resource), 0) + count
    for resource, count in _initial(spec).items():
        # The scheduler sets aside what the pod needs at most, for all its life.
        more = count - sum(number for (_, name), number in counts.items() if name == resource)
        if more > 0:
            place = (serving[0].key, resource)
            counts[place] = counts.get(place, 0) + more
    own = {port.get("name") for container in _lasting(spec) for port in container.get("ports") or ()}
    begun = {one.key: one.metadata.creation_timestamp for one in serving}
    return [
        Holding(
            key,
            metadata["uid"],
            metadata["name"],
            spec["nodeName"],
            resource,
            count,
            max(since, begun[key] or since),
            bool(own & ports[key]),
        )
        for (key, resource), count in sorted(counts.items())
    ]


class Gpus:
    """Knows nodes' products and OpenCost's rates, and which pods ended since the ledger was last told."""

    def __init__(self, client: Client, prometheus: Prometheus | None) -> None:
        self._client = client
        self._prometheus = prometheus
        self._labels: dict[str, tuple[float, Mapping[str, str]]] = {}  # by node, until when they count
        self._rates: dict[str, int] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._gone: dict[tuple[str, str, str], wire.GpuPod] = {}

    async def told(
        self,
        pods: Iterable[tuple[Object, Iterable[LLMService]]],
        gone: Iterable[tuple[Object, dt.datetime, Iterable[LLMService]]],
        now: dt.datetime,
    ) -> tuple[wire.GpuPod, ...]:
        """Return what the ledger is to be told: pods that are there, and those that went since the last `delivered`."""
        held_until: list[tuple[Holding, dt.datetime | None]] = []
        for pod, services in pods:
            holds = holdings(pod, services)
            end = ended(pod, None) if holds else None
            held_until += [(one, end) for one in holds]
        for pod, at, services in gone:
            holds = holdings(pod, services)
            end = ended(pod, at) if holds else None
            held_until += [(one, end) for one in holds]
        if held_until:
            await self._ask_rates()
        nodes = {one.node for one, _ in held_until}
        await asyncio.gather(*(self._node(name, now) for name in nodes))
        # Nodes that come and go with the load have a new name each time.
        self._labels = {name: cached for name, cached in self._labels.items() if name in nodes}
        fresh = [await self._pod(one, end, now) for one, end in held_until]
        for one in fresh:
            if one.ended and len(self._gone) < MOST_GONE:
                self._gone[one.service, one.uid, one.resource] = one
        return (*(one for one in fresh if not one.ended), *self._gone.values())

    def delivered(self, pods: Iterable[wire.GpuPod]) -> None:
        """Say that the ledger has these: an end need not be told again."""
        for one in pods:
            self._gone.pop((one.service, one.uid, one.resource), None)

    async def _pod(self, holding: Holding, end: dt.datetime | None, now: dt.datetime) -> wire.GpuPod:
        labels = await self._node(holding.node, now)
        until = end or now
        return wire.GpuPod(
            service=holding.service,
            uid=holding.uid,
            name=holding.name,
            resource=holding.resource,
            product=gpus.product(holding.resource, labels),
            gpus=holding.gpus,
            since=min(holding.since, until),
            until=until,
            ended=end is not None,
            serves=holding.serves,
            rate=self._rates.get(holding.node, 0) if gpus.is_whole(holding.resource) else 0,
        )

    async def _node(self, name: str, now: dt.datetime) -> Mapping[str, str]:
        cached = self._labels.get(name)
        if cached is not None and now.timestamp() < cached[0]:
            return cached[1]
        try:
            async with self._gate:
                node = await self._client.get("v1", "nodes", name)
        except NotFoundError:
            return cached[1] if cached is not None else {}  # it went, and its pods with it
        except WardenError as error:
            logger.warning("the labels of node %s cannot be read: %s", name, error)
            return cached[1] if cached is not None else {}
        labels = {
            key: value
            for key, value in (node["metadata"].get("labels") or {}).items()
            if "gpu" in key or "mig-" in key or key in gpus.LABELS
        }
        seconds = LABELS_SECONDS if any(labels.get(label) for label in gpus.LABELS) else UNLABELLED_SECONDS
        self._labels[name] = (now.timestamp() + seconds, labels)
        return labels

    async def _ask_rates(self) -> None:
        """Ask OpenCost's; what it said last stays where Prometheus does not answer."""
        if self._prometheus is None:
            return
        try:
            series = await self._prometheus.query(OPENCOST)
        except WardenError as error:
            logger.info("OpenCost's rates cannot be asked for now: %s", error)
            return
        self._rates = {labels["node"]: rate for labels, text in series if "node" in labels and (rate := _rate(text))}


def _rate(text: str) -> int:
    """Picodollars of US dollars; 0 for what is no rate."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return 0
    rate = int((value * names.PICODOLLARS).to_integral_value()) if value.is_finite() else 0
    return rate if 0 < rate < _DEAREST else 0


def _ports(service: LLMService) -> set[str]:
    interception = service.spec.workload.interception
    name = interception.port.name if interception is not None and interception.port is not None else ""
    return {name, renamed_port(name)} if name else set()


def _lasting(spec: Object) -> list[Object]:
    """Containers that live as long as the pod: its own, and sidecars."""
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    return [*(spec.get("containers") or ()), *sidecars]


def _initial(spec: Object) -> dict[str, int]:
    """The most that an init container holds, by resource."""
    most: dict[str, int] = {}
    for one in spec.get("initContainers") or ():
        if one.get("restartPolicy") != "Always":
            for resource, count in gpus.limits(one).items():
                most[resource] = max(count, most.get(resource, 0))
    return most


def _ready_change(status: Object) -> str | None:
    return next(
        (one.get("lastTransitionTime") for one in status.get("conditions") or () if one.get("type") == "Ready"), None
    )


def _time(text: object) -> dt.datetime | None:
    if isinstance(text, dt.datetime):
        return text
    try:
        return dt.datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None
