"""Merging reports: one transaction for all that came together, a constant number of statements for any number of reports."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from msgspec.structs import astuple

from llmwarden.contracts import ledger as wire
from llmwarden.domain import leases as policy
from llmwarden.ledger.store import counts, statements
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.counts import FIELDS, Counts
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.store.model import Merged, RowKey, key_of
from llmwarden.ledger.store.row_parameter import text
from llmwarden.ledger.store.statements import LARGEST

IN_CHUNK: Final = 500  # values in one IN (...): SQLite bounds the number of variables
NO_BUCKET: Final = -1  # of a report without rows, whose journal is asked for all the same
T = TypeVar("T")
Address = tuple[int, RowKey, int]  # journal id, key, bucket
JournalName = tuple[str, str]  # journal, pod UID


def read(
    database: Database, connection: sa.Connection, reports: Sequence[tuple[wire.Report, int]]
) -> dict[JournalName, "Journal"]:
    """What is known of these reports' journals: one statement, and two more where a journal was never there before.

    `connection` must hold the lock of the change number: what is read here is not changed by others before the commit.
    """
    wanted: dict[JournalName, set[int]] = {}
    for report, _ in reports:
        buckets = wanted.setdefault((report.journal, report.pod.uid), set())
        buckets.update(row.bucket for row in report.rows)
    found = _read(database, connection, wanted)
    missing = wanted.keys() - found.keys()
    if missing:
        _add_journals(connection, reports, missing)
        found |= _read(database, connection, {name: wanted[name] for name in missing})
    return found


def merge(
    connection: sa.Connection,
    ids: "KeyIds",
    reports: Sequence[tuple[wire.Report, int]],
    journals: Mapping[JournalName, "Journal"],
    believe_until: int = 0,
) -> "Merge":
    """Say what these reports change, given what is known of their journals. Writes nothing but keys that are new."""
    made = Merge(believe_until=believe_until)
    wanted: list[dict[Address, Counts]] = []
    folded: list[int] = []
    for report, _ in reports:
        journal = journals[report.journal, report.pod.uid]
        found: dict[Address, Counts] = {}
        dropped = 0
        for row in report.rows:
            if row.bucket < journal.folded_before:
                dropped += 1
                continue
            address = (journal.id, key_of(report.pod.namespace, row), row.bucket)
            reported = counts.whole(counts.of_row(row))
            found[address] = counts.merge(found[address], reported) if address in found else reported
        wanted.append(found)
        folded.append(dropped)
    ids.find(connection, {key for found in wanted for _, key, _ in found})
    known = {
        (journal.id, key_id, bucket): values
        for journal in journals.values()
        for (bucket, key_id), values in journal.rows.items()
    }
    latest: dict[JournalName, int] = {}
    for (report, now), found, dropped in zip(reports, wanted, folded, strict=True):
        name = (report.journal, report.pod.uid)
        journal = journals[name]
        deltas = []
        backwards = 0
        for (journal_id, key, bucket), reported in found.items():
            place = (journal_id, ids[key], bucket)
            old = known.get(place)
            grown = counts.grow(old or counts.ZERO, reported)
            backwards += grown.backwards
            if grown.new == old:
                continue
            made.rows[place] = known[place] = grown.new
            sum_of = (place[1], bucket)
            made.spend[sum_of] = counts.add(made.spend.get(sum_of, counts.ZERO), grown.delta)
            deltas.append(key.delta(bucket, grown.delta))
        newest = report.sequence > latest.get(name, journal.sequence)
        if newest:
            latest[name] = report.sequence
        made.take(report, now, Merged(tuple(deltas), backwards, dropped, newest, journal.id))
    return made


@dataclass(slots=True)
class Journal:
    """What is known of a journal: its last sequence before these reports (-1 for none), before which bucket it was folded, and its
    rows of the buckets that are reported, by bucket and key id."""  # noqa: D205, D209 - one sentence

    id: int
    sequence: int
    folded_before: int
    rows: dict[tuple[int, int], Counts] = field(default_factory=dict)


@dataclass(slots=True)
class Merge:
    """What reports change: by report, and by table all together."""

    merged: list[Merged] = field(default_factory=list)
    rows: dict[tuple[int, int, int], Counts] = field(
        default_factory=dict
    )  # by journal id, key id and bucket: as it is now
    spend: dict[tuple[int, int], Counts] = field(default_factory=dict)  # by key id and bucket: what is added
    journals: dict[int, dict[str, Any]] = field(default_factory=dict)
    services: dict[tuple[str, str], int] = field(default_factory=dict)  # by namespace and name: when it was reported
    balances: dict[tuple[str, int], int] = field(
        default_factory=dict
    )  # by budget and journal id: what the journal keeps
    ended: set[int] = field(default_factory=set)  # journals whose last report this was: they keep nothing
    believe_until: int = (
        0  # reports before this time are believed what they say of their balances (`Store.believe_until`)
    )
    _believed: set[tuple[str, int]] = field(default_factory=set)

    def take(self, report: wire.Report, now: int, merged: Merged) -> None:
        """Note what a report says beside its rows. Of the leases only the journal's newest report counts."""
        self.merged.append(merged)
        journal_id = merged.journal_id
        value = self.journals.setdefault(journal_id, {"id": journal_id, "sequence": -1, "now": now, "final": False})
        value["sequence"] = max(value["sequence"], report.sequence)
        value["now"] = max(value["now"], now)
        # An older report that is delivered after the last one does not open the journal again.
        value["final"] = value["final"] or report.final
        for row in report.rows:
            name = (report.pod.namespace, row.service)
            self.services[name] = max(now, self.services.get(name, 0))
        if merged.latest:
            for use in report.leases:
                place = (use.budget, journal_id)
                said = min(use.balance, LARGEST)
                # Two reports of a journal in one batch: what the first gave back is not its own any more.
                self.balances[place] = policy.kept(said, self.balances.get(place, LARGEST))
                if now < self.believe_until:
                    self._believed.add(place)
            if report.final:
                self.ended.add(journal_id)

    def hold_to(self, stored: Mapping[tuple[str, int], int]) -> None:
        """Hold what journals say they keep to what is stored: a balance that nobody granted is none."""
        for place, said in self.balances.items():
            if place not in self._believed:
                self.balances[place] = policy.kept(said, stored.get(place, 0))

    def grant(self, granted: Mapping[tuple[str, int], int]) -> None:
        """Add to balances."""
        for place, amount in granted.items():
            if amount > 0:
                self.balances[place] += amount

    def write(self, database: Database, connection: sa.Connection, number: int) -> None:
        """Write all of it, under this change number. On PostgreSQL that is one statement."""
        spend = [place_values(place, values) for place, values in self.spend.items()]
        given: dict[str, Sequence[Mapping[str, object]]] = {
            "journals": list(self.journals.values()),
            "rows": [
                {"journal_id": journal_id, "key_id": key_id, "bucket": bucket, **counts.as_dict(values)}
                for (journal_id, key_id, bucket), values in self.rows.items()
            ],
            "spend": spend,
            # Also a service whose report changed nothing was reported; but that is no reason to write.
            "services": [
                {"namespace": namespace, "name": name, "now": now}
                for (namespace, name), now in sorted(self.services.items())
            ]
            if spend
            else [],
            "leases": [
                {"budget": budget, "journal_id": journal_id, "outstanding": outstanding}
                for (budget, journal_id), outstanding in sorted(self.balances.items())
                if journal_id not in self.ended
            ],
        }
        if self.ended:
            connection.execute(sa.delete(t.leases).where(t.leases.c.journal_id.in_(sorted(self.ended))))
        made = statements.of(database)
        if made.together is not None:
            parameters = {name: text(rows) for name, rows in given.items()}
            connection.execute(made.together, {**parameters, "number": number})
            return
        for name, rows in given.items():
            if rows:
                told: dict[str, str | int] = {name: text(rows), "number": number}
                for statement, takes in made.each[name]:
                    connection.execute(statement, {name: told[name] for name in takes})


