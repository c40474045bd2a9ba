"""A span for each statement of the database, where spans are on (`llmwarden.tracing`). `Database` makes those of transactions.

Statements are shown without their parameters, which hold names of services and models. SQLAlchemy's events carry it: while spans are
off, nothing is in the way.
"""

from typing import Any, Final

import sqlalchemy as sa

from llmwarden import tracing
from llmwarden.ledger.store.engine import Database

LONGEST: Final = 2000  # characters of a statement
_SPAN: Final = "llmwarden.span"


def watch(database: Database) -> None:
    """Make spans of statements from now on; does nothing while spans are off."""
    tracer = tracing.tracer()
    if tracer is None:
        return
    from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415 - see `tracing.start`

    system = "postgresql" if database.postgresql else "sqlite"

    def before(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        word = statement.split(maxsplit=1)[0].upper()
        attributes = {"db.system.name": system, "db.query.text": statement[:LONGEST]}
        connection.info[_SPAN] = tracer.start_span(word, kind=SpanKind.CLIENT, attributes=attributes)

    def after(connection: sa.Connection, *_: Any) -> None:
        span = connection.info.pop(_SPAN, None)
        if span is not None:
            span.end()

    def failed(context: Any) -> None:
        span = context.connection.info.pop(_SPAN, None) if context.connection is not None else None
        if span is not None:
            span.record_exception(context.original_exception)
            span.set_status(StatusCode.ERROR)
            span.end()

    for engine in (database.writer, database.reader):
        sa.event.listen(engine, "before_cursor_execute", before)
        sa.event.listen(engine, "after_cursor_execute", after)
        sa.event.listen(engine, "handle_error", failed)
