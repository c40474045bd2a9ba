"""Servers on loopback sockets with real TLS; the API server behind ServingCertificate is a stub that holds one Secret."""

import asyncio
import contextlib
import datetime as dt
import ssl
from typing import Any

import prometheus_client
import pytest

from llmwarden import names
from llmwarden.errors import NotFoundError, WardenError
from llmwarden.kube import Client
from llmwarden.serving import pki, servers

NOW = dt.datetime.now(dt.UTC)


class OneSecret(Client):
    """A stub: answers every `get` with one Secret, or NotFoundError."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = None

    async def get(self, api_version: str, plural: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        del api_version, plural, namespace
        if self.secret is None:
            message = f"no {name}"
            raise NotFoundError(message)
        return self.secret


def secret(ca: pki.KeyPair) -> dict[str, Any]:
    leaf = pki.make_leaf(ca, ["localhost"], NOW)
    return pki._secret(names.SECRET_WEBHOOK_TLS, "warden", leaf, ca.certificate)


def certificate(client: Client) -> servers.ServingCertificate:
    return servers.ServingCertificate(client, "warden", names.SECRET_WEBHOOK_TLS)


async def hello(_scope: servers.Scope, _receive: servers.Receive, send: servers.Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def ask(port: int, path: str = "/", ca: str | None = None) -> tuple[int, str, int]:
    """(status, body, the server certificate's serial number)."""
    context = ssl.create_default_context(cadata=ca) if ca else None
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost" if ca else None
    )
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    raw = (await reader.read()).decode()
    tls = writer.get_extra_info("peercert")
    writer.close()
    return int(raw.split(" ", 2)[1]), raw.partition("\r\n\r\n")[2], int(tls["serialNumber"], 16) if tls else 0


async def test_a_new_certificate_serves_the_next_handshake_without_a_restart() -> None:
    client, ca, stop = OneSecret(), pki.make_ca(NOW), asyncio.Event()
    held = certificate(client)
    sock = servers.listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    server = asyncio.create_task(servers.serve(hello, stop=stop, tls=held, sock=sock))
    with pytest.raises(NotFoundError):
        await held.refresh()
    client.secret = secret(ca)
    assert await held.refresh()
    assert not await held.refresh()
    status, body, first = await ask(port, ca=held.ca)
    assert (status, body) == (200, "hello")
    client.secret = secret(ca)
    assert await held.refresh()
    _, _, second = await ask(port, ca=held.ca)
    assert first != second
    stop.set()
    await server


async def test_a_broken_secret_leaves_the_last_certificate_in_use() -> None:
    client, ca = OneSecret(), pki.make_ca(NOW)
    held = certificate(client)
    client.secret = secret(ca)
    await held.refresh()
    other = secret(ca)
    client.secret = {**other, "data": {**other["data"], "tls.key": secret(ca)["data"]["tls.key"]}}
    with pytest.raises(WardenError, match="cannot be read"):
        await held.refresh()
    assert held.ready.is_set()
    client.secret = {**other, "data": {}}
    with pytest.raises(NotFoundError):
        await held.refresh()


async def test_a_server_without_a_certificate_ends_when_told() -> None:
    stop = asyncio.Event()
    with servers.listen("127.0.0.1", 0) as sock:
        server = asyncio.create_task(servers.serve(hello, stop=stop, tls=certificate(OneSecret()), sock=sock))
        stop.set()
        await server


async def test_a_request_in_flight_is_answered_after_the_end_was_asked_for() -> None:
    stop, begun, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(scope: servers.Scope, receive: servers.Receive, send: servers.Send) -> None:
        begun.set()
        await go_on.wait()
        await hello(scope, receive, send)

    sock = servers.listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    whole = asyncio.create_task(servers.until_stopped(stop, [servers.serve(slow, stop=stop, sock=sock)], [forever()]))
    asked = asyncio.create_task(ask(port))
    await begun.wait()
    stop.set()
    go_on.set()
    assert (await asked)[:2] == (200, "hello")
    await whole


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_background_part_that_fails_ends_the_role() -> None:
    async def failing() -> None:
        message = "broken"
        raise WardenError(message)

    stop = asyncio.Event()
    server = servers.serve(hello, stop=stop, sock=servers.listen("127.0.0.1", 0))
    with pytest.raises(WardenError, match="broken"):
        await servers.until_stopped(stop, [server], [failing(), forever()])


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/livez", 200, "ok\n"), ("/readyz", 503, "not yet\n"), ("/other", 404, "there is no GET /other\n")],
)
async def test_health(path: str, status: int, body: str) -> None:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("tried", "Tries.", registry=registry).inc()
    stop = asyncio.Event()
    sock = servers.listen("", 0)
    port = sock.getsockname()[1]
    app = servers.metrics_app(lambda: "not yet", registry=registry)
    server = asyncio.create_task(servers.serve(app, stop=stop, sock=sock))
    try:
        assert (await ask(port, path))[:2] == (status, body)
        assert "tried_total 1.0" in (await ask(port, "/metrics"))[1]
    finally:
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await server
