"""The statements by which a batch of reports is read, merged and written: as many for one report as for hundreds (see `given`).

Made once for each kind of database: making a statement takes longer than running it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.counts import FIELDS
from llmwarden.ledger.store.engine import Database, Insert
from llmwarden.ledger.store.model import RowKey
from llmwarden.ledger.store.row_parameter import table

T = TypeVar("T")
IN_CHUNK: Final = 500  # values in one IN (...): SQLite bounds the number of variables
_WHOLE: Final = (
    "enable_seqscan",
    "enable_hashjoin",
    "enable_mergejoin",
)  # settings of PostgreSQL: ways to read whole tables
LARGEST: Final = 2**62  # a sum stops there: 64 bits must hold it, whatever engines claim to have used


@dataclass(frozen=True, slots=True)
class Statements:
    """Statements for one kind of database.

    `next`: take the next change number, which holds off all other transactions that change anything. `read`: journals and their rows. `each`: what is written of each parameter, every statement with the parameters that it takes; `together`:
    all of them as one, where the database can do that. `held`: what is out of budgets, and what of it some journals have.
    `keys`: keys that there are, of those that are wanted. `folded`: write rows that were folded.
    """

    next: sa.Update
    read: sa.Select[Any]
    each: Mapping[str, tuple[tuple[sa.Insert | sa.Update, tuple[str, ...]], ...]]
    together: sa.Select[Any] | None
    held: sa.CompoundSelect[Any]
    keys: sa.Select[Any]
    folded: sa.Insert


def of(database: Database) -> Statements:
    """Return the statements for a database's kind."""
    made = _MADE.get(database.postgresql)
    if made is None:
        made = _MADE[database.postgresql] = _make(database)
    return made


def _make(database: Database) -> Statements:
    big, words = sa.BigInteger(), sa.Text()
    counters = dict.fromkeys(FIELDS, big)

    def given(name: str, columns: Mapping[str, sa.types.TypeEngine[Any]]) -> sa.FromClause:
        return table(name, columns, on_postgresql=database.postgresql)

    asked = given("asked", {"number": big, "journal": words, "uid": words, "bucket": big})
    same = sa.and_(t.journals.c.journal == asked.c.journal, t.journals.c.pod_uid == asked.c.uid)
    metered = t.meters.c.pod_uid == asked.c.uid
    there = sa.and_(t.rows.c.journal_id == t.journals.c.id, t.rows.c.bucket == asked.c.bucket)
    read = sa.select(
        asked.c.number,
        t.journals.c.id,
        t.journals.c.sequence,
        t.journals.c.folded_before,
        t.journals.c.units,
        t.journals.c.folded_rows,
        t.meters.c.told_until,
        asked.c.bucket,
        t.rows.c.key_id,
        t.keys.c.mark,
        *(t.rows.c[name] for name in FIELDS),
    ).select_from(
        asked.join(t.journals, same)
        .outerjoin(t.meters, metered)
        .outerjoin(t.rows, there)
        .outerjoin(t.keys, t.keys.c.id == t.rows.c.key_id)
    )

    journal = given(
        "journals",
        {"id": big, "sequence": big, "now": big, "final": sa.Boolean(), "units": big, "folded_rows": big},
    )
    row = given("rows", {"journal_id": big, "bucket": big, "key_id": big, **counters})
    spend = given("spend", {"bucket": big, "key_id": big, **counters})
    service = given("services", {"namespace": words, "name": words, "now": big})
    meter = given("meters", {"pod_uid": words, "told_until": big})
    lease = given("leases", {"budget": words, "journal_id": big, "outstanding": big})
    journals = (
        sa.update(t.journals)
        .where(t.journals.c.id == journal.c.id)
        .values(
            sequence=_larger(t.journals.c.sequence, journal.c.sequence),
            last_reported_at=_larger(t.journals.c.last_reported_at, journal.c.now),
            final=sa.or_(t.journals.c.final, journal.c.final),
            units=t.journals.c.units + journal.c.units,
            folded_rows=t.journals.c.folded_rows + journal.c.folded_rows,
        )
    )
    rows = _insert(database, t.rows, {name: row.c[name] for name in ("journal_id", "bucket", "key_id", *FIELDS)})
    rows = rows.on_conflict_do_update(
        index_elements=["journal_id", "bucket", "key_id"], set_={name: rows.excluded[name] for name in FIELDS}
    )
    bound = sa.literal_column(str(LARGEST), sa.BigInteger())
    sums = _insert(database, t.spend, {name: spend.c[name] for name in ("bucket", "key_id", *FIELDS)})
    sums = sums.on_conflict_do_update(
        index_elements=["bucket", "key_id"],
        set_={name: database.least(t.spend.c[name] + sums.excluded[name], bound) for name in FIELDS},
    )
    log = _insert(
        database,
        t.log,
        {
            "number": sa.bindparam("number", type_=big),
            **{name: spend.c[name] for name in ("key_id", "bucket", *FIELDS)},
        },
    )
    services = _insert(
        database,
        t.services,
        {
            "namespace": service.c.namespace,
            "name": service.c.name,
            "labels": sa.literal_column("'{}'"),
            "last_reported_at": service.c.now,
        },
    )
    services = services.on_conflict_do_update(
        index_elements=["namespace", "name"],
        set_={"last_reported_at": _larger(t.services.c.last_reported_at, services.excluded["last_reported_at"])},
    )
    leases = _insert(database, t.leases, {name: lease.c[name] for name in ("budget", "journal_id", "outstanding")})
    leases = leases.on_conflict_do_update(
        index_elements=["budget", "journal_id"], set_={"outstanding": leases.excluded["outstanding"]}
    )
    meters = _insert(database, t.meters, {name: meter.c[name] for name in ("pod_uid", "told_until")})
    meters = meters.on_conflict_do_update(
        index_elements=["pod_uid"], set_={"told_until": meters.excluded["told_until"]}
    )
    each: dict[str, tuple[tuple[sa.Insert | sa.Update, tuple[str, ...]], ...]] = {
        "journals": ((journals, ("journals",)),),
        "rows": ((rows, ("rows",)),),
        "spend": ((sums, ("spend",)), (log, ("spend", "number"))),
        "services": ((services, ("services",)),),
        "leases": ((leases, ("leases",)),),
        "meters": ((meters, ("meters",)),),
    }
    together: sa.Select[Any] | None = None
    if database.postgresql:
        # Each writes a table of its own: none of them has to see what another wrote.
        parts = [one.cte(f"write_{name}_{at}") for name, some in each.items() for at, (one, _) in enumerate(some)]
        together = sa.select(sa.literal_column("1")).add_cte(*parts)
    wanted = given("wanted", {name: big if kind is int else words for name, kind in RowKey.__annotations__.items()})
    same_key = sa.and_(*(t.keys.c[name] == wanted.c[name] for name in RowKey._fields))
    keys = sa.select(t.keys).select_from(wanted.join(t.keys, same_key))
    sent = given("folded", {"journal_id": big, "bucket": big, "digest": big, "whole": sa.Boolean(), **counters})
    place = ("journal_id", "bucket", "digest")
    folded = _insert(database, t.folded, {name: sent.c[name] for name in (*place, "whole", *FIELDS)})
    folded = folded.on_conflict_do_update(index_elements=place, set_={name: folded.excluded[name] for name in FIELDS})
    return Statements(_next(database), read, each, together, _held(database), keys, folded)


