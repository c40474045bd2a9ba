"""The webhook's copy of shared budgets: those alone that matter to a proxy whose ledger has never answered.

What of them goes into a pod is `injection.sidecar`'s to say; a service's own budgets come with the service (`webhook.services`).
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, LLMService, parse
from llmwarden.api.v1alpha1.common import LabelSelector
from llmwarden.domain import budgets, selectors
from llmwarden.domain.budgets import Budget
from llmwarden.errors import InvalidSpecError
from llmwarden.kube import ObjectName

logger = logging.getLogger(__name__)

Object = dict[str, Any]
# Of an LLMService's own budget what says when it holds: no warning, no figure.
_POLICY: Final = ("name", "limit", "window", "onExceeded", "onLedgerLoss")


@dataclass(frozen=True, slots=True)
class Read:
    """A shared budget, and what selects for it: services' labels (LLMBudget) or namespaces' (ClusterLLMBudget)."""

    budget: Budget
    selector: LabelSelector


def read_namespace_budget(item: Object) -> Read | None:
    """Read an LLMBudget; None where it says nothing to a proxy without a ledger, or cannot be read. Never raises."""
    try:
        source = parse(LLMBudget, item)
        budget = budgets.of_namespace(source)
    except InvalidSpecError as error:
        logger.warning("an LLMBudget cannot be read and is left out: %s", error)
        return None
    return Read(budget, source.spec.selector) if budgets.matters_without_ledger(budget) else None


def read_cluster_budget(item: Object) -> Read | None:
    """Read a ClusterLLMBudget; None as for an LLMBudget. Never raises."""
    try:
        source = parse(ClusterLLMBudget, item)
        budget = budgets.of_cluster(source)
    except InvalidSpecError as error:
        logger.warning("a ClusterLLMBudget cannot be read and is left out: %s", error)
        return None
    return Read(budget, source.spec.namespace_selector) if budgets.matters_without_ledger(budget) else None


def own(item: Mapping[str, Any]) -> list[Object]:
    """Give those of an LLMService's own budgets that matter without a ledger, as far as they can be read. Never raises."""
    found: list[Object] = []
    for budget in (item.get("spec") or {}).get("budgets") or ():
        if not isinstance(budget, dict):
            continue
        kept = {key: budget[key] for key in _POLICY if key in budget}
        alone = {**item, "spec": {**item["spec"], "budgets": [kept], "objectives": []}, "status": None}
        try:
            read = budgets.of_service_readable(parse(LLMService, alone))
        except InvalidSpecError:
            continue  # its condition says so; the service is injected all the same
        if any(budgets.matters_without_ledger(one) for one in read):
            found.append(kept)
    return found


class Budgets:
    """See the module."""

    def __init__(self) -> None:
        self._by_namespace: dict[str, dict[str, Read]] = {}
        self._cluster: dict[str, Read] = {}

    def take_namespaced(self, key: ObjectName, _old: Read | None, new: Read | None) -> None:
        """Take a changed LLMBudget (an Informer's callback, with `read_namespace_budget` as its transform)."""
        namespace, name = key
        here = self._by_namespace.setdefault(namespace, {})
        if new is not None:
            here[name] = new
        else:
            here.pop(name, None)
        if not here:
            del self._by_namespace[namespace]

    def take_cluster(self, key: ObjectName, _old: Read | None, new: Read | None) -> None:
        """Take a changed ClusterLLMBudget (the same, with `read_cluster_budget`)."""
        if new is not None:
            self._cluster[key[1]] = new
        else:
            self._cluster.pop(key[1], None)

    def over(self, service: LLMService, namespace_labels: Mapping[str, str] | None) -> Iterator[Budget]:
        """Give the shared budgets that hold for a service. Of a namespace that is not known (None) every ClusterLLMBudget does.

        Too many are safe: once the ledger answers, its word counts.
        """
        for read in self._by_namespace.get(service.metadata.namespace, {}).values():
            if selectors.matches(read.selector, service.metadata.labels):
                yield read.budget
        for read in self._cluster.values():
            if namespace_labels is None or selectors.matches(read.selector, namespace_labels):
                yield read.budget
