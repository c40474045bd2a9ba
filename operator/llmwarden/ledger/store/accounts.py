"""Providers' own figures by day, and whose turn it is to ask for them: replicas share one database, and a provider is asked once.

Tables
- `provider_days`: what the provider said of a day, by scope (`domain.drift.Account.scope`); a day that is read again is replaced.
- `provider_turns`: when a scope is asked next, and how the last question ended. Who moves `next_at` has the turn.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import sqlalchemy as sa

from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.counts import FIELDS, Counts
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.store.model import RELEASED, RowKey
from llmwarden.ledger.store.queries import Sum

DAY: Final = 86_400
T = TypeVar("T")

days = sa.Table(
    "provider_days",
    t.METADATA,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("day", sa.BigInteger, primary_key=True),  # its start, in seconds since the epoch
    sa.Column("input", sa.BigInteger, nullable=False),
    sa.Column("output", sa.BigInteger, nullable=False),
    sa.Column("picodollars", sa.BigInteger, nullable=False),
    sa.Column("other", sa.BigInteger, nullable=False),  # picodollars of what are no tokens
    sqlite_with_rowid=False,
)
turns = sa.Table(
    "provider_turns",
    t.METADATA,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("next_at", sa.BigInteger, nullable=False),  # seconds since the epoch
    sa.Column("read_at", sa.BigInteger, nullable=False),  # of the last answer; 0: never
    sa.Column("failures", sa.BigInteger, nullable=False),  # since then
    sa.Column("reason", sa.Text, nullable=False),  # of the last failure; empty: none since the last answer
    sa.Column("message", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)


@dataclass(frozen=True, slots=True)
class DayRow:
    """What a provider said of a day: tokens, what they cost, and what else it charges (picodollars)."""

    input: int
    output: int
    picodollars: int
    other: int


@dataclass(frozen=True, slots=True)
class Turn:
    """How asking stands. Times in seconds since the epoch; `read_at` 0 is never, `reason` "" is no failure since."""

    next_at: int = 0
    read_at: int = 0
    failures: int = 0
    reason: str = ""
    message: str = ""


class Accounts:
    """The tables' methods. Those that write are to be called by one thread at a time, with the store's other writers held off."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, scope: str, seen: int, until: int) -> bool:
        """Take the turn until then, unless `next_at` is no longer what was `seen`: another replica has it."""

        def work(connection: sa.Connection) -> bool:
            connection.execute(
                self._database.insert(turns).on_conflict_do_nothing(),
                {"scope": scope, "next_at": 0, "read_at": 0, "failures": 0, "reason": "", "message": ""},
            )
            statement = sa.update(turns).where(turns.c.scope == scope, turns.c.next_at == seen)
            return bool(connection.execute(statement.values(next_at=until)).rowcount)

        return self._write(work)

    def record(self, scope: str, found: Mapping[int, DayRow], now: int, next_at: int) -> None:
        """Keep what the provider said, by the days' starts; it is asked again at `next_at`."""

        def work(connection: sa.Connection) -> None:
            if found:
                statement = self._database.insert(days)
                named = ("input", "output", "picodollars", "other")
                connection.execute(
                    statement.on_conflict_do_update(
                        index_elements=["scope", "day"], set_={name: statement.excluded[name] for name in named}
                    ),
                    [
                        {"scope": scope, "day": day, **{name: getattr(row, name) for name in named}}
                        for day, row in sorted(found.items())
                    ],
                )
            connection.execute(
                sa.update(turns)
                .where(turns.c.scope == scope)
                .values(next_at=next_at, read_at=now, failures=0, reason="", message="")
            )

        self._write(work)

    def fail(self, scope: str, reason: str, message: str, next_at: int) -> None:
        """Note that the question failed; it is asked again at `next_at`."""
        statement = sa.update(turns).where(turns.c.scope == scope)
        values = {"next_at": next_at, "failures": turns.c.failures + 1, "reason": reason, "message": message}
        self._write(lambda connection: connection.execute(statement.values(**values)))

    def turn(self, scope: str) -> Turn:
        """How asking stands."""
        columns = (turns.c.next_at, turns.c.read_at, turns.c.failures, turns.c.reason, turns.c.message)
        with self._database.guard(), self._database.reading() as connection:
            row = connection.execute(sa.select(*columns).where(turns.c.scope == scope)).one_or_none()
        return Turn(*row) if row is not None else Turn()

    def days(self, scope: str, start: int, end: int) -> dict[int, DayRow]:
        """What the provider said of the days that begin from `start` to before `end`."""
        query = sa.select(days.c.day, days.c.input, days.c.output, days.c.picodollars, days.c.other)
        with self._database.guard(), self._database.reading() as connection:
            found = connection.execute(query.where(days.c.scope == scope, days.c.day >= start, days.c.day < end))
            return {day: DayRow(*row) for day, *row in found}

    def first(self, provider: str, namespaces: Collection[str] | None) -> int | None:
        """Start of the first bucket in which anything of a provider was counted; None where nothing ever was."""
        query = (
            sa.select(t.spend.c.bucket)
            .select_from(t.spend.join(t.keys, t.keys.c.id == t.spend.c.key_id))
            .where(*self._of(provider, namespaces))
            .order_by(t.spend.c.bucket)
            .limit(1)
        )
        with self._database.guard(), self._database.reading() as connection:
            found = connection.scalar(query)
        return None if found is None else int(found)

    def counted(self, provider: str, namespaces: Collection[str] | None, start: int, end: int) -> list[Sum]:
        """Our sums of the days from `start` to before `end`, over services and labels.

        What has no price of its own, or a tier that may have none, comes by bucket: it is rated at its bucket's time.
        """
        kept = ("provider", "model", "price_id", "context", "tier")
        bucket = t.spend.c.bucket
        by_bucket = sa.or_(t.keys.c.price_id == "", t.keys.c.tier != "")
        slot = sa.case((by_bucket, bucket), else_=bucket - bucket % DAY).label("slot")
        columns = [t.keys.c[name] for name in kept]
        query = (
            sa.select(*columns, slot, *(sa.func.sum(t.spend.c[name]) for name in FIELDS))
            .select_from(t.spend.join(t.keys, t.keys.c.id == t.spend.c.key_id))
            .where(bucket >= start, bucket < end, *self._of(provider, namespaces))
            .group_by(*columns, "slot")
        )
        empty = dict.fromkeys(RowKey._fields, "")
        with self._database.guard(), self._database.reading() as connection:
            return [
                Sum(
                    RowKey(**{**empty, **dict(zip(kept, row, strict=False))}),
                    int(row[len(kept)]),
                    "",
                    Counts(*map(int, row[len(kept) + 1 :])),
                )
                for row in connection.execute(query)
            ]

    def _of(self, provider: str, namespaces: Collection[str] | None) -> list[sa.ColumnElement[bool]]:
        # What is quarantined was probably never used: the provider would not have it.
        found = [t.keys.c.provider == provider, t.keys.c.mark.not_in(RELEASED)]
        if namespaces is not None:
            found.append(t.keys.c.namespace.in_(sorted(namespaces)))
        return found

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        with self._database.guard(), self._database.transaction() as connection:
            return work(connection)
