"""A stand for money: a ledger process, proxy processes, and a provider that counts what it served.

The provider is a fake that speaks OpenAI's protocol (tests/proxy/fakes.py); nothing else is.
"""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec

from llmwarden.contracts import ledger as wire
from llmwarden.ledger.store import Store
from tests.ports import free_port
from tests.proxy.fakes import Proxy, Received, Server, whole
from tests.unit.ledger.objects import model_price, service

ROOT = Path(__file__).parents[2]
KEY = "LLMService/shop/bot/hard"
INPUT, OUTPUT = 1_000_000, 2_000_000  # picodollars a token: a dollar and two a million


class Provider:
    """Answers each call with the usage that the request asks for in `user`: "INPUT/OUTPUT"; counts calls by model."""

    def __init__(self) -> None:
        self.seconds = 0.02
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.under_way = self.most = 0
        self.server = Server(self._answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        body = json.loads(request.body)
        model = body["model"]
        read, written = (int(part) for part in body["user"].split("/"))
        self.asked[model] += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        answer = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
            **({"service_tier": body["service_tier"]} if "service_tier" in body else {}),
        }
        self.served[model] += 1
        self.tokens["input"] += read
        self.tokens["output"] += written
        writer.write(whole(200, json.dumps(answer).encode()))
        await writer.drain()


class LedgerProcess:
    """See tests/money/ledger_process.py. `database` is a path, or PostgreSQL's URL."""

    def __init__(self, directory: Path, database: str | None = None) -> None:
        self.port = free_port()
        self.objects = directory / "objects.json"
        self.database = database or str(directory / "ledger.sqlite3")
        self.clock = directory / "clock"
        self.jump(0)
        self.log = directory / "ledger.log"
        self.environment: dict[str, str] = {}  # settings beside the defaults
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def say(self, *objects: Mapping[str, Any]) -> None:
        """Say what the cluster holds from now on."""
        fresh = self.objects.with_suffix(".new")
        fresh.write_text(json.dumps(objects))
        fresh.replace(self.objects)

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.money.ledger_process",
                str(self.port),
                self.database,
                str(self.objects),
                str(self.clock),
                cwd=ROOT,
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}/operator:{ROOT}", **self.environment},
                stderr=log,
                stdout=log,
            )
        async with asyncio.timeout(60), httpx.AsyncClient() as client:
            while True:
                assert self._process.returncode is None, self.log.read_text()
                try:
                    if (await client.get(f"{self.url}/livez")).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.05)

    def jump(self, seconds: float) -> None:
        """Set its clock: so many seconds from the machine's."""
        self.clock.write_text(str(seconds))

    async def kill(self) -> None:
        """SIGKILL, at once."""
        await self.end(signal.SIGKILL)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    async def usage(self) -> wire.Usage:
        async with httpx.AsyncClient(timeout=20) as client:
            while True:
                try:
                    answer = await client.get(
                        f"{self.url}/v1/usage?contract=1", headers={"Authorization": "Bearer operator"}
                    )
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
                    continue
                if answer.status_code == httpx.codes.OK:
                    return msgspec.json.decode(answer.content, type=wire.Usage)
                await asyncio.sleep(0.1)

    async def by_model(self) -> dict[str, tuple[int, int, int]]:
        """Requests, input and output tokens by model, read from the database itself once the ledger has ended."""
        await self.end()
        store = Store(self.database)
        found: dict[str, tuple[int, int, int]] = {}
        for delta in store.sums():
            known = found.get(delta.model, (0, 0, 0))
            fresh = (delta.counts.requests, delta.counts.input, delta.counts.output)
            found[delta.model] = (known[0] + fresh[0], known[1] + fresh[1], known[2] + fresh[2])
        store.close()
        return found

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def spent(self, key: str = KEY) -> int:
        return (await self.usage()).budgets[key].spent


