"""Pods that are gone without a last report: their leases are free again, and what they did not report is said to be missing.

A pod that ends in the ordinary way reports for the last time. One that was lost (its node died, or it was deleted by force) leaves a
journal that neither ended nor reports; only the API server can say that it is gone and not merely cut off from us. What it used
since its last report is unknown: at most one reporting interval's worth.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import anyio.to_thread

from llmwarden.errors import NotFoundError, UnavailableError, WardenError
from llmwarden.ledger.metrics import Metrics
from llmwarden.ledger.store import Silent

logger = logging.getLogger(__name__)

SILENT_SECONDS: Final = 90  # three of the longest intervals between two reports
LONG_AGO_SECONDS: Final = 7 * 86400  # a journal that was silent for longer is not asked about any more
SWEEP_SECONDS: Final = 15.0
MOST: Final = 100  # pods asked about in one sweep: a dead zone must not flood the API server
_ENDED: Final = frozenset({"Succeeded", "Failed"})


class Reads(Protocol):
    """Of `kube.Client`."""

    async def get(self, api_version: str, plural: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """Read one object. Raises NotFoundError."""
        ...


class Journals(Protocol):
    """Of `store.Store`."""

    def silent(self, after: int, before: int, most: int) -> list[Silent]:
        """See there."""
        ...


class Ends(Protocol):
    """Of `writer.Writer`."""

    async def release(self, journal_ids: Sequence[int]) -> list[int]:
        """See there."""
        ...


class LostPods:
    """See the module. `now` gives seconds since the epoch, `services` the keys of those that exist."""

    def __init__(
        self,
        client: Reads,
        journals: Journals,
        ends: Ends,
        metrics: Metrics,
        now: Callable[[], float],
        *,
        services: Callable[[], Iterable[str]],
    ) -> None:
        self._client = client
        self._journals = journals
        self._ends = ends
        self._metrics = metrics
        self._now = now
        self._services = services
        self._asked: dict[int, float] = {}  # journals whose pod is there all the same, and when that was seen

    async def run(self) -> None:
        """Sweep for ever; ends by cancellation only."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except UnavailableError as error:
                logger.warning("pods that do not report cannot be looked for now: %s", error)

    async def sweep(self) -> None:
        """Look once. Raises UnavailableError."""
        now = self._now()
        for key in self._services():
            # A counter that begins at 1 has no increase: the first loss would alert nobody.
            self._metrics.unreported.labels(*key.split("/"))
        silent = await anyio.to_thread.run_sync(
            self._journals.silent, int(now) - LONG_AGO_SECONDS, int(now) - SILENT_SECONDS, MOST + len(self._asked)
        )
        known = {one.journal_id for one in silent}
        self._asked = {
            journal: at for journal, at in self._asked.items() if journal in known and 0 <= now - at < SILENT_SECONDS
        }
        gone: list[Silent] = []
        for one in [one for one in silent if one.journal_id not in self._asked][:MOST]:
            if await self._is_gone(one):
                gone.append(one)
            else:
                self._asked[one.journal_id] = now
        ended = set(await self._ends.release([one.journal_id for one in gone]) if gone else ())
        for one in gone:
            if one.journal_id not in ended:
                continue  # another replica was first
            logger.warning(
                "pod %s/%s is gone without a last report: what it used since its last one is not known",
                one.namespace,
                one.pod_name,
            )
            for service in one.services:
                self._metrics.unreported.labels(one.namespace, service).inc()

    async def _is_gone(self, one: Silent) -> bool:
        try:
            pod = await self._client.get("v1", "pods", one.pod_name, one.namespace)
        except NotFoundError:
            return True
        except UnavailableError:
            raise
        except WardenError as error:
            logger.warning("pod %s/%s cannot be looked at: %s", one.namespace, one.pod_name, error)
            return False
        same = pod.get("metadata", {}).get("uid") == one.pod_uid
        return not same or pod.get("status", {}).get("phase") in _ENDED
