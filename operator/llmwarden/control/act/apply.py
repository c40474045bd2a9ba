"""Server-side apply and prune: writes only what differs."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from llmwarden import names
from llmwarden.control.child import Child, Identity
from llmwarden.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotInstalledError,
    RefusedError,
    UnavailableError,
    WardenError,
)
from llmwarden.kube import Client, diff

logger = logging.getLogger(__name__)

Object = dict[str, Any]
PLURALS: Final[Mapping[str, str]] = {
    "AlertmanagerConfig": "alertmanagerconfigs",
    "ConfigMap": "configmaps",
    "GrafanaDashboard": "grafanadashboards",
    "DaemonSet": "daemonsets",
    "Deployment": "deployments",
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "NetworkPolicy": "networkpolicies",
    "PodMonitor": "podmonitors",
    "PrometheusRule": "prometheusrules",
    "Service": "services",
    "ScrapeConfig": "scrapeconfigs",
    "ServiceAccount": "serviceaccounts",
    "ServiceMonitor": "servicemonitors",
}


REPAIR_SECONDS: Final = 60.0
MOST_REPAIRS: Final = 10  # writes of a manifest over others' changes in so many seconds: they may undo each of them

Part = tuple[Identity, str, bytes]  # of a manifest: whose it is, its stamp and its digest


class Cluster(Protocol):
    """Our objects as the cluster has them, our own writes included."""

    def owned(self, identity: Identity) -> Child | None:
        """Return an object of ours; None where it is not there."""

    def written(self, item: Object) -> Child:
        """Take in what the API server answered to a write."""

    def deleted(self, identity: Identity) -> None:
        """Take in a delete."""


class Applier:
    """Applies manifests. `cluster` knows what is there; `clock` is monotonic seconds."""

    def __init__(self, client: Client, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._cluster = cluster
        self._clock = clock
        # By object of ours that somebody else has changed: the hash of the manifest that was written over that, since when, and how often.
        self._repairs: dict[Identity, tuple[str, float, int]] = {}
        # By object the hash of a manifest and of the object that holds it, where the server, or somebody else, has more in the object
        # than the manifest says, or the server keeps it otherwise than we wrote it.
        self._accepted: dict[Identity, tuple[str, bytes]] = {}

    async def apply(self, manifests: Iterable[Object]) -> dict[str, str]:
        """Write those that differ; returns what went wrong for good, as a sentence by kind.

        What may pass by itself (UnavailableError, ConflictError) is raised, once the others have been written.
        """
        failed: dict[str, str] = {}
        transient: list[WardenError] = []
        for manifest in manifests:
            try:
                await self._one(manifest)
            except (RefusedError, ForbiddenError) as error:
                failed[manifest["kind"]] = str(error)
            except NotInstalledError:
                # It went since we looked: the watch notices, and everything is built again without it.
                failed[manifest["kind"]] = "Its API was just removed from the cluster."
            except NotFoundError:
                logger.info("%s: its namespace is gone", identity_of(manifest))
            except (UnavailableError, ConflictError) as error:
                transient.append(error)  # one object must not hold up the others
        if transient:
            raise transient[0]
        return failed

    def stands(self, part: Part) -> bool:
        """Tell whether the object of a manifest is there and is known to hold it."""
        identity, stamp, digest = part
        live = self._cluster.owned(identity)
        return live is not None and (live.digest == digest or self._accepted.get(identity) == (stamp, live.digest))

    async def _one(self, manifest: Object) -> None:
        identity, stamp, digest = part = part_of(manifest)
        if self.stands(part):
            return
        live = self._cluster.owned(identity)
        if live is not None and live.stamp == stamp and await self._has_more(manifest, live):
            return
        if live is not None and live.stamp in {stamp, ""}:
            self._repair(identity, stamp)
        answer = await self._client.apply(manifest)
        kept = self._cluster.written(answer)
        self._accepted.pop(identity, None)
        if kept.digest != digest:
            self._accepted[identity] = (stamp, kept.digest)
            if not diff.holds(answer, manifest):
                logger.warning("%s: the API server keeps it otherwise than we wrote it", identity)

    def _repair(self, identity: Identity, stamp: str) -> None:
        """Count a write over what somebody else has changed. Raises RefusedError where they have undone too many."""
        now = self._clock()
        written, since, count = self._repairs.get(identity, (stamp, now, 0))
        if written != stamp or now - since >= REPAIR_SECONDS:
            since, count = now, 0
        if count >= MOST_REPAIRS:
            kind, namespace, name = identity
            message = f"something else changes {kind} {namespace}/{name} after each write. It is written again later."
            raise RefusedError(message)
        self._repairs[identity] = (stamp, since, count + 1)

    async def _has_more(self, manifest: Object, live: Child) -> bool:
        """Read an object that differs from our manifest though it was made from it: what others have added is theirs."""
        try:
            item = await self._client.get(live.api_version, PLURALS[live.kind], live.name, live.namespace or None)
        except NotFoundError:
            return False
        if not diff.holds(item, manifest):
            return False
        self._accepted[live.identity] = (stamp_of(manifest), diff.digest(item))
        return True

    async def prune(self, owned: Iterable[Child], wanted: Iterable[Object]) -> None:
        """Delete what of `owned` is not wanted (any more)."""
        keep = {identity_of(item) for item in wanted}
        for item in owned:
            if item.identity in keep:
                continue
            try:
                await self._client.delete(
                    item.api_version, PLURALS[item.kind], item.name, item.namespace or None, uid=item.uid
                )
            except ConflictError:
                continue  # another object of the same name by now
            self.forget(item.identity)
            self._cluster.deleted(item.identity)

    def forget(self, identity: Identity) -> None:
        """Forget an object that is gone."""
        self._accepted.pop(identity, None)
        self._repairs.pop(identity, None)


def part_of(manifest: Mapping[str, Any]) -> Part:
    """Return what of a manifest tells whether an object holds it."""
    return identity_of(manifest), stamp_of(manifest), diff.digest(manifest)


def identity_of(item: Mapping[str, Any]) -> Identity:
    """Return kind, namespace and name of a manifest."""
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace") or "", metadata["name"]


def stamp_of(item: Mapping[str, Any]) -> str:
    """Return the hash of a manifest, which `manifest.stamped` has put into it."""
    return str((item["metadata"].get("annotations") or {}).get(names.ANNOTATION_SPEC_HASH, ""))
