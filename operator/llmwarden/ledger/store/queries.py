"""Questions about what was spent, answered by the database beside the writer: sums by key and time, or by pod."""

from collections.abc import Collection
from typing import Final, NamedTuple

import sqlalchemy as sa

from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.counts import FIELDS, Counts
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.store.model import RowKey
from llmwarden.names import BUCKET_SECONDS

MOST: Final = 200_000  # sums of one answer: beyond that a question is too large


class Sum(NamedTuple):
    """Counters of one key in one slot of time; `pod` is "" unless asked for."""

    key: RowKey
    start: int  # seconds since the epoch
    pod: str
    counts: Counts


class TooLargeError(Exception):
    """The question would read more than `MOST` sums."""


def read(
    database: Database, start: int, end: int, step: int, *, namespaces: Collection[str] | None, service: str, pods: bool
) -> list[Sum]:
    """Sums of the buckets from `start` to before `end` (seconds since the epoch), by slots of `step` seconds; 0 is one slot.

    `namespaces` None is all; `service` "" is all. What has no price of its own (none, or one that was never handed out for its model), or
    a tier that may have none, comes by bucket: it is rated at its bucket's time. Raises TooLargeError.
    """
    source = t.rows if pods else t.spend
    bucket = source.c.bucket
    slot = bucket - bucket % step if step else sa.literal(start, sa.BigInteger)
    handed_out = sa.exists().where(
        t.issued.c.provider == t.keys.c.provider,
        t.issued.c.model == t.keys.c.model,
        t.issued.c.price_id == t.keys.c.price_id,
    )
    by_bucket = sa.or_(t.keys.c.price_id == "", t.keys.c.tier != "", sa.not_(handed_out))
    exact = sa.case((by_bucket, bucket), else_=slot).label("slot")
    pod = t.journals.c.pod_name if pods else sa.literal("")
    columns = [t.keys.c[name] for name in RowKey._fields]
    query = (
        sa.select(*columns, exact, pod.label("pod"), *(sa.func.sum(source.c[name]) for name in FIELDS))
        .select_from(source.join(t.keys, t.keys.c.id == source.c.key_id))
        .where(bucket >= start, bucket < end)
        .group_by(*columns, "slot", "pod")
        .limit(MOST + 1)
    )
    if pods:
        query = query.join(t.journals, t.journals.c.id == source.c.journal_id)
    if namespaces is not None:
        query = query.where(t.keys.c.namespace.in_(sorted(namespaces)))
    if service:
        query = query.where(t.keys.c.service == service)
    width = len(RowKey._fields)
    with database.reading() as connection:
        found = [
            Sum(RowKey(*row[:width]), int(row[width]), row[width + 1], Counts(*map(int, row[width + 2 :])))
            for row in connection.execute(query)
        ]
    if len(found) > MOST:
        message = f"more than {MOST} sums: ask for a shorter time, or for one namespace"
        raise TooLargeError(message)
    return found


def bucket_range(start: float, end: float) -> tuple[int, int]:
    """Whole buckets that hold a span of time (seconds since the epoch)."""
    first = int(start // BUCKET_SECONDS) * BUCKET_SECONDS
    last = -int(-end // BUCKET_SECONDS) * BUCKET_SECONDS
    return first, max(first, last)
