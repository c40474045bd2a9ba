"""Our own resources as the operator knows them, and what they say of each other. Does no I/O.

An object is kept as compressed JSON, and is a value while somebody works with it: what must be known of all of them at once is in indexes.
"""

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, LLMService, ModelPrice, ProviderAccount, parse
from llmwarden.control.observe import outline
from llmwarden.control.observe.outline import EMPTY, Outline, Selected
from llmwarden.domain import budgets, objectives, prices, selectors
from llmwarden.errors import InvalidSpecError
from llmwarden.kube import version_of
from llmwarden.kube.packed import Packed, pack, unpack

Object = dict[str, Any]
Name = tuple[str, str]  # namespace (empty for what has none) and name


class WorkKey(NamedTuple):
    """What is reconciled. `kind` is one of ours, or `Cluster` for what exists once."""

    kind: str
    namespace: str = ""
    name: str = ""


CLUSTER: Final = WorkKey("Cluster")
KINDS: Final[Mapping[str, str]] = {
    "LLMService": "llmservices",
    "LLMBudget": "llmbudgets",
    "ClusterLLMBudget": "clusterllmbudgets",
    "ModelPrice": "modelprices",
    "ProviderAccount": "provideraccounts",
}
MODELS: Final[Mapping[str, Any]] = {
    "LLMService": LLMService,
    "LLMBudget": LLMBudget,
    "ClusterLLMBudget": ClusterLLMBudget,
    "ModelPrice": ModelPrice,
    "ProviderAccount": ProviderAccount,
}
NAMESPACE: Final = "Namespace"
PARSED: Final = (
    32  # services that are kept as values: those that are being worked with. A value with its status takes 30 kB
)
SHARED: Final = 256  # the same of other kinds: budgets that many services' looks read


class Essence(NamedTuple):
    """What of an object's metadata is worth waking for; `labels` as a hash."""

    uid: str
    generation: int
    labels: int
    going: bool


class StoredObject(NamedTuple):
    """An object as memory keeps it: its resourceVersion, the essence of its metadata, and its compressed JSON."""

    version: int
    essence: Essence
    packed: Packed


