"""When pods were created, by the API server's word: what they report is held to that (`domain/plausible.py`), whatever they say themselves."""

import datetime as dt
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Protocol

from llmwarden.contracts import ledger as wire
from llmwarden.errors import NotFoundError, UnavailableError, WardenError

REMEMBERED: Final = 20_000  # pods


class Births(Protocol):
    """Tells when a pod was created."""

    async def born(self, pod: wire.PodRef) -> int:
        """Return seconds since the epoch. Raises UnavailableError when that cannot be found out now."""
        ...


class Reads(Protocol):
    """Of `kube.Client`."""

    async def get(self, api_version: str, plural: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """Read one object. Raises NotFoundError."""
        ...


class PodBirths:
    """The Births of production. `now` gives seconds since the epoch."""

    def __init__(self, client: Reads, now: Callable[[], float]) -> None:
        self._client = client
        self._now = now
        self._known: OrderedDict[str, int] = OrderedDict()  # by UID

    async def born(self, pod: wire.PodRef) -> int:
        """See Births. A pod that is gone before we ever looked is as old as its first report: it had no time to tell of."""
        known = self._known.get(pod.uid)
        if known is not None:
            self._known.move_to_end(pod.uid)
            return known
        try:
            metadata = (await self._client.get("v1", "pods", pod.name, pod.namespace)).get("metadata") or {}
            created = str(metadata.get("creationTimestamp")) if metadata.get("uid") == pod.uid else ""
        except NotFoundError:
            created = ""
        except WardenError as error:
            message = f"pod {pod.namespace}/{pod.name} cannot be looked at now: {error}"
            raise UnavailableError(message) from error
        try:
            born = int(dt.datetime.fromisoformat(created).timestamp())
        except ValueError:
            born = int(self._now())
        self._known[pod.uid] = born
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return born
