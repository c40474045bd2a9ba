"""Merging reports: one transaction for all that came together, a constant number of statements for any number of reports."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from msgspec.structs import astuple

from llmwarden import wire
from llmwarden.domain import leases as policy
from llmwarden.ledger import counts
from llmwarden.ledger.counts import FIELDS, Counts
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.engine import Database, Insert
from llmwarden.ledger.store.model import Key, Merged, key_of

IN_CHUNK: Final = 500  # values in one IN (...): SQLite bounds the number of variables
LARGEST: Final = 2**62  # a sum stops there: 64 bits must hold it, whatever engines claim to have used
T = TypeVar("T")
Address = tuple[int, Key, int]  # journal id, key, bucket
JournalName = tuple[str, str]  # journal, pod UID


def merge(
    database: Database, connection: sa.Connection, ids: "KeyIds", reports: Sequence[tuple[wire.Report, int]]
) -> tuple[list[Merged], dict[tuple[int, int], Counts]]:
    """Merge in the connection's transaction; returns what changed by report, and by (key id, bucket) all together.

    `connection` must hold the lock of the change number: what was read here is not changed by others before the commit.
    """
    known_journals = _journals(connection, reports)
    wanted: list[dict[Address, Counts]] = []
    folded: list[int] = []
    for report, _ in reports:
        journal_id, _, folded_before = known_journals[report.journal, report.pod.uid]
        found: dict[Address, Counts] = {}
        dropped = 0
        for row in report.rows:
            if row.bucket < folded_before:
                dropped += 1
                continue
            address = (journal_id, key_of(report.pod.namespace, row), row.bucket)
            found[address] = counts.merge(found.get(address, counts.ZERO), counts.of_row(row))
        wanted.append(found)
        folded.append(dropped)
    ids.find(connection, {key for found in wanted for _, key, _ in found})
    known = _known_rows(connection, ids, {address for found in wanted for address in found})
    changed: dict[Address, Counts] = {}
    grown: dict[tuple[int, int], Counts] = {}
    merged: list[Merged] = []
    latest: dict[JournalName, int] = {}
    for (report, _), found, dropped in zip(reports, wanted, folded, strict=True):
        name = (report.journal, report.pod.uid)
        journal_id, sequence, _ = known_journals[name]
        deltas = []
        backwards = 0
        for address, reported in found.items():
            old = changed.get(address) or known.get(address)
            new = counts.merge(old or counts.ZERO, reported)
            if old is not None and counts.went_backwards(old, reported):
                backwards += 1
            if new == old:
                continue
            delta = counts.difference(new, old or counts.ZERO)
            _, key, bucket = address
            changed[address] = new
            place = (ids[key], bucket)
            grown[place] = counts.add(grown.get(place, counts.ZERO), delta)
            deltas.append(key.delta(bucket, delta))
        newest = report.sequence > latest.get(name, sequence)
        if newest:
            latest[name] = report.sequence
        merged.append(Merged(tuple(deltas), backwards, dropped, newest, journal_id))
    _write_journals(connection, reports, known_journals)
    if changed:
        _write_rows(database, connection, ids, changed)
        _write_spend(database, connection, grown)
        _write_services(database, connection, reports)
    _write_leases(database, connection, reports, merged)
    return merged, grown


class KeyIds:
    """Ids of keys, which never change: remembered, but only once their transaction is committed."""

    MOST: Final = 200_000  # remembered: models and labels come from outside

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._fresh: dict[Key, int] = {}

    def __getitem__(self, key: Key) -> int:
        return self._fresh[key] if key in self._fresh else self._ids[key]

    def key(self, connection: sa.Connection, key_ids: Iterable[int]) -> dict[int, Key]:
        """Return keys by their ids."""
        wanted = set(key_ids)
        unknown = [key_id for key_id in wanted if key_id not in self._keys]
        for chunk in chunks(unknown):
            for key_id, *values in connection.execute(sa.select(t.keys).where(t.keys.c.id.in_(chunk))):
                self._remember(Key(*values), key_id)
        return {key_id: self._keys[key_id] for key_id in wanted}

    def find(self, connection: sa.Connection, wanted: set[Key]) -> None:
        """See to it that these have ids."""
        self._fresh = {}
        unknown = [key for key in wanted if key not in self._ids]
        if not unknown:
            return
        if len(self._ids) > self.MOST:
            self._ids.clear()
            self._keys.clear()
            unknown = list(wanted)
        connection.execute(
            self._database.insert(t.keys).on_conflict_do_nothing(), [key._asdict() for key in sorted(unknown)]
        )
        services = sorted({key.service for key in unknown})
        sought = set(unknown)
        for chunk in chunks(services):
            models = sorted({key.model for key in unknown})
            narrow = t.keys.c.model.in_(models) if len(models) <= IN_CHUNK else sa.true()
            for key_id, *values in connection.execute(
                sa.select(t.keys).where(t.keys.c.service.in_(chunk), narrow).order_by(t.keys.c.id)
            ):
                key = Key(*values)
                if key in sought:
                    self._fresh[key] = key_id

    def committed(self) -> None:
        """Say that the transaction in which they were found is on the disk."""
        for key, key_id in self._fresh.items():
            self._remember(key, key_id)
        self._fresh = {}

    def _remember(self, key: Key, key_id: int) -> None:
        self._ids[key] = key_id
        self._keys[key_id] = key


def _journals(
    connection: sa.Connection, reports: Sequence[tuple[wire.Report, int]]
) -> dict[JournalName, tuple[int, int, int]]:
    """By name: id, the last sequence before these reports (-1 for none), and before which bucket it was folded."""
    names = {(report.journal, report.pod.uid) for report, _ in reports}
    found = _read_journals(connection, names)
    missing = names - found.keys()
    if missing:
        fresh: dict[JournalName, dict[str, Any]] = {}
        for report, now in reports:
            name = (report.journal, report.pod.uid)
            if name in missing and name not in fresh:
                fresh[name] = {
                    "journal": report.journal,
                    "pod_uid": report.pod.uid,
                    "namespace": report.pod.namespace,
                    "pod_name": report.pod.name,
                    "sequence": -1,
                    "final": False,
                    "first_reported_at": now,
                    "last_reported_at": now,
                }
        connection.execute(sa.insert(t.journals), list(fresh.values()))
        found |= _read_journals(connection, missing)
    return found


def _read_journals(connection: sa.Connection, names: set[JournalName]) -> dict[JournalName, tuple[int, int, int]]:
    found: dict[JournalName, tuple[int, int, int]] = {}
    for chunk in chunks(sorted({journal for journal, _ in names})):
        for journal_id, journal, uid, sequence, folded in connection.execute(_READ_JOURNALS, {"journals": chunk}):
            if (journal, uid) in names:
                found[journal, uid] = (journal_id, sequence, folded)
    return found


def _known_rows(connection: sa.Connection, ids: KeyIds, addresses: set[Address]) -> dict[Address, Counts]:
    by_place = {(journal_id, ids[key], bucket): (journal_id, key, bucket) for journal_id, key, bucket in addresses}
    found: dict[Address, Counts] = {}
    journal_ids = sorted({journal_id for journal_id, _, _ in addresses})
    buckets = sorted({bucket for _, _, bucket in addresses})
    for chosen in chunks(journal_ids):
        for chunk in chunks(buckets):
            for journal_id, bucket, key_id, *values in connection.execute(
                _KNOWN_ROWS, {"journal_ids": chosen, "buckets": chunk}
            ):
                address = by_place.get((journal_id, key_id, bucket))
                if address is not None:
                    found[address] = Counts(*values)
    return found


def _write_journals(
    connection: sa.Connection,
    reports: Sequence[tuple[wire.Report, int]],
    known: Mapping[JournalName, tuple[int, int, int]],
) -> None:
    values: dict[int, dict[str, Any]] = {}
    for report, now in reports:
        journal_id = known[report.journal, report.pod.uid][0]
        value = values.setdefault(journal_id, {"j": journal_id, "s": -1, "n": now, "f": False})
        value["s"] = max(value["s"], report.sequence)
        value["n"] = max(value["n"], now)
        # An older report that is delivered after the last one does not open the journal again.
        value["f"] = value["f"] or report.final
    connection.execute(_UPDATE_JOURNALS, list(values.values()))


def _write_rows(database: Database, connection: sa.Connection, ids: KeyIds, changed: Mapping[Address, Counts]) -> None:
    connection.execute(
        _upserts(database).rows,
        [
            {"journal_id": journal_id, "key_id": ids[key], "bucket": bucket, **counts.as_dict(values)}
            for (journal_id, key, bucket), values in changed.items()
        ],
    )


def _write_spend(database: Database, connection: sa.Connection, grown: Mapping[tuple[int, int], Counts]) -> None:
    connection.execute(_upserts(database).spend, [place_values(place, values) for place, values in grown.items()])


def _write_services(database: Database, connection: sa.Connection, reports: Sequence[tuple[wire.Report, int]]) -> None:
    last: dict[tuple[str, str], int] = {}
    for report, now in reports:
        for row in report.rows:
            name = (report.pod.namespace, row.service)
            last[name] = max(now, last.get(name, 0))
    connection.execute(
        _upserts(database).services,
        [
            {"namespace": namespace, "name": name, "labels": "{}", "last_reported_at": now}
            for (namespace, name), now in sorted(last.items())
        ],
    )


def _write_leases(
    database: Database,
    connection: sa.Connection,
    reports: Sequence[tuple[wire.Report, int]],
    merged: Sequence[Merged],
) -> None:
    """What each journal keeps, by its newest report; a final one keeps nothing."""
    kept: dict[tuple[str, int], int] = {}
    ended: set[int] = set()
    for (report, _), result in zip(reports, merged, strict=True):
        if not result.latest:
            continue
        for use in report.leases:
            kept[use.budget, result.journal_id] = policy.kept(min(use.balance, LARGEST))
        if report.final:
            ended.add(result.journal_id)
    if kept:
        connection.execute(
            _upserts(database).leases,
            [
                {"budget": budget, "journal_id": journal_id, "outstanding": outstanding}
                for (budget, journal_id), outstanding in sorted(kept.items())
            ],
        )
    if ended:
        connection.execute(sa.delete(t.leases).where(t.leases.c.journal_id.in_(sorted(ended))))


def place_values(place: tuple[int, int], values: Counts) -> dict[str, int]:
    """One (key id, bucket) with its counters, as a statement takes it."""
    key_id, bucket = place
    numbers = {name: min(value, LARGEST // 2) for name, value in zip(FIELDS, astuple(values), strict=True)}
    return {"key_id": key_id, "bucket": bucket, **numbers}


def _larger(left: sa.ColumnElement[Any], right: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.case((left > right, left), else_=right)


def chunks(values: Sequence[T]) -> Iterable[Sequence[T]]:
    """Cut what one IN (...) cannot hold."""
    for at in range(0, len(values), IN_CHUNK):
        yield values[at : at + IN_CHUNK]


@dataclass(frozen=True, slots=True)
class _Upserts:
    """Statements that differ between the databases."""

    rows: Insert
    spend: Insert
    services: Insert
    leases: Insert


def _upserts(database: Database) -> _Upserts:
    made = _UPSERTS.get(database.postgresql)
    if made is None:
        made = _UPSERTS[database.postgresql] = _make_upserts(database)
    return made


def _make_upserts(database: Database) -> _Upserts:
    rows, spend, services, leases = (database.insert(table) for table in (t.rows, t.spend, t.services, t.leases))
    bound = sa.literal(LARGEST, sa.BigInteger)
    return _Upserts(
        rows=rows.on_conflict_do_update(
            index_elements=["journal_id", "bucket", "key_id"], set_={name: rows.excluded[name] for name in FIELDS}
        ),
        spend=spend.on_conflict_do_update(
            index_elements=["bucket", "key_id"],
            set_={name: database.least(t.spend.c[name] + spend.excluded[name], bound) for name in FIELDS},
        ),
        services=services.on_conflict_do_update(
            index_elements=["namespace", "name"],
            set_={"last_reported_at": _larger(t.services.c.last_reported_at, services.excluded["last_reported_at"])},
        ),
        leases=leases.on_conflict_do_update(
            index_elements=["budget", "journal_id"], set_={"outstanding": leases.excluded["outstanding"]}
        ),
    )


_UPSERTS: dict[bool, _Upserts] = {}  # by whether it is PostgreSQL

# Made once: making a statement takes longer than running it.
_READ_JOURNALS = sa.select(
    t.journals.c.id, t.journals.c.journal, t.journals.c.pod_uid, t.journals.c.sequence, t.journals.c.folded_before
).where(t.journals.c.journal.in_(sa.bindparam("journals", expanding=True)))
_KNOWN_ROWS = sa.select(t.rows).where(
    t.rows.c.journal_id.in_(sa.bindparam("journal_ids", expanding=True)),
    t.rows.c.bucket.in_(sa.bindparam("buckets", expanding=True)),
)
_UPDATE_JOURNALS = (
    sa.update(t.journals)
    .where(t.journals.c.id == sa.bindparam("j"))
    .values(
        sequence=_larger(t.journals.c.sequence, sa.bindparam("s", type_=sa.BigInteger)),
        last_reported_at=_larger(t.journals.c.last_reported_at, sa.bindparam("n", type_=sa.BigInteger)),
        final=sa.or_(t.journals.c.final, sa.bindparam("f", type_=sa.Boolean)),
    )
)
