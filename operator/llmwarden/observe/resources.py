"""Our own resources as the operator knows them, parsed once per version, and what they say of each other. Does no I/O."""

import contextlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, LLMService, ModelPrice, ProviderAccount, parse
from llmwarden.domain import budgets, objectives, prices
from llmwarden.errors import InvalidSpecError

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
    "ProviderAccount": "provideraccounts",
}
NAMESPACE: Final = "Namespace"


class Resources:
    """Objects of our own kinds, and Namespaces, by kind and name."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[Name, Object]] = {kind: {} for kind in (*KINDS, NAMESPACE)}
        self._parsed: dict[tuple[str, Name], tuple[str, Any]] = {}

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
            "ProviderAccount": ProviderAccount,
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

    def objectives(self, service: LLMService) -> tuple[objectives.Objective, ...]:
        """Return what can work of a service's objectives."""
        try:
            return objectives.of_service(service)
        except InvalidSpecError:
            return ()

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
