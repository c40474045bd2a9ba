"""A pod that fills the ledger: a real process, a real database, and reports of whatever can be made up."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from llmwarden import names
from llmwarden.ledger.store import Store, queries
from llmwarden.ledger.store.queries import Sum
from llmwarden.names import BUCKET_SECONDS
from tests import postgresql
from tests.money.stand import LedgerProcess
from tests.unit.ledger.objects import service

QUOTAS: Final = {"JOURNAL_ROWS": 100, "FOLDED_ROWS": 500, "NAMESPACE_ROWS": 20_000, "UNPRICED_ROWS": 1000}
ROWS: Final = 1500  # of a report: nearly as much as fits
ROUNDS: Final = 6
MIB: Final = 1024 * 1024


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite3") if request.param == "sqlite" else postgresql.shared().database()


def row(**changes: Any) -> dict[str, Any]:
    now = int(time.time()) // BUCKET_SECONDS * BUCKET_SECONDS
    return {
        "service": "bot", "provider": "openai", "model": "gpt-4o-mini", "priceId": None, "bucket": now,
        "requests": 1, "errors": 0, "tokens": {"input": 7, "output": 3}, **changes,
    }  # fmt: skip


def made_up(number: int) -> Iterator[dict[str, Any]]:
    """Rows of which each has something that none had before, of one kind after the other."""
    now = row()["bucket"]
    for at in range(number * ROWS, (number + 1) * ROWS):
        kind = number % 6
        if kind == 0:
            yield row(model=f"model-{at}")
        elif kind == 1:
            yield row(labels={"team": f"team-{at}", "feature": "\N{HIRAGANA LETTER A}" * 40})
        elif kind == 2:
            yield row(priceId=f"price-{at}" + "x" * 300, tier=f"tier-{at}")
        elif kind == 3:
            yield row(context=at, bucket=now + at % 90 * BUCKET_SECONDS)
        elif kind == 4:
            yield row(provider=f"provider-{at}", model=f"\x1b[31m{at}" + "x" * 100)
        else:
            yield row(bucket=now - at % 90 * BUCKET_SECONDS, labels={"cohort": f"c-{at}"}, model=f"m-{at % 7}")


async def report(client: httpx.AsyncClient, pod: str, sequence: int, *rows: dict[str, Any], journal: str = "") -> int:
    namespace, _, uid = pod.rpartition("/")
    body = {
        "contract": 1, "journal": journal or uid, "sequence": sequence, "rows": rows,
        "pod": {"namespace": namespace, "name": "bot-1", "uid": uid},
    }  # fmt: skip
    answer = await client.post("/v1/report", json=body, headers={"Authorization": f"Bearer {pod}"})
    return answer.status_code


def resident(pid: int) -> int:
    """Bytes of a process's memory that only it has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def on_disk(folder: Path) -> int:
    """Bytes of the SQLite database there, its log included."""
    return sum(file.stat().st_size for file in folder.glob("ledger.sqlite3*"))


def spent(store: Store) -> list[Sum]:
    now = int(time.time())
    return queries.read(store.database, now - 10**6, now + 10**6, 0, namespaces=None, service="", pods=False)


async def test_disk_and_memory_stay_bounded_and_nobody_else_notices(tmp_path: Path, database: str) -> None:
    ledger = LedgerProcess(tmp_path, database)
    ledger.environment = {f"LLMWARDEN_QUOTA_{name}": str(value) for name, value in QUOTAS.items()}
    ledger.say(service("bot"), service("bot", "web"))
    await ledger.start()
    honest = [row(model=model, labels={"team": team}) for model in ("gpt-4o", "gpt-4o-mini") for team in ("a", "b")]
    tokens = sequence = 0
    sizes: list[tuple[int, int]] = []
    looking = Store(database) if "://" in database else None
    try:
        async with httpx.AsyncClient(base_url=ledger.url, timeout=60) as client:
            for round_ in range(ROUNDS):
                for kind in range(6):
                    sequence += 1
                    made = list(made_up(6 * round_ + kind))
                    pod = f"shop/pod-{round_ % 2}"
                    assert await report(client, pod, sequence, *made, journal=f"j{round_}") == 200
                    tokens += 10 * len(made)
                assert await report(client, "web/w", sequence, *honest) == 200
                sizes.append((resident(ledger.pid), looking.size() if looking else on_disk(tmp_path)))
    finally:
        if looking:
            looking.close()
        await ledger.kill()
    store = Store(database)
    try:
        found = spent(store)
    finally:
        store.close()
    of_shop = [one for one in found if one.key.namespace == "shop"]
    assert sum(one.counts.budgeted_tokens for one in of_shop) == tokens
    assert names.FOLDED in {one.key.model for one in of_shop}
    # 54,000 rows came, each with a name of its own. What is kept goes by quotas and quarters of an hour.
    assert len(of_shop) < ROUNDS * ROWS
    assert {(one.key.model, one.key.team, one.counts.requests) for one in found if one.key.namespace == "web"} == {
        (item["model"], item["labels"]["team"], 1) for item in honest
    }
    (memory, disk), (memory_then, disk_then) = sizes[1], sizes[-1]
    shown = [(memory // MIB, disk // MIB) for memory, disk in sizes]
    assert memory_then - memory < 24 * MIB, shown
    assert disk_then - disk < 12 * MIB, shown
