"""The webhook's copy of the LLMServices: of each what selects pods and what the sidecar's contract is made of, packed and found by label.

A cluster may have ten thousand of them, and every replica of the webhook has them all: parsed they would take 25 kB each. A review unpacks
those alone that have a label of its pod, so what it costs does not grow with the cluster.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.errors import InvalidSpecError
from llmwarden.kube import ObjectName
from llmwarden.kube.packed import Packed, pack, unpack
from llmwarden.webhook import budgets

logger = logging.getLogger(__name__)

_METADATA = ("name", "namespace", "deletionTimestamp", "labels")  # labels: LLMBudgets select services by them
_OBJECTIVES = ("latency", "contextUse")  # those whose thresholds become bounds of the proxy's histograms


def brief(item: Mapping[str, Any]) -> Packed:
    """Pack of an LLMService what `injection.selection` and `injection.sidecar` read: no figure, no price, nobody's managed fields."""
    metadata, spec = item["metadata"], item.get("spec") or {}
    injection = (item.get("status") or {}).get("injection") or {}
    objectives = [
        {key: objective[key] for key in ("name", *_OBJECTIVES) if key in objective}
        for objective in spec.get("objectives") or ()
        if any(kind in objective for kind in _OBJECTIVES)
    ]
    own = budgets.own(item)
    return pack(
        {
            "metadata": {key: metadata[key] for key in _METADATA if metadata.get(key)},
            "spec": {
                **{key: spec[key] for key in ("backend", "workload") if key in spec},
                **({"objectives": objectives} if objectives else {}),
                **({"budgets": own} if own else {}),
            },
            **({"status": {"injection": injection}} if injection.get("state") == "Stopped" else {}),
        }
    )


@dataclass(slots=True)
class _Namespace:
    """Services by one label that they ask for, as label -> value -> services; and those that ask for no certain value of any."""

    by_label: dict[str, dict[str, tuple[Packed, ...]]] = field(default_factory=dict)
    others: tuple[Packed, ...] = ()

    def add(self, service: Packed, wanted: Mapping[str, str]) -> None:
        if not wanted:
            self.others = (*self.others, service)
            return
        # Of its labels the one that fewest share: all services of a shop may ask for part-of=shop, and for an app of their own.
        label = min(wanted, key=lambda label: len(self.by_label.get(label, {}).get(wanted[label], ())))
        values = self.by_label.setdefault(label, {})
        values[wanted[label]] = (*values.get(wanted[label], ()), service)

    def remove(self, service: Packed, wanted: Mapping[str, str]) -> None:
        self.others = _without(self.others, service)
        for label, value in wanted.items():
            values = self.by_label.get(label, {})
            left = _without(values.pop(value, ()), service)
            if left:
                values[value] = left
            elif not values:
                self.by_label.pop(label, None)

    def candidates(self, labels: Mapping[str, str]) -> Iterator[Packed]:
        for label, value in labels.items():
            yield from self.by_label.get(label, {}).get(value, ())
        yield from self.others


class Services:
    """See the module."""

    def __init__(self) -> None:
        self._namespaces: dict[str, _Namespace] = {}

    def take(self, key: ObjectName, old: Packed | None, new: Packed | None) -> None:
        """Take a changed LLMService (an Informer's callback, with `brief` as its transform)."""
        namespace, name = key
        of_namespace = self._namespaces.setdefault(namespace, _Namespace())
        if old is not None:
            of_namespace.remove(old, _match_labels(unpack(old)))
        if new is not None:
            item = unpack(new)
            try:
                parse(LLMService, item)
            except InvalidSpecError as error:
                # Stored under another version of the schema: its condition says so, the others go on.
                logger.warning("LLMService %s/%s cannot be read and is left out: %s", namespace, name, error)
            else:
                of_namespace.add(new, _match_labels(item))
        if not of_namespace.by_label and not of_namespace.others:
            del self._namespaces[namespace]

    def has(self, namespace: str) -> bool:
        """Tell whether a namespace holds a service that can be read."""
        return namespace in self._namespaces

    def candidates(self, namespace: str, labels: Mapping[str, str]) -> Iterator[LLMService]:
        """Give the LLMServices of a namespace that may select a pod with these labels; all that do are among them."""
        of_namespace = self._namespaces.get(namespace)
        if of_namespace is not None:
            for packed in of_namespace.candidates(labels):
                yield parse(LLMService, unpack(packed))


def _match_labels(item: Mapping[str, Any]) -> Mapping[str, str]:
    """What a selector asks for of labels; nothing where the object is not as it should be, and so was not taken."""
    workload = item["spec"].get("workload")
    selector = workload.get("selector") if isinstance(workload, dict) else None
    wanted = selector.get("matchLabels") if isinstance(selector, dict) else None
    return wanted if isinstance(wanted, dict) else {}


def _without(services: tuple[Packed, ...], gone: Packed) -> tuple[Packed, ...]:
    return tuple(service for service in services if service != gone) if services else services
