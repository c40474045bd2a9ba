"""How the two databases are opened. SQLite: one file, locked by us, one writer. PostgreSQL: psycopg 3.

psycopg and not asyncpg: the store runs in worker threads, one transaction at a time, with the same statements for both
databases; an async driver would need another spelling of all of it and would gain nothing, since the writer waits for
each commit before it begins the next.
"""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from llmwarden import names, tracing
from llmwarden.errors import InvalidSpecError, UnavailableError

BUSY_MILLISECONDS: Final = 5000  # how long to wait for a person who reads the file with another program
READERS: Final = 2  # connections for questions, beside the writer's
LARGEST_LOG_PAGES: Final = (
    16_000  # of the write-ahead log (64 MiB): above, a commit moves it itself (see Store.checkpoint)
)
# A replica that the network has cut off must not hold the lock that all others wait for; and none waits for ever.
_POSTGRESQL_OPTIONS: Final = (
    "-c statement_timeout=15s -c lock_timeout=10s -c idle_in_transaction_session_timeout=15s -c timezone=UTC"
)

Insert = sqlite.Insert | postgresql.Insert


class Database:
    """Engines of one database: `writer` for transactions one at a time, `reader` for questions beside them."""

    def __init__(self, url: str) -> None:
        """Open `postgresql://…`, or the SQLite file at a path.

        Raises InvalidSpecError for another kind of URL, UnavailableError where another ledger has the file.
        """
        self.postgresql = "://" in url
        self.path = ""
        self._lock: TextIO | None = None
        if self.postgresql:
            parsed = _parse(url)
            self.name = parsed.render_as_string(hide_password=True).replace("+psycopg", "")
            options: dict[str, Any] = {
                "connect_args": {
                    "connect_timeout": 5,
                    "options": _POSTGRESQL_OPTIONS,
                    "application_name": names.LEDGER,
                    # A server that vanished is noticed within about 15 s also while we wait for it.
                    "keepalives_idle": 5,
                    "keepalives_interval": 3,
                    "keepalives_count": 3,
                    "tcp_user_timeout": 15_000,
                }
            }
            self.writer = sa.create_engine(parsed, pool_size=1, max_overflow=1, **options)
            self.reader = sa.create_engine(
                parsed, pool_size=READERS, max_overflow=0, pool_timeout=10, isolation_level="REPEATABLE READ", **options
            )
        else:
            self.name = self.path = url
            self._lock = _lock(url)
            address = f"sqlite:///{url}"
            # One connection for all worker threads: the writer lets one of them in at a time.
            threads = {"check_same_thread": False}
            self.writer = sa.create_engine(address, poolclass=sa.StaticPool, connect_args=threads)
            self.reader = sa.create_engine(
                address,
                poolclass=sa.QueuePool,
                pool_size=READERS,
                max_overflow=0,
                pool_timeout=10,
                connect_args=threads,
            )
            for engine in (self.writer, self.reader):
                sa.event.listen(engine, "connect", _pragmas)
                sa.event.listen(engine, "begin", _begin)

        self._attributes = {"db.system.name": "postgresql" if self.postgresql else "sqlite"}

    def insert(self, table: sa.Table) -> Insert:
        """Return an INSERT that can be made an upsert."""
        return postgresql.insert(table) if self.postgresql else sqlite.insert(table)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Make UnavailableError, with a sentence, of what the database or the way to it raises."""
        try:
            yield
        except (sa.exc.DatabaseError, sa.exc.TimeoutError) as error:
            cause = getattr(error, "orig", None) or error
            message = f"the database {self.name} failed: {' '.join(str(cause).split())}"
            raise UnavailableError(message) from error

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Begin a transaction that writes, and commit it at the end of `with`. Raises what SQLAlchemy raises: see `guard`."""
        with tracing.span("transaction", self._attributes), self.writer.begin() as connection:
            yield connection

    @contextmanager
    def migrating(self) -> Iterator[sa.Connection]:
        """Begin a transaction that changes the schema. SQLite changes a constraint only by making its table again: references wait meanwhile."""
        self._references(on=False)
        try:
            with self.transaction() as connection:
                yield connection
        finally:
            self._references(on=True)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a connection for questions. Raises what SQLAlchemy raises: see `guard`."""
        with tracing.span("read", self._attributes), self.reader.connect() as connection:
            yield connection

    def least(self, *values: Any) -> sa.ColumnElement[Any]:
        """Return the smaller of two values in one row."""
        return sa.func.least(*values) if self.postgresql else sa.func.min(*values)

    def _references(self, *, on: bool) -> None:
        if not self.postgresql:
            connection = self.writer.raw_connection()  # in no transaction: within one, SQLite ignores it
            try:
                connection.cursor().execute(f"PRAGMA foreign_keys={'ON' if on else 'OFF'}")
            finally:
                connection.close()

    def close(self) -> None:
        """Let go of it."""
        self.reader.dispose()
        self.writer.dispose()
        if self._lock is not None:
            self._lock.close()


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        message = "the database's URL cannot be read; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        raise InvalidSpecError(message) from error
    if parsed.drivername not in {"postgresql", "postgres", "postgresql+psycopg"}:
        message = f"the database's URL begins with {parsed.drivername}://; only postgresql:// is known"
        raise InvalidSpecError(message)
    return parsed.set(drivername="postgresql+psycopg")


def _lock(path: str) -> TextIO:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock = Path(f"{path}.lock").open("w", encoding="ascii")  # noqa: SIM115 - held as long as the store
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Two ledgers with one file would each have sums in memory that miss what the other wrote.
        busy = error.errno in {errno.EWOULDBLOCK, errno.EAGAIN}
        reason = "another ledger has it open" if busy else str(error)
        message = f"the database {path} cannot be opened: {reason}"
        raise UnavailableError(message) from error
    return lock


def _pragmas(connection: Any, _record: object) -> None:
    # The driver's own transactions would commit each CREATE TABLE by itself: ours begin by `_begin`.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_MILLISECONDS}",
        f"wal_autocheckpoint={LARGEST_LOG_PAGES}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")
