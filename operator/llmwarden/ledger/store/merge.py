"""Merging reports: one transaction for all that came together, a constant number of statements for any number of reports."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from msgspec.structs import astuple

from llmwarden.contracts import ledger as wire
from llmwarden.domain import leases as policy
from llmwarden.ledger.store import counts, statements
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.counts import FIELDS, Counts
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.store.key_ids import KeyIds
from llmwarden.ledger.store.meters import Meters
from llmwarden.ledger.store.model import QUARANTINED, Delta, Merged, RowKey, key_of
from llmwarden.ledger.store.quotas import NOTHING, FoldedRow, Place, Quotas, Sizes, Sorter
from llmwarden.ledger.store.row_parameter import text
from llmwarden.ledger.store.statements import LARGEST, chunks

NO_BUCKET: Final = -1  # of a report without rows, whose journal is asked for all the same
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
    ids: KeyIds,
    quotas: Quotas,
    reports: Sequence[tuple[wire.Report, int]],
    journals: Mapping[JournalName, "Journal"],
    *,
    meters: Meters,
    believe_until: int = 0,
) -> "Merge":
    """Say what these reports change, given what is known of their journals. Writes nothing but keys that are new."""
    made = Merge(told=meters.moved, believe_until=believe_until)
    told = [_told(report, journals[report.journal, report.pod.uid]) for report, _ in reports]
    sorter = Sorter(quotas, ids)
    places = _placed(connection, ids, sorter, reports, journals, wanted=[rows for rows, _ in told])
    counted = _Counted(connection, ids, journals.values())
    latest: dict[JournalName, int] = {}
    for (report, now), (rows, dropped), placed in zip(reports, told, places, strict=True):
        name = (report.journal, report.pod.uid)
        journal = journals[name]
        newest = report.sequence > latest.get(name, journal.sequence)
        if newest:
            latest[name] = report.sequence
        grown: list[tuple[Address, Counts]] = []
        backwards = others = unremembered = 0
        for address, reported in rows.items():
            place = placed[address]
            if place.key == address[1]:
                growth, fresh = counted.growth(address, reported)
            else:
                others += 1
                unremembered += place.digest is None
                growth = _folded(made, journal, address[2], place, reported, newest=newest)
                fresh = growth.delta != counts.ZERO
            backwards += growth.backwards
            if fresh:
                grown.append(((journal.id, place.key, address[2]), growth.delta))
        plausible = meters.plausible(report.pod.uid, [growth for _, growth in grown], now)
        ids.find(
            connection, {_marked(key) for ((_, key, _), _), fits in zip(grown, plausible, strict=True) if not fits}
        )
        deltas = tuple(
            counted.count(made, address, growth, plausible=fits)
            for (address, growth), fits in zip(grown, plausible, strict=True)
        )
        quarantined = len(plausible) - sum(plausible)
        merged = Merged(deltas, backwards, dropped, newest, journal.id, others, unremembered, quarantined)
        made.take(report, now, merged)
    made.size(sorter)
    return made


def _told(report: wire.Report, journal: "Journal") -> tuple[dict[Address, Counts], int]:
    """What a report says of each address, and how many of its rows are of buckets that were folded."""
    found: dict[Address, Counts] = {}
    dropped = 0
    for row in report.rows:
        if row.bucket < journal.folded_before:
            dropped += 1
            continue
        address = (journal.id, key_of(report.pod.namespace, row), row.bucket)
        reported = counts.whole(counts.of_row(row))
        found[address] = counts.merge(found[address], reported) if address in found else reported
    return found, dropped


def _marked(key: RowKey) -> RowKey:
    return key._replace(mark=QUARANTINED)


class _Counted:
    """What is counted of the reports' journals: ordinary, and aside (quarantined). Both together are what they have reported."""

    def __init__(self, connection: sa.Connection, ids: KeyIds, journals: Iterable["Journal"]) -> None:
        journals = list(journals)
        self._ids = ids
        self._ordinary = {
            (journal.id, key_id, bucket): values
            for journal in journals
            for (bucket, key_id), values in journal.rows.items()
        }
        aside = {
            (journal.id, key_id, bucket): values
            for journal in journals
            for (bucket, key_id), values in journal.quarantined.items()
        }
        keys = ids.key(connection, {key_id for _, key_id, _ in aside}) if aside else {}
        self._aside: dict[Address, Counts] = {
            (journal_id, keys[key_id]._replace(mark=""), bucket): values
            for (journal_id, key_id, bucket), values in aside.items()
        }

    def growth(self, address: Address, reported: Counts) -> tuple[counts.Growth, bool]:
        """By how much a row has grown, and whether it is news at all (as the first report of zeros is)."""
        journal_id, key, bucket = address
        old = self._ordinary.get((journal_id, self._ids[key], bucket))
        if address in self._aside:
            old = counts.add(old or counts.ZERO, self._aside[address])
        growth = counts.grow(old or counts.ZERO, reported)
        return growth, growth.new != old

    def count(self, made: "Merge", address: Address, growth: Counts, *, plausible: bool) -> Delta:
        """Count what a row has grown by."""
        journal_id, key, bucket = address
        counted = key if plausible else _marked(key)
        place = (journal_id, self._ids[counted], bucket)
        before = (self._ordinary.get(place) if plausible else self._aside.get(address)) or counts.ZERO
        # Each part is whole by itself: what is rated, or written off, is never more than what it is a part of.
        after = counts.whole(counts.bounded(counts.add(before, growth), LARGEST))
        if plausible:
            self._ordinary[place] = after
        else:
            self._aside[address] = after
            # An ordinary row stands beside each quarantined one: by it the quotas know that the row has its place.
            beside = (journal_id, self._ids[key], bucket)
            made.rows[beside] = self._ordinary.setdefault(beside, counts.ZERO)
        made.rows[place] = after
        delta = counts.less(after, before)
        sum_of = (place[1], bucket)
        made.spend[sum_of] = counts.add(made.spend.get(sum_of, counts.ZERO), delta)
        return counted.delta(bucket, delta)


