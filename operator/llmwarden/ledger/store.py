"""The ledger's storage: SQLAlchemy Core on SQLite in WAL mode, one writer, nothing that is a float.

Called from worker threads, one call at a time (`writer.Writer` sees to that). What is acknowledged is on the disk
(`synchronous=FULL`): a proxy need not send a closed bucket again once we said that we have it.

Tables
- `schema_version`: one row.
- `journals`: one row per (journal, pod UID): a pod cannot write into another pod's journal, whatever name it sends.
- `rows`: cumulative counters per (journal, service, provider, model, price, bucket); price '' is "none was known".
- `prices`: every price that was ever handed out, so that a row is always rated by the price it was counted at.
- `issued`: for which providers and models each of them was handed out: a row cannot name a cheaper model's price.
- `services`: the labels that each service had last: when it is gone, what it spent still counts in the shared budgets.
Costs are not stored: they are rows times prices, both of which never change once written (but for growing counters).
"""

import errno
import fcntl
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from llmwarden import wire
from llmwarden.errors import UnavailableError, WardenError
from llmwarden.ledger import counts
from llmwarden.ledger.counts import Counts

T = TypeVar("T")

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
BUSY_MILLISECONDS = 5000  # how long to wait for a person who reads the file with another program
IN_CHUNK = 500  # values in one IN (...): SQLite bounds the number of variables

_metadata = sa.MetaData()

_schema_version = sa.Table("schema_version", _metadata, sa.Column("version", sa.Integer, nullable=False))

