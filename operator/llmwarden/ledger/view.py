"""What the cluster says: services, the budgets that apply to them, prices. Pure: objects in, one value out.

An object that can never work as written is left out with its sentence in `View.invalid`; the others go on. A service
that cannot be read stays Active without budgets of its own: releasing it would stop its measurement.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, LLMService, ModelPrice, parse
from llmwarden.domain import budgets, selectors, upstream
from llmwarden.domain.budgets import Budget
from llmwarden.errors import InvalidSpecError
from llmwarden.ledger.rating import pricing

ObjectName = tuple[str, str]  # namespace ("" for what has none) and name
Labels = Mapping[str, str]
Alike = TypeVar("Alike")


@dataclass(frozen=True, slots=True)
class Service:
    """An LLMService as the ledger needs it; `budgets` are the keys of all that apply to it.

    `departed`: it is gone, and this is for its pods that still run. It has no budgets of its own then.
    """

    namespace: str
    name: str
    provider: str
    sample_percent: float = 100.0
    budgets: tuple[str, ...] = ()
    departed: bool = False

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Shared:
    """A budget and the services (`namespace/name`) that spend from it: those that are there, and those that were."""

    budget: Budget
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class View:
    """See the module. Services by `namespace/name`, and sorted by namespace; budgets by key, faults by `Kind/namespace/name`.

    `departed` are services that are gone. `everywhere`: by namespace, the budgets that hold for any service of it, whatever its labels.
    """

    services: Mapping[str, Service] = field(default_factory=dict)
    by_namespace: Mapping[str, Sequence[Service]] = field(default_factory=dict)
    budgets: Mapping[str, Shared] = field(default_factory=dict)
    prices: tuple[ModelPrice, ...] = ()
    invalid: Mapping[str, str] = field(default_factory=dict)
    departed: Mapping[str, Service] = field(default_factory=dict)
    everywhere: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def find(self, service: str) -> Service | None:
        """Return a service (`namespace/name`) that is there or was; None for one that never was, as far as is known."""
        return self.services.get(service) or self.departed.get(service)

    def told(self, namespace: str, name: str) -> Service | None:
        """Return what a pod that was injected for a service is told of it; None where nothing holds for it.

        One that is not known (made and deleted while we did not look, say) has the budgets that hold whatever a service's labels are.
        """
        found = self.find(f"{namespace}/{name}")
        budgets = self.everywhere.get(namespace, ())
        if found is None and budgets:
            return Service(namespace, name, "", budgets=budgets, departed=True)
        return found

    def changed(self, before: "View") -> set[str]:
        """Namespaces with a service that is other than before, or that spends from a budget that is."""
        differ = {
            key.partition("/")[0]
            for now, was in ((self.services, before.services), (self.departed, before.departed))
            for key in now.keys() | was.keys()
            if now.get(key) != was.get(key)
        }
        differ |= {
            namespace
            for namespace in self.everywhere.keys() | before.everywhere.keys()
            if self.everywhere.get(namespace) != before.everywhere.get(namespace)
        }
        for key, shared in self.budgets.items():
            known = before.budgets.get(key)
            # One that is new, or holds for others now, is another thing for those services: it stands in them.
            if known is not None and known.budget != shared.budget:
                differ.update(member.partition("/")[0] for member in shared.members)
        return differ


@dataclass(frozen=True, slots=True)
class ReadService:
    """An LLMService that was read: what is in it, and what is wrong with it."""

    namespace: str
    name: str
    provider: str
    labels: Labels
    sample_percent: float = 100.0
    budgets: tuple[Budget, ...] = ()
    fault: str | None = None


def read_service(item: Mapping[str, Any]) -> ReadService:
    """Read an LLMService. Never raises: what is wrong is in `fault`."""
    metadata = item["metadata"]
    namespace, name = sys.intern(metadata["namespace"]), metadata["name"]
    labels = read_labels(item)
    try:
        service = parse(LLMService, item)
    except InvalidSpecError as error:
        return ReadService(namespace, name, _provider(item), labels, fault=str(error))
    good: list[Budget] = []
    faults: list[str] = []
    for budget in service.spec.budgets:
        alone = service.replace(spec=service.spec.replace(budgets=(budget,)))
        try:
            good += map(_shared, budgets.of_service(alone))
        except InvalidSpecError as error:
            faults.append(str(error))
    return ReadService(
        namespace,
        name,
        upstream.backend_provider(service.spec.backend.type),
        labels,
        float(service.spec.tracing.sample_percent),
        tuple(good),
        "; ".join(faults) or None,
    )


def read_labels(item: Mapping[str, Any]) -> Labels:
    """Labels of any object. Objects with the same labels share them."""
    return _same_labels(tuple((item["metadata"].get("labels") or {}).items()))


@lru_cache(maxsize=10_000)
def _same_labels(labels: tuple[tuple[str, str], ...]) -> Labels:
    return dict(labels)


@lru_cache(maxsize=10_000)
def _same(value: Alike) -> Alike:
    return value


def _shared(budget: Budget) -> Budget:
    """The budget, made of parts that others have, too: ten thousand services have few kinds of window."""
    return replace(
        budget,
        namespace=sys.intern(budget.namespace),
        name=sys.intern(budget.name),
        window=_same(budget.window),
        warn_at=_same(budget.warn_at),
    )


@dataclass(frozen=True, slots=True)
class ReadBudget:
    """A shared budget that was read; the object is kept for its selector."""

    source: LLMBudget | ClusterLLMBudget | None
    budget: Budget | None
    fault: str | None = None


def read_namespace_budget(item: Mapping[str, Any]) -> ReadBudget:
    """Read an LLMBudget. Never raises."""
    try:
        source = parse(LLMBudget, item)
        return ReadBudget(source, budgets.of_namespace(source))
    except InvalidSpecError as error:
        return ReadBudget(None, None, str(error))


def read_cluster_budget(item: Mapping[str, Any]) -> ReadBudget:
    """Read a ClusterLLMBudget. Never raises."""
    try:
        source = parse(ClusterLLMBudget, item)
        return ReadBudget(source, budgets.of_cluster(source))
    except InvalidSpecError as error:
        return ReadBudget(None, None, str(error))


@dataclass(frozen=True, slots=True)
class ReadPrice:
    """A ModelPrice that was read."""

    price: ModelPrice | None
    fault: str | None = None


def read_price(item: Mapping[str, Any]) -> ReadPrice:
    """Read a ModelPrice. Never raises."""
    try:
        price = parse(ModelPrice, item)
        pricing.check(price)
    except InvalidSpecError as error:
        return ReadPrice(None, str(error))
    return ReadPrice(price)


def build(
    services: Mapping[ObjectName, ReadService],
    *,
    namespace_budgets: Mapping[ObjectName, ReadBudget],
    cluster_budgets: Mapping[ObjectName, ReadBudget],
    model_prices: Mapping[ObjectName, ReadPrice],
    namespace_labels: Mapping[str, Labels],
    departed: Mapping[str, Labels] | None = None,
    providers: Mapping[str, str] | None = None,
) -> View:
    """Put everything together. `departed`: labels of services (`namespace/name`) that are gone; `providers` whose models they called.

    A service that is gone still counts in the shared budgets that it spent from: else deleting it would refill them. And they still hold for
    its pods: else deleting it would let them go.
    """
    invalid = {
        f"{kind}/{namespace}/{name}" if namespace else f"{kind}/{name}": read.fault
        for kind, found in (
            ("LLMService", services),
            ("LLMBudget", namespace_budgets),
            ("ClusterLLMBudget", cluster_budgets),
            ("ModelPrice", model_prices),
        )
        for (namespace, name), read in found.items()
        if read.fault is not None
    }
    present = {f"{namespace}/{name}": read for (namespace, name), read in services.items()}
    spenders: dict[str, Labels] = {
        **{key: labels for key, labels in (departed or {}).items() if key not in present},
        **{key: read.labels for key, read in present.items()},
    }
    shared = [
        Shared(budget, (key,)) for key, read in present.items() for budget in read.budgets
    ]  # a service's own come first: of two budgets equally near their end it is the one its owner knows
    shared += _namespace_shared(namespace_budgets.values(), spenders)
    shared += _cluster_shared(cluster_budgets.values(), spenders, namespace_labels)
    applied: dict[str, list[str]] = {key: [] for key in spenders}
    for one in shared:
        for member in one.members:
            applied[member].append(one.budget.key)
    made = {
        key: Service(read.namespace, read.name, read.provider, read.sample_percent, tuple(applied[key]))
        for key, read in sorted(present.items())
    }
    gone = {
        key: Service(
            key.partition("/")[0],
            key.partition("/")[2],
            (providers or {}).get(key, ""),
            budgets=tuple(applied[key]),
            departed=True,
        )
        for key in sorted(spenders.keys() - present.keys())
    }
    by_namespace: dict[str, list[Service]] = {}
    for service in made.values():
        by_namespace.setdefault(service.namespace, []).append(service)
    return View(
        made,
        by_namespace,
        {one.budget.key: one for one in shared},
        tuple(read.price for read in model_prices.values() if read.price is not None),
        invalid,
        gone,
        _everywhere(namespace_budgets.values(), cluster_budgets.values(), namespace_labels),
    )


def _namespace_shared(found: Iterable[ReadBudget], spenders: Mapping[str, Labels]) -> list[Shared]:
    shared: list[Shared] = []
    for read in found:
        if not isinstance(read.source, LLMBudget) or read.budget is None:
            continue
        prefix = f"{read.source.metadata.namespace}/"
        members = sorted(
            key
            for key, labels in spenders.items()
            if key.startswith(prefix) and selectors.matches(read.source.spec.selector, labels)
        )
        shared.append(Shared(read.budget, tuple(members)))
    return shared


def _cluster_shared(
    found: Iterable[ReadBudget], spenders: Mapping[str, Labels], namespace_labels: Mapping[str, Labels]
) -> list[Shared]:
    shared: list[Shared] = []
    for read in found:
        if not isinstance(read.source, ClusterLLMBudget) or read.budget is None:
            continue
        names = {name for name, labels in namespace_labels.items() if budgets.cluster_applies(read.source, labels)}
        members = sorted(key for key in spenders if key.partition("/")[0] in names)
        shared.append(Shared(read.budget, tuple(members)))
    return shared


def _everywhere(
    namespaced: Iterable[ReadBudget], cluster: Iterable[ReadBudget], namespace_labels: Mapping[str, Labels]
) -> dict[str, tuple[str, ...]]:
    """By namespace, the budgets that hold for a service without labels."""
    found: dict[str, list[str]] = {}
    for read in namespaced:
        if isinstance(read.source, LLMBudget) and read.budget and selectors.matches(read.source.spec.selector, {}):
            found.setdefault(read.source.metadata.namespace, []).append(read.budget.key)
    for read in cluster:
        if isinstance(read.source, ClusterLLMBudget) and read.budget:
            for name, labels in namespace_labels.items():
                if budgets.cluster_applies(read.source, labels):
                    found.setdefault(name, []).append(read.budget.key)
    return {namespace: tuple(keys) for namespace, keys in found.items()}


def _provider(item: Mapping[str, Any]) -> str:
    """GenAI provider name of an LLMService that does not parse; "" where even its type is unknown."""
    spec = item.get("spec")
    backend = spec.get("backend") if isinstance(spec, dict) else None
    kind = backend.get("type") if isinstance(backend, dict) else None
    known = upstream.BACKENDS.get(kind) if isinstance(kind, str) else None  # type: ignore[call-overload]
    return known.provider if known else ""
