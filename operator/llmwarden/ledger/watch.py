"""From the API server to a `View`: five informers, whose changes are gathered and put together a moment later.

The ledger does not need the operator to be alive. A kind that is not installed counts as read: there is nothing of it.
Of an object only what was read from it is kept, and a hash: ten thousand LLMServices as they came would be 100 MiB.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

import msgspec

from llmwarden import names
from llmwarden.domain import differences
from llmwarden.kube import Client, Informer, ObjectName
from llmwarden.ledger import view
from llmwarden.ledger.changes import Change
from llmwarden.ledger.store import Remembered
from llmwarden.ledger.view import Labels, View

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.1  # changes that come together are put together once
ABSENT_SECONDS = 2.0  # how often a kind that is not installed is asked for again
_READ: Final = "read"  # in what an informer keeps: what was read from the object
_DIGEST: Final = "digest"  # and of what
_BY: Final = "by"  # the field manager that wrote it last
_MARK: Final = "mark"  # what tells this state of the object from all others

Object = dict[str, Any]
Read = TypeVar("Read")
Changed = Callable[[Change], None]
"""Told of each change of our kinds after the first reading."""
DepartedServices = Callable[[Mapping[str, Remembered], Collection[str]], Mapping[str, Remembered]]
"""Told the services and the namespaces that are there; answers services that are gone but have spent, or may have pods that run."""


class Watch:
    """Keeps a View. `on_view` is called with each new one, once everything has been read; `changed` with each change of our kinds."""

    def __init__(
        self,
        client: Client,
        on_view: Callable[[View], None],
        departed: DepartedServices,
        changed: Changed = lambda _: None,
    ) -> None:
        self._on_view = on_view
        self._departed = departed
        self._dirty = asyncio.Event()
        self._services: dict[ObjectName, view.ReadService] = {}
        self._namespace_budgets: dict[ObjectName, view.ReadBudget] = {}
        self._cluster_budgets: dict[ObjectName, view.ReadBudget] = {}
        self._prices: dict[ObjectName, view.ReadPrice] = {}
        self._labels: dict[ObjectName, Labels] = {}  # of Namespaces
        ours = names.API_VERSION

        def informer(
            kind: str,
            api_version: str,
            plural: str,
            into: dict[ObjectName, Read],
            read: Callable[[Mapping[str, Any]], Read],
        ) -> Informer:
            def transform(item: Object) -> Object:
                return _kept(item, made.items, read)

            def on_change(key: ObjectName, old: Object | None, new: Object | None) -> None:
                if new is None:
                    into.pop(key, None)
                else:
                    into[key] = new[_READ]
                self._dirty.set()
                if kind and made.synced.is_set() and new is not old:
                    last = new or old or {}
                    mark = f"{kind}/{last[_MARK]}" + ("" if new is not None else "/deleted")
                    by = new[_BY] if new is not None else ""
                    changed(Change(kind, key, old and old[_READ], new and new[_READ], by, mark))

            made = Informer(
                client,
                api_version,
                plural,
                on_change=on_change,
                transform=transform,
                absent_seconds=ABSENT_SECONDS,
            )
            return made

        self._service_informer = informer("LLMService", ours, "llmservices", self._services, view.read_service)
        self._informers = {
            "LLMService": self._service_informer,
            "LLMBudget": informer("LLMBudget", ours, "llmbudgets", self._namespace_budgets, view.read_namespace_budget),
            "ClusterLLMBudget": informer(
                "ClusterLLMBudget", ours, "clusterllmbudgets", self._cluster_budgets, view.read_cluster_budget
            ),
            "ModelPrice": informer("ModelPrice", ours, "modelprices", self._prices, view.read_price),
            "Namespace": informer("", "v1", "namespaces", self._labels, view.read_labels),
        }

    def synced(self) -> dict[str, bool]:
        """By kind, whether it has been read."""
        return {kind: informer.synced.is_set() for kind, informer in self._informers.items()}

    def missing(self) -> list[str]:
        """Kinds that must still be read before anything may be said. LLMService must be there; others may be absent."""
        return [
            kind
            for kind, informer in self._informers.items()
            if not informer.synced.is_set() and not (informer.absent and informer is not self._service_informer)
        ]

    @property
    def namespaces(self) -> Mapping[str, Labels]:
        """Labels of every Namespace."""
        return {name: labels for (_, name), labels in self._labels.items()}

    async def run(self) -> None:
        """Watch for ever; ends by cancellation only."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers.values():
                group.create_task(informer.run())
            group.create_task(self._publish())

    async def _publish(self) -> None:
        while self.missing():  # noqa: ASYNC110 - see below
            # Nothing tells when an absent kind is known to be absent: a quarter of a second is soon enough.
            await asyncio.sleep(0.25)
        logger.info("the cluster's resources are read: %d LLMServices", len(self._services))
        while True:
            self._dirty.clear()
            self._on_view(self._view())
            await self._dirty.wait()
            await asyncio.sleep(GATHER_SECONDS)

    def _view(self) -> View:
        present = {
            f"{namespace}/{name}": Remembered(read.labels, read.provider)
            for (namespace, name), read in self._services.items()
        }
        gone = self._departed(present, self.namespaces)
        return view.build(
            self._services,
            namespace_budgets=self._namespace_budgets,
            cluster_budgets=self._cluster_budgets,
            model_prices=self._prices,
            namespace_labels=self.namespaces,
            departed={key: was.labels for key, was in gone.items()},
            providers={key: was.provider for key, was in gone.items()},
        )


def _kept(item: Object, known: Mapping[ObjectName, Object], read: Callable[[Mapping[str, Any]], object]) -> Object:
    """What is kept of an object: what was read from it. The very same as before where nothing that is read has changed.

    So a write to status is no change, and costs a hash.
    """
    metadata = item["metadata"]
    essence: Object = {
        **{key: item[key] for key in ("apiVersion", "kind", "spec") if key in item},
        "metadata": {key: metadata[key] for key in ("namespace", "name", "uid", "labels") if key in metadata},
    }
    digest = hashlib.sha256(msgspec.json.encode(essence)).digest()
    before = known.get((metadata.get("namespace", ""), metadata["name"]))
    if before is not None and before[_DIGEST] == digest:
        return before
    mark = f"{metadata.get('uid', '')}/{metadata.get('generation', 0)}"
    return {_DIGEST: digest, _READ: read(essence), _BY: differences.manager(item), _MARK: mark}
