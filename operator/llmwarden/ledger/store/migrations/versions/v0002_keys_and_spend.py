"""Contexts, tiers, labels, more token kinds; keys written once; sums over journals; leases."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_OLD = ("input", "cached_input", "cache_write", "output", "reasoning", "requests", "errors", "estimated")
_NEW = ("cache_write_1h", "input_audio", "output_audio")
_KEY = ("namespace", "service", "provider", "model", "price_id", "context", "tier", "feature", "team", "cohort")


def _counters() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in (*_OLD, *_NEW)]


def _table(name: str, *key: str, references: bool = True) -> None:
    tables = {"journal_id": "journals.id", "key_id": "keys.id"}
    columns: list[sa.Column[int]] = []
    for column in key:
        link = [sa.ForeignKey(tables[column])] if references and column in tables else []
        kind = sa.Integer if column in tables else sa.BigInteger
        columns.append(sa.Column(column, kind, *link, primary_key=True))
    op.create_table(name, *columns, *_counters(), sqlite_with_rowid=False)


def upgrade() -> None:
    """Make the tables anew, and take over what was counted."""
    op.drop_table("schema_version")
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.execute(sa.text("INSERT INTO changes (id, number) VALUES (1, 0)"))
    op.add_column("journals", sa.Column("folded_before", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("prices", sa.Column("variants", sa.Text, nullable=False, server_default="[]"))
    op.create_table(
        "keys",
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.BigInteger if name == "context" else sa.Text, nullable=False) for name in _KEY),
        sa.UniqueConstraint(*_KEY),
    )
    op.rename_table("rows", "old_rows")
    _table("rows", "journal_id", "bucket", "key_id")
    _table("spend", "bucket", "key_id")
    _table("log", "number", "key_id", "bucket", references=False)
    op.create_table(
        "leases",
        sa.Column("budget", sa.Text, primary_key=True),
        sa.Column("journal_id", sa.Integer, sa.ForeignKey("journals.id"), primary_key=True),
        sa.Column("outstanding", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    _take_over()
    op.drop_table("old_rows")


def _take_over() -> None:
    old, new = ", ".join(_OLD), ", ".join(_NEW)
    zeros = ", ".join("0" for _ in _NEW)
    match = " AND ".join(f"k.{name} = r.{name}" for name in ("service", "provider", "model", "price_id"))
    _run(
        f"INSERT INTO keys ({', '.join(_KEY)}) SELECT DISTINCT j.namespace, r.service, r.provider, r.model, r.price_id, "  # noqa: S608 - names from above
        "0, '', '', '', '' FROM old_rows r JOIN journals j ON j.id = r.journal_id"
    )
    _run(
        f"INSERT INTO rows (journal_id, key_id, bucket, {old}, {new}) SELECT r.journal_id, k.id, r.bucket, "  # noqa: S608 - the same
        f"{', '.join(f'r.{name}' for name in _OLD)}, {zeros} FROM old_rows r JOIN journals j ON j.id = r.journal_id "
        f"JOIN keys k ON k.namespace = j.namespace AND {match}"
    )
    _run(
        f"INSERT INTO spend (bucket, key_id, {old}, {new}) SELECT bucket, key_id, "  # noqa: S608 - the same
        f"{', '.join(f'sum({name})' for name in _OLD)}, {zeros} FROM rows GROUP BY bucket, key_id"
    )
    # When each service was last reported stands with the service from now on.
    op.add_column("services", sa.Column("last_reported_at", sa.BigInteger, nullable=False, server_default="0"))
    _run(
        "INSERT INTO services (namespace, name, labels) SELECT DISTINCT k.namespace, k.service, '{}' FROM keys k "
        "WHERE NOT EXISTS (SELECT 1 FROM services s WHERE s.namespace = k.namespace AND s.name = k.service)"
    )
    _run(
        "UPDATE services SET last_reported_at = COALESCE((SELECT max(j.last_reported_at) FROM rows r "
        "JOIN journals j ON j.id = r.journal_id JOIN keys k ON k.id = r.key_id "
        "WHERE k.namespace = services.namespace AND k.service = services.name), 0)"
    )


def _run(statement: str) -> None:
    op.execute(sa.text(statement))