class Pod(Proxy):
    """A proxy process of its own pod, which reports to a LedgerProcess."""

    def __init__(
        self, directory: Path, upstream: str, ledger: LedgerProcess, number: int, limits: Mapping[str, Any], **more: Any
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory, upstream, limits=dict(limits), **more)
        self.uid = f"pod-{number}"
        self._ledger_process = ledger
        self.road: int | None = None  # a port between it and the ledger

    def contract(self) -> dict[str, Any]:
        token = self.directory / "token"
        token.write_text(self.uid)
        url = f"http://127.0.0.1:{self.road}" if self.road else self._ledger_process.url
        return {**super().contract(), "ledger": {"url": url, "tokenFile": str(token)}}


class Stand:
    """All of it. `async with Stand(directory, pods=10) as stand`."""

    def __init__(
        self,
        directory: Path,
        *,
        pods: int,
        budget: Mapping[str, Any],
        database: str | None = None,
        limits: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """`more` are a proxy's overrides, as tests/proxy/fakes.py has them."""
        self.directory = directory
        self.provider = Provider()
        self.ledger = LedgerProcess(directory, database)
        self.say(budget)
        self._pods = pods
        self._limits = limits or {}
        self._more = more
        self.pods: list[Pod] = []
        self.client = httpx.AsyncClient(
            timeout=60, limits=httpx.Limits(max_connections=2000, max_keepalive_connections=0)
        )

    def say(self, *budgets: Mapping[str, Any], models: Iterable[str] = ("m",)) -> None:
        """Say the service's budgets, and the models that have a price."""
        wanted = [*models]
        prices = [
            model_price(f"contract-{at}", wanted[at : at + 20], ("2026-01-01T00:00:00Z", "1.00", "2.00"))
            for at in range(0, len(wanted), 20)
        ]
        self.ledger.say(service(budgets=budgets), *prices)

    async def __aenter__(self) -> Self:
        try:
            await self.provider.server.start()
            await self.ledger.start()
            self.pods = [
                Pod(
                    self.directory / f"pod-{number}", self.provider.url, self.ledger, number, self._limits, **self._more
                )
                for number in range(self._pods)
            ]
            await asyncio.gather(*(pod.start() for pod in self.pods))
            await asyncio.gather(*(self.follows(pod) for pod in self.pods))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await asyncio.gather(*(pod.stop() for pod in self.pods))
        await self.ledger.end()
        await self.provider.server.stop()

    async def through(self, port: int) -> None:
        """Start the pods again, with a road between them and the ledger."""
        for pod in self.pods:
            pod.road = port
            pod.send(signal.SIGTERM)
            await pod.wait()
        await asyncio.gather(*(pod.start() for pod in self.pods))

    async def follows(self, pod: Pod, text: str = "") -> None:
        """Wait until a proxy has its configuration, with this text in it."""
        saved = pod.journal / "config.json"
        async with asyncio.timeout(30):
            while not saved.exists() or text not in saved.read_text():
                await asyncio.sleep(0.02)

    async def call(
        self, pod: Pod, *, read: int = 10, written: int = 10, model: str = "m", **more: Any
    ) -> httpx.Response:
        """One call of so many tokens."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "user": f"{read}/{written}", **more}
        return await self.client.post(f"http://127.0.0.1:{pod.port}/v1/chat/completions", json=body)

    async def settled(self, least: int = 0, seconds: float = 60.0) -> int:
        """What the ledger says was spent, once that is no less than so much and has stayed for two reports' time."""
        last, since = -1, 0.0
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            while True:
                spent = await self.ledger.spent()
                if spent != last or spent < least:
                    last, since = spent, loop.time()
                elif loop.time() - since > 2.5:
                    return spent
                await asyncio.sleep(0.1)


def cost(read: int, written: int) -> int:
    """Picodollars of a call, by the stand's prices."""
    return read * INPUT + written * OUTPUT


def dollars(picodollars: int) -> str:
    """As a budget's limit is written; whole millionths."""
    whole_, rest = divmod(picodollars // 10**6, 10**6)
    return f"{whole_}.{rest:06d}"


def hard(limit: int, **more: Any) -> dict[str, Any]:
    """A budget that blocks, in picodollars."""
    return {
        "name": "hard",
        "limit": {"amount": dollars(limit)},
        "window": {"calendar": "Day"},
        "onExceeded": {"action": "Block"},
        **more,
    }