class Resources:
    """Objects of our own kinds by kind and name, and the labels of Namespaces."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[Name, StoredObject]] = {kind: {} for kind in (*KINDS, NAMESPACE)}
        self._parsed: dict[bool, OrderedDict[tuple[str, Name], tuple[int, Any]]] = {
            True: OrderedDict(),
            False: OrderedDict(),
        }  # services, and others
        self._in_namespace: dict[tuple[str, str], set[str]] = {}  # by kind and namespace
        self._namespace_labels: dict[str, Mapping[str, str]] = {}
        self._selected: dict[str, Selected] = {}
        self._exporters_asked: Counter[str] = Counter()  # GPU exporters that services ask for
        self._gpu_services: set[Name] = set()
        self._facets = 0  # counts changes of what services ask of the whole cluster, and of which namespaces hold any
        self._tracing: set[Name] = set()  # services that say something of their traces
        self._ports: set[Name] = set()  # services whose engine can be asked

    @staticmethod
    def _essence(item: Object) -> Essence:
        metadata = item["metadata"]
        labels = hash(tuple(sorted((metadata.get("labels") or {}).items())))
        uid, generation = metadata.get("uid", ""), metadata.get("generation", 0)
        return Essence(uid, generation, labels, "deletionTimestamp" in metadata)

    # Taking in ------------------------------------------------------------------------------------------------------

    def _put(self, kind: str, name: Name, item: Object, essence: Essence) -> None:
        """Take in an object as it is now, its indexes included."""
        metadata, old = item["metadata"], self._objects[kind].get(name)
        kept = {**item, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}
        self._objects[kind][name] = StoredObject(version_of(item), essence, pack(kept))
        if old is not None and old.essence == essence:
            return  # only its status is new
        there = self._in_namespace.setdefault((kind, name[0]), set())
        self._facets += not there and kind == "LLMService"
        there.add(name[1])
        if kind == NAMESPACE:
            self._namespace_labels[name[1]] = metadata.get("labels") or {}
        if kind == "LLMService":
            self._index(name, self._outline(name))

    def _drop(self, kind: str, name: Name) -> None:
        """Take in that an object is gone."""
        if self._objects[kind].pop(name, None) is None:
            return
        self._parsed[kind == "LLMService"].pop((kind, name), None)
        if kind == NAMESPACE:
            self._namespace_labels.pop(name[1], None)
        names = self._in_namespace[kind, name[0]]
        names.discard(name[1])
        if not names:
            del self._in_namespace[kind, name[0]]
        if kind == "LLMService":
            self._index(name, None)
            if (kind, name[0]) not in self._in_namespace:
                self._selected.pop(name[0], None)
                self._facets += 1

    def _outline(self, name: Name) -> Outline | None:
        service = self.service(name)
        return outline.of(service) if service is not None and service.metadata.deletion_timestamp is None else None

    def _index(self, name: Name, new: Outline | None) -> None:
        selected = self._selection(name[0])
        old = selected.outlines.get(name[1])
        if old == new:
            return
        if _facet(old) != _facet(new) or (new is not None and new.tracing):
            self._facets += 1
        for one, by in ((old, -1), (new, 1)):
            if one is not None and one.gpu:
                self._exporters_asked[one.gpu] += by
        holds = (
            (self._tracing, new and new.tracing),
            (self._ports, new and new.port),
            (self._gpu_services, new and new.gpu),
        )
        for names, belongs in holds:
            (names.add if belongs else names.discard)(name)
        if new is None:
            selected.drop_service(name[1])
        else:
            selected.put_service(name[1], new)

    def _selection(self, namespace: str) -> Selected:
        return self._selected.setdefault(namespace, Selected())

    # Reading --------------------------------------------------------------------------------------------------------

    def raw(self, kind: str, name: Name) -> Object | None:
        """Return an object of our kinds as its JSON, without managedFields."""
        stored = self._objects[kind].get(name)
        return unpack(stored.packed) if stored is not None else None

    def names(self, kind: str, namespace: str | None = None) -> list[Name]:
        """Return the names of all objects of a kind, in one namespace or in all, in order."""
        if namespace is None:
            return sorted(self._objects[kind])
        return [(namespace, name) for name in sorted(self._in_namespace.get((kind, namespace), ()))]

    def count(self, kind: str) -> int:
        """Return how many objects of a kind there are."""
        return len(self._objects[kind])

    def namespaces(self) -> list[str]:
        """Return the namespaces that hold a service, in order."""
        return sorted(namespace for kind, namespace in self._in_namespace if kind == "LLMService")

    def tracing(self) -> list[Name]:
        """Return the services that say something of their traces, in order."""
        return sorted(self._tracing)

    def outlines(self) -> Iterator[tuple[Name, Outline]]:
        """Give every service that can be read, with its outline."""
        for namespace, there in self._selected.items():
            for name, one in there.outlines.items():
                yield (namespace, name), one

    def outline(self, name: Name) -> Outline | None:
        """Return the outline of a service; None where it is gone or cannot be read."""
        return self.selected(name[0]).outlines.get(name[1])

    def selected(self, namespace: str) -> Selected:
        """Return which services of a namespace select which pods."""
        return self._selected.get(namespace, EMPTY)

    def parsed(self, kind: str, name: Name) -> Any:
        """Return an object of our kinds as a value; None where it is gone. Raises InvalidSpecError."""
        stored = self._objects[kind].get(name)
        if stored is None:
            return None
        values, most = self._parsed[kind == "LLMService"], PARSED if kind == "LLMService" else SHARED
        cached = values.get((kind, name))
        if cached is None or cached[0] != stored.version:
            try:
                value = parse(MODELS[kind], unpack(stored.packed))
            except InvalidSpecError as error:
                value = error
            cached = (stored.version, value)
            values[kind, name] = cached
            if len(values) > most:
                values.popitem(last=False)
        else:
            values.move_to_end((kind, name))
        if isinstance(cached[1], InvalidSpecError):
            raise cached[1]
        return cached[1]

    def service(self, name: Name) -> LLMService | None:
        """Return a service that can be read; None where it is gone, or is no longer valid."""
        try:
            service: LLMService | None = self.parsed("LLMService", name)
        except InvalidSpecError:
            return None
        return service

    def services(self, names: Iterable[Name]) -> tuple[LLMService, ...]:
        """Return those of these services that can be read and are not being deleted."""
        existing = (self.service(name) for name in names)
        return tuple(item for item in existing if item is not None and item.metadata.deletion_timestamp is None)

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Return the labels of a namespace."""
        return self._namespace_labels.get(namespace, {})

    def objectives(self, service: LLMService) -> tuple[objectives.Objective, ...]:
        """Return what can work of a service's objectives."""
        try:
            return objectives.of_service(service)
        except InvalidSpecError:
            return ()

    def applying(self, service: LLMService) -> tuple[budgets.Budget, ...]:
        """Return every budget that holds for a service and can work, shared ones included, in order."""
        applying: list[budgets.Budget] = []
        with contextlib.suppress(InvalidSpecError):
            applying += budgets.of_service(service)
        for name in self.names("LLMBudget", service.metadata.namespace):
            with contextlib.suppress(InvalidSpecError):
                shared = self.parsed("LLMBudget", name)
                if budgets.namespace_applies(shared, service):
                    applying.append(budgets.of_namespace(shared))
        labels = self.namespace_labels(service.metadata.namespace)
        for name in self.names("ClusterLLMBudget"):
            with contextlib.suppress(InvalidSpecError):
                platform = self.parsed("ClusterLLMBudget", name)
                if budgets.cluster_applies(platform, labels):
                    applying.append(budgets.of_cluster(platform))
        return tuple(applying)

    def sharing(self, budget: LLMBudget | ClusterLLMBudget) -> int:
        """Return how many services share a budget."""
        if isinstance(budget, LLMBudget):
            selector, there = budget.spec.selector, self.selected(budget.metadata.namespace).outlines
            return sum(selectors.matches(selector, dict(one.labels)) for one in there.values())
        return sum(
            len(self.selected(namespace).outlines)
            for namespace in self.namespaces()
            if budgets.cluster_applies(budget, self.namespace_labels(namespace))
        )

    def price_rivals(self, name: Name) -> tuple[str, ...]:
        """Return the ModelPrices that come before this one by name and price one of its models."""
        others: list[ModelPrice] = []
        for other in self.names("ModelPrice"):
            with contextlib.suppress(InvalidSpecError):
                others.append(self.parsed("ModelPrice", other))
        rivals = {by[0] for by in prices.duplicates(others).values() if name[1] in by[1:]}
        return tuple(sorted(rivals))


def _facet(one: Outline | None) -> tuple[str, bool]:
    return (one.gpu, one.tracing) if one is not None else ("", False)