_journals = sa.Table(
    "journals",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("journal", sa.Text, nullable=False),
    sa.Column("pod_uid", sa.Text, nullable=False),
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("pod_name", sa.Text, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("final", sa.Boolean, nullable=False),
    sa.Column("first_reported_at", sa.BigInteger, nullable=False),  # seconds since the epoch
    sa.Column("last_reported_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("journal", "pod_uid"),
)

_KEY = ("service", "provider", "model", "price_id", "bucket")

_rows = sa.Table(
    "rows",
    _metadata,
    sa.Column("journal_id", sa.Integer, sa.ForeignKey("journals.id"), primary_key=True),
    sa.Column("service", sa.Text, primary_key=True),
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("price_id", sa.Text, primary_key=True),
    sa.Column("bucket", sa.BigInteger, primary_key=True),  # its start, in seconds since the epoch
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in Counts._fields),
    sqlite_with_rowid=False,
)

_prices = sa.Table(
    "prices",
    _metadata,
    sa.Column("price_id", sa.Text, primary_key=True),
    sa.Column("picodollars", sa.Text, nullable=False),  # JSON of wire.Picodollars
    sa.Column("recorded_at", sa.BigInteger, nullable=False),
)

_issued = sa.Table(
    "issued",
    _metadata,
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("price_id", sa.Text, sa.ForeignKey("prices.price_id"), primary_key=True),
    sqlite_with_rowid=False,
)

_services = sa.Table(
    "services",
    _metadata,
    sa.Column("namespace", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("labels", sa.Text, nullable=False),  # JSON object
)


class SchemaError(WardenError):
    """The database was written by a newer version of the ledger."""


class Issued(NamedTuple):
    """A price, and what it was handed out for."""

    provider: str
    model: str
    price_id: str


def issued_of(row: "wire.Row | Delta") -> Issued | None:
    """The price that a row claims; None where it claims none."""
    return None if row.price_id is None else Issued(row.provider, row.model, row.price_id)


@dataclass(frozen=True, slots=True)
class Delta:
    """By how much one key has grown through a report; `service` is `namespace/name`."""

    service: str
    provider: str
    model: str
    price_id: str | None
    bucket: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Merged:
    """What a report changed. `backwards`: rows in which some counter was below what was known (nothing is taken back)."""

    deltas: tuple[Delta, ...]
    backwards: int = 0


@dataclass(frozen=True, slots=True)
class PriceRecord:
    """A price to remember, and what it is handed out for."""

    issued: Issued
    picodollars: wire.Picodollars


class Store:
    """See the module. Every method blocks, and raises UnavailableError when the disk or the file fails."""

    def __init__(self, path: str) -> None:
        """Open or create the database at `path`.

        Raises SchemaError if a newer ledger wrote it, UnavailableError if it cannot be opened or another ledger has it.
        """
        self._path = path
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._lock = Path(f"{path}.lock").open("w")  # noqa: SIM115 - held as long as the store
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Two ledgers with one file would each have sums in memory that miss what the other wrote.
            busy = error.errno in {errno.EWOULDBLOCK, errno.EAGAIN}
            reason = "another ledger has it open" if busy else str(error)
            message = f"the database {path} cannot be opened: {reason}"
            raise UnavailableError(message) from error
        self._engine = sa.create_engine(
            # One connection for all worker threads: the writer lets one of them in at a time.
            f"sqlite:///{path}",
            poolclass=sa.StaticPool,
            connect_args={"check_same_thread": False},
        )
        sa.event.listen(self._engine, "connect", _pragmas)
        try:
            self._guard(self._prepare)
        except WardenError:
            self.close()
            raise

    def close(self) -> None:
        """Move the write-ahead log into the database and let go of it."""
        with suppress(sa.exc.SQLAlchemyError), self._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self._engine.dispose()
        self._lock.close()

    def merge(self, reports: Sequence[tuple[wire.Report, int]]) -> list[Merged]:
        """Take reports, each with its time of arrival (seconds since the epoch), in one transaction: all or none."""
        return self._guard(lambda: self._merge(reports))

    def record_prices(self, records: Iterable[PriceRecord], now: int) -> None:
        """Remember prices; one that is known already stays as it is (an id names its numbers)."""
        prices: list[dict[str, Any]] = []
        issued: list[dict[str, Any]] = []
        for record in records:
            numbers = msgspec.json.encode(record.picodollars).decode()
            prices.append({"price_id": record.issued.price_id, "picodollars": numbers, "recorded_at": now})
            issued.append(record.issued._asdict())

        def write() -> None:
            with self._engine.begin() as connection:
                connection.execute(insert(_prices).on_conflict_do_nothing(), prices)
                connection.execute(insert(_issued).on_conflict_do_nothing(), issued)

        if prices:
            self._guard(write)

    def prices(self) -> dict[Issued, wire.Picodollars]:
        """Every price that was handed out, by its id and what it was handed out for."""

        def read() -> dict[Issued, wire.Picodollars]:
            query = sa.select(_issued.c.provider, _issued.c.model, _issued.c.price_id, _prices.c.picodollars)
            with self._engine.connect() as connection:
                found = connection.execute(query.join_from(_issued, _prices))
                return {Issued(*key): msgspec.json.decode(raw, type=wire.Picodollars) for *key, raw in found}

        return self._guard(read)

    def sums(self) -> Iterator[Delta]:
        """Everything, summed over journals: what an aggregate is rebuilt from."""
        names = [_rows.c[name] for name in _KEY]
        query = (
            sa.select(_journals.c.namespace, *names, *(sa.func.sum(_rows.c[name]) for name in Counts._fields))
            .join_from(_rows, _journals)
            .group_by(_journals.c.namespace, *names)
        )
        with self._engine.connect() as connection:
            for namespace, service, provider, model, price_id, bucket, *values in connection.execute(query):
                yield Delta(f"{namespace}/{service}", provider, model, price_id or None, bucket, Counts(*values))

    def last_reports(self) -> dict[str, int]:
        """When each service (`namespace/name`) was last reported, in seconds since the epoch."""

        def read() -> dict[str, int]:
            query = (
                sa.select(_journals.c.namespace, _rows.c.service, sa.func.max(_journals.c.last_reported_at))
                .join_from(_rows, _journals)
                .group_by(_journals.c.namespace, _rows.c.service)
            )
            with self._engine.connect() as connection:
                return {f"{namespace}/{service}": last for namespace, service, last in connection.execute(query)}

        return self._guard(read)

    def labels(self) -> dict[str, dict[str, str]]:
        """Last known labels of every service (`namespace/name`)."""

        def read() -> dict[str, dict[str, str]]:
            with self._engine.connect() as connection:
                found = connection.execute(sa.select(_services.c.namespace, _services.c.name, _services.c.labels))
                return {
                    f"{namespace}/{name}": msgspec.json.decode(raw, type=dict[str, str])
                    for namespace, name, raw in found
                }

        return self._guard(read)

    def record_labels(self, labels: Mapping[str, Mapping[str, str]]) -> None:
        """Remember the labels of services (`namespace/name`)."""
        values = []
        for key, found in labels.items():
            namespace, _, name = key.partition("/")
            values.append({"namespace": namespace, "name": name, "labels": msgspec.json.encode(dict(found)).decode()})
        if values:
            statement = insert(_services)
            upsert = statement.on_conflict_do_update(
                index_elements=["namespace", "name"], set_={"labels": statement.excluded["labels"]}
            )
            self._guard(lambda: self._execute(upsert, values))

    def size(self) -> int:
        """Bytes on the disk, the write-ahead log included."""
        total = 0
        for suffix in ("", "-wal"):
            with suppress(OSError):
                total += Path(self._path + suffix).stat().st_size
        return total

    # Inside -----------------------------------------------------------------------------------------------------------

    def _guard(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sa.exc.DatabaseError as error:
            message = f"the database {self._path} failed: {error.orig or error}"
            raise UnavailableError(message) from error

    def _execute(self, statement: sa.Executable, values: list[dict[str, Any]]) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement, values)

    def _prepare(self) -> None:
        with self._engine.begin() as connection:
            # SQLite's driver commits each CREATE TABLE by itself: what a crash left half made is completed here.
            _schema_version.create(connection, checkfirst=True)
            found = connection.scalar(sa.select(sa.func.max(_schema_version.c.version)))
            if found is not None and found > SCHEMA_VERSION:
                message = (
                    f"the database {self._path} has schema version {found}, this ledger knows up to {SCHEMA_VERSION}: "
                    "run the newer version of LLM Warden, or restore the backup from before the upgrade"
                )
                raise SchemaError(message)
            _metadata.create_all(connection)
            if found is None:
                connection.execute(sa.insert(_schema_version), {"version": SCHEMA_VERSION})

    def _merge(self, reports: Sequence[tuple[wire.Report, int]]) -> list[Merged]:
        with self._engine.begin() as connection:
            return [_merge_one(connection, report, now) for report, now in reports]


def _pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_MILLISECONDS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _larger(left: sa.ColumnElement[Any], right: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.case((left > right, left), else_=right)


def _journal_upsert() -> sa.Executable:
    statement = insert(_journals)
    fresh = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["journal", "pod_uid"],
        set_={
            "sequence": _larger(_journals.c.sequence, fresh["sequence"]),
            "last_reported_at": _larger(_journals.c.last_reported_at, fresh["last_reported_at"]),
            # An older report that is delivered after the last one does not open the journal again.
            "final": sa.or_(_journals.c.final, fresh["final"]),
        },
    ).returning(_journals.c.id)


def _row_upsert() -> sa.Executable:
    statement = insert(_rows)
    values = {name: statement.excluded[name] for name in Counts._fields}
    return statement.on_conflict_do_update(index_elements=["journal_id", *_KEY], set_=values)


# Made once: making a statement takes longer than running it.
_UPSERT_JOURNAL = _journal_upsert()
_UPSERT_ROWS = _row_upsert()
_KNOWN_ROWS = sa.select(*(_rows.c[name] for name in (*_KEY, *Counts._fields))).where(
    _rows.c.journal_id == sa.bindparam("journal_id"), _rows.c.bucket.in_(sa.bindparam("buckets", expanding=True))
)


def _merge_one(connection: sa.Connection, report: wire.Report, now: int) -> Merged:
    journal = {
        "journal": report.journal,
        "pod_uid": report.pod.uid,
        "namespace": report.pod.namespace,
        "pod_name": report.pod.name,
        "sequence": report.sequence,
        "final": report.final,
        "first_reported_at": now,
        "last_reported_at": now,
    }
    journal_id = int(connection.execute(_UPSERT_JOURNAL, journal).scalar_one())
    wanted: dict[tuple[Any, ...], Counts] = {}
    for row in report.rows:
        key = (row.service, row.provider, row.model, row.price_id or "", row.bucket)
        wanted[key] = counts.merge(wanted.get(key, counts.ZERO), counts.of_row(row))
    if not wanted:
        return Merged(())
    known = _known(connection, journal_id, {key[-1] for key in wanted})
    deltas: list[Delta] = []
    changed: list[Mapping[str, Any]] = []
    backwards = 0
    for key, reported in wanted.items():
        old = known.get(key)
        new = counts.merge(old or counts.ZERO, reported)
        if old is not None and counts.went_backwards(old, reported):
            backwards += 1
        if new == old:
            continue
        service, provider, model, price_id, bucket = key
        grown = counts.difference(new, old or counts.ZERO)
        deltas.append(Delta(f"{report.pod.namespace}/{service}", provider, model, price_id or None, bucket, grown))
        changed.append({"journal_id": journal_id, **dict(zip(_KEY, key, strict=True)), **new._asdict()})
    if changed:
        connection.execute(_UPSERT_ROWS, changed)
    return Merged(tuple(deltas), backwards)


def _known(connection: sa.Connection, journal_id: int, buckets: set[int]) -> dict[tuple[Any, ...], Counts]:
    ordered = sorted(buckets)
    found: dict[tuple[Any, ...], Counts] = {}
    for at in range(0, len(ordered), IN_CHUNK):
        chosen = {"journal_id": journal_id, "buckets": ordered[at : at + IN_CHUNK]}
        for row in connection.execute(_KNOWN_ROWS, chosen):
            found[tuple(row[: len(_KEY)])] = Counts(*row[len(_KEY) :])
    return found
