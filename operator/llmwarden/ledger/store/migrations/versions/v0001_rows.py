"""The schema of version 0.1: rows by journal, service, provider, model, price and bucket."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_COUNTERS = ("requests", "errors", "estimated", "input", "cached_input", "cache_write", "output", "reasoning")


def upgrade() -> None:
    """Make the tables."""
    op.create_table("schema_version", sa.Column("version", sa.Integer, nullable=False))
    op.execute(sa.text("INSERT INTO schema_version (version) VALUES (1)"))
    op.create_table(
        "journals",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("journal", sa.Text, nullable=False),
        sa.Column("pod_uid", sa.Text, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("pod_name", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.Column("first_reported_at", sa.BigInteger, nullable=False),
        sa.Column("last_reported_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("journal", "pod_uid"),
    )
    op.create_table(
        "rows",
        sa.Column("journal_id", sa.Integer, sa.ForeignKey("journals.id"), primary_key=True),
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("service", "provider", "model", "price_id")),
        sa.Column("bucket", sa.BigInteger, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTERS),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "prices",
        sa.Column("price_id", sa.Text, primary_key=True),
        sa.Column("picodollars", sa.Text, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "issued",
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("price_id", sa.Text, sa.ForeignKey("prices.price_id"), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "services",
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("labels", sa.Text, nullable=False),
    )
