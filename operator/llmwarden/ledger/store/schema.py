"""Brings a database to the present schema: Alembic's migrations, in one transaction, before anything else touches it."""

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from llmwarden.errors import WardenError

FIRST: Final = "0001"  # the schema of version 0.1, which kept its number in a table of its own
_FOLDER: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 5_211_726_931  # of PostgreSQL's advisory locks: several replicas start at once


class SchemaError(WardenError):
    """The database was written by a newer version of the ledger."""


def upgrade(connection: sa.Connection, name: str) -> None:
    """Migrate in the connection's transaction; `name` is the database's, for the sentence.

    Raises SchemaError where a newer ledger wrote it: nothing is touched then.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER))
    known = ScriptDirectory.from_config(config)
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None and sa.inspect(connection).has_table("schema_version"):
        version = connection.scalar(sa.text("SELECT max(version) FROM schema_version"))
        found = f"{version or 1:04}"
        if found == FIRST:
            command.stamp(config, FIRST)
    if found is not None and found not in {script.revision for script in known.walk_revisions()}:
        message = (
            f"the database {name} has schema {found}, this ledger knows up to {known.get_current_head()}: "
            "run the newer version of LLM Warden, or restore the backup from before the upgrade"
        )
        raise SchemaError(message)
    command.upgrade(config, "head")
