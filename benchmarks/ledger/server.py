"""The ledger as a process, all of production's but Kubernetes: a bearer token is `NAMESPACE/POD/UID`, services are made up.

`python -m benchmarks.ledger.server SOCKET_FD DATABASE SERVICES CERTIFICATE KEY`; SIGUSR1 begins measuring. At its end it prints, as one
JSON object, what held its event loop up: the garbage collector's longest pause, and how late a timer was; and what the writer did: the share of
time in which it was busy, how many reports a transaction had, and how long the store's methods took, waiting and computing.
"""

import asyncio
import datetime as dt
import gc
import json
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

import prometheus_client
import uvloop

from llmwarden import names
from llmwarden.ledger.collector import Collector
from llmwarden.ledger.core import Core
from llmwarden.ledger.http.app import create_app
from llmwarden.ledger.main import bound, checkpoints
from llmwarden.ledger.metrics import Metrics
from llmwarden.ledger.pods import Injected
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.store import Store
from llmwarden.ledger.writer import Writer
from llmwarden.serving import servers
from llmwarden.serving.auth import Caller
from llmwarden.settings import Settings
from tests.unit.ledger.objects import budget, service, view_of

REPORT_SECONDS = 5.0
LOOK_SECONDS = 0.02


class Tokens:
    """In place of TokenReview, whose answers the ledger keeps for minutes."""

    async def caller(self, token: str) -> Caller | None:
        """See Authenticator."""
        namespace, _, rest = token.partition("/")
        name, _, uid = rest.partition("/")
        return Caller(namespace, "default", name, uid) if uid else Caller(names.DEFAULT_NAMESPACE, names.OPERATOR)


class Pods:
    """In place of what pods carry: `pod-N` was injected for the service that `clients` lets it report."""

    def __init__(self, services: int) -> None:
        self._services = services

    async def injected(self, caller: Caller) -> Injected:
        """See Pods."""
        number = int(caller.pod_name.rpartition("-")[2])
        return Injected(frozenset((f"bot-{number % self._services}",)))


class Stalls:
    """What holds the event loop up, in seconds, since `begin`."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.late: list[float] = []
        self._started = 0.0
        gc.callbacks.append(self._collected)

    def begin(self) -> None:
        """Forget what was before."""
        self.pauses.clear()
        self.late.clear()

    def _collected(self, phase: str, _info: object) -> None:
        if phase == "start":
            self._started = time.perf_counter()
        else:
            self.pauses.append(time.perf_counter() - self._started)

    async def watch(self, stop: asyncio.Event) -> None:
        """Take the lateness of a timer until the end: closing ten thousand connections then is no report's business."""
        while not stop.is_set():
            due = time.perf_counter() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self.late.append(time.perf_counter() - due)

    def found(self) -> dict[str, float]:
        """In milliseconds."""
        late = sorted(self.late) or [0.0]
        return {
            "ledger_late_p99_ms": round(1000 * late[int(0.99 * (len(late) - 1))], 2),
            "ledger_late_max_ms": round(1000 * late[-1], 2),
            "collections": len(self.pauses),
            "longest_collection_ms": round(1000 * max(self.pauses, default=0.0), 2),
        }


class Timed:
    """How long the store's methods take, since `begin`: in all, and of the worker thread's own CPU (so without waiting)."""

    METHODS = ("merge", "follow")

    def __init__(self, store: Store) -> None:
        self.begin()
        for name in self.METHODS:
            setattr(store, name, self._timed(name, getattr(store, name)))

    def begin(self) -> None:
        """Forget what was before."""
        self.since = time.perf_counter()
        self.reports = 0
        self.taken: dict[str, list[tuple[float, float]]] = {name: [] for name in self.METHODS}

    def _timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begun, own = time.perf_counter(), time.thread_time()
            try:
                return work(*arguments)
            finally:
                self.taken[name].append((time.perf_counter() - begun, time.thread_time() - own))
                if name == "merge":
                    self.reports += len(arguments[0])

        return timed

    def found(self) -> dict[str, float]:
        """Milliseconds by method (mean and 99th percentile; `cpu`: of its own), and the share of time in any of them."""
        found: dict[str, float] = {}
        for name, taken in self.taken.items():
            if taken:
                times = sorted(wall for wall, _ in taken)
                found[f"{name}_ms"] = round(1000 * sum(times) / len(times), 2)
                found[f"{name}_p99_ms"] = round(1000 * times[int(0.99 * (len(times) - 1))], 2)
                found[f"{name}_cpu_ms"] = round(1000 * sum(own for _, own in taken) / len(taken), 2)
        everything = sum(wall for taken in self.taken.values() for wall, _ in taken)
        found["writer_busy"] = round(everything / (time.perf_counter() - self.since), 2)
        found["reports_a_transaction"] = round(self.reports / max(1, len(self.taken["merge"])), 1)
        return found


class Certificate:
    """In place of the Secret."""

    def __init__(self, certificate: str, key: str) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.ready = asyncio.Event()
        self.ready.set()


async def run(sock: socket.socket, database: str, services: int, certificate: str, key: str) -> None:
    """Serve until SIGTERM."""
    store = Store(database)
    core = Core(Catalogue(), store.prices(), lambda: dt.datetime.now(dt.UTC), REPORT_SECONDS)
    bound(store, core, Settings())
    core.rebuild(store.sums(), store.last_reports())

    async def rebuild() -> None:
        core.rebuild(list(store.sums()), store.last_reports())

    writer = Writer(store, core, rebuild)
    core.configure(
        view_of(*(service(f"bot-{number}", budgets=(budget(amount="1000000.00"),)) for number in range(services)))
    )
    stop = servers.stop_on_signals()
    stalls, timed = Stalls(), Timed(store)

    def begin() -> None:
        stalls.begin()
        timed.begin()

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, begin)
    app = create_app(
        core,
        writer,
        Tokens(),
        Pods(services),
        Metrics(prometheus_client.CollectorRegistry()),
        namespace=names.DEFAULT_NAMESPACE,
        ready=lambda: None,
        stopping=stop,
    )

    async def tick() -> None:
        while True:
            await asyncio.sleep(1)
            if store.database.postgresql:
                await writer.follow()
            core.tick()

    await servers.until_stopped(
        stop,
        servers=[servers.serve(app, sock=sock, stop=stop, tls=Certificate(certificate, key), grace_seconds=2)],  # type: ignore[arg-type]
        background=[writer.run(), tick(), checkpoints(store), Collector().run(), stalls.watch(stop)],
    )
    store.close()
    print(json.dumps(stalls.found() | timed.found()), flush=True)


if __name__ == "__main__":
    descriptor, where, count, cert, private = sys.argv[1:]
    uvloop.run(run(socket.socket(fileno=int(descriptor)), where, int(count), cert, private))
