"""One writer for the store: reports that arrive together are committed together.

While one transaction waits for the disk the next reports gather, and under load each waits a moment for others: a commit serves many of
them then. Without load each is committed at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import anyio.from_thread
import anyio.to_thread
import msgspec

from llmwarden import tracing
from llmwarden.contracts import ledger as wire
from llmwarden.contracts.correction import Order
from llmwarden.domain import leases as policy
from llmwarden.errors import UnavailableError
from llmwarden.ledger.budgets.leases import Asked
from llmwarden.ledger.core import Core
from llmwarden.ledger.store import (
    Batch,
    BehindError,
    Delta,
    Ground,
    Lending,
    Merged,
    PriceRecord,
    Remembered,
    Store,
    corrections,
)
from llmwarden.ledger.store.corrections import Selection

logger = logging.getLogger(__name__)

Answered = tuple[Merged, tuple[wire.LeaseGrant, ...]]
T = TypeVar("T")

MAX_BATCH = 256  # reports in one transaction: bounds how long the first of them waits
MOST_BIRTHS = 20_000  # pods: more than can wait
MAX_WAITING = 4096  # reports that wait; more are refused: their proxies send the same totals again anyway

# Under load a report waits so long for others: a transaction's own cost is that of several reports. One that has waited for a
# transaction under way has waited for others already.
GATHER_SECONDS = 0.01
IDLE_SECONDS = 0.05  # since the last commit, after which there is no load

OnBehind = Callable[[], Awaitable[None]]


class _Waiting(NamedTuple):
    """A report, its time of arrival by the ledger's clock and by the event loop's, and what is answered."""

    report: wire.Report
    now: int  # seconds since the epoch
    since: float
    done: asyncio.Future[Answered]


class Writer:
    """See the module. `core` is told of every batch in the event loop, in the order of the commits, before anyone is answered.

    `on_behind` reads everything anew, where what other replicas did cannot be followed any more.
    """

    def __init__(self, store: Store, core: Core, on_behind: OnBehind) -> None:
        self._store = store
        self._core = core
        self._on_behind = on_behind
        self._waiting: list[_Waiting] = []
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
                now, oldest = loop.time(), self._waiting[0].since
                if now - written < IDLE_SECONDS and now - oldest < GATHER_SECONDS:
                    await asyncio.sleep(oldest + GATHER_SECONDS - now)
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._write(batch)
                written = loop.time()

    async def report(self, report: wire.Report, now: int, born: int = 0) -> Answered:
        """Store a report; returns once it is on the disk, with what its journal is granted.

        `born` is when its pod was created, in seconds since the epoch: what it can have used goes by that. Raises UnavailableError when it could not be stored, or when too many wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            message = f"{MAX_WAITING} reports wait for the disk already"
            raise UnavailableError(message)
        births = self._store.births
        births[report.pod.uid] = born
        while len(births) > MOST_BIRTHS:
            del births[next(iter(births))]
        loop = asyncio.get_running_loop()
        waiting = _Waiting(report, now, loop.time(), loop.create_future())
        self._waiting.append(waiting)
        self._wake.set()
        return await waiting.done

    async def record_price(self, record: PriceRecord, now: int) -> None:
        """Remember a price; returns once it is on the disk. Raises UnavailableError."""
        async with self._busy:
            await anyio.to_thread.run_sync(self._store.record_prices, [record], now)

    async def remember(self, services: Mapping[str, Remembered]) -> None:
        """Keep what services are now; returns once that is on the disk. Raises UnavailableError."""
        async with self._busy:
            await anyio.to_thread.run_sync(self._store.remember, services)

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
            self._core.merged((), await self._caught_up(self._store.follow))

    async def _caught_up(self, work: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(work)
        except BehindError as error:
            logger.warning("%s", error)
            await self._on_behind()
            return await anyio.to_thread.run_sync(work)

    async def correct(
        self, order: Order, selection: Selection, decider: corrections.Decider, now: int
    ) -> tuple[str, bool]:
        """Do an order of the platform; returns its answer as it is kept, and whether it was done before.

        `decider` is asked in the event loop. Raises UnavailableError, ConflictError and TooLargeError as `Store.correct` does.
        """

        def before(batch: Batch) -> corrections.Decider:
            anyio.from_thread.run_sync(lambda: self._core.merged((), batch))
            return _Hopping(decider)

        async with self._busy:
            batch, answer, repeated = await self._caught_up(
                lambda: self._store.correct(
                    order.id,
                    msgspec.json.encode(order).decode(),
                    selection,
                    now,
                    release=order.action == "Release",
                    decider=before,
                    dry_run=order.dry_run,
                )
            )
            self._core.corrected(batch)
        return answer, repeated

    async def release(self, journal_ids: Sequence[int]) -> list[int]:
        """End journals whose pods are gone; returns those that had not ended. Raises UnavailableError."""
        async with self._busy:
            ended = await anyio.to_thread.run_sync(self._store.release, journal_ids)
            self._core.standings.desk.holders.end(journal_ids)
        return ended

    async def reload_holders(self) -> None:
        """Take from the store who holds what, as other replicas changed it. Raises UnavailableError."""
        async with self._busy:
            self._core.standings.desk.holders.reload(await anyio.to_thread.run_sync(self._store.lease_state))

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        reports = [(one.report, one.now) for one in batch]
        loan = _Loan(self._core, [report for report, _ in reports])
        try:
            async with self._busy:
                with tracing.span("merge reports", {"llmwarden.reports": len(reports)}):
                    result = await self._caught_up(lambda: self._store.merge(reports, loan.lending))
                # Under the lock: sums in memory follow the database in its order.
                self._core.merged(reports, result)
        except UnavailableError as error:
            logger.warning("%d reports could not be stored and will be sent again: %s", len(batch), error)
            for one in batch:
                if not one.done.done():
                    one.done.set_exception(error)
            return
        for one, merged in zip(batch, result.merged, strict=True):
            if not one.done.done():  # its client may have gone
                one.done.set_result((merged, loan.answer(one.report, merged)))


class _Hopping:
    """Asks a decider in the event loop, from the transaction's thread."""

    def __init__(self, decider: corrections.Decider) -> None:
        self._decider = decider

    def fraction(self, there: Sequence[Delta]) -> corrections.Fraction:
        return anyio.from_thread.run_sync(self._decider.fraction, there)

    def answer(self, moved: Sequence[Delta]) -> str:
        return anyio.from_thread.run_sync(self._decider.answer, moved)


class _Loan:
    """What the reports of one transaction are granted."""

    def __init__(self, core: Core, reports: Sequence[wire.Report]) -> None:
        self._core = core
        self._desk = desk = core.standings.desk
        self._reports = reports
        self._granted: dict[tuple[str, int], policy.Grant] = {}
        budgets = {use.budget for report in reports for use in report.leases if desk.leased(use.budget)}
        wanted = any(use.wanted > 0 for report in reports for use in report.leases if use.budget in budgets)
        self.lending = Lending(sorted(budgets), self._decide) if wanted else None

    def _decide(self, ground: Ground) -> dict[tuple[str, int], int]:
        return anyio.from_thread.run_sync(self._decide_here, ground)

    def _decide_here(self, ground: Ground) -> dict[tuple[str, int], int]:
        """In the event loop, while the transaction waits."""
        if ground.foreign or ground.prices:
            self._core.merged((), Batch((), ground.foreign, dict(ground.prices)))
        asked = [
            one
            for report, merged in zip(self._reports, ground.merged, strict=True)
            for one in self._asked(report, merged, ground.kept)
        ]
        for report, merged in zip(self._reports, ground.merged, strict=True):
            if report.leases:
                pod = report.pod
                services = {f"{pod.namespace}/{row.service}" for row in report.rows}
                self._desk.holders.know(merged.journal_id, pod.namespace, pod.uid, services)
        for one in asked:
            self._desk.holders.put(one.use.budget, one.journal_id, one.balance)
        self._desk.notes(asked)
        pending = self._core.standings.pending(delta for merged in ground.merged for delta in merged.deltas)
        self._granted = self._desk.decide(asked, ground.held, pending)
        return {place: grant.granted for place, grant in self._granted.items()}

    def answer(self, report: wire.Report, merged: Merged) -> tuple[wire.LeaseGrant, ...]:
        """What a report is answered about its leases, once all is on the disk."""
        asked = self._asked(report, merged)
        if self.lending is None:
            self._desk.notes(asked)
        found = [(one, self._granted.get((one.use.budget, one.journal_id), policy.Grant(0))) for one in asked]
        return tuple(
            wire.LeaseGrant(
                budget=one.use.budget,
                granted=grant.granted,
                recall=self._desk.recalls(one),
                retry_seconds=grant.retry_seconds,
            )
            for one, grant in found
        )

    def _asked(
        self, report: wire.Report, merged: Merged, kept: Mapping[tuple[str, int], int] | None = None
    ) -> list[Asked]:
        if not merged.latest:
            return []  # a newer report of the journal said what it has
        return [
            Asked(merged.journal_id, use, (kept or {}).get((use.budget, merged.journal_id)))
            for use in report.leases
            if self._desk.leased(use.budget)
        ]
