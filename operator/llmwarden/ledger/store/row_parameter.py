"""A parameter that is a table: many rows go to the database as one JSON text, in one statement for all of them.

A statement for each row costs the worker thread a call, and Python's lock twice: the event loop, which wants it too, makes the thread wait
each time. So whatever a batch of reports writes or asks for is one value, which the database itself takes apart (SQLite by
`json_each`, PostgreSQL by `json_to_recordset`). Integers are exact in it up to 64 bits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

_encoder = msgspec.json.Encoder()


def table(name: str, columns: Mapping[str, sa.types.TypeEngine[Any]], *, on_postgresql: bool) -> sa.FromClause:
    """Return the parameter `name` as a table with these columns; `text` makes the parameter's value."""
    if on_postgresql:
        document = sa.cast(sa.bindparam(name, type_=sa.Text), postgresql.JSON)
        typed = [sa.column(column, kind) for column, kind in columns.items()]
        return (
            sa.func.json_to_recordset(document)
            .table_valued(*typed)
            .render_derived(name=f"given_{name}", with_types=True)
        )
    each = sa.func.json_each(sa.bindparam(name, type_=sa.Text)).table_valued("value").alias(f"each_{name}")
    # The path is a part of the statement and not a parameter: it is one of ours.
    paths: dict[str, sa.ColumnElement[str]] = {column: sa.literal_column(f"'$.{column}'") for column in columns}
    found = [
        sa.func.json_extract(each.c.value, paths[column], type_=kind).label(column) for column, kind in columns.items()
    ]
    return sa.select(*found).subquery(f"given_{name}")


def text(rows: Sequence[Mapping[str, object]]) -> str:
    """Return what a parameter of `table` takes: each row by its columns' names."""
    return _encoder.encode(rows).decode()
