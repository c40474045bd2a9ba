"""Which services a pod was injected for: what the webhook wrote onto it, read by name and without the pod's spec.

A service account's token with our audience proves which pod asks, and nothing more: whoever may ask for a token can have one. The webhook
writes the services onto the pod (`names.ANNOTATION_SERVICES`). The application cannot change its pod. An editor of the namespace can, but
reaches services of its own namespace only.

The API server is asked for the metadata alone (`Client.get_metadata`): what a pod's environment holds never comes here. RBAC has no rule for
that: `get` on pods allows the whole object, so this is our own restraint and not the cluster's.

A pod that is known stays known while the API server does not answer, and also when the object is gone before the pod's last report.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from llmwarden import names
from llmwarden.errors import NotFoundError, UnavailableError, WardenError
from llmwarden.kube.client import path_of
from llmwarden.serving.auth import Caller

logger = logging.getLogger(__name__)

GOOD_SECONDS: Final = 600.0  # an injected pod is looked at again: ten thousand pods are 17 small questions a second
BAD_SECONDS: Final = 5.0
REMEMBERED: Final = 20_000  # pods
MOST_LOOKS: Final = 16  # at a time: a ledger that starts must not flood the API server
MOST_SERVICES: Final = 64  # of one pod


@dataclass(frozen=True, slots=True)
class Injected:
    """What is known of a pod. `services` are bare names, none if it was not injected; `created` is in seconds since the epoch."""

    services: frozenset[str] = frozenset()
    created: float = 0.0


class Pods(Protocol):
    """Tells what a pod was injected for."""

    async def injected(self, caller: Caller) -> Injected:
        """Raises UnavailableError when that cannot be found out now."""
        ...


class Metadata(Protocol):
    """Of `kube.Client`."""

    async def get_metadata(
        self, api_version: str, plural: str, name: str, namespace: str | None = None
    ) -> dict[str, Any]:
        """Read the metadata of one object. Raises NotFoundError."""
        ...


class Raw(Protocol):
    """Of `kube.Client`."""

    async def request_bytes(self, method: str, path: str) -> bytes:
        """Send a request; returns the body of its answer."""
        ...


class InjectedPods:
    """The Pods of production. `monotonic` is in seconds."""

    def __init__(self, client: Metadata, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[float, Injected]] = OrderedDict()  # by UID: until when it is believed
        self._asked: dict[str, asyncio.Task[Injected]] = {}
        self._gate = asyncio.Semaphore(MOST_LOOKS)

    async def injected(self, caller: Caller) -> Injected:
        """See Pods. Many requests of one pod ask the API server once."""
        known = self._known.get(caller.pod_uid)
        if known is not None and self._monotonic() < known[0]:
            return known[1]
        look = self._asked.get(caller.pod_uid)
        if look is None:
            look = asyncio.create_task(self._look(caller))
            self._asked[caller.pod_uid] = look
            look.add_done_callback(lambda _: self._asked.pop(caller.pod_uid, None))
        # Shielded: a client that goes away must not take the answer from the others.
        return await asyncio.shield(look)

    async def _look(self, caller: Caller) -> Injected:
        before = self._known.get(caller.pod_uid, (0.0, Injected()))[1]
        seconds = GOOD_SECONDS
        try:
            async with self._gate:
                found = read(
                    await self._client.get_metadata("v1", "pods", caller.pod_name, caller.namespace), caller.pod_uid
                )
        except NotFoundError:
            found = Injected()
        except WardenError as error:
            if not before.services:
                message = f"pod {caller.namespace}/{caller.pod_name} cannot be looked at now: {error}"
                raise UnavailableError(message) from error
            found, seconds = before, BAD_SECONDS
        if before.services:
            # What it was injected for stays true, whatever becomes of the object.
            services = frozenset(sorted(before.services | found.services)[:MOST_SERVICES])
            found = Injected(services, before.created)
        if not found.services:
            seconds = BAD_SECONDS
            logger.info("pod %s/%s was not injected: it may not report", caller.namespace, caller.pod_name)
        self._known[caller.pod_uid] = (self._monotonic() + seconds, found)
        self._known.move_to_end(caller.pod_uid)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found


def read(item: Mapping[str, Any], uid: str) -> Injected:
    """Read a pod's metadata. Another pod of the same name (another UID) was not injected as far as this one is concerned."""
    metadata = item.get("metadata") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if metadata.get("uid") != uid or labels.get(names.LABEL_PROXY) != "true":
        return Injected()
    given = [name for name in annotations.get(names.ANNOTATION_SERVICES, "").split(",") if name]
    created = 0.0
    with contextlib.suppress(ValueError):
        created = dt.datetime.fromisoformat(str(metadata.get("creationTimestamp"))).timestamp()
    return Injected(frozenset(given[:MOST_SERVICES]), created)


class _Metadata(msgspec.Struct):
    uid: str = ""


class _Status(msgspec.Struct):
    phase: str = ""


class _Pod(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    status: _Status = msgspec.field(default_factory=_Status)


_pods = msgspec.json.Decoder(_Pod)


class PodEnds:
    """Reads of a pod what `lost` must know: its UID and its phase.

    The phase is in no metadata, so the whole pod comes over the wire; nothing else of it is decoded, kept or logged.
    """

    def __init__(self, client: Raw) -> None:
        self._client = client

    async def get(self, api_version: str, plural: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """Return `metadata.uid` and `status.phase`. Raises NotFoundError and UnavailableError."""
        path = path_of(api_version, plural, namespace, name)
        try:
            pod = _pods.decode(await self._client.request_bytes("GET", path))
        except msgspec.MsgspecError as error:
            message = f"GET {path}: the answer is no pod"  # without the error's text, which may quote what it read
            raise UnavailableError(message) from error
        return {"metadata": {"uid": pod.metadata.uid}, "status": {"phase": pod.status.phase}}
