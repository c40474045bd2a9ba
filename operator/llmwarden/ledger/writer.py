"""One writer for the store: reports that arrive together are committed together.

While one transaction waits for the disk, and a moment longer, the next reports gather: under load a commit serves many of
them, without load each is committed at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import anyio.from_thread
import anyio.to_thread

from llmwarden import wire
from llmwarden.domain import leases as policy
from llmwarden.errors import UnavailableError
from llmwarden.ledger.leases import Asked, Desk
from llmwarden.ledger.store import Batch, BehindError, Ground, Merged, PriceRecord, Store

logger = logging.getLogger(__name__)

Answered = tuple[Merged, tuple[wire.LeaseGrant, ...]]
T = TypeVar("T")

MAX_BATCH = 256  # reports in one transaction: bounds how long the first of them waits
MAX_WAITING = 4096  # reports that wait; more are refused: their proxies send the same totals again anyway

GATHER_SECONDS = (
    0.01  # under load a report waits so long for others: a transaction's own cost is that of several reports
)
IDLE_SECONDS = 0.05  # since the last commit, after which there is no load

OnMerged = Callable[[Sequence[tuple[wire.Report, int]], Batch], None]
OnBehind = Callable[[], Awaitable[None]]


class Writer:
    """See the module. `on_merged` is called in the event loop, in the order of the commits, before anyone is answered.

    `on_behind` reads everything anew, where what other replicas did cannot be followed any more.
    """

    def __init__(self, store: Store, on_merged: OnMerged, on_behind: OnBehind, desk: Desk) -> None:
        self._store = store
        self._desk = desk
        self._on_merged = on_merged
        self._on_behind = on_behind
        self._waiting: list[tuple[wire.Report, int, asyncio.Future[Answered]]] = []
        self._wake = asyncio.Event()
        self._busy = asyncio.Lock()  # the store takes one call at a time

    async def run(self) -> None:
        """Write for ever; ends by cancellation only."""
        loop = asyncio.get_running_loop()
        written = 0.0
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                if loop.time() - written < IDLE_SECONDS:
                    await asyncio.sleep(GATHER_SECONDS)
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._write(batch)
                written = loop.time()

    async def report(self, report: wire.Report, now: int) -> Answered:
        """Store a report; returns once it is on the disk, with what its journal is granted.

        Raises UnavailableError when it could not be stored, or when too many wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            message = f"{MAX_WAITING} reports wait for the disk already"
            raise UnavailableError(message)
        done: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.append((report, now, done))
        self._wake.set()
        return await done

    async def record_price(self, record: PriceRecord, now: int) -> None:
        """Remember a price; returns once it is on the disk. Raises UnavailableError."""
        async with self._busy:
            await anyio.to_thread.run_sync(self._store.record_prices, [record], now)

    async def record_labels(self, labels: Mapping[str, Mapping[str, str]]) -> None:
        """Remember the labels of services; returns once they are on the disk. Raises UnavailableError."""
        async with self._busy:
            await anyio.to_thread.run_sync(self._store.record_labels, labels)

    async def alone(self, work: Callable[[], T]) -> T:
        """Run something else that writes the database, while nothing else does. Raises UnavailableError."""
        async with self._busy:
            return await anyio.to_thread.run_sync(work)

    async def compact(self, now: int, keep: int) -> bool:
        """Take a step in dropping old detail; returns whether there was any. Raises UnavailableError."""
        async with self._busy:
            return any(await anyio.to_thread.run_sync(self._store.compact, now, keep))

    async def follow(self) -> None:
        """Take what other replicas did. Raises UnavailableError."""
        async with self._busy:
            self._on_merged((), await self._caught_up(self._store.follow))

    async def _caught_up(self, work: Callable[[], Batch]) -> Batch:
        try:
            return await anyio.to_thread.run_sync(work)
        except BehindError as error:
            logger.warning("%s", error)
            await self._on_behind()
            return await anyio.to_thread.run_sync(work)

    async def release(self, journal_ids: Sequence[int]) -> list[int]:
        """End journals whose pods are gone; returns those that had not ended. Raises UnavailableError."""
        async with self._busy:
            return await anyio.to_thread.run_sync(self._store.release, journal_ids)

    async def _grant(
        self, reports: Sequence[wire.Report], merged: Sequence[Merged]
    ) -> list[tuple[wire.LeaseGrant, ...]]:
        """What each report is answered about its leases; nothing where the database does not answer now."""
        desk = self._desk
        asked = [
            [Asked(result.journal_id, use) for use in report.leases if result.latest and desk.leased(use.budget)]
            for report, result in zip(reports, merged, strict=True)
        ]
        every = [one for some in asked for one in some]
        if not every:
            return [() for _ in asked]
        desk.notes(every)
        granted: dict[tuple[str, int], policy.Grant] = {}

        def decide(ground: Ground) -> dict[tuple[str, int], int]:
            # In the event loop, while the transaction waits: what others did is counted first.
            self._on_merged((), Batch((), ground.foreign, dict(ground.prices or {})))
            granted.update(desk.decide(every, ground.held))
            return {key: grant.granted for key, grant in granted.items()}

        if any(one.use.wanted for one in every):
            budgets = sorted({one.use.budget for one in every})
            try:
                await anyio.to_thread.run_sync(
                    self._store.grant, budgets, lambda ground: anyio.from_thread.run_sync(decide, ground)
                )
            except BehindError:
                await self._on_behind()
                return [() for _ in asked]
            except UnavailableError as error:
                logger.warning("no leases can be granted: %s", error)
                return [() for _ in asked]
        return [
            tuple(
                wire.LeaseGrant(
                    budget=one.use.budget,
                    granted=grant.granted,
                    recall=desk.recalls(one),
                    retry_seconds=grant.retry_seconds,
                )
                for one in some
                for grant in [granted.get((one.use.budget, one.journal_id), policy.Grant(0))]
            )
            for some in asked
        ]

    async def _write(self, batch: Sequence[tuple[wire.Report, int, asyncio.Future[Answered]]]) -> None:
        reports = [(report, now) for report, now, _ in batch]
        try:
            async with self._busy:
                result = await self._caught_up(lambda: self._store.merge(reports))
                # Under the lock: sums in memory follow the database in its order.
                self._on_merged(reports, result)
                grants = await self._grant([report for report, _ in reports], result.merged)
        except UnavailableError as error:
            logger.warning("%d reports could not be stored and will be sent again: %s", len(batch), error)
            for _, _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, _, done), merged, leases in zip(batch, result.merged, grants, strict=True):
            if not done.done():  # its client may have gone
                done.set_result((merged, leases))
