"""The ledger as a process, all of production's but Kubernetes: a bearer token is `NAMESPACE/POD/UID`, services are made up.

`python -m benchmarks.ledger.server SOCKET_FD DATABASE SERVICES CERTIFICATE KEY`
"""

import asyncio
import datetime as dt
import gc
import socket
import ssl
import sys

import prometheus_client
import uvloop

from llmwarden import names, serving
from llmwarden.ledger.app import create_app
from llmwarden.ledger.auth import Caller
from llmwarden.ledger.core import Core
from llmwarden.ledger.metrics import Metrics
from llmwarden.ledger.pricing import Catalogue
from llmwarden.ledger.store import Store
from llmwarden.ledger.writer import Writer
from tests.unit.ledger.objects import budget, service, view_of

REPORT_SECONDS = 5.0


class Tokens:
    """In place of TokenReview, whose answers the ledger keeps for minutes."""

    async def caller(self, token: str) -> Caller | None:
        """See Authenticator."""
        namespace, _, rest = token.partition("/")
        name, _, uid = rest.partition("/")
        return Caller(namespace, "default", name, uid) if uid else Caller(names.DEFAULT_NAMESPACE, names.OPERATOR)


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
    core.rebuild(store.sums(), store.last_reports())

    async def rebuild() -> None:
        core.rebuild(list(store.sums()), store.last_reports())

    writer = Writer(store, core.merged, rebuild, core.desk)
    core.configure(
        view_of(*(service(f"bot-{number}", budgets=(budget(amount="1000000.00"),)) for number in range(services)))
    )
    stop = serving.stop_on_signals()
    app = create_app(
        core,
        writer,
        Tokens(),
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

    gc.freeze()
    await serving.until_stopped(
        stop,
        servers=[serving.serve(app, sock=sock, stop=stop, tls=Certificate(certificate, key), grace_seconds=2)],  # type: ignore[arg-type]
        background=[writer.run(), tick()],
    )
    store.close()


if __name__ == "__main__":
    descriptor, where, count, cert, private = sys.argv[1:]
    uvloop.run(run(socket.socket(fileno=int(descriptor)), where, int(count), cert, private))
