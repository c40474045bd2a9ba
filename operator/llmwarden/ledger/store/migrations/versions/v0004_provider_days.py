"""What providers say of each day, and when each account is asked next."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add two tables."""
    op.create_table(
        "provider_days",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("day", sa.BigInteger, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("input", "output", "picodollars", "other")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "provider_turns",
        sa.Column("scope", sa.Text, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("next_at", "read_at", "failures")),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
