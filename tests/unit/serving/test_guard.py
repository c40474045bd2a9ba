"""The guard, on every endpoint of every server that is built with it. The requests come over real sockets, byte by byte where it matters.

The tests go over the tables of endpoints themselves, so a new endpoint is tested without a line here.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import msgspec
import prometheus_client
import pytest
import pytest_asyncio

from llmwarden import names
from llmwarden.ledger.http import app as ledger_app
from llmwarden.serving import guard, servers
from llmwarden.serving.guard import Endpoint
from llmwarden.settings import Settings
from llmwarden.webhook import app as webhook_app
from llmwarden.webhook.admission import World
from tests.ledger.test_http import Ledger, running
from tests.unit.ledger.objects import service, view_of
from tests.unit.webhook.services import known

pytestmark = pytest.mark.asyncio(loop_scope="module")  # the servers are started once

BODY_SECONDS = 0.4
CHUNK = 64 * 1024
ANY = MagicMock()  # in place of what handlers work with: here only the table is looked at
TOKEN = "operator"


def world() -> World:
    return World(None, known().candidates, lambda _: None, "CA")


TABLES: dict[str, tuple[Endpoint, ...]] = {
    "ledger": ledger_app.endpoints(ANY, lambda: None, ANY, ANY, ANY, corrections=ANY),
    "webhook": webhook_app.endpoints(world, Settings()),
    "metrics": servers.metrics_endpoints(lambda: None, lambda: None, prometheus_client.CollectorRegistry()),
}
ENDPOINTS = [
    pytest.param(server, endpoint, id=f"{server} {endpoint.method} {endpoint.path}")
    for server, table in TABLES.items()
    for endpoint in table
]
every_endpoint = pytest.mark.parametrize(("server", "endpoint"), ENDPOINTS)


@dataclass(frozen=True)
class Answered:
    """An answer, and whether the server then closed the connection."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool = False

    def code(self, server: str) -> str:
        """Return the code of the refusal; only the ledger's answers have one."""
        if server != "ledger":
            return ""
        return msgspec.json.decode(self.body)["error"]["code"]  # type: ignore[no-any-return]


