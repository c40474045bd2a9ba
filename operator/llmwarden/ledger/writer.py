"""One writer for the store: reports that arrive together are committed together.

While one transaction waits for the disk, the next reports gather: under load a commit serves many of them, without
load each is committed at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio.to_thread

from llmwarden import wire
from llmwarden.errors import UnavailableError
from llmwarden.ledger.store import Batch, BehindError, Merged, PriceRecord, Store

logger = logging.getLogger(__name__)

MAX_BATCH = 256  # reports in one transaction: bounds how long the first of them waits
MAX_WAITING = 4096  # reports that wait; more are refused: their proxies send the same totals again anyway

OnMerged = Callable[[Sequence[tuple[wire.Report, int]], Batch], None]
OnBehind = Callable[[], Awaitable[None]]


class Writer:
    """See the module. `on_merged` is called in the event loop, in the order of the commits, before anyone is answered.

    `on_behind` reads everything anew, where what other replicas did cannot be followed any more.
    """

    def __init__(self, store: Store, on_merged: OnMerged, on_behind: OnBehind) -> None:
        self._store = store
        self._on_merged = on_merged
        self._on_behind = on_behind
        self._waiting: list[tuple[wire.Report, int, asyncio.Future[Merged]]] = []
        self._wake = asyncio.Event()
        self._busy = asyncio.Lock()  # the store takes one call at a time

    async def run(self) -> None:
        """Write for ever; ends by cancellation only."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._write(batch)

    async def report(self, report: wire.Report, now: int) -> Merged:
        """Store a report; returns once it is on the disk.

        Raises UnavailableError when it could not be stored, or when too many wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            message = f"{MAX_WAITING} reports wait for the disk already"
            raise UnavailableError(message)
        done: asyncio.Future[Merged] = asyncio.get_running_loop().create_future()
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

    async def _write(self, batch: Sequence[tuple[wire.Report, int, asyncio.Future[Merged]]]) -> None:
        reports = [(report, now) for report, now, _ in batch]
        try:
            async with self._busy:
                result = await self._caught_up(lambda: self._store.merge(reports))
                # Under the lock: sums in memory follow the database in its order.
                self._on_merged(reports, result)
        except UnavailableError as error:
            logger.warning("%d reports could not be stored and will be sent again: %s", len(batch), error)
            for _, _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, _, done), merged in zip(batch, result.merged, strict=True):
            if not done.done():  # its client may have gone
                done.set_result(merged)