def _next(database: Database) -> sa.Update:
    number = t.changes.c.number
    # Whatever follows in the transaction is found by keys. PostgreSQL plans a statement once and keeps the plan; made while the tables are
    # small, it would read them whole, and go on to until they are analysed. So it is told, without a statement more.
    keyed = [sa.func.set_config(name, "off", sa.true()) for name in _WHOLE] if database.postgresql else []
    return sa.update(t.changes).where(t.changes.c.id == 1).values(number=number + 1).returning(number, *keyed)


def _held(database: Database) -> sa.CompoundSelect[Any]:
    """Of each budget the sum and the number of balances above zero (journal 0), and each balance of these journals."""
    of = t.leases.c
    budgets = table("budgets", {"budget": sa.Text()}, on_postgresql=database.postgresql)
    pairs = table("pairs", {"budget": sa.Text(), "journal_id": sa.BigInteger()}, on_postgresql=database.postgresql)
    sums = (
        sa.select(of.budget, sa.literal_column("0").label("journal_id"), sa.func.sum(of.outstanding), sa.func.count())
        .select_from(budgets.join(t.leases, of.budget == budgets.c.budget))
        .where(of.outstanding > 0)
        .group_by(of.budget)
    )
    own = sa.select(of.budget, of.journal_id, of.outstanding, sa.literal_column("1")).select_from(
        pairs.join(t.leases, sa.and_(of.budget == pairs.c.budget, of.journal_id == pairs.c.journal_id))
    )
    return sa.union_all(sums, own.where(of.outstanding > 0))


def _insert(database: Database, into: sa.Table, values: Mapping[str, sa.ColumnElement[Any]]) -> Insert:
    # Without its WHERE, SQLite would take the ON of an upsert for a join's.
    return database.insert(into).from_select(list(values), sa.select(*values.values()).where(sa.true()))


def _larger(left: sa.ColumnElement[Any], right: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.case((left > right, left), else_=right)


def chunks(values: Sequence[T]) -> Iterable[Sequence[T]]:
    """Cut what one IN (...) cannot hold."""
    for at in range(0, len(values), IN_CHUNK):
        yield values[at : at + IN_CHUNK]


_MADE: dict[bool, Statements] = {}  # by whether it is PostgreSQL
