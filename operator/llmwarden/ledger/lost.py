"""Pods that are gone: their leases are free again, and what they did not report is said to be missing.

A pod that ends in the ordinary way reports for the last time. One that was lost (its node died, or it was deleted by force) leaves a
journal that neither ended nor reports; only the API server can say that it is gone and not merely cut off from us. What it used
since its last report is unknown: at most one reporting interval's worth.

Whoever holds a lease is looked for as well, however old its journal is and however lately it reported: the largest leases first. A pod that
was deleted by force may go on, and its token is good for a moment: what it is granted then is taken back at the next look.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
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
MOST_LARGEST: Final = 50  # of these, the holders that are asked about for the size of their leases, at every sweep
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

    def holding(self) -> list[Silent]:
        """See there."""
        ...

    def services_of(self, journal_ids: Sequence[int]) -> Mapping[int, Sequence[str]]:
        """See there."""
        ...


class Ends(Protocol):
    """Of `writer.Writer`."""

    async def release(self, journal_ids: Sequence[int]) -> list[int]:
        """See there."""
        ...


class LostPods:
    """See the module.

    `now` gives seconds since the epoch, `services` the keys of those that exist, `share` which part of a limit is at most held by balances
    (by budget).
    """

    def __init__(
        self,
        client: Reads,
        journals: Journals,
        ends: Ends,
        metrics: Metrics,
        now: Callable[[], float],
        *,
        services: Callable[[], Iterable[str]],
        share: Callable[[Mapping[str, int]], float] = lambda _: 0.0,
    ) -> None:
        self._client = client
        self._journals = journals
        self._ends = ends
        self._metrics = metrics
        self._now = now
        self._services = services
        self._share = share
        self._looked: dict[int, float] = {}  # journals that hold something, and when their pod was last looked for
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
        await self.sweep_silent()
        await self.sweep_holders()

    async def sweep_holders(self) -> None:
        """Look for the pods that hold something: the largest holders, and of the others those that were not looked for longest."""
        now = self._now()
        holding = await anyio.to_thread.run_sync(self._journals.holding)
        # A clock that was set back must not put off a look.
        self._looked = {
            one.journal_id: min(self._looked[one.journal_id], now) for one in holding if one.journal_id in self._looked
        }
        largest = sorted(holding, key=lambda one: -self._share(one.balances))[:MOST_LARGEST]
        first = {one.journal_id for one in largest}
        others = sorted(
            (one for one in holding if one.journal_id not in first),
            key=lambda one: self._looked.get(one.journal_id, 0.0),
        )
        gone: list[Silent] = []
        for one in [*largest, *others[: MOST - len(largest)]]:
            self._looked[one.journal_id] = now
            if await self._is_gone(one):
                gone.append(one)
        reported = await anyio.to_thread.run_sync(self._journals.services_of, [one.journal_id for one in gone])
        await self._end([replace(one, services=tuple(reported.get(one.journal_id, ()))) for one in gone])

    async def sweep_silent(self) -> None:
        """Look for the pods that neither ended nor report. Raises UnavailableError."""
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
        await self._end(gone)

    async def _end(self, gone: Sequence[Silent]) -> None:
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
