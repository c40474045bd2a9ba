"""Every server of ours sends at once (TCP_NODELAY), and so does every client: seen on the accepted and on the connected sockets themselves."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from llmwarden import kube, names
from llmwarden.gpu.main import Server
from llmwarden.gpu.metrics import GpuCollector
from llmwarden.gpu.nvml import Reading
from llmwarden.proxy import settings as configuration
from llmwarden.proxy.http import egress
from llmwarden.proxy.http.client import Client
from llmwarden.proxy.main import Proxy
from llmwarden.proxy.settings import parse_origin
from llmwarden.serving import pki, servers
from tests.unit.kube.test_serving import NOW, OneSecret, certificate, hello, secret

RUNNERS = {"asyncio": asyncio.run, "uvloop": uvloop.run}


def ends(local: tuple[object, ...], remote: tuple[object, ...]) -> list[socket.socket]:
    """This process's sockets between two addresses, by ports: duplicates, to be closed."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if not str(descriptor.readlink()).startswith("socket:"):
                continue
            one = socket.socket(fileno=os.dup(int(descriptor.name)))
        except OSError:
            continue
        try:
            if (one.getsockname()[1], one.getpeername()[1]) == (local[1], remote[1]):
                found.append(one)
                continue
        except (OSError, IndexError):
            pass
        one.close()
    return found


def at_once(sockets: list[socket.socket]) -> bool:
    """Whether they all have TCP_NODELAY; closes them."""
    try:
        return all(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in sockets)
    finally:
        for one in sockets:
            one.close()


async def accepts_at_once(port: int) -> bool:
    """Connect, wait until the server has accepted, and look at its end."""
    with socket.create_connection(("127.0.0.1", port)) as mine:
        async with asyncio.timeout(10):
            while not (theirs := ends(mine.getpeername(), mine.getsockname())):
                await asyncio.sleep(0.01)
        return at_once(theirs)


async def connects_at_once(connect: Callable[[int], Awaitable[object]]) -> bool:
    """Let a client connect to us, and look at its end while we do not answer."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put(writer), "127.0.0.1", 0)
    client = asyncio.ensure_future(connect(server.sockets[0].getsockname()[1]))
    async with asyncio.timeout(10):
        writer = await accepted.get()
    theirs = ends(writer.get_extra_info("peername"), writer.get_extra_info("sockname"))
    assert theirs
    found = at_once(theirs)
    client.cancel()
    writer.close()
    server.close()
    await asyncio.gather(client, return_exceptions=True)
    return found


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("host", ["", "127.0.0.1"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_webhook_ledger_and_metrics_servers(loop: str, host: str, tls: bool) -> None:  # noqa: FBT001 - a parameter of pytest's
    async def run() -> bool:
        stop, client = asyncio.Event(), OneSecret()
        held = certificate(client)
        client.secret = secret(pki.make_ca(NOW))
        await held.refresh()
        sock = servers.listen(host, 0)
        served = asyncio.create_task(servers.serve(hello, stop=stop, tls=held if tls else None, sock=sock))
        found = await accepts_at_once(sock.getsockname()[1])
        stop.set()
        await served
        return found

    assert RUNNERS[loop](run())


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_the_proxys_routes_and_its_admin_port(tmp_path: Path, host: str) -> None:
    route = {
        "service": "bot", "mode": "Env", "backend": "OpenAI", "listen": {"host": host, "port": 0},
        "upstream": "http://127.0.0.1:1", "thresholdsSeconds": {},
    }  # fmt: skip
    contract = {"contract": 1, "adminPort": 0, "journalDir": str(tmp_path), "routes": [route]}

    async def run() -> list[bool]:
        proxy = Proxy(*configuration.load({names.PROXY_ENV: json.dumps(contract)}))
        await proxy.start()
        found = [await accepts_at_once(port) for port in (proxy.endpoints[0].port, proxy.admin.port)]
        await proxy.stop()
        return found

    assert uvloop.run(run()) == [True, True]


async def test_the_gpu_exporter() -> None:
    server = Server(0, GpuCollector(lambda: Reading(""), hostname="node-1"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert await accepts_at_once(server.server_address[1])
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_clients_of_the_ledger_the_api_server_and_upstreams(loop: str) -> None:
    async def to_ledger(port: int) -> object:
        return await Client(f"http://127.0.0.1:{port}").request("GET", "/", timeout=10)

    async def to_api_server(port: int) -> object:
        async with kube.Client.for_url(f"http://127.0.0.1:{port}") as client:
            return await client.get_raw("/version")

    async def to_upstream(port: int) -> object:
        sock = await egress.connect(parse_origin(f"http://127.0.0.1:{port}"), None, tunnel=False)
        await asyncio.Event().wait()
        return sock

    async def run() -> list[bool]:
        return [await connects_at_once(connect) for connect in (to_ledger, to_api_server, to_upstream)]

    assert RUNNERS[loop](run()) == [True, True, True]
