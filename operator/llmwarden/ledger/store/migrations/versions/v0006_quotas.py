"""Quotas: how much each journal has on the disk, rows that were folded, and up to which number the log was pruned."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_COUNTERS = (
    "input",
    "cached_input",
    "cache_write",
    "output",
    "reasoning",
    "cache_write_1h",
    "input_audio",
    "output_audio",
    "requests",
    "errors",
    "estimated",
    "busy_ms",
    "prefill_ms",
    "decode_ms",
)


def upgrade() -> None:
    """Add to what is there, and count the rows of each journal."""
    for name in ("units", "folded_rows"):
        op.add_column("journals", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("changes", sa.Column("pruned", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "folded",
        sa.Column("journal_id", sa.Integer, sa.ForeignKey("journals.id"), primary_key=True),
        *(sa.Column(name, sa.BigInteger, primary_key=True) for name in ("bucket", "digest")),
        sa.Column("whole", sa.Boolean, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTERS),
        sqlite_with_rowid=False,
    )
    op.execute(sa.text("UPDATE journals SET units = (SELECT count(*) FROM rows r WHERE r.journal_id = journals.id)"))
