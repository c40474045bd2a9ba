"""Corrections of what was reported: write-offs, and releases of what is quarantined. One transaction each, under the lock of the change number.

Neither changes what a journal has reported: ordinary and quarantined rows together stay that, so the next report of the same totals still
changes nothing. A write-off is rows of their own (marks `WRITTEN_OFF`, `QUARANTINED_WRITTEN_OFF`), negative, by journal where the journals'
rows are still there. A release moves rows from a mark to what `RELEASED` makes of it. No sum falls below zero by that: of each key and
bucket no more is taken off than is there.

Table `corrections`: each order, once, with its answer, for ever.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import sqlalchemy as sa

from llmwarden.ledger.store import counts
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.counts import FIELDS, ZERO, Counts
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.store.key_ids import KeyIds
from llmwarden.ledger.store.merge import Merge
from llmwarden.ledger.store.model import QUARANTINED, QUARANTINED_WRITTEN_OFF, RELEASED, WRITTEN_OFF, Delta, RowKey

MOST: Final = 50_000  # rows of one order: reports wait meanwhile
_REST: Final = 0  # in place of a journal's id: what is left in the sums of journals whose rows are gone

corrections = sa.Table(
    "corrections",
    t.METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False, index=True),  # seconds since the epoch
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),  # JSON of contracts.correction.Order
    sa.Column("answer", sa.Text, nullable=False),  # JSON of contracts.correction.Correction
)

Parts = dict[tuple[RowKey, int], dict[int, Counts]]
"""Counters by key and bucket, and of these by journal id."""


class TooLargeError(Exception):
    """The order would change more than `MOST` rows."""


class Selection(NamedTuple):
    """What an order is about. `start` and `end` are in seconds since the epoch; `model` and `pod` "" are all."""

    namespace: str
    service: str
    start: int
    end: int
    model: str = ""
    pod: str = ""
    quarantined_only: bool = False


class Fraction(NamedTuple):
    """Which share of what there is, is taken off."""

    numerator: int
    denominator: int


class Decider(Protocol):
    """Who knows money. Called within the transaction; it must not touch the database."""

    def fraction(self, there: Sequence[Delta]) -> Fraction:
        """Say how much to take off of what there is."""
        ...

    def answer(self, moved: Sequence[Delta]) -> str:
        """Make the answer to be kept, of what is taken off (positive counters)."""
        ...


class Entry(NamedTuple):
    """An order as it is kept."""

    id: str
    at: int
    request: str
    answer: str


def done(connection: sa.Connection, order_id: str) -> Entry | None:
    """Return an order that was done."""
    columns = (corrections.c.id, corrections.c.at, corrections.c.request, corrections.c.answer)
    row = connection.execute(sa.select(*columns).where(corrections.c.id == order_id)).one_or_none()
    return None if row is None else Entry(*row)


def read(database: Database, namespace: str, most: int) -> list[Entry]:
    """Return the newest orders, of a namespace or ("") of all."""
    columns = (corrections.c.id, corrections.c.at, corrections.c.request, corrections.c.answer)
    query = sa.select(*columns).order_by(corrections.c.at.desc(), corrections.c.id).limit(most)
    if namespace:
        query = query.where(corrections.c.namespace == namespace)
    with database.guard(), database.reading() as connection:
        return [Entry(*row) for row in connection.execute(query)]


def keep(connection: sa.Connection, selection: Selection, entry: Entry) -> None:
    """Keep an order that is done."""
    where = {"namespace": selection.namespace, "service": selection.service}
    connection.execute(sa.insert(corrections), {**entry._asdict(), **where})


class Ledgered:
    """What the database has of a selection: counters by key (with its mark) and bucket, and of these by journal."""

    def __init__(self, connection: sa.Connection, selection: Selection) -> None:
        """Read it. Raises TooLargeError."""
        self._selection = selection
        wanted = [
            t.keys.c.namespace == selection.namespace,
            t.keys.c.service == selection.service,
            *([t.keys.c.model == selection.model] if selection.model else []),
        ]
        key = [t.keys.c[name] for name in RowKey._fields]
        width = len(key)

        def found(source: sa.Table, *more: sa.ColumnElement[int]) -> list[Any]:
            query = (
                sa.select(*key, *more, source.c.bucket, *(source.c[name] for name in FIELDS))
                .select_from(source.join(t.keys, t.keys.c.id == source.c.key_id))
                .where(*wanted, source.c.bucket >= selection.start, source.c.bucket < selection.end)
                .limit(MOST + 1)
            )
            rows = list(connection.execute(query))
            if len(rows) > MOST:
                message = f"this would change more than {MOST} rows: choose a shorter time, one model or one pod"
                raise TooLargeError(message)
            return rows

        self.sums = {
            (RowKey(*row[:width]), int(row[width])): Counts(*map(int, row[width + 1 :])) for row in found(t.spend)
        }
        self.journals: Parts = defaultdict(dict)
        for row in found(t.rows, t.rows.c.journal_id):
            place = (RowKey(*row[:width]), int(row[width + 1]))
            self.journals[place][int(row[width])] = Counts(*map(int, row[width + 2 :]))
        self._wanted: set[int] | None = None
        if selection.pod:
            of_pod = sa.select(t.journals.c.id).where(
                t.journals.c.namespace == selection.namespace, t.journals.c.pod_name == selection.pod
            )
            self._wanted = set(connection.execute(of_pod).scalars())

    def there(self, mark: str, written_off: str = "") -> Parts:
        """What there is under a mark, less what was written off of it: by the marked key and bucket, by journal.

        Journals whose rows are gone are together `_REST`; a selection of one pod does not have that.
        """
        found: Parts = {}
        for (key, bucket), whole in self.sums.items():
            if key.mark != mark:
                continue
            off = (key._replace(mark=written_off), bucket) if written_off else None
            parts = dict(self.journals.get((key, bucket), {}))
            left = counts.add(whole, self.sums.get(off, ZERO)) if off else whole
            if off:
                for journal, taken in self.journals.get(off, {}).items():
                    parts[journal] = counts.add(parts.get(journal, ZERO), taken)
            for part in parts.values():
                left = counts.less(left, part)
            parts[_REST] = left
            if self._wanted is not None:
                parts = {journal: part for journal, part in parts.items() if journal in self._wanted}
            parts = {journal: part for journal, part in parts.items() if part != ZERO}
            if parts:
                found[key, bucket] = parts
        return found

    def move(self, made: Merge, ids: KeyIds, key: RowKey, bucket: int, by: dict[int, Counts]) -> Delta:
        """Add to a key's bucket, by journal (which may be below zero); returns what that is for the sums."""
        total = ZERO
        key_id = ids[key]
        for journal, change in by.items():
            total = counts.add(total, change)
            if journal != _REST:
                made.rows[journal, key_id, bucket] = counts.add(
                    self.journals.get((key, bucket), {}).get(journal, ZERO), change
                )
        made.spend[key_id, bucket] = counts.add(made.spend.get((key_id, bucket), ZERO), total)
        return key.delta(bucket, total)


