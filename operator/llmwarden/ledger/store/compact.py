"""Old detail goes, its sums stay: what bounds the size of the database and the time of a restart.

- Rows of single journals are dropped once their buckets are older than `keep`: `spend` has their sums already, in the same
  numbers. A journal says from which bucket on it has rows (`folded_before`): older ones in a late report are counted already.
  A journal that is not final keeps its last hours before its last report, which it may not have told whole.
- Sums of buckets older than any budget's window are put together by UTC day, where their price is settled. What has none
  keeps its buckets: it is rated by their time if a price comes.
- Journals themselves are forgotten long after their end: a pod that is gone cannot report, its token ended with it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from llmwarden import names
from llmwarden.ledger.store import gpu, meters
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.counts import FIELDS
from llmwarden.ledger.store.engine import Database
from llmwarden.names import BUCKET_SECONDS

DAY: Final = 86_400
BACKLOG_SECONDS: Final = 3 * 3600  # what a living journal may not have told at its last report
SILENT_SECONDS: Final = 60 * DAY  # beyond `keep`: a journal that was silent for so long is dead
FORGET_SECONDS: Final = 90 * DAY  # beyond `keep`: then a dead journal's name goes, too
BUCKETS_SECONDS: Final = 110 * DAY  # for so long `spend` has quarters of an hour: longer than any budget's window
MOST_JOURNALS: Final = 200  # of one transaction: reports wait meanwhile


class Compacted(NamedTuple):
    """What one step did: journals whose rows went, days that were put together, journals that were forgotten, and journals of which
    the memory of folded rows went."""  # noqa: D205, D209 - one sentence

    journals: int = 0
    days: int = 0
    forgotten: int = 0
    folded: int = 0


def step(database: Database, connection: sa.Connection, now: int, keep: int) -> Compacted:
    """Do a bounded part of what is to be done, in the connection's transaction, which must hold the change number's lock."""
    cut = (now - keep) // BUCKET_SECONDS * BUCKET_SECONDS
    gpu.forget(connection, (now - BUCKETS_SECONDS) * 1000)
    meters.forget(connection, now)
    folded = _forget_folded(connection, now)
    return Compacted(_fold(connection, cut), _days(database, connection, now), _forget(connection, cut), folded)


def _fold(connection: sa.Connection, cut: int) -> int:
    journals = t.journals.c
    told = journals.last_reported_at - BACKLOG_SECONDS
    dead = sa.or_(journals.final, journals.last_reported_at < cut - SILENT_SECONDS)
    bound = sa.case((dead, sa.literal(cut)), (told < cut, told), else_=sa.literal(cut)).label("bound")
    found = connection.execute(
        sa.select(journals.id, bound)
        .where(journals.folded_before + DAY < bound)
        .order_by(journals.id)
        .limit(MOST_JOURNALS)
    ).all()
    if found:
        values = [{"j": journal, "b": before} for journal, before in found]
        connection.execute(
            sa.delete(t.rows).where(
                t.rows.c.journal_id == sa.bindparam("j"), t.rows.c.bucket < sa.bindparam("b", type_=sa.BigInteger)
            ),
            values,
        )
        connection.execute(
            sa.update(t.journals)
            .where(journals.id == sa.bindparam("j"))
            .values(folded_before=sa.bindparam("b", type_=sa.BigInteger)),
            values,
        )
        connection.execute(
            sa.delete(t.folded).where(
                t.folded.c.journal_id == sa.bindparam("j"), t.folded.c.bucket < sa.bindparam("b", type_=sa.BigInteger)
            ),
            values,
        )
        _measure(connection, [journal for journal, _ in found])
    return len(found)


def _forget_folded(connection: sa.Connection, now: int) -> int:
    """Forget what went into folded rows once no honest proxy can report it again: a day before its last report.

    A proxy sends a closed bucket again only until it is acknowledged. The rows of a bucket that come later all the same count in full.
    """
    journals = t.journals.c
    told = sa.case((journals.final, sa.literal(now)), else_=journals.last_reported_at) - DAY
    old = sa.exists().where(t.folded.c.journal_id == journals.id, t.folded.c.bucket < told)
    found = connection.execute(
        sa.select(journals.id, told.label("told")).where(journals.folded_rows > 0, old).limit(MOST_JOURNALS)
    ).all()
    if found:
        bound = sa.bindparam("b", type_=sa.BigInteger)
        connection.execute(
            sa.delete(t.folded).where(t.folded.c.journal_id == sa.bindparam("j"), t.folded.c.bucket < bound),
            [{"j": journal, "b": before} for journal, before in found],
        )
        _measure(connection, [journal for journal, _ in found])
    return len(found)


def _measure(connection: sa.Connection, journal_ids: Sequence[int]) -> None:
    """Count again what these journals have on the disk. That they once brought new keys counts no longer."""
    of = t.journals.c
    rows = sa.select(sa.func.count()).where(t.rows.c.journal_id == of.id).scalar_subquery()
    folded = sa.select(sa.func.count()).where(t.folded.c.journal_id == of.id).scalar_subquery()
    connection.execute(sa.update(t.journals).where(of.id.in_(journal_ids)).values(units=rows, folded_rows=folded))


def _days(database: Database, connection: sa.Connection, now: int) -> int:
    spend = t.spend.c
    last = (now - BUCKETS_SECONDS) // DAY * DAY
    settled = sa.select(t.keys.c.id).where(
        sa.or_(sa.and_(t.keys.c.price_id != "", t.keys.c.tier == ""), t.keys.c.model == names.FOLDED)
    )
    old = connection.scalar(
        sa.select(sa.func.min(spend.bucket)).where(
            spend.bucket < last, spend.bucket % DAY != 0, spend.key_id.in_(settled)
        )
    )
    if old is None:
        return 0
    start = int(old) // DAY * DAY
    of_day = sa.and_(spend.bucket >= start, spend.bucket < start + DAY, spend.key_id.in_(settled))
    sums = connection.execute(
        sa.select(spend.key_id, *(sa.func.sum(spend[name]) for name in FIELDS)).where(of_day).group_by(spend.key_id)
    ).all()
    connection.execute(sa.delete(t.spend).where(of_day))
    connection.execute(
        database.insert(t.spend),
        [{"bucket": start, "key_id": row[0], **dict(zip(FIELDS, map(int, row[1:]), strict=True))} for row in sums],
    )
    return 1


def _forget(connection: sa.Connection, cut: int) -> int:
    journals = t.journals.c
    without_rows = ~sa.exists().where(t.rows.c.journal_id == journals.id)
    without_leases = ~sa.exists().where(t.leases.c.journal_id == journals.id)
    gone = (
        sa.select(journals.id)
        .where(journals.last_reported_at < cut - FORGET_SECONDS, without_rows, without_leases)
        .limit(MOST_JOURNALS)
    )
    found = [row[0] for row in connection.execute(gone)]
    if found:
        connection.execute(sa.delete(t.journals).where(journals.id.in_(found)))
    return len(found)