def _placed(
    connection: sa.Connection,
    ids: KeyIds,
    sorter: Sorter,
    reports: Sequence[tuple[wire.Report, int]],
    journals: Mapping[JournalName, "Journal"],
    *,
    wanted: Sequence[Mapping[Address, Counts]],
) -> list[dict[Address, Place]]:
    """Say where each row counts, report by report; the keys of these places have ids then."""
    ids.look(connection, {key for found in wanted for _, key, _ in found})
    places = [
        {address: sorter.place(journals[report.journal, report.pod.uid], address[1], address[2]) for address in rows}
        for (report, _), rows in zip(reports, wanted, strict=True)
    ]
    ids.find(connection, {place.key for placed in places for place in placed.values()})
    return places


def _folded(
    made: "Merge", journal: "Journal", bucket: int, place: Place, reported: Counts, *, newest: bool
) -> counts.Growth:
    """What a report adds to a row that is folded. One that is not remembered counts in full, in its journal's newest report only."""
    if place.digest is None:
        return counts.Growth(reported, reported if newest else counts.ZERO)
    before = journal.folded.get((bucket, place.digest))
    grown = counts.grow(before.counts if before is not None else counts.ZERO, reported)
    remembered = FoldedRow(place.whole, grown.new)
    journal.folded[bucket, place.digest] = made.folded[journal.id, bucket, place.digest] = remembered
    return grown


@dataclass(slots=True)
class Journal:
    """What is known of a journal: its last sequence before these reports (-1 for none), before which bucket it was folded, and its
    rows of the buckets that are reported, by bucket and key id."""  # noqa: D205, D209 - one sentence

    id: int
    sequence: int
    folded_before: int
    name: str = ""
    sizes: Sizes = NOTHING
    told_until: int = 0
    rows: dict[tuple[int, int], Counts] = field(default_factory=dict)
    quarantined: dict[tuple[int, int], Counts] = field(default_factory=dict)
    folded: dict[tuple[int, int], FoldedRow] = field(default_factory=dict)  # by bucket and digest


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
    folded: dict[tuple[int, int, int], FoldedRow] = field(default_factory=dict)  # by journal id, bucket and digest
    added: Mapping[str, int] = field(default_factory=dict)  # by namespace, what this adds to its quota
    told: Mapping[str, int] = field(default_factory=dict)  # by pod UID, until when it has told
    # Reports before this time are believed what they say of their balances (`Store.believe_until`).
    believe_until: int = 0
    _believed: set[tuple[str, int]] = field(default_factory=set)

    def take(self, report: wire.Report, now: int, merged: Merged) -> None:
        """Note what a report says beside its rows. Of the leases only the journal's newest report counts."""
        self.merged.append(merged)
        journal_id = merged.journal_id
        value = self.journals.setdefault(journal_id, _unchanged(journal_id, now))
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

    def size(self, sorter: Sorter) -> None:
        """Note what the rows add to the size of their journals and namespaces."""
        self.added = sorter.added
        for journal_id, sizes in sorter.sizes.items():
            self.journals[journal_id] |= {"units": sizes.units, "folded_rows": sizes.folded}

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
            "meters": [{"pod_uid": uid, "told_until": until} for uid, until in sorted(self.told.items())],
        }
        if self.ended:
            connection.execute(sa.delete(t.leases).where(t.leases.c.journal_id.in_(sorted(self.ended))))
        made = statements.of(database)
        if self.folded:
            told = [
                {"journal_id": journal_id, "bucket": bucket, "digest": digest, "whole": one.whole}
                | counts.as_dict(one.counts)
                for (journal_id, bucket, digest), one in self.folded.items()
            ]
            connection.execute(made.folded, {"folded": text(told)})
        if made.together is not None:
            parameters = {name: text(rows) for name, rows in given.items()}
            connection.execute(made.together, {**parameters, "number": number})
            return
        for name, rows in given.items():
            if rows:
                taken: dict[str, str | int] = {name: text(rows), "number": number}
                for statement, takes in made.each[name]:
                    connection.execute(statement, {name: taken[name] for name in takes})


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
    for number, journal_id, sequence, before, units, folded, told, bucket, key_id, mark, *values in connection.execute(
        statements.of(database).read, {"asked": text(asked)}
    ):
        name = names[number]
        if name not in found:
            found[name] = Journal(journal_id, sequence, before, name[0], Sizes(units, folded), told or 0)
        if mark == "":  # NULL where there is no row at all
            found[name].rows[bucket, key_id] = Counts(*values)
        elif mark == QUARANTINED:
            found[name].quarantined[bucket, key_id] = Counts(*values)
        # What was written off was reported all the same.
    for name, journal in found.items():
        if journal.sizes.folded:
            for chunk in chunks(sorted(wanted[name])):
                of = t.folded.c
                query = sa.select(of.bucket, of.digest, of.whole, *(of[field] for field in FIELDS))
                for bucket, digest, whole, *values in connection.execute(
                    query.where(of.journal_id == journal.id, of.bucket.in_(chunk))
                ):
                    journal.folded[bucket, digest] = FoldedRow(whole, Counts(*values))
    return found


def _unchanged(journal_id: int, now: int) -> dict[str, Any]:
    return {"id": journal_id, "sequence": -1, "now": now, "final": False, "units": 0, "folded_rows": 0}


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
