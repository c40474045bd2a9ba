"""SQLite's write-ahead log is moved into the database beside the commits, not as a part of one."""

import sqlite3
from pathlib import Path

from llmwarden.contracts import ledger as wire
from llmwarden.ledger.store import Store
from llmwarden.ledger.store.store import CHECKPOINT_BYTES
from tests import postgresql
from tests.unit.ledger.objects import BUCKET


def fill(store: Store, first: int, reports: int) -> None:
    """Take reports of pods of their own, which is what grows the log."""
    for number in range(first, first + reports, 250):
        store.merge(
            [
                (
                    wire.Report(
                        contract=1,
                        journal=f"j{pod}",
                        sequence=1,
                        pod=wire.PodRef("shop", f"bot-{pod}", f"u{pod}"),
                        rows=(wire.Row("bot", "openai", "m", None, BUCKET, 1, 0, wire.Tokens(input=1)),),
                    ),
                    BUCKET,
                )
                for pod in range(number, number + 250)
            ]
        )


def log_of(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def test_a_grown_log_is_moved_and_then_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    store = Store(str(path))
    fill(store, 0, 250)
    assert not store.checkpoint()  # little as it is
    number = 250
    while log_of(path) < CHECKPOINT_BYTES:  # no commit moves it
        fill(store, number, 1000)
        number += 1000
    grown = log_of(path)
    assert store.checkpoint()
    # Another program that reads the database alone, without its log, finds all of it.
    copy = tmp_path / "copy.sqlite3"
    copy.write_bytes(path.read_bytes())
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT sum(requests) FROM spend").fetchone() == (number,)
    connection.close()
    fill(store, number, 1000)
    assert log_of(path) == grown  # it is written from its beginning again
    assert sum(delta.counts.requests for delta in store.sums()) == number + 1000
    store.close()


def test_it_waits_for_nobody_and_nobody_for_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    store = Store(str(path))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM spend").fetchall()
    number = 0
    while number == 0 or log_of(path) < CHECKPOINT_BYTES:
        fill(store, number, 1000)
        number += 1000
    assert store.checkpoint()  # of what the reader does not need
    fill(store, number, 250)
    reader.execute("COMMIT")
    reader.close()
    assert store.checkpoint()
    store.close()


def test_postgresql_does_that_itself() -> None:
    store = Store(postgresql.shared().database())
    assert not store.checkpoint()
    store.close()
