"""What a row of usage takes: bytes on the disk and in memory. `python -m benchmarks.ledger.rows`, in a minute.

Each line adds `ROWS` rows to a database of its own, with names as long as usual, and divides what it and the process have grown by.
"""

import datetime as dt
import gc
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.ledger.core import Core
from llmwarden.ledger.main import bound
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.store import Quota, Store
from llmwarden.settings import Settings
from tests import postgresql

ROWS: Final = 20_000
_EACH: Final = 1000
_NOW: Final = int(dt.datetime.now(dt.UTC).timestamp()) // names.BUCKET_SECONDS * names.BUCKET_SECONDS
Make = Callable[[int], wire.Row]


def _row(model: str, *, bucket: int = _NOW, team: str = "payments") -> wire.Row:
    tokens = wire.Tokens(input=123_456, output=7_890, cached_input=23_456)
    labels = wire.Labels(team=team, feature="summaries")
    return wire.Row("support-bot", "openai", model, None, bucket, 12, 1, tokens, labels=labels)


def _memory() -> int:
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def measure(database: str, quota: Quota, make: Make) -> tuple[float, float]:
    """Bytes a row on the disk, and in memory."""
    store = Store(database)
    core = Core(Catalogue(), {}, lambda: dt.datetime.now(dt.UTC), 5.0)
    bound(store, core, Settings())
    store.quotas.quota = quota

    def take(start: int, sequence: int) -> None:
        rows = tuple(make(number) for number in range(start, start + _EACH))
        report = wire.Report(1, "j", sequence, wire.PodRef("shop", "support-bot-7d9c", "u"), rows)
        core.merged([(report, _NOW)], store.merge([(report, _NOW)]))

    take(0, 0)
    store.checkpoint()
    memory, disk = _memory(), store.size()
    for number in range(1, ROWS // _EACH + 1):
        take(number * _EACH, number)
    # Log of changes and write-ahead log have bounds of their own.
    with store.database.writer.begin() as connection:
        connection.exec_driver_sql("TRUNCATE log" if store.database.postgresql else "DELETE FROM log")
    size = store.size()
    store.close()
    if not store.database.postgresql:
        size = Path(database).stat().st_size
    return (size - disk) / ROWS, (_memory() - memory) / ROWS


_WIDE: Final = Quota(10**9, 10**9, 10**9, 10**9)
_NARROW: Final = Quota(0, 10**9, 10**9, 10**9)
CASES: Final[dict[str, tuple[Quota, Make]]] = {
    "another quarter of an hour": (_WIDE, lambda n: _row("gpt-4o-mini", bucket=_NOW - n * names.BUCKET_SECONDS)),
    "another set of labels": (_WIDE, lambda n: _row("gpt-4o-mini", team=f"payments-{n}")),
    "another model, without a price": (_WIDE, lambda n: _row(f"gpt-4o-mini-{n}")),
    "folded": (_NARROW, lambda n: _row(f"gpt-4o-mini-{n}")),
}


def _measured(name: str, database: str) -> str:
    disk, memory = measure(database, *CASES[name])
    kind = "PostgreSQL" if "://" in database else "SQLite"
    return f"{name:32} {kind:10} disk {disk:5.0f} bytes, memory {memory:5.0f}"


def main() -> None:
    """Print the table. Each figure is of a process of its own: memory that is free already would be used first."""
    for name in CASES:
        with tempfile.TemporaryDirectory() as directory:
            for database in (f"{directory}/ledger.sqlite3", postgresql.shared().database()):
                spawned = multiprocessing.get_context("spawn")
                with ProcessPoolExecutor(1, spawned) as alone:
                    print(alone.submit(_measured, name, database).result(), flush=True)


if __name__ == "__main__":
    main()
