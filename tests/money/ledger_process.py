"""The ledger as a process of its own, without a cluster: everything is production's but what Kubernetes would say.

`python -m tests.money.ledger_process PORT DATABASE OBJECTS CLOCK`: CLOCK is a file with the seconds by which its clock is wrong, OBJECTS is a JSON file with the LLMServices, budgets and prices, read
again when it changes (in place of the informers); a bearer token is a pod's UID, or "operator" (in place of TokenReview).
Plain HTTP on loopback. Stopped by SIGTERM, or killed.
"""

import asyncio
import datetime as dt
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import prometheus_client
import uvloop

from llmwarden import names
from llmwarden.errors import UnavailableError
from llmwarden.ledger import view
from llmwarden.ledger.core import Core
from llmwarden.ledger.departed import Departed
from llmwarden.ledger.http.app import create_app
from llmwarden.ledger.http.gpu_api import GpuApi
from llmwarden.ledger.main import bound
from llmwarden.ledger.metrics import Metrics
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.store import Remembered, Store
from llmwarden.ledger.writer import Writer
from llmwarden.serving import servers
from llmwarden.serving.auth import Caller
from llmwarden.settings import load
from tests.unit.ledger.objects import EveryPod, view_of

REPORT_SECONDS = 1.0


class Tokens:
    """Every token is a pod's UID; all pods are called bot-1, as tests/proxy/fakes.py has it. `NAMESPACE/UID` is one elsewhere than in shop."""

    async def caller(self, token: str) -> Caller | None:
        if token == "operator":
            return Caller(names.DEFAULT_NAMESPACE, names.OPERATOR)
        namespace, _, uid = token.rpartition("/")
        return Caller(namespace or "shop", "default", "bot-1", uid)


async def run(port: int, database: str, objects: Path, clock: Path) -> None:
    store = Store(database)

    def now() -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=float(clock.read_text() or 0))

    core = Core(Catalogue(), store.prices(), now, REPORT_SECONDS)
    bound(store, core, load(os.environ))
    core.rebuild(store.sums(), store.last_reports())

    async def rebuild() -> None:
        core.rebuild(list(store.sums()), store.last_reports())

    writer = Writer(store, core, rebuild)
    departed = Departed(store.remembered(), lambda: core.history.aggregate.services)

    async def take(items: list[dict[str, Any]]) -> None:
        read = [view.read_service(item) for item in items if item["kind"] == "LLMService"]
        gone = departed({f"{one.namespace}/{one.name}": Remembered(one.labels, one.provider) for one in read}, {"shop"})
        await writer.remember(departed.take_unsaved())
        labels, providers = ({key: was[part] for key, was in gone.items()} for part in (0, 1))
        core.configure(view_of(*items, departed=labels, providers=providers))  # type: ignore[arg-type]

    stop = servers.stop_on_signals()
    tokens = Tokens()
    holdings = GpuApi(core, store, writer, namespace=names.DEFAULT_NAMESPACE)
    await holdings.follow()
    app = create_app(
        core,
        writer,
        tokens,
        EveryPod(),
        Metrics(prometheus_client.CollectorRegistry()),
        namespace=names.DEFAULT_NAMESPACE,
        ready=lambda: None,
        stopping=stop,
        holdings=holdings,
    )

    def read() -> bytes:
        return objects.read_bytes()

    async def watch() -> None:
        seen = b""
        while True:
            found = read()
            if found != seen:
                seen = found
                await take(json.loads(found))
            if store.database.postgresql:
                with suppress(UnavailableError):  # as production does: reports wait, the process stays
                    await writer.follow()
            core.tick()
            await asyncio.sleep(0.1)

    async def end() -> None:
        await stop.wait()
        core.stop()

    sock = servers.listen("127.0.0.1", port)
    await servers.until_stopped(
        stop,
        servers=[servers.serve(app, sock=sock, stop=stop, grace_seconds=2)],
        background=[watch(), writer.run(), holdings.run(), end()],
    )
    store.close()


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
