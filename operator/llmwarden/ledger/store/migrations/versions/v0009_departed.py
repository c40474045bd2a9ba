"""Whose models a service called: its pods are priced by that after it is gone."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add a column."""
    op.add_column("services", sa.Column("provider", sa.Text, nullable=False, server_default=""))