class KeyIds:
    """Ids of keys, which never change: remembered, but only once their transaction is committed."""

    MOST: Final = 200_000  # remembered: models and labels come from outside

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: dict[RowKey, int] = {}
        self._keys: dict[int, RowKey] = {}
        self._fresh: dict[RowKey, int] = {}

    def __getitem__(self, key: RowKey) -> int:
        return self._fresh[key] if key in self._fresh else self._ids[key]

    def key(self, connection: sa.Connection, key_ids: Iterable[int]) -> dict[int, RowKey]:
        """Return keys by their ids."""
        wanted = set(key_ids)
        unknown = [key_id for key_id in wanted if key_id not in self._keys]
        for chunk in chunks(unknown):
            for key_id, *values in connection.execute(sa.select(t.keys).where(t.keys.c.id.in_(chunk))):
                self._remember(RowKey(*values), key_id)
        return {key_id: self._keys[key_id] for key_id in wanted}

    def find(self, connection: sa.Connection, wanted: set[RowKey]) -> None:
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
                key = RowKey(*values)
                if key in sought:
                    self._fresh[key] = key_id

    def committed(self) -> None:
        """Say that the transaction in which they were found is on the disk."""
        for key, key_id in self._fresh.items():
            self._remember(key, key_id)
        self._fresh = {}

    def _remember(self, key: RowKey, key_id: int) -> None:
        self._ids[key] = key_id
        self._keys[key_id] = key


def _read(
    database: Database, connection: sa.Connection, wanted: Mapping[JournalName, Collection[int]]
) -> dict[JournalName, Journal]:
    names = list(wanted)
    asked = [
        {"number": number, "journal": journal, "uid": uid, "bucket": bucket}
        for number, (journal, uid) in enumerate(names)
        for bucket in wanted[journal, uid] or (NO_BUCKET,)
    ]
    found: dict[JournalName, Journal] = {}
    for number, journal_id, sequence, folded, bucket, key_id, *values in connection.execute(
        statements.of(database).read, {"asked": text(asked)}
    ):
        name = names[number]
        if name not in found:
            found[name] = Journal(journal_id, sequence, folded)
        if key_id is not None:
            found[name].rows[bucket, key_id] = Counts(*values)
    return found


def _add_journals(
    connection: sa.Connection, reports: Sequence[tuple[wire.Report, int]], missing: Collection[JournalName]
) -> None:
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


def place_values(place: tuple[int, int], values: Counts) -> dict[str, int]:
    """One (key id, bucket) with its counters, as a statement takes it."""
    key_id, bucket = place
    numbers = {name: min(value, LARGEST // 2) for name, value in zip(FIELDS, astuple(values), strict=True)}
    return {"key_id": key_id, "bucket": bucket, **numbers}


def chunks(values: Sequence[T]) -> Iterable[Sequence[T]]:
    """Cut what one IN (...) cannot hold."""
    for at in range(0, len(values), IN_CHUNK):
        yield values[at : at + IN_CHUNK]
