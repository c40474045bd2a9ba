"""Marks of keys (quarantined, written off); what pods' growth is held to; corrections by the platform."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_KEY = ("namespace", "service", "provider", "model", "price_id", "context", "tier", "feature", "team", "cohort")


def upgrade() -> None:
    """Add to what is there: what was counted has no mark."""
    if op.get_bind().dialect.name == "postgresql":
        op.add_column("keys", sa.Column("mark", sa.Text, nullable=False, server_default=""))
        for constraint in sa.inspect(op.get_bind()).get_unique_constraints("keys"):
            op.drop_constraint(str(constraint["name"]), "keys")
        op.create_unique_constraint("keys_key", "keys", [*_KEY, "mark"])
    else:
        _make_keys_again()
    op.create_table(
        "meters",
        sa.Column("pod_uid", sa.Text, primary_key=True),
        sa.Column("told_until", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "corrections",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("namespace", "service", "request", "answer")),
    )
    op.create_index("corrections_at", "corrections", ["at"])


def _make_keys_again() -> None:
    """SQLite changes no constraint of a table: it is made again, with the same ids (`Database.migrating` lets go of references to it)."""
    op.create_table(
        "new_keys",
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.BigInteger if name == "context" else sa.Text, nullable=False) for name in _KEY),
        sa.Column("mark", sa.Text, nullable=False, server_default=""),
        sa.UniqueConstraint(*_KEY, "mark"),
    )
    names = ", ".join(("id", *_KEY))
    op.execute(sa.text(f"INSERT INTO new_keys ({names}) SELECT {names} FROM keys"))  # noqa: S608 - names from above
    op.drop_table("keys")
    op.rename_table("new_keys", "keys")
