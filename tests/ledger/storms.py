"""Journals that report growing totals to ledger processes through whatever happens to these: seconds long in a normal run,
minutes in `make soak`. Each journal knows what it has used; afterwards the ledger must have that, exactly."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx

from llmwarden.ledger.store import Store
from llmwarden.ledger.store.counts import Counts
from llmwarden.names import BUCKET_SECONDS
from tests.money.stand import LedgerProcess

MODELS = ("gpt-4o-mini", "gpt-4o")


@dataclass
class Journal:
    """One proxy's account: what it used, by (model, bucket)."""

    uid: str
    sequence: int = 0
    used: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    answered: int = 0
    refused: int = 0

    def call(self, chance: random.Random) -> None:
        """Use something, now or (as a clock that is wrong does) some buckets ago."""
        now = int(time.time()) // BUCKET_SECONDS * BUCKET_SECONDS
        totals = self.used.setdefault(
            (chance.choice(MODELS), now - BUCKET_SECONDS * chance.choice((0, 0, 0, 1, 2))), [0, 0, 0]
        )
        totals[0] += 1
        totals[1] += chance.randint(1, 1000)
        totals[2] += chance.randint(1, 100)

    def report(self) -> dict[str, object]:
        """All of it: a journal sends what was not acknowledged, and nothing was until the end."""
        self.sequence += 1
        rows = [
            {
                "service": "bot", "provider": "openai", "model": model, "priceId": None, "bucket": bucket,
                "requests": totals[0], "errors": 0, "tokens": {"input": totals[1], "output": totals[2]},
            }
            for (model, bucket), totals in self.used.items()
        ]  # fmt: skip
        pod = {"namespace": "shop", "name": "bot-1", "uid": self.uid}
        return {"contract": 1, "journal": self.uid, "sequence": self.sequence, "pod": pod, "rows": rows}


async def storm(
    ledgers: Sequence[LedgerProcess],
    mischief: Callable[[random.Random], Awaitable[None]],
    *,
    times: int = 0,
    seconds: float = 0.0,
    enough: Callable[[list[Journal]], bool] = lambda _journals: True,
    journals: int = 20,
    seed: int = 1,
) -> list[Journal]:
    """Report through the mischief, then until each has said all; returns the journals.

    Mischief is done so many times, for so long and until it is enough, each time after some reports were answered: on a slow machine, too.
    """
    chance = random.Random(seed)  # noqa: S311 - a seed makes it repeatable
    made = [Journal(f"pod-{number}") for number in range(journals)]
    end = time.monotonic() + seconds
    over = asyncio.Event()

    async def send(client: httpx.AsyncClient, journal: Journal) -> bool:
        ledger = chance.choice(ledgers)
        try:
            answer = await client.post(
                f"{ledger.url}/v1/report", json=journal.report(), headers={"Authorization": f"Bearer {journal.uid}"}
            )
        except httpx.TransportError:
            return False
        assert answer.status_code in {200, 503}, answer.text
        journal.answered += answer.status_code == httpx.codes.OK
        journal.refused += answer.status_code != httpx.codes.OK
        return answer.status_code == httpx.codes.OK

    async def live(journal: Journal) -> None:
        async with httpx.AsyncClient(timeout=20) as client:
            while not over.is_set():
                journal.call(chance)
                await send(client, journal)
                await asyncio.sleep(chance.uniform(0, 0.1))
            async with asyncio.timeout(60):
                while not await send(client, journal):
                    await asyncio.sleep(0.2)

    async def disturb() -> None:
        done = 0
        while done < times or time.monotonic() < end or not enough(made):
            wanted = sum(journal.answered for journal in made) + chance.randint(5, 40)
            while sum(journal.answered for journal in made) < wanted:
                await asyncio.sleep(0.02)
            await mischief(chance)
            done += 1
        over.set()

    await asyncio.gather(disturb(), *(live(journal) for journal in made))
    return made


def used(journals: Sequence[Journal]) -> dict[tuple[str, int], Counts]:
    """What all of them used."""
    found: dict[tuple[str, int], list[int]] = {}
    for journal in journals:
        for place, totals in journal.used.items():
            known = found.setdefault(place, [0, 0, 0])
            for index, value in enumerate(totals):
                known[index] += value
    return {place: Counts(requests=one[0], input=one[1], output=one[2]) for place, one in found.items()}


def stored(database: str) -> dict[tuple[str, int], Counts]:
    """What the database has; the ledgers must have ended."""
    store = Store(database)
    found = {(delta.model, delta.bucket): delta.counts for delta in store.sums()}
    store.close()
    return found


async def told(ledger: LedgerProcess) -> tuple[int, int, int]:
    """What a ledger answers of the service: requests, input, output."""
    total = (await ledger.usage()).services["shop/bot"].total
    return total.requests, total.tokens.input, total.tokens.output


def whole(journals: Sequence[Journal]) -> tuple[int, int, int]:
    """What all of them used, in one sum."""
    parts = used(journals).values()
    return sum(p.requests for p in parts), sum(p.input for p in parts), sum(p.output for p in parts)
