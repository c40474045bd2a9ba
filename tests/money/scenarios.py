"""What the tests of a normal run do for seconds, and those of `make soak` for minutes."""

import asyncio
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests import postgresql
from tests.money.stand import INPUT, OUTPUT, Pod, Stand, cost, hard
from tests.proxy.fakes import Received, Server

LIVES = 40  # of each pod: every life has a model of its own, so that what was counted can be told apart
READ, WRITTEN = 7, 11
QUOTA = {"insufficient_quota"}


@dataclass
class Edge:
    """What came of many calls at a budget's end."""

    limit: int
    spent: int
    allowed: int
    refused: int
    most: int  # under way at once


async def edge(directory: Path, *, calls: int, rounds: int, pods: int = 10, database: str | None = None) -> Edge:
    """So many calls at once, again and again: every one may cost four times what it does cost, and much is given back.

    In a storm calls are refused that waited too long for what others had reserved: so a few at a time follow, until none is admitted.
    """
    each = cost(50, 100)
    limit = calls * rounds // 2 * each + each // 2
    allowed = refused = 0
    async with Stand(directory, pods=pods, budget=hard(limit), database=database) as stand:

        async def one(number: int) -> httpx.Response:
            return await stand.call(stand.pods[number % pods], read=50, written=100, max_tokens=400)

        async def storm(together: int) -> int:
            nonlocal allowed, refused
            answers = await asyncio.gather(*(one(number) for number in range(together)))
            good = sum(answer.status_code == httpx.codes.OK for answer in answers)
            for answer in answers:
                if answer.status_code == httpx.codes.OK:
                    continue
                assert answer.status_code == httpx.codes.TOO_MANY_REQUESTS, answer.text
                assert answer.json()["error"]["code"] in QUOTA
                assert answer.headers["x-should-retry"] == "false"
            allowed += good
            refused += len(answers) - good
            return good

        for _ in range(rounds):
            await storm(calls)
        quiet = 0
        while quiet < 2:
            quiet = 0 if await storm(pods) else quiet + 1
        spent = await stand.settled(allowed * each)
        assert spent == sum(stand.provider.served.values()) * each == allowed * each
        return Edge(limit, spent, allowed, refused, stand.provider.most)


def reservation(body_bytes: int, max_tokens: int) -> int:
    """What a call reserves, by the stand's prices."""
    return body_bytes * INPUT + max_tokens * OUTPUT


@dataclass
class Life:
    """One life of one pod's proxy: what its clients were answered, and what they were still waiting for when it ended."""

    answered: int = 0
    cut: int = 0


