"""The audit's table: what happened, for a number of days and at most so many rows of each kind."""

import datetime as dt
from collections.abc import Iterable
from typing import Final, NamedTuple

import sqlalchemy as sa

from llmwarden.contracts.audit import KINDS, Entry
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.engine import Database

MOST_ROWS: Final = 20_000
"""Of one kind: what somebody can cause in numbers must neither fill the disk nor push out what is rare."""

audit = sa.Table(
    "audit",
    t.METADATA,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column(
        "mark", sa.Text, nullable=False, unique=True
    ),  # the same event is written once, by whichever replica sees it first
    sa.Column("at", sa.BigInteger, nullable=False),  # milliseconds since the epoch
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("times", sa.BigInteger, nullable=False),
    sa.Index("audit_by_time", "kind", "at"),
)


class Marked(NamedTuple):
    """An entry, and what tells it from all others."""

    mark: str
    entry: Entry


def append(database: Database, entries: Iterable[Marked]) -> None:
    """Write entries; those that are there already stay as they are. Writes: hold other writers off. Raises UnavailableError."""
    rows = [
        {
            "mark": mark,
            "at": round(entry.at.timestamp() * 1000),
            "kind": entry.kind,
            "namespace": entry.namespace,
            "object": entry.object,
            "actor": entry.by,
            "text": entry.text,
            "times": entry.count,
        }
        for mark, entry in entries
    ]
    if not rows:
        return
    insert = database.insert(audit).on_conflict_do_nothing(index_elements=["mark"])
    with database.guard(), database.transaction() as connection:
        connection.execute(insert, rows)


def prune(database: Database, before: dt.datetime, most: int = MOST_ROWS) -> int:
    """Forget what is older, and of each kind all but the newest `most`; returns how many rows went. Raises UnavailableError."""
    gone = 0
    with database.guard(), database.transaction() as connection:
        gone += connection.execute(sa.delete(audit).where(audit.c.at < round(before.timestamp() * 1000))).rowcount
        for kind in KINDS:
            of_kind = sa.select(audit.c.id).where(audit.c.kind == kind)
            kept = connection.scalar(of_kind.order_by(audit.c.id.desc()).offset(most).limit(1))
            if kept is not None:
                gone += connection.execute(sa.delete(audit).where(audit.c.kind == kind, audit.c.id <= kept)).rowcount
    return gone


def read(
    database: Database,
    start: dt.datetime,
    end: dt.datetime,
    *,
    namespace: str | None = None,
    kinds: Iterable[str] = (),
    most: int = 1000,
) -> tuple[tuple[Entry, ...], bool]:
    """Return entries from `start` up to `end`, newest first, and whether there are more. Raises UnavailableError."""
    asked = (
        sa.select(audit)
        .where(audit.c.at >= round(start.timestamp() * 1000), audit.c.at < round(end.timestamp() * 1000))
        .order_by(audit.c.at.desc(), audit.c.id.desc())
        .limit(most + 1)
    )
    if namespace is not None:
        asked = asked.where(audit.c.namespace == namespace)
    wanted = list(kinds)
    if wanted:
        asked = asked.where(audit.c.kind.in_(wanted))
    with database.guard(), database.reading() as connection:
        found = connection.execute(asked).all()
    entries = tuple(
        Entry(
            at=dt.datetime.fromtimestamp(row.at / 1000, dt.UTC),
            kind=row.kind,
            text=row.text,
            namespace=row.namespace,
            object=row.object,
            by=row.actor,
            count=row.times,
        )
        for row in found[:most]
    )
    return entries, len(found) > most
