"""Ids of keys, which never change: remembered, but only once their transaction is committed."""

from collections.abc import Collection, Iterable
from typing import Final

import sqlalchemy as sa

from llmwarden.ledger.store import statements
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.store.model import RowKey
from llmwarden.ledger.store.row_parameter import text
from llmwarden.ledger.store.statements import chunks


class KeyIds:
    """See the module."""

    MOST: Final = 100_000  # remembered: models and labels come from outside
    MOST_CHARACTERS: Final = 32 * 1024 * 1024  # of all of them

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: dict[RowKey, int] = {}
        self._keys: dict[int, RowKey] = {}
        self._fresh: dict[RowKey, int] = {}
        self._characters = 0

    def __getitem__(self, key: RowKey) -> int:
        return self._fresh[key] if key in self._fresh else self._ids[key]

    def get(self, key: RowKey) -> int | None:
        """Return a key's id; None where it has none, as far as `look` was asked for it."""
        found = self._ids.get(key)
        return self._fresh.get(key) if found is None else found

    def key(self, connection: sa.Connection, key_ids: Iterable[int]) -> dict[int, RowKey]:
        """Return keys by their ids."""
        wanted = set(key_ids)
        unknown = [key_id for key_id in wanted if key_id not in self._keys]
        found = {key_id: self._keys[key_id] for key_id in wanted if key_id in self._keys}
        for chunk in chunks(unknown):
            for key_id, *values in connection.execute(sa.select(t.keys).where(t.keys.c.id.in_(chunk))):
                found[key_id] = RowKey(*values)
                self._remember(found[key_id], key_id)
        return found

    def look(self, connection: sa.Connection, wanted: Collection[RowKey]) -> None:
        """Find the ids of those that have one. Begins a transaction: what was found in one that failed is forgotten."""
        self._fresh = {}
        if len(self._ids) > self.MOST or self._characters > self.MOST_CHARACTERS:
            self._ids.clear()
            self._keys.clear()
            self._characters = 0
        self._find(connection, [key for key in wanted if key not in self._ids])

    def find(self, connection: sa.Connection, wanted: Collection[RowKey]) -> None:
        """See to it that these have ids."""
        unknown = sorted({key for key in wanted if self.get(key) is None})
        if unknown:
            insert = self._database.insert(t.keys).on_conflict_do_nothing()
            connection.execute(insert, [key._asdict() for key in unknown])
            self._find(connection, unknown)

    def committed(self) -> None:
        """Say that the transaction in which they were found is on the disk."""
        for key, key_id in self._fresh.items():
            self._remember(key, key_id)
        self._fresh = {}

    def _find(self, connection: sa.Connection, unknown: Collection[RowKey]) -> None:
        if unknown:
            given = text([key._asdict() for key in unknown])
            for key_id, *values in connection.execute(statements.of(self._database).keys, {"wanted": given}):
                self._fresh[RowKey(*values)] = key_id

    def _remember(self, key: RowKey, key_id: int) -> None:
        if key not in self._ids:
            self._characters += sum(map(len, filter(lambda value: isinstance(value, str), key)))  # type: ignore[arg-type]
        self._ids[key] = key_id
        self._keys[key_id] = key
