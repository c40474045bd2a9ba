"""Databases of released versions are taken over with all that was counted."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from llmwarden.contracts import ledger as wire
from llmwarden.domain.cost import Rates
from llmwarden.errors import UnavailableError
from llmwarden.ledger.store import Issued, Remembered, Store, schema
from llmwarden.ledger.store.counts import FIELDS, Counts
from llmwarden.ledger.store.engine import Database
from tests.unit.ledger.objects import BUCKET

# As version 0.1 made it: its statements, word for word.
VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (1);
CREATE TABLE journals (id INTEGER NOT NULL, journal TEXT NOT NULL, pod_uid TEXT NOT NULL, namespace TEXT NOT NULL,
  pod_name TEXT NOT NULL, sequence BIGINT NOT NULL, final BOOLEAN NOT NULL, first_reported_at BIGINT NOT NULL,
  last_reported_at BIGINT NOT NULL, PRIMARY KEY (id), UNIQUE (journal, pod_uid));
CREATE TABLE prices (price_id TEXT NOT NULL, picodollars TEXT NOT NULL, recorded_at BIGINT NOT NULL, PRIMARY KEY (price_id));
CREATE TABLE services (namespace TEXT NOT NULL, name TEXT NOT NULL, labels TEXT NOT NULL, PRIMARY KEY (namespace, name));
CREATE TABLE rows (journal_id INTEGER NOT NULL, service TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
  price_id TEXT NOT NULL, bucket BIGINT NOT NULL, requests BIGINT NOT NULL, errors BIGINT NOT NULL, estimated BIGINT NOT NULL,
  input BIGINT NOT NULL, cached_input BIGINT NOT NULL, cache_write BIGINT NOT NULL, output BIGINT NOT NULL,
  reasoning BIGINT NOT NULL, PRIMARY KEY (journal_id, service, provider, model, price_id, bucket),
  FOREIGN KEY(journal_id) REFERENCES journals (id)) WITHOUT ROWID;
CREATE TABLE issued (provider TEXT NOT NULL, model TEXT NOT NULL, price_id TEXT NOT NULL,
  PRIMARY KEY (provider, model, price_id), FOREIGN KEY(price_id) REFERENCES prices (price_id)) WITHOUT ROWID;
INSERT INTO journals VALUES (1, 'j', 'u', 'shop', 'bot-0', 7, 0, 100, 200), (2, 'k', 'v', 'shop', 'bot-1', 3, 1, 100, 300);
INSERT INTO prices VALUES ('p', '{"input":150000,"output":600000,"cached_input":75000,"cache_write":150000,"request":0}', 1);
INSERT INTO issued VALUES ('openai', 'm', 'p');
INSERT INTO services VALUES ('shop', 'bot', '{"team":"support"}');
INSERT INTO rows VALUES (1, 'bot', 'openai', 'm', 'p', BUCKET, 5, 1, 0, 100, 10, 20, 30, 4),
  (2, 'bot', 'openai', 'm', 'p', BUCKET, 2, 0, 1, 50, 0, 0, 5, 0), (2, 'gone', 'openai', 'x', '', BUCKET - 900, 1, 0, 0, 9, 0, 0, 1, 0);
"""


def version_1(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1.replace("BUCKET", str(BUCKET)))
    connection.close()
    return str(path)


def test_a_database_of_version_0_1_is_taken_over(tmp_path: Path) -> None:
    store = Store(version_1(tmp_path / "ledger.sqlite3"))
    sums = {(delta.service, delta.model): delta for delta in store.sums()}
    assert sums.keys() == {("shop/bot", "m"), ("shop/gone", "x")}
    assert sums["shop/bot", "m"].counts == Counts(
        requests=7, errors=1, estimated=1, input=150, cached_input=10, cache_write=20, output=35, reasoning=4
    )
    assert sums["shop/gone", "x"].price_id is None
    assert store.last_reports() == {"shop/bot": 300, "shop/gone": 300}
    assert store.remembered()["shop/bot"] == Remembered({"team": "support"}, "")
    price = wire.Picodollars(input=150_000, output=600_000, cached_input=75_000, cache_write=150_000)
    assert store.prices() == {Issued("openai", "m", "p"): Rates(price)}
    # Its journals go on where they were: the same totals again are nothing new.
    row = wire.Row(
        service="bot", provider="openai", model="m", price_id="p", bucket=BUCKET, requests=6, errors=1,
        tokens=wire.Tokens(input=100, cached_input=10, cache_write=20, output=30, reasoning=4),
    )  # fmt: skip
    report = wire.Report(contract=1, journal="j", sequence=8, pod=wire.PodRef("shop", "bot-0", "u"), rows=(row,))
    (merged,) = store.merge([(report, 400)]).merged
    assert [delta.counts for delta in merged.deltas] == [Counts(requests=1)]
    store.close()