class Connection:
    """One connection to a server, on which a request is written in pieces."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def head(self, endpoint: Endpoint, *lines: str, token: str | None = TOKEN) -> None:
        credential = [f"Authorization: Bearer {token}"] if token is not None else []
        request = [f"{endpoint.method} {endpoint.path} HTTP/1.1", "Host: test", *credential, *lines, "", ""]
        self.writer.write("\r\n".join(request).encode())

    async def answer(self, *, closes: bool = False) -> Answered:
        async with asyncio.timeout(10):
            status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
            closed = closes and await self.reader.read() == b""
        return Answered(int(status.split(" ")[1]), headers, body, closed)


@dataclass
class Servers:
    """The three servers."""

    ports: dict[str, int]
    ledger: Ledger

    @contextlib.asynccontextmanager
    async def connect(self, server: str) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[server])
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, server: str, endpoint: Endpoint, *lines: str, token: str | None = TOKEN) -> Answered:
        """Send a head and no body, and read the answer."""
        async with self.connect(server) as connection:
            connection.head(endpoint, *lines, token=token)
            return await connection.answer()


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Servers]:
    stop = asyncio.Event()
    apps: dict[str, Any] = {
        "webhook": webhook_app.app(world, Settings()),
        "metrics": servers.metrics_app(lambda: None, registry=prometheus_client.CollectorRegistry()),
    }
    async with running(path) as ledger:
        ports = {"ledger": int(ledger.url.rpartition(":")[2])}
        tasks = []
        for name, app in apps.items():
            sock = servers.listen("127.0.0.1", 0)
            ports[name] = sock.getsockname()[1]
            tasks.append(asyncio.create_task(servers.serve(app, sock=sock, stop=stop, grace_seconds=1)))
        yield Servers(ports, ledger)
        stop.set()
        await asyncio.gather(*tasks)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unread(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    """Servers whose ledger has not read the cluster."""
    async with serving(tmp_path_factory.mktemp("unread")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def read(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    """Servers whose ledger has read the cluster."""
    async with serving(tmp_path_factory.mktemp("read")) as started:
        started.ledger.core.configure(view_of(service()))
        yield started


async def test_the_tables_have_what_the_tests_are_about() -> None:
    endpoints = [endpoint for table in TABLES.values() for endpoint in table]
    assert sum(endpoint.token for endpoint in endpoints) >= 7
    assert sum(endpoint.synced for endpoint in endpoints) >= 5
    assert {endpoint.path for endpoint in endpoints if endpoint.body} == {
        "/v1/report",
        "/v1/gpus",
        "/v1/corrections",
        "/mutate-pod",
    }


@every_endpoint
async def test_a_body_that_trickles_is_given_up(
    read: Servers, monkeypatch: pytest.MonkeyPatch, server: str, endpoint: Endpoint
) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", BODY_SECONDS)
    async with read.connect(server) as connection:
        bare = await read.ask(server, endpoint) if not endpoint.body else None

        async def trickle() -> None:
            with contextlib.suppress(OSError):
                # A byte every 20 ms: never silent, and never done. Nothing at the end: what a server that has closed is sent resets
                # the connection, and the answer may be lost with it.
                while time.monotonic() - begun < 0.8 * BODY_SECONDS:
                    connection.writer.write(b" ")
                    await connection.writer.drain()
                    await asyncio.sleep(0.02)

        connection.head(endpoint, "Content-Length: 10000")
        begun = time.monotonic()
        writing = asyncio.create_task(trickle())
        answer = await connection.answer(closes=bool(endpoint.body))
        took = time.monotonic() - begun
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
        if bare is not None:
            assert answer.status == bare.status  # its body is not waited for
            return
        assert (answer.status, answer.closed) == (408, True)
        assert answer.code(server) == ("timeout" if server == "ledger" else "")
        assert b"the body was not complete" in answer.body
        assert took >= BODY_SECONDS


@every_endpoint
async def test_a_body_that_says_it_is_too_large_is_not_read(read: Servers, server: str, endpoint: Endpoint) -> None:
    answer = await read.ask(server, endpoint, f"Content-Length: {endpoint.body + 1}")
    if endpoint.body:
        assert answer.status == 413
        assert answer.code(server) == ("too_large" if server == "ledger" else "")
    else:
        assert answer.status == (await read.ask(server, endpoint)).status


@every_endpoint
async def test_a_body_that_becomes_too_large_is_cut_off(read: Servers, server: str, endpoint: Endpoint) -> None:
    async with read.connect(server) as connection:
        connection.head(endpoint, "Transfer-Encoding: chunked")
        for _ in range(endpoint.body // CHUNK + 2):  # never the last chunk
            connection.writer.write(f"{CHUNK:x}\r\n".encode() + b" " * CHUNK + b"\r\n")
            await connection.writer.drain()
        answer = await connection.answer()
        if endpoint.body:
            assert answer.status == 413
            assert answer.code(server) == ("too_large" if server == "ledger" else "")
        else:
            assert answer.status == (await read.ask(server, endpoint)).status


@every_endpoint
@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((), id="none"),
        pytest.param(("Authorization: Bearer nonsense",), id="unknown"),
        pytest.param(("Authorization: Bearer",), id="empty"),
        pytest.param((f"Authorization: Basic {TOKEN}",), id="another-scheme"),
        pytest.param((f"{names.HEADER_TOKEN}: nonsense",), id="own-header"),
    ],
)
async def test_without_a_good_token_nothing_else_is_looked_at(
    unread: Servers, server: str, endpoint: Endpoint, lines: tuple[str, ...]
) -> None:
    # Neither the cluster is read nor does the body come: the token is checked first.
    body = ("Content-Length: 5",) if endpoint.token else ()
    if endpoint.body and not endpoint.token:
        body = (f"Content-Length: {endpoint.body + 1}",)
    answer = await unread.ask(server, endpoint, *lines, *body, token=None)
    if endpoint.token:
        assert (answer.status, answer.code(server)) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    else:
        assert answer.status != 401


@every_endpoint
async def test_the_token_may_come_in_the_endpoint_s_own_header_only(
    read: Servers, server: str, endpoint: Endpoint
) -> None:
    body = (f"Content-Length: {endpoint.body + 1}",) if endpoint.body else ()
    answer = await read.ask(server, endpoint, f"{names.HEADER_TOKEN}: {TOKEN}", *body, token=None)
    assert (answer.status == 401) == (endpoint.token and not endpoint.token_header)


@every_endpoint
async def test_before_the_cluster_is_read_what_needs_it_is_refused(
    unread: Servers, read: Servers, server: str, endpoint: Endpoint
) -> None:
    body = (f"Content-Length: {endpoint.body + 1}",) if endpoint.body else ()
    answer = await unread.ask(server, endpoint, *body)
    if endpoint.synced:
        assert (answer.status, answer.code(server)) == (503, "not_synced")
        assert int(answer.headers["retry-after"]) > 0
    elif endpoint.body:
        assert answer.status == 413  # the body comes next
    else:
        assert b"not_synced" not in answer.body
    assert b"not_synced" not in (await read.ask(server, endpoint, *body)).body


@pytest.mark.parametrize("endpoint", [pytest.param(endpoint, id=endpoint.path) for endpoint in TABLES["ledger"]])
async def test_each_path_has_its_own_label_and_all_others_share_one(read: Servers, endpoint: Endpoint) -> None:
    metric = read.ledger.metric

    def counts() -> tuple[float, float, float]:
        requests = "llmwarden_ledger_requests_total"
        return (
            metric(requests, path="other", code="404") or 0,
            metric(requests, path=endpoint.path, code="405") or 0,
            metric("llmwarden_ledger_report_duration_seconds_count") or 0,
        )

    before = counts()
    allowed = [one.method for one in TABLES["ledger"] if one.path == endpoint.path]
    other = next(method for method in ("GET", "PUT") if method not in allowed)
    wrong = Endpoint(other, endpoint.path, endpoint.handler)
    answer = await read.ask("ledger", wrong)
    assert (answer.status, answer.headers["allow"]) == (405, ", ".join(allowed))
    for path in ("/v2/a", "/v2/b", "/" + "x" * 500):
        assert (await read.ask("ledger", Endpoint("GET", path, endpoint.handler))).status == 404
    assert counts() == (before[0] + 3, before[1] + 1, before[2])  # by another method it is no report
    labels = {
        sample.labels["path"]
        for family in read.ledger.registry.collect()
        for sample in family.samples
        if sample.name == "llmwarden_ledger_requests_total"
    }
    assert labels <= {known.path for known in TABLES["ledger"]} | {"other"}


async def test_the_description_has_what_the_table_says(read: Servers) -> None:
    described = await read.ledger.client.get(f"{read.ledger.url}/openapi.json")
    expected: dict[str, dict[str, object]] = {}
    for endpoint in TABLES["ledger"]:
        if endpoint.operation is not None:
            expected.setdefault(endpoint.path, {})[endpoint.method.lower()] = endpoint.operation
    assert described.json()["paths"] == expected
