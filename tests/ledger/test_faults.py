"""Ledgers and databases that die, vanish and refuse under load: nothing is lost and nothing is counted twice (faults.md, 4 and 10).

Seconds long here; tests/soak/test_ledger.py makes minutes of the same.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests import postgresql
from tests.ledger import storms
from tests.money.stand import LedgerProcess
from tests.unit.ledger.objects import service

TIMES = 4
SECONDS = 0.0  # soak: so long at least


def refused(journals: list[storms.Journal]) -> bool:
    return any(journal.refused for journal in journals)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite3") if request.param == "sqlite" else postgresql.shared().database()


@pytest.fixture
def server() -> Iterator[postgresql.Server]:
    """A PostgreSQL of the test's own, which it may crash."""
    made = postgresql.make()
    yield made
    made.remove()


@asynccontextmanager
async def ledgers(directory: Path, database: str, count: int = 1) -> AsyncIterator[list[LedgerProcess]]:
    made = []
    for number in range(count):
        folder = directory / f"ledger-{number}"
        folder.mkdir()
        ledger = LedgerProcess(folder, database)
        ledger.say(service())
        made.append(ledger)
    await asyncio.gather(*(ledger.start() for ledger in made))
    try:
        yield made
    finally:
        for ledger in made:
            await ledger.end()


async def check(found: list[storms.Journal], running: list[LedgerProcess], database: str) -> None:
    """Each ledger tells the very sum, and the database has it by model and bucket."""
    expected = storms.whole(found)
    for ledger in running:
        async with asyncio.timeout(20):
            while await storms.told(ledger) != expected:
                # A replica follows the others within a second; what it tells must never be more.
                assert all(got <= right for got, right in zip(await storms.told(ledger), expected, strict=True))
                await asyncio.sleep(0.1)
    for ledger in running:
        await ledger.end()
    assert storms.stored(database) == storms.used(found)
    assert sum(journal.answered for journal in found) > len(found)


async def test_a_ledger_killed_at_random_points_loses_nothing(tmp_path: Path, database: str) -> None:
    async with ledgers(tmp_path, database) as running:

        async def kill(chance: random.Random) -> None:
            await asyncio.sleep(chance.uniform(0, 0.1))
            await running[0].kill()
            await running[0].start()

        found = await storms.storm(running, kill, times=TIMES, seconds=SECONDS)
        await check(found, running, database)


async def test_several_ledgers_of_which_some_die_count_each_report_once(tmp_path: Path) -> None:
    database = postgresql.shared().database()
    async with ledgers(tmp_path, database, 3) as running:

        async def kill(chance: random.Random) -> None:
            await asyncio.sleep(chance.uniform(0, 0.1))
            victim = chance.choice(running)
            await victim.kill()
            await victim.start()

        found = await storms.storm(running, kill, times=TIMES, seconds=SECONDS)
        await check(found, running, database)


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["crash", "restart"])
async def test_a_database_that_goes_away_makes_reports_wait(
    tmp_path: Path, server: postgresql.Server, how: signal.Signals
) -> None:
    database = server.database()
    async with ledgers(tmp_path, database) as running:

        async def crash(chance: random.Random) -> None:
            await asyncio.sleep(chance.uniform(0, 0.1))
            await asyncio.to_thread(server.stop, how)
            await asyncio.sleep(chance.uniform(0.2, 0.6))
            await asyncio.to_thread(server.start)

        found = await storms.storm(running, crash, times=TIMES, seconds=SECONDS, enough=refused)
        await check(found, running, database)


async def test_a_database_that_refuses_connections_makes_reports_wait(
    tmp_path: Path, server: postgresql.Server
) -> None:
    database = server.database()
    async with ledgers(tmp_path, database) as running:

        async def refuse(chance: random.Random) -> None:
            # What a failover does: all sessions end, and new ones are refused for a while.
            await asyncio.to_thread(server.allow, database, allowed=False)
            await asyncio.sleep(chance.uniform(0.2, 0.8))
            await asyncio.to_thread(server.allow, database, allowed=True)

        found = await storms.storm(running, refuse, times=TIMES, seconds=SECONDS, enough=refused)
        await check(found, running, database)
