"""Times of calls beside their tokens; GPUs that pods held."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add to what is there: nothing of it changes."""
    for table in ("rows", "spend", "log"):
        for name in ("busy_ms", "prefill_ms", "decode_ms"):
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "gpu_pods",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("namespace", "service", "uid", "resource")),
        sa.Column("pod_name", sa.Text, nullable=False),
        sa.Column("product", sa.Text, nullable=False),
        sa.Column("rate", sa.BigInteger, nullable=False),
        sa.Column("gpus", sa.BigInteger, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
        sa.Column("lost", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "gpu_held",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("namespace", "service", "product")),
        *(sa.Column(name, sa.BigInteger, primary_key=True) for name in ("rate", "bucket")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("gpu_ms", "pod_ms", "changed")),
        sqlite_with_rowid=False,
    )
    op.create_index("gpu_held_changed", "gpu_held", ["changed"])
