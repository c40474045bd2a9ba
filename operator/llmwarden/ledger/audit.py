"""The audit trail: who changed what money is bounded by, and whom the ledger did not believe.

`Trail.record` is all that other parts call. It writes a JSON line at once (logger `llmwarden.audit`), and keeps the entry for the table
(`store/audit.py`), which `run` writes every few seconds. What happens again within a minute is one entry with a count, and beyond a number
of different entries a minute the rest of a kind is counted together: whoever can cause entries cannot fill the disk with them.
"""

import asyncio
import datetime as dt
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from llmwarden.contracts.audit import Entry, Kind
from llmwarden.errors import UnavailableError
from llmwarden.ledger.store import audit as table
from llmwarden.ledger.store.engine import Database
from llmwarden.serving import audit as lines

logger = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 5.0
PRUNE_SECONDS: Final = 3600.0
TOGETHER_SECONDS: Final = 60.0
MOST_DIFFERENT: Final = 100  # entries of one kind within TOGETHER_SECONDS
LONGEST: Final = 1000  # characters of a text
_MANY: Final = "more of this kind than are recorded one by one"
Alone = Callable[[Callable[[], object]], Awaitable[object]]
"""Runs what writes the database while nothing else does (`Writer.alone`)."""


@dataclass(slots=True)
class _Open:
    """An entry that may happen again."""

    mark: str
    entry: Entry
    since: float
    again: int = 0


class Trail:
    """See the module. `clock` gives the present time, aware, in UTC; `monotonic` seconds. One event loop uses it."""

    def __init__(self, clock: Callable[[], dt.datetime], monotonic: Callable[[], float]) -> None:
        self.clock = clock
        self._monotonic = monotonic
        self._open: dict[tuple[str, ...], _Open] = {}
        self._different: Counter[Kind] = Counter()
        self._waiting: list[table.Marked] = []

    def record(
        self, kind: Kind, text: str, *, namespace: str = "", about: str = "", by: str = "", mark: str = ""
    ) -> None:
        """Record that something happened, now. Never raises and never waits; costs a log line the first time within a minute.

        `about` is the entry's `object`. `mark` names an event that several replicas see: it is written once.
        """
        self._close()
        text = text[:LONGEST]
        key: tuple[str, ...] = (kind, namespace, about, by, text, mark)
        if key not in self._open and self._different[kind] >= MOST_DIFFERENT:
            key, text, namespace, about, by, mark = (kind, _MANY), _MANY, "", "", "", ""
        known = self._open.get(key)
        if known is not None:
            known.again += 1
            return
        entry = Entry(at=self.clock(), kind=kind, text=text, namespace=namespace, object=about, by=by)
        self._open[key] = _Open(mark or uuid.uuid4().hex, entry, self._monotonic())
        self._different[kind] += 1
        lines.write(msgspec.to_builtins(entry))

    def _close(self, *, everything: bool = False) -> None:
        """Hand over what cannot be counted together with others any more: entries are in the order of their beginning."""
        now = self._monotonic()
        for key, one in list(self._open.items()):
            if not everything and now - one.since < TOGETHER_SECONDS:
                return
            del self._open[key]
            self._different[one.entry.kind] -= 1
            entry = msgspec.structs.replace(one.entry, count=one.again + 1)
            self._waiting.append(table.Marked(one.mark, entry))
            if one.again:
                lines.write(msgspec.to_builtins(entry))

    async def flush(self, database: Database, alone: Alone, *, everything: bool = False) -> None:
        """Write what is closed; with `everything` also what is still counted. What cannot be written stays. Raises UnavailableError."""
        self._close(everything=everything)
        waiting = self._waiting[: table.MOST_ROWS]
        if waiting:
            await alone(partial(table.append, database, waiting))
            del self._waiting[: len(waiting)]

    async def run(self, database: Database, alone: Alone, keep: dt.timedelta) -> None:
        """Write and forget, until cancelled. Entries that wait for a minute to end are read too (`pending`)."""
        pruned = -PRUNE_SECONDS
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush(database, alone)
                if self._monotonic() - pruned >= PRUNE_SECONDS:
                    await alone(partial(table.prune, database, self.clock() - keep))
                    pruned = self._monotonic()
            except UnavailableError as error:
                logger.warning("audit entries wait: %s", error)
                del self._waiting[: -table.MOST_ROWS]

    def pending(self) -> list[Entry]:
        """Return what is not in the table yet, oldest first."""
        counted = [msgspec.structs.replace(one.entry, count=one.again + 1) for one in self._open.values()]
        return [*(one.entry for one in self._waiting), *counted]
