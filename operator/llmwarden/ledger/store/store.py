"""The store's methods: each is one transaction, or one question. See the package for what is kept."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from llmwarden.contracts import ledger as wire
from llmwarden.domain.cost import Rates
from llmwarden.domain.plausible import Pace
from llmwarden.errors import ConflictError, WardenError
from llmwarden.ledger.store import compact, corrections, gpu, leases, merge, schema, statements
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.compact import Compacted
from llmwarden.ledger.store.corrections import Selection
from llmwarden.ledger.store.counts import FIELDS, Counts
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.store.key_ids import KeyIds
from llmwarden.ledger.store.meters import Meters
from llmwarden.ledger.store.model import Batch, BehindError, Delta, Issued, PriceRecord, Remembered, issued_of
from llmwarden.ledger.store.quotas import Quotas, committed
from llmwarden.ledger.store.statements import chunks

logger = logging.getLogger(__name__)

LOG_KEPT: Final = 4096  # changes that a replica may be behind before it reads everything anew
_PRUNE_EVERY: Final = 256
MOST_LOGGED: Final = 2_000_000  # rows of `log`, about
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
_CHUNK: Final = 10_000  # rows that a long answer of the database is read by


class Store:
    """See the package. Every method blocks, is called by one thread at a time, and raises UnavailableError when the database fails.

    `sums`, `lease_state` and what `queries` asks may run beside the others.
    """

    def __init__(self, url: str, pace: Pace | None = None) -> None:
        """Open or create the SQLite file at a path, or the PostgreSQL database at a `postgresql://` URL; migrate it.

        Growth above `pace` is quarantined (`meters.py`); None takes any. Raises SchemaError if a newer ledger wrote it, UnavailableError if it cannot be opened or another ledger has it.
        """
        self.database = Database(url)
        self._ids = KeyIds(self.database)
        self.quotas = Quotas()
        self._logged = 0  # rows of `log` since it was pruned
        # After a restore from a backup, balances that journals report are believed until this time (seconds since the epoch).
        self.believe_until = 0
        self._seen = 0  # the last change that our sums in memory have
        self._issued: set[Issued] = set()  # prices that are known in memory
        self._pace = pace
        self.births: MutableMapping[str, int] = {}  # by pod UID, when it was created: to be filled before it reports
        try:
            with self.database.guard(), self.database.migrating() as connection:
                schema.upgrade(connection, self.database.name)
                self._seen = self._number(connection)
                self._count(connection)
        except WardenError:
            self.close()
            raise

    def close(self) -> None:
        """Move SQLite's write-ahead log into the database, and let go of it."""
        if not self.database.postgresql:
            with suppress(sa.exc.SQLAlchemyError):
                connection = self.database.writer.raw_connection()
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.close()
        self.database.close()

    # Reports ----------------------------------------------------------------------------------------------------------

    def merge(self, reports: Sequence[tuple[wire.Report, int]], lending: leases.Lending | None = None) -> Batch:
        """Take reports, each with its time of arrival (seconds since the epoch), in one transaction: all or none.

        With `lending`, what their journals are granted is decided and written in it, too (`leases.py`). The batch then has nothing of
        others: `lending.decide` was given that. Raises BehindError where `sums` must be read anew first; nothing was taken then.
        """
        with self.database.guard():
            with self.database.transaction() as connection:
                number = self._next(connection)
                foreign, prices = self._foreign(connection, number)
                known = merge.read(self.database, connection, reports)
                told = {uid: journal.told_until for (_, uid), journal in known.items() if journal.told_until}
                meters = Meters(self._pace, self.births, told)
                made = merge.merge(
                    connection, self._ids, self.quotas, reports, known, meters=meters, believe_until=self.believe_until
                )
                budgets = lending.budgets if lending is not None else ()
                stored = leases.stored(self.database, connection, budgets, made.balances)
                made.hold_to(stored.own)
                prices |= self._unknown_prices(connection, (delta for one in made.merged for delta in one.deltas))
                if lending is not None:
                    held = leases.held(stored, lending.budgets, made.balances)
                    granted = lending.decide(leases.Ground(held, made.balances, tuple(made.merged), foreign, prices))
                    # It has counted what others did, whatever becomes of this transaction.
                    self._seen = number - 1
                    self._issued.update(prices)
                    foreign, prices = (), {}
                    made.grant(granted)
                made.write(self.database, connection, number)
                self._logged += len(made.spend)
                if number % _PRUNE_EVERY == 0:
                    self._prune(connection, number)
            self._ids.committed()
            committed(self.quotas, made.added)
            self._seen = number
            self._issued.update(prices)
            return Batch(tuple(made.merged), foreign, prices, made.balances, frozenset(made.ended))

    def follow(self) -> Batch:
        """What other replicas changed since we last looked. Raises BehindError where `sums` must be read anew."""
        with self.database.guard():
            with self.database.transaction() as connection:
                number = self._number(connection)
                foreign, prices = self._foreign(connection, number + 1)
            self._seen = number
            self._issued.update(prices)
            return Batch((), foreign, prices)

    def sums(self) -> Iterator[Delta]:
        """Everything, summed over journals and labels: what an aggregate is rebuilt from. From then on changes are followed."""
        columns = (*_AGGREGATED, t.spend.c.bucket)
        query = (
            sa.select(*columns, *(sa.func.sum(t.spend.c[name]) for name in FIELDS))
            .join_from(t.spend, t.keys)
            .group_by(*columns)
        )
        with self.database.guard(), self.database.reading() as connection, connection.begin():
            seen = self._number(connection)  # of the same moment as the sums: one snapshot
            found = connection.execution_options(yield_per=_CHUNK).execute(query)
            for namespace, service, provider, model, price_id, context, tier, mark, bucket, *values in found:
                counts = Counts(*map(int, values))
                name = f"{namespace}/{service}"
                yield Delta(name, provider, model, price_id or None, bucket, counts, context, tier, mark)
            self._seen = seen

    def last_reports(self) -> dict[str, int]:
        """When each service (`namespace/name`) was last reported, in seconds since the epoch."""
        query = sa.select(t.services.c.namespace, t.services.c.name, t.services.c.last_reported_at)
        with self.database.guard(), self.database.reading() as connection:
            found = connection.execute(query.where(t.services.c.last_reported_at > 0))
            return {f"{namespace}/{name}": last for namespace, name, last in found}

    # Corrections ------------------------------------------------------------------------------------------------------

    def correct(
        self,
        order_id: str,
        request: str,
        selection: Selection,
        now: int,
        *,
        release: bool,
        decider: Callable[[Batch], corrections.Decider],
        dry_run: bool = False,
    ) -> tuple[Batch, str, bool]:
        """Do an order of the platform, once.

        Returns what that changed (and what others did before), its answer as it is kept, and whether it was done before. `request` is the order as JSON. `decider` is given what others did first. Raises ConflictError where another order was done by
        this id, TooLargeError, and BehindError as `merge` does; then nothing was changed.
        """
        work = corrections.release if release else corrections.write_off
        with self.database.guard():
            with self.database.transaction() as connection:
                number = self._next(connection)
                foreign, prices = self._foreign(connection, number)
                before = None if dry_run else corrections.done(connection, order_id)
                if before is not None and before.request != request:
                    message = f"another order was done by the id {order_id}"
                    raise ConflictError(message)
                judge = decider(Batch((), foreign, prices))
                # It has counted what others did, whatever becomes of this transaction.
                self._seen = number - 1
                self._issued.update(prices)
                if before is not None:
                    connection.rollback()
                    return Batch(()), before.answer, True
                made, deltas, answer = work(connection, self._ids, selection, judge)
                if dry_run:
                    connection.rollback()
                    return Batch(()), answer, False
                corrections.keep(connection, selection, corrections.Entry(order_id, now, request, answer))
                made.write(self.database, connection, number)
            self._ids.committed()
            self._seen = number
            return Batch((), tuple(deltas)), answer, False

    # Leases -----------------------------------------------------------------------------------------------------------

    def lease_state(self) -> list[leases.Holding]:
        """Every outstanding balance."""
        with self.database.guard(), self.database.reading() as connection:
            return leases.state(connection)

    def holding(self) -> list[leases.Silent]:
        """Every journal that holds something, with what it holds."""
        with self.database.guard(), self.database.reading() as connection:
            return leases.holding(connection)

    def silent(self, after: int, before: int, most: int) -> list[leases.Silent]:
        """Journals that have not ended and last reported between these times (seconds since the epoch), oldest first."""
        with self.database.guard(), self.database.reading() as connection:
            return leases.silent(connection, after, before, most)

    def services_of(self, journal_ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
        """Which services (bare names) these journals have reported."""
        with self.database.guard(), self.database.reading() as connection:
            return leases.services(connection, journal_ids)

    def release(self, journal_ids: Iterable[int]) -> list[int]:
        """End journals whose pods are confirmed dead, and their leases; returns those that had not ended."""
        with self.database.guard(), self.database.transaction() as connection:
            # Under the lock, as all that writes journals and leases: two that wrote them in another order would wait for each other.
            connection.execute(_LOCK)
            return leases.release(connection, journal_ids)

    # GPUs -------------------------------------------------------------------------------------------------------------

    def hold(self, told: Sequence[gpu.PodSpan]) -> None:
        """Take what pods hold, in one transaction; returns once it is on the disk."""
        with self.database.guard(), self.database.transaction() as connection:
            gpu.take(self.database, connection, self._next(connection), told)

    def held(self, after: int, since: int) -> tuple[list[gpu.HeldSum], int]:
        """GPU time that changed after a change number (-1: all), of buckets from `since` on, and the number to ask with next."""
        with self.database.guard(), self.database.reading() as connection:
            return gpu.held(connection, after, since)

    def lose(self, before: int) -> list[gpu.Lost]:
        """Mark pods whose end nobody saw, last told of before a time (milliseconds since the epoch); returns the new ones."""
        with self.database.guard(), self.database.transaction() as connection:
            return gpu.lose(connection, before)

    def lost(self, since: int) -> Mapping[str, int]:
        """By service, how many pods were lost since a time (milliseconds since the epoch)."""
        with self.database.guard(), self.database.reading() as connection:
            return gpu.lost(connection, since)

    # Size -------------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> bool:
        """Move SQLite's write-ahead log into the database where it has grown; returns whether it had.

        Beside the writer, by a connection of its own: as a part of a commit, which is SQLite's own way, every seventieth report
        or so would wait for megabytes to reach the disk.
        """
        if self.database.postgresql:
            return False
        with suppress(OSError):
            if Path(f"{self.database.path}-wal").stat().st_size < CHECKPOINT_BYTES:
                return False
        with self.database.guard():
            connection = self.database.reader.raw_connection()  # in no transaction
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
            finally:
                connection.close()
        return True

    def compact(self, now: int, keep: int) -> Compacted:
        """Take a step in dropping detail older than `keep` seconds; sums stay. Call it until it does nothing."""
        with self.database.guard(), self.database.transaction() as connection:
            connection.execute(_LOCK)
            done = compact.step(self.database, connection, now, keep)
            self._count(connection)
            return done

    # Prices and services ------------------------------------------------------------------------------------------------

    def record_prices(self, records: Iterable[PriceRecord], now: int) -> None:
        """Remember prices; one that is known already stays as it is (an id names its numbers)."""
        prices: list[dict[str, object]] = []
        issued: list[dict[str, object]] = []
        for record in records:
            prices.append(
                {
                    "price_id": record.issued.price_id,
                    "picodollars": msgspec.json.encode(record.rates.picodollars).decode(),
                    "variants": msgspec.json.encode(record.rates.variants).decode(),
                    "recorded_at": now,
                }
            )
            issued.append(record.issued._asdict())
        if prices:
            with self.database.guard(), self.database.transaction() as connection:
                connection.execute(self.database.insert(t.prices).on_conflict_do_nothing(), prices)
                connection.execute(self.database.insert(t.issued).on_conflict_do_nothing(), issued)

    def prices(self) -> dict[Issued, Rates]:
        """Every price that was handed out, by its id and what it was handed out for."""
        with self.database.guard(), self.database.reading() as connection:
            found = _prices(connection, sa.true())
        self._issued.update(found)
        return found

    def remembered(self) -> dict[str, Remembered]:
        """What every service (`namespace/name`) was last."""
        columns = (t.services.c.namespace, t.services.c.name, t.services.c.labels, t.services.c.provider)
        with self.database.guard(), self.database.reading() as connection:
            return {
                f"{namespace}/{name}": Remembered(msgspec.json.decode(labels, type=dict[str, str]), provider)
                for namespace, name, labels, provider in connection.execute(sa.select(*columns))
            }

    def remember(self, services: Mapping[str, Remembered]) -> None:
        """Keep what services (`namespace/name`) are now."""
        values = []
        for key, found in services.items():
            namespace, _, name = key.partition("/")
            labels = msgspec.json.encode(dict(found.labels)).decode()
            values.append({"namespace": namespace, "name": name, "labels": labels, "provider": found.provider})
        if values:
            statement = self.database.insert(t.services)
            upsert = statement.on_conflict_do_update(
                index_elements=["namespace", "name"],
                set_={column: statement.excluded[column] for column in ("labels", "provider")},
            )
            with self.database.guard(), self.database.transaction() as connection:
                connection.execute(upsert, values)

    def size(self) -> int:
        """Bytes on the disk, the write-ahead log included; of PostgreSQL what it says."""
        if self.database.postgresql:
            with self.database.guard(), self.database.reading() as connection:
                return int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)
        total = 0
        for suffix in ("", "-wal"):
            with suppress(OSError):
                total += Path(self.database.path + suffix).stat().st_size
        return total

    # Inside -----------------------------------------------------------------------------------------------------------

    def _next(self, connection: sa.Connection) -> int:
        """Take the next change number: holds off all other transactions that change anything until ours ends."""
        return int(connection.execute(statements.of(self.database).next).scalar_one())

    def _number(self, connection: sa.Connection) -> int:
        return int(connection.scalar(sa.select(t.changes.c.number)) or 0)

    def _prune(self, connection: sa.Connection, number: int) -> None:
        """Drop the oldest of `log`. How many numbers stay goes by how many rows they have: one report may have thousands."""
        each = max(1, self._logged // _PRUNE_EVERY)
        kept = min(LOG_KEPT, max(_PRUNE_EVERY, MOST_LOGGED // each)) if self.database.postgresql else _PRUNE_EVERY
        self._logged = 0
        connection.execute(sa.delete(t.log).where(t.log.c.number <= number - kept))
        connection.execute(sa.update(t.changes).where(t.changes.c.pruned < number - kept).values(pruned=number - kept))

    def _count(self, connection: sa.Connection) -> None:
        """Take what each namespace uses of its quota, as the database says."""
        journals = t.journals.c
        query = sa.select(journals.namespace, sa.func.sum(journals.units)).group_by(journals.namespace)
        found = {namespace: int(units or 0) for namespace, units in connection.execute(query)}
        self.quotas.used.clear()
        self.quotas.used.update(found)

    def _foreign(self, connection: sa.Connection, number: int) -> tuple[tuple[Delta, ...], dict[Issued, Rates]]:
        """What was committed below `number` and is not in our sums: by another replica, or by us when its answer was lost."""
        if number == self._seen + 1:
            return (), {}
        pruned = int(connection.scalar(sa.select(t.changes.c.pruned)) or 0)
        if number <= self._seen or self._seen < pruned or number - self._seen > LOG_KEPT - _PRUNE_EVERY:
            message = f"changes {self._seen + 1} to {number - 1} of the database cannot be followed: reading all anew"
            raise BehindError(message)
        found = connection.execute(
            sa.select(t.log.c.key_id, t.log.c.bucket, *(t.log.c[name] for name in FIELDS))
            .where(t.log.c.number > self._seen, t.log.c.number < number)
            .order_by(t.log.c.number)
        ).all()
        keys = self._ids.key(connection, {row[0] for row in found})
        deltas = tuple(keys[row[0]].delta(row[1], Counts(*row[2:])) for row in found)
        return deltas, self._unknown_prices(connection, deltas)

    def _unknown_prices(self, connection: sa.Connection, deltas: Iterable[Delta]) -> dict[Issued, Rates]:
        """Prices that these name and that only another replica knows: it handed them out."""
        if not self.database.postgresql:
            return {}
        wanted = {issued for delta in deltas if (issued := issued_of(delta)) is not None and issued not in self._issued}
        found: dict[Issued, Rates] = {}
        for chunk in chunks(sorted({issued.price_id for issued in wanted})):
            found |= _prices(connection, t.issued.c.price_id.in_(chunk))
        return {issued: rates for issued, rates in found.items() if issued not in self._issued}


def _prices(connection: sa.Connection, which: sa.ColumnElement[bool]) -> dict[Issued, Rates]:
    query = sa.select(
        t.issued.c.provider, t.issued.c.model, t.issued.c.price_id, t.prices.c.picodollars, t.prices.c.variants
    )
    found: dict[Issued, Rates] = {}
    for *key, numbers, variants in connection.execute(query.join_from(t.issued, t.prices).where(which)):
        found[Issued(*key)] = Rates(
            msgspec.json.decode(numbers, type=wire.Picodollars),
            msgspec.json.decode(variants, type=tuple[wire.PriceVariant, ...]),
        )
    return found


_AGGREGATED = (
    t.keys.c.namespace,
    t.keys.c.service,
    t.keys.c.provider,
    t.keys.c.model,
    t.keys.c.price_id,
    t.keys.c.context,
    t.keys.c.tier,
    t.keys.c.mark,
)
_LOCK = sa.select(t.changes.c.number).with_for_update()