@dataclass
class Kills:
    """Workers that call through every pod while pods and ledger are killed."""

    stand: Stand
    seed: int = 0
    lives: dict[int, list[Life]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    server: postgresql.Server | None = None  # whose database goes away now and then, too
    _done: bool = False

    def model(self, pod: int) -> str:
        return f"m-{pod}-{len(self.lives[pod]) - 1}"

    async def run(self, times: int, seconds: float, workers: int = 4) -> None:
        """Load, and kill at random points, so many times and for so long; ends with all of them alive and nobody calling."""
        self.lives = {number: [Life()] for number in range(len(self.stand.pods))}
        chance = random.Random(self.seed)  # noqa: S311 - no secret
        tasks = [asyncio.create_task(self._work(number)) for number in self.lives for _ in range(workers)]
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while self.kills < times or loop.time() < ends:
            wanted = self._answered() + chance.randrange(20)  # on a slow machine, too, there is something to lose
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            while self._answered() < wanted:
                await asyncio.sleep(0.02)
            if self.server is not None and chance.random() < 0.3:
                await self._cut_database(chance.uniform(0.2, 2.0))
            elif chance.random() < 0.5:
                await self.stand.ledger.kill()
                await asyncio.sleep(chance.uniform(0.0, 0.5))
                await self.stand.ledger.start()
            else:
                await self._kill_pod(chance.randrange(len(self.stand.pods)))
            self.kills += 1
        self._done = True
        await asyncio.gather(*tasks)

    async def _cut_database(self, seconds: float) -> None:
        """All sessions end at once, and none may begin for a while: what a database's restart looks like."""
        server, url = self.server, self.stand.ledger.database
        assert server is not None
        await asyncio.to_thread(lambda: server.allow(url, allowed=False))
        await asyncio.sleep(seconds)
        await asyncio.to_thread(lambda: server.allow(url, allowed=True))

    async def _kill_pod(self, number: int) -> None:
        if len(self.lives[number]) >= LIVES:
            return
        pod = self.stand.pods[number]
        pod.send(signal.SIGKILL)
        await pod.wait()
        await pod.start()
        self.lives[number].append(Life())

    async def _work(self, number: int) -> None:
        while not self._done:
            life, model = self.lives[number][-1], self.model(number)
            try:
                answer = await self.stand.call(
                    self.stand.pods[number], read=READ, written=WRITTEN, model=model, max_tokens=50
                )
            except httpx.TransportError:
                life.cut += 1
                await asyncio.sleep(0.05)
                continue
            if answer.status_code == httpx.codes.OK:
                life.answered += 1
            else:
                self.refused[answer.json()["error"]["code"]] += 1

    def _answered(self) -> int:
        return sum(life.answered for lives in self.lives.values() for life in lives)

    async def check(self) -> int:
        """Hold the ledger's sum against the provider's count, life by life; returns the calls that were answered."""
        answered = self._answered()
        spent = await self.stand.settled(answered * cost(READ, WRITTEN))
        counted = await self.stand.ledger.by_model()
        provider = self.stand.provider
        for number, lives in self.lives.items():
            for age, life in enumerate(lives):
                model = f"m-{number}-{age}"
                requests, read, written = counted.get(model, (0, 0, 0))
                # Every answer that reached a client is counted once; of those that were cut off, what the proxy had settled.
                assert life.answered <= requests <= min(life.answered + life.cut, provider.asked[model]), model
                if age == len(lives) - 1:
                    assert requests == life.answered == provider.served[model], model
                assert (read, written) == (requests * READ, requests * WRITTEN), model
        assert spent == sum(read * INPUT + written * OUTPUT for _, read, written in counted.values())
        return answered


async def killed(
    directory: Path,
    *,
    times: int = 0,
    seconds: float = 0.0,
    seed: int = 0,
    pods: int = 3,
    server: postgresql.Server | None = None,
    loss: str = "Allow",
) -> Kills:
    """SIGKILL of proxies and of the ledger at random points under load; with a PostgreSQL, of the database's sessions, too.

    `loss`: the budget's onLedgerLoss. With `Deny` calls are refused while the ledger is away.
    """
    database = await asyncio.to_thread(server.database) if server is not None else None
    budget = hard(10**13, onLedgerLoss=loss)  # nobody comes to its end in minutes
    async with Stand(directory, pods=pods, budget=budget, database=database) as stand:
        stand.say(budget, models=[f"m-{pod}-{life}" for pod in range(pods) for life in range(LIVES)])
        await asyncio.sleep(0.5)
        kills = Kills(stand, seed, server=server)
        await kills.run(times, seconds)
        await kills.check()
        return kills


FATES = ("lost", "unanswered", "twice", "late")


class Road:
    """Between proxies and ledger: reports are lost, answers are lost, reports come twice, and late, in another order."""

    def __init__(self, stand: Stand, seed: int = 0) -> None:
        self.server = Server(self._pass)
        self.bad = True
        self.happened: Counter[str] = Counter()
        self._stand = stand
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._client = httpx.AsyncClient(timeout=60)
        self._late: set[asyncio.Task[httpx.Response]] = set()

    async def close(self) -> None:
        await asyncio.gather(*self._late)
        await self._client.aclose()
        await self.server.stop()

    def _send(self, request: Received) -> "asyncio.Task[httpx.Response]":
        headers = {key: value for key, value in request.headers.items() if key not in {"host", "content-length"}}
        url = self._stand.ledger.url + request.target
        return asyncio.create_task(self._client.request(request.method, url, headers=headers, content=request.body))

    async def _later(self, request: Received, seconds: float) -> httpx.Response:
        await asyncio.sleep(seconds)
        return await self._send(request)

    async def _pass(self, request: Received, writer: asyncio.StreamWriter) -> None:
        fate = "well"
        if self.bad and request.target == "/v1/report":
            fate = self._chance.choice(["well", "well", *FATES])
        self.happened[fate] += 1
        if fate == "lost":
            writer.close()
            return
        if fate == "late":  # the proxy takes it for lost, and sends a newer one meanwhile
            task = asyncio.create_task(self._later(request, self._chance.uniform(0.2, 1.5)))
            self._late.add(task)
            writer.close()
            return
        if fate == "twice":
            await self._send(request)
        answer = await self._send(request)
        if fate == "unanswered":
            writer.close()
            return
        head = f"HTTP/1.1 {answer.status_code} OK\r\nContent-Length: {len(answer.content)}\r\n\r\n"
        writer.write(head.encode() + answer.content)
        await writer.drain()


async def on_a_bad_road(
    directory: Path, *, times: int = 0, seconds: float = 0.0, seed: int = 0
) -> tuple[Edge, Counter[str]]:
    """Reports doubled, reordered and lost, so many times each and for so long, while calls go on up to the budget's end; then a good road."""
    each = cost(50, 100)
    limit = 150 * each
    allowed = refused = 0
    async with Stand(directory, pods=3, budget=hard(limit, onLedgerLoss="Deny")) as stand:
        road = Road(stand, seed)
        await road.server.start()
        await stand.through(road.server.port)
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        well = 0
        try:
            while road.bad or road.happened["well"] < well:
                if road.bad and loop.time() >= ends and min(road.happened[fate] for fate in FATES) >= times:
                    road.bad = False
                    well = road.happened["well"] + 4 * len(stand.pods)
                answers = await asyncio.gather(
                    *(stand.call(stand.pods[number % 3], read=50, written=100, max_tokens=200) for number in range(6))
                )
                good = sum(answer.status_code == httpx.codes.OK for answer in answers)
                allowed += good
                refused += len(answers) - good
            spent = await stand.settled(allowed * each)
        finally:
            await road.close()
        assert spent == allowed * each == sum(stand.provider.served.values()) * each
        return Edge(limit, spent, allowed, refused, stand.provider.most), road.happened


async def until_answered(stand: Stand, pod: Pod, status: int, seconds: float = 5.0, max_tokens: int = 10) -> float:
    """Call until the answer has this status; returns after how many seconds it had."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with asyncio.timeout(seconds):
        while True:
            answer = await stand.call(pod, max_tokens=max_tokens)
            if answer.status_code == status:
                return loop.time() - begun
            await asyncio.sleep(0.05)
