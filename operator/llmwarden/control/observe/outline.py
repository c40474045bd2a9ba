"""What others need to know of an LLMService without reading it: whose pods it selects, and what it asks of the whole cluster.

There may be thousands of services: each is kept as compressed JSON (`kube.packed`) and read when it is its turn; its outline stays.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from sys import intern
from typing import Any, Final

from llmwarden.api.v1alpha1 import LLMService
from llmwarden.api.v1alpha1.common import LabelSelector
from llmwarden.domain import selectors, upstream
from llmwarden.domain.objectives import Objective, Share, SpendObjective, of_service
from llmwarden.errors import InvalidSpecError
from llmwarden.manifests.engine_scraping import TRITON_METRICS_PORT

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """See the module.

    `labels`: the service's own, rising by key. `match`: its selector's labels; `expressions`: the selector itself, where it has more than
    labels. `gpu`: the exporter that it asks for; "" for none. `tracing`: it says more of its traces than nothing. `port`: the name of the
    engine's port, behind which the engine can be asked; "" for what has none. `through`: the engine is asked through the proxy.
    `spend_limits`: picodollars an hour of its spend objectives; `targets`: percent by objective that is a share.
    """

    labels: Pairs
    match: Pairs
    expressions: LabelSelector | None
    gpu: str
    tracing: bool
    backend: str
    port: str
    through: bool
    spend_limits: tuple[int, ...]
    targets: tuple[tuple[str, Decimal], ...]

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a pod with these labels is of the service's workload."""
        if self.expressions is not None:
            return selectors.matches(self.expressions, labels)
        return bool(self.match) and all(labels.get(key) == value for key, value in self.match)


def of(service: LLMService) -> Outline:
    """Return the outline of a service."""
    spec, wanted = service.spec, _objectives(service)
    selector = spec.workload.selector
    interception = spec.workload.interception
    has_port = upstream.interception(service) == "Port" and interception is not None and interception.port is not None
    # Triton's metrics are on a port of their own.
    triton = spec.backend.type == "TensorRTLLM"
    port = interception.port.name if has_port and interception is not None and interception.port is not None else ""
    return Outline(
        labels=_pairs(service.metadata.labels),
        match=_pairs(selector.match_labels),
        expressions=selector if selector.match_expressions else None,
        gpu=spec.gpu.exporter if spec.gpu is not None and spec.gpu.exporter != "None" else "",
        tracing=spec.tracing.keep is not None or bool(spec.tracing.browser_origins),
        backend=spec.backend.type,
        port=TRITON_METRICS_PORT if port and triton else intern(port),
        # Where a policy closes the engine's own port, the proxy passes the question on.
        through=interception is not None and interception.network_policy is not None and not triton,
        spend_limits=tuple(item.picodollars_per_hour for item in wanted if isinstance(item, SpendObjective)),
        targets=tuple((intern(item.name), item.target_percent) for item in wanted if isinstance(item, Share)),
    )


def _objectives(service: LLMService) -> tuple[Objective, ...]:
    try:
        return of_service(service)
    except InvalidSpecError:
        return ()


def _pairs(labels: Mapping[str, str]) -> Pairs:
    return tuple((intern(key), intern(value)) for key, value in sorted(labels.items()))


class Selected:
    """Which services of a namespace select which pods, without asking each service about each pod.

    A service is found by one of the labels that it selects by; only those that select by expressions alone are asked about every pod.
    """

    def __init__(self) -> None:
        self._outlines: dict[str, Outline] = {}
        self._by_label: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._others: set[str] = set()
        self._pods: dict[str, Mapping[str, str]] = {}
        self._by_pod_label: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._of_service: dict[str, set[str]] = {}
        self._of_pod: dict[str, tuple[str, ...]] = {}

    @property
    def outlines(self) -> Mapping[str, Outline]:
        """The services of the namespace, by name."""
        return self._outlines

    def services(self, pod: str) -> tuple[str, ...]:
        """Return the services that select a pod, in order."""
        return self._of_pod.get(pod, ())

    def pods(self, service: str) -> list[str]:
        """Return the pods that a service selects, in order."""
        return sorted(self._of_service.get(service, ()))

    def rivals(self, service: str) -> set[str]:
        """Return the services that select a pod which this one selects, itself included."""
        return {service, *(other for pod in self._of_service.get(service, ()) for other in self._of_pod[pod])}

    def put_service(self, name: str, outline: Outline) -> None:
        """Take in a service as it is now."""
        old = self._outlines.get(name)
        self._outlines[name] = outline
        if old is not None and (old.match, old.expressions) == (outline.match, outline.expressions):
            return
        if old is not None:
            self._leave(name, old)
        if outline.match:
            self._by_label[outline.match[0]].add(name)
            candidates: Iterable[str] = self._by_pod_label.get(outline.match[0], ())
        else:
            self._others.add(name)
            candidates = self._pods
        for pod in [pod for pod in candidates if outline.selects(self._pods[pod])]:
            self._of_service.setdefault(name, set()).add(pod)
            self._of_pod[pod] = tuple(sorted({*self._of_pod.get(pod, ()), name}))

    def drop_service(self, name: str) -> None:
        """Take in that a service is gone, or cannot be read."""
        old = self._outlines.pop(name, None)
        if old is not None:
            self._leave(name, old)

    def _leave(self, name: str, old: Outline) -> None:
        if old.match:
            _discard(self._by_label, old.match[0], name)
        self._others.discard(name)
        for pod in self._of_service.pop(name, ()):
            self._of_pod[pod] = tuple(other for other in self._of_pod[pod] if other != name)

    def put_pod(self, name: str, labels: Mapping[str, str]) -> None:
        """Take in a pod as it is now."""
        if self._pods.get(name) == labels:
            return
        self.drop_pod(name)
        self._pods[name] = labels
        for pair in labels.items():
            self._by_pod_label[pair].add(name)
        services = tuple(sorted(other for other in self._candidates(labels) if self._outlines[other].selects(labels)))
        self._of_pod[name] = services
        for service in services:
            self._of_service.setdefault(service, set()).add(name)

    def drop_pod(self, name: str) -> None:
        """Take in that a pod is gone."""
        for pair in self._pods.pop(name, {}).items():
            _discard(self._by_pod_label, pair, name)
        for service in self._of_pod.pop(name, ()):
            _discard(self._of_service, service, name)

    def _candidates(self, labels: Mapping[str, str]) -> Iterator[str]:
        for pair in labels.items():
            yield from self._by_label.get(pair, ())
        yield from self._others


def _discard(sets: dict[Any, set[str]], key: Any, name: str) -> None:
    members = sets.get(key)
    if members is not None:
        members.discard(name)
        if not members:
            del sets[key]


EMPTY: Final = Selected()