def test_a_migration_that_was_done_is_not_done_again(tmp_path: Path) -> None:
    path = version_1(tmp_path / "ledger.sqlite3")
    for _ in range(2):
        store = Store(path)
        assert sum(delta.counts.requests for delta in store.sums()) == 8
        store.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    path = version_1(tmp_path / "ledger.sqlite3")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE leases (x)")  # in the way of one of the last steps
    connection.close()
    with pytest.raises(UnavailableError, match="leases"):
        Store(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT max(version) FROM schema_version").fetchone() == (1,)
        assert connection.execute("SELECT sum(requests) FROM rows").fetchone() == (8,)
        connection.execute("DROP TABLE leases")
    connection.close()
    store = Store(path)
    assert sum(delta.counts.requests for delta in store.sums()) == 8
    store.close()


def test_a_database_of_schema_0002_is_taken_over(database: str) -> None:
    """What was counted before calls had times has times of zero, on both databases."""
    opened = Database(database)
    with opened.writer.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
        command.upgrade(config, "0002")
        names = "namespace, service, provider, model, price_id, context, tier, feature, team, cohort"
        connection.execute(
            sa.text(f"INSERT INTO keys (id, {names}) VALUES (1, 'shop', 'chat', 'vllm', 'm', '', 0, '', '', '', '')")  # noqa: S608 - names from above
        )
        old = "requests, errors, estimated, input, cached_input, cache_write, output, reasoning, cache_write_1h, input_audio, output_audio"
        connection.execute(
            sa.text(f"INSERT INTO spend (bucket, key_id, {old}) VALUES ({BUCKET}, 1, 3, 0, 0, 70, 0, 0, 9, 0, 0, 0, 0)")  # noqa: S608 - the same
        )
    opened.close()
    store = Store(database)
    (delta,) = store.sums()
    assert delta.counts == Counts(requests=3, input=70, output=9)
    assert store.held(-1, 0) == ([], -1)
    store.close()


def test_a_database_of_schema_0005_is_taken_over(database: str) -> None:
    """What was counted before there were marks has none; its journals go on, and it can be written off. Keys keep their ids."""
    opened = Database(database)
    with opened.writer.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
        command.upgrade(config, "0005")
        names = "namespace, service, provider, model, price_id, context, tier, feature, team, cohort"
        connection.execute(
            sa.text(f"INSERT INTO keys (id, {names}) VALUES (7, 'shop', 'bot', 'openai', 'm', '', 0, '', '', '', '')")  # noqa: S608 - names from above
        )
        connection.execute(
            sa.text(
                "INSERT INTO journals (id, journal, pod_uid, namespace, pod_name, sequence, final, first_reported_at, "
                "last_reported_at) VALUES (3, 'j', 'u', 'shop', 'bot-0', 1, false, 1, 1)"
            )
        )
        for table, at in (("rows", "journal_id"), ("spend", "")):
            key = f"{at}, bucket, key_id" if at else "bucket, key_id"
            place = f"3, {BUCKET}, 7" if at else f"{BUCKET}, 7"
            zeros = ", ".join("0" for _ in FIELDS[1:])
            connection.execute(
                sa.text(f"INSERT INTO {table} ({key}, {', '.join(FIELDS)}) VALUES ({place}, 70, {zeros})")  # noqa: S608 - names from above
            )
    opened.close()
    for _ in range(2):
        store = Store(database)
        (delta,) = store.sums()
        assert (delta.counts, delta.mark) == (Counts(input=70), "")
        store.close()
    store = Store(database)
    sent = wire.Row(service="bot", provider="openai", model="m", price_id=None, bucket=BUCKET, requests=0, errors=0, tokens=wire.Tokens(input=75))  # fmt: skip
    told = wire.Report(contract=1, journal="j", sequence=2, pod=wire.PodRef("shop", "bot-0", "u"), rows=(sent,))
    (merged,) = store.merge([(told, 400)]).merged
    assert [delta.counts for delta in merged.deltas] == [Counts(input=5)]
    with store.database.reading() as connection:
        assert connection.execute(sa.text("SELECT id, mark FROM keys")).all() == [(7, "")]
        if not store.database.postgresql:
            assert connection.execute(sa.text("PRAGMA foreign_key_check")).all() == []
            assert connection.execute(sa.text("PRAGMA foreign_keys")).scalar() == 1
    with pytest.raises(sa.exc.IntegrityError), store.database.writer.begin() as connection:
        connection.execute(sa.text("DELETE FROM keys"))  # rows refer to it, as before
    store.close()
