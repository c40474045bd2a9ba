"""The tables as they are now; how they came to be is in `migrations`. See the package for what each is for."""

from typing import Any

import sqlalchemy as sa

from llmwarden.ledger.store.counts import FIELDS
from llmwarden.ledger.store.model import RowKey

METADATA = sa.MetaData()

changes = sa.Table(
    "changes",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),  # always 1
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("pruned", sa.BigInteger, nullable=False, server_default="0"),  # `log` has nothing up to this number
)

journals = sa.Table(
    "journals",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("journal", sa.Text, nullable=False),
    sa.Column("pod_uid", sa.Text, nullable=False),
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("pod_name", sa.Text, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("final", sa.Boolean, nullable=False),
    sa.Column("first_reported_at", sa.BigInteger, nullable=False),  # seconds since the epoch
    sa.Column("last_reported_at", sa.BigInteger, nullable=False),
    sa.Column(
        "folded_before", sa.BigInteger, nullable=False, server_default="0"
    ),  # older buckets have no rows any more
    sa.Column("units", sa.BigInteger, nullable=False, server_default="0"),  # what its rows count of quotas
    sa.Column("folded_rows", sa.BigInteger, nullable=False, server_default="0"),  # how many `folded` has of it
    sa.UniqueConstraint("journal", "pod_uid"),
)

keys = sa.Table(
    "keys",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    *(
        sa.Column(name, sa.BigInteger if kind is int else sa.Text, nullable=False)
        for name, kind in RowKey.__annotations__.items()
        if name != "mark"
    ),
    sa.Column("mark", sa.Text, nullable=False, server_default=""),
    sa.UniqueConstraint(*RowKey._fields),
)


def _counters() -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in FIELDS]


rows = sa.Table(
    "rows",
    METADATA,
    sa.Column("journal_id", sa.Integer, sa.ForeignKey("journals.id"), primary_key=True),
    sa.Column("bucket", sa.BigInteger, primary_key=True),  # its start, in seconds since the epoch
    sa.Column("key_id", sa.Integer, sa.ForeignKey("keys.id"), primary_key=True),
    *_counters(),
    sqlite_with_rowid=False,
)

folded = sa.Table(
    "folded",
    METADATA,
    sa.Column("journal_id", sa.Integer, sa.ForeignKey("journals.id"), primary_key=True),
    sa.Column("bucket", sa.BigInteger, primary_key=True),
    sa.Column("digest", sa.BigInteger, primary_key=True),  # of the row's key, and of the journal's name
    sa.Column("whole", sa.Boolean, nullable=False),  # all of the key was replaced, and not only its labels
    *_counters(),
    sqlite_with_rowid=False,
)

spend = sa.Table(
    "spend",
    METADATA,
    sa.Column("bucket", sa.BigInteger, primary_key=True),  # first: questions are about a span of time
    sa.Column("key_id", sa.Integer, sa.ForeignKey("keys.id"), primary_key=True),
    *_counters(),
    sqlite_with_rowid=False,
)

log = sa.Table(
    "log",
    METADATA,
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("key_id", sa.Integer, primary_key=True),
    sa.Column("bucket", sa.BigInteger, primary_key=True),
    *_counters(),
    sqlite_with_rowid=False,
)

leases = sa.Table(
    "leases",
    METADATA,
    sa.Column("budget", sa.Text, primary_key=True),
    sa.Column("journal_id", sa.Integer, sa.ForeignKey("journals.id"), primary_key=True),
    sa.Column("outstanding", sa.BigInteger, nullable=False),  # in the budget's unit
    sqlite_with_rowid=False,
)

meters = sa.Table(
    "meters",
    METADATA,
    sa.Column("pod_uid", sa.Text, primary_key=True),
    sa.Column("told_until", sa.BigInteger, nullable=False),  # milliseconds since the epoch: see `meters.py`
    sqlite_with_rowid=False,
)

prices = sa.Table(
    "prices",
    METADATA,
    sa.Column("price_id", sa.Text, primary_key=True),
    sa.Column("picodollars", sa.Text, nullable=False),  # JSON of wire.Picodollars
    sa.Column("recorded_at", sa.BigInteger, nullable=False),
    sa.Column("variants", sa.Text, nullable=False, server_default="[]"),  # JSON of wire.PriceVariant
)

issued = sa.Table(
    "issued",
    METADATA,
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("price_id", sa.Text, sa.ForeignKey("prices.price_id"), primary_key=True),
    sqlite_with_rowid=False,
)

services = sa.Table(
    "services",
    METADATA,
    sa.Column("namespace", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("labels", sa.Text, nullable=False, server_default="{}"),  # JSON object
    sa.Column("last_reported_at", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("provider", sa.Text, nullable=False, server_default=""),
)

gpu_pods = sa.Table(
    "gpu_pods",
    METADATA,
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("namespace", "service", "uid", "resource")),
    sa.Column("pod_name", sa.Text, nullable=False),
    sa.Column("product", sa.Text, nullable=False),
    sa.Column("rate", sa.BigInteger, nullable=False),
    sa.Column("gpus", sa.BigInteger, nullable=False),
    sa.Column("since", sa.BigInteger, nullable=False),  # milliseconds since the epoch
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("lost", sa.Boolean, nullable=False),  # nobody saw its end
    sqlite_with_rowid=False,
)

gpu_held = sa.Table(
    "gpu_held",
    METADATA,
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("namespace", "service", "product")),
    sa.Column("rate", sa.BigInteger, primary_key=True),  # OpenCost's, picodollars an hour of one GPU; 0: none
    sa.Column("bucket", sa.BigInteger, primary_key=True),
    sa.Column("gpu_ms", sa.BigInteger, nullable=False),  # GPUs times milliseconds
    sa.Column("pod_ms", sa.BigInteger, nullable=False),  # milliseconds of pods that serve
    sa.Column("changed", sa.BigInteger, nullable=False, index=True),  # change number
    sqlite_with_rowid=False,
)