def write_off(
    connection: sa.Connection, ids: KeyIds, selection: Selection, decider: Decider
) -> tuple[Merge, list[Delta], str]:
    """Take off what a selection has; returns what is to be written, what that is for the sums, and the answer. Raises TooLargeError."""
    known = Ledgered(connection, selection)
    of = {} if selection.quarantined_only else {WRITTEN_OFF: known.there("", WRITTEN_OFF)}
    of[QUARANTINED_WRITTEN_OFF] = known.there(QUARANTINED, QUARANTINED_WRITTEN_OFF)
    share = decider.fraction(_deltas(of.values()))
    made, moved, deltas = Merge(), [], []
    wanted = {key._replace(mark=mark) for mark, there in of.items() for key, _ in there}
    ids.look(connection, wanted)
    ids.find(connection, wanted)
    for mark, there in of.items():
        for (key, bucket), parts in there.items():
            taken = {journal: counts.portion(part, *share) for journal, part in parts.items()}
            taken = {journal: part for journal, part in taken.items() if part != ZERO}
            if taken:
                moved += _deltas([{(key, bucket): taken}])
                off = {journal: counts.less(ZERO, part) for journal, part in taken.items()}
                deltas.append(known.move(made, ids, key._replace(mark=mark), bucket, off))
    return made, deltas, decider.answer(moved)


def release(
    connection: sa.Connection, ids: KeyIds, selection: Selection, decider: Decider
) -> tuple[Merge, list[Delta], str]:
    """Make what is quarantined ordinary, and what was written off of it; returns as `write_off` does."""
    known = Ledgered(connection, selection)
    of = {mark: known.there(mark) for mark in RELEASED}
    made, deltas = Merge(), []
    keys = {key for there in of.values() for key, _ in there}
    keys |= {key._replace(mark=RELEASED[key.mark]) for key in keys}
    ids.look(connection, keys)
    ids.find(connection, keys)
    for mark, there in of.items():
        for (key, bucket), parts in there.items():
            off = {journal: counts.less(ZERO, part) for journal, part in parts.items()}
            deltas.append(known.move(made, ids, key, bucket, off))
            deltas.append(known.move(made, ids, key._replace(mark=RELEASED[mark]), bucket, parts))
    return made, deltas, decider.answer(_deltas(of.values()))


def _deltas(of: Iterable[Parts]) -> list[Delta]:
    found: list[Delta] = []
    for there in of:
        for (key, bucket), parts in there.items():
            total = ZERO
            for part in parts.values():
                total = counts.add(total, part)
            found.append(key.delta(bucket, total))
    return found
