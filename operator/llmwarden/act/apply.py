"""Server-side apply and prune: writes only what differs, and trusts its own writes until the watch has caught up."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmwarden import names
from llmwarden.desired import diff
from llmwarden.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotInstalledError,
    RefusedError,
    UnavailableError,
    WardenError,
)
from llmwarden.kube import Client, version_of

logger = logging.getLogger(__name__)

Object = dict[str, Any]
Live = Callable[[str, tuple[str, str]], Object | None]  # kind, (namespace, name) -> compact object of the watch
ASSUMED_SECONDS: Final = 60.0  # after this the watch is believed whatever it says
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
Identity = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class _Assumed:
    """What the server has answered to a write (compact, None for a delete), and until when it is believed over the watch."""

    item: Object | None
    until: float


class Applier:
    """Applies manifests. `live` is the watch's copy; `clock` is monotonic seconds."""

    def __init__(self, client: Client, live: Live, clock: Callable[[], float]) -> None:
        self._client = client
        self._live = live
        self._clock = clock
        self._assumed: dict[Identity, _Assumed] = {}
        # The server's version of what we wanted, by its hash: where it drops or rewrites a field, that is no difference.
        self._accepted: dict[Identity, tuple[str, Any]] = {}

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
                # It went since we looked: the watch notices, and everything is built anew without it.
                failed[manifest["kind"]] = "Its API has just been removed."
            except NotFoundError:
                logger.info("%s: its namespace is gone", _identity(manifest))
            except (UnavailableError, ConflictError) as error:
                transient.append(error)  # one object must not hold up the others
        if transient:
            raise transient[0]
        return failed

    async def _one(self, manifest: Object) -> None:
        identity = _identity(manifest)
        wanted = diff.compact(manifest)
        live = self.current(identity)
        accepted = self._accepted.get(identity)
        stamp = _stamp(manifest)
        if diff.holds(live, wanted):
            return
        if live is not None and accepted == (stamp, diff.project(live, wanted)):
            return
        answer = diff.compact(await self._client.apply(manifest))
        projected = diff.project(answer, wanted)
        if projected != wanted:
            logger.warning("%s: the API server keeps it otherwise than we wrote it", identity)
        self._accepted[identity] = (stamp, projected)
        self._assumed[identity] = _Assumed(answer, self._clock() + ASSUMED_SECONDS)

    def current(self, identity: Identity) -> Object | None:
        """Return the newest of what the watch and our own writes say; None where it is not there."""
        kind, namespace, name = identity
        live = self._live(kind, (namespace, name))
        assumed = self._assumed.get(identity)
        if assumed is None:
            return live
        caught_up = (
            live is None if assumed.item is None else live is not None and version_of(live) >= version_of(assumed.item)
        )
        if caught_up or self._clock() >= assumed.until:
            del self._assumed[identity]
            return live
        return assumed.item

    def seen_gone(self, identity: Identity, version: int) -> None:
        """Hear that the watch saw an object of this version deleted: our write of it, if older, is no longer to be believed."""
        assumed = self._assumed.get(identity)
        if assumed is not None and assumed.item is not None and version_of(assumed.item) <= version:
            del self._assumed[identity]

    async def prune(self, owned: Iterable[Object], wanted: Iterable[Object]) -> None:
        """Delete what of `owned` is not wanted (any more)."""
        keep = {_identity(item) for item in wanted}
        for item in owned:
            identity = _identity(item)
            if identity in keep or self.current(identity) is None:
                continue
            kind, namespace, name = identity
            try:
                await self._client.delete(
                    item["apiVersion"], PLURALS[kind], name, namespace or None, uid=item["metadata"].get("uid")
                )
            except ConflictError:
                continue  # another object of the same name by now
            self._accepted.pop(identity, None)
            self._assumed[identity] = _Assumed(None, self._clock() + ASSUMED_SECONDS)


def _identity(item: Mapping[str, Any]) -> Identity:
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace") or "", metadata["name"]


def _stamp(item: Mapping[str, Any]) -> str:
    return str((item["metadata"].get("annotations") or {}).get(names.ANNOTATION_SPEC_HASH, ""))
