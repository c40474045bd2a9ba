"""What Alembic runs: the scripts, in the transaction of the connection that `schema.upgrade` gives."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
