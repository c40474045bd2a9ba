"""How the proxy reaches its upstreams: through HTTP proxies, over IPv6, with authorities of the pod's own."""

import asyncio
import base64
import contextlib
import datetime as dt
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llmwarden.contracts import ledger as wire
from llmwarden.proxy.http import egress
from llmwarden.proxy.http.egress import HttpProxy, Proxies, proxies
from llmwarden.proxy.settings import parse_origin
from llmwarden.serving import pki
from tests.proxy.fakes import CHAT, Proxy, Received, Server, accounted, post, provider, running, talk, whole
from tests.proxy.test_forwarding import HAS_IPV6, echo

NAME = "upstream.test"  # resolves nowhere: who reaches it went through the proxy


class HttpProxyServer:
    """A forward proxy as squid is one: CONNECT is tunnelled, absolute-form requests are answered; every name is this machine."""

    def __init__(self, want: str = "") -> None:
        self.want = want  # the Proxy-Authorization without which nothing goes
        self.seen: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")
                self.seen.append(lines[0])
                if self.want and f"Proxy-Authorization: {self.want}" not in lines:
                    writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                elif lines[0].startswith("CONNECT "):
                    await self._tunnel(int(lines[0].split()[1].rpartition(":")[2]), reader, writer)
                    return
                else:
                    length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length")), 0)
                    body = await reader.readexactly(length)
                    writer.write(whole(200, b"by the proxy: " + body))
                await writer.drain()

    async def _tunnel(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 squid\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, to), pump(there, writer))


@contextlib.asynccontextmanager
async def tls_server(directory: Path, name: str, client: str = "") -> AsyncIterator[tuple[Server, Path]]:
    """An HTTPS upstream, and the bundle that knows it. With `client` (PEM) it serves only who has such a certificate's key."""
    now = dt.datetime.now(dt.UTC)
    ca = pki.make_ca(now)
    leaf = pki.make_leaf(ca, [name], now)
    pair, bundle = directory / "pair.pem", directory / "ca.pem"
    pair.write_text(leaf.certificate + leaf.key)
    bundle.write_text(ca.certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair)
    if client:
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(cadata=client)
    server = Server(provider)
    await server.start(tls)
    try:
        yield server, bundle
    finally:
        await server.stop()


async def one(directory: Path, upstream: str, *, host: str = "127.0.0.1", **overrides: Any) -> tuple[bytes, str]:
    """One call through a proxy of its own: the answer, and the proxy's log."""
    proxy = Proxy(directory, upstream, **overrides)
    await proxy.start()
    try:
        return await talk(proxy.port, post(CHAT), host=host), "".join(proxy.log)
    finally:
        await proxy.stop()


@pytest.mark.parametrize("password", ["", "p@ss:word"])
async def test_an_https_upstream_is_reached_through_a_tunnel(tmp_path: Path, password: str) -> None:
    want = "Basic " + base64.b64encode(f"user:{password}".encode()).decode() if password else ""
    user = "user:p%40ss%3Aword@" if password else ""
    async with tls_server(tmp_path, NAME) as (server, bundle), HttpProxyServer(want) as http_proxy:
        environ = {"HTTPS_PROXY": f"http://{user}127.0.0.1:{http_proxy.port}", "SSL_CERT_FILE": str(bundle)}
        proxy = Proxy(tmp_path, f"https://{NAME}:{server.port}", environ=environ)
        await proxy.start()
        try:
            for _ in range(3):
                answer = await talk(proxy.port, post(CHAT))
                assert answer.startswith(b"HTTP/1.1 200 "), answer
        finally:
            await proxy.stop()
        assert http_proxy.seen == [f"CONNECT {NAME}:{server.port} HTTP/1.1"]  # once: the tunnel is kept
        assert server.requests[0].headers["host"] == f"{NAME}:{server.port}"
        assert "proxy-authorization" not in server.requests[0].headers


async def test_a_tunnel_that_is_refused_is_said_by_name_and_without_the_password(tmp_path: Path) -> None:
    async with HttpProxyServer(want="Basic other") as http_proxy:
        environ = {"https_proxy": f"http://user:geheim@127.0.0.1:{http_proxy.port}"}
        answer, log = await one(tmp_path, f"https://{NAME}", environ=environ)
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b'"code":"upstream_proxy"' in answer
        assert b"407 Proxy Authentication Required" in answer
        assert b"geheim" not in answer
        assert "geheim" not in log


async def test_a_plain_upstream_is_asked_of_the_proxy_in_the_absolute_form(tmp_path: Path) -> None:
    async with HttpProxyServer(want="Basic dTpw") as http_proxy:
        environ = {"HTTP_PROXY": f"http://u:p@127.0.0.1:{http_proxy.port}"}
        answer, _ = await one(tmp_path, f"http://{NAME}:8000/prefix", environ=environ)
        assert answer.endswith(b"by the proxy: " + CHAT)
        assert http_proxy.seen == [f"POST http://{NAME}:8000/prefix/v1/chat/completions HTTP/1.1"]


async def test_a_key_without_tls_goes_through_no_proxy_of_the_application_s(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    async with HttpProxyServer() as http_proxy:
        environ = {
            "HTTP_PROXY": f"http://127.0.0.1:{http_proxy.port}",
            "ALL_PROXY": f"http://127.0.0.1:{http_proxy.port}",
        }
        route = {"credentialFile": str(key)}
        answer, _ = await one(tmp_path, f"http://{NAME}:8000", environ=environ, route=route)
        assert answer.startswith(b"HTTP/1.1 502 "), answer
        assert http_proxy.seen == []


@pytest.mark.parametrize(("stands_for", "status"), [("localhost", 200), ("engine.shop.svc.cluster.local", 502)])
async def test_a_key_without_tls_goes_only_to_the_service_that_is_meant(
    tmp_path: Path, stands_for: str, status: int
) -> None:
    """A Service of type ExternalName is an alias of another name."""
    key = tmp_path / "key"
    key.write_text("secret")
    server = Server(provider)
    await server.start()
    route = {"credentialFile": str(key), "resolvesTo": stands_for}
    try:
        answer, _ = await one(tmp_path, f"http://localhost:{server.port}", route=route)
    finally:
        await server.stop()
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert len(server.requests) == (status == 200)


async def test_no_proxy_and_the_loopback_go_directly(tmp_path: Path) -> None:
    async with HttpProxyServer() as http_proxy, tls_server(tmp_path, "localhost") as (server, bundle):
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{http_proxy.port}", "SSL_CERT_FILE": str(bundle)}
        answer, _ = await one(tmp_path, f"https://localhost:{server.port}", environ=environ)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert http_proxy.seen == []


async def test_what_is_no_proxy_is_said_and_the_application_starts(tmp_path: Path) -> None:
    async with running(tmp_path, environ={"HTTPS_PROXY": "socks5://user:geheim@h:1080"}) as (_, proxy):
        assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 ")
        log = "".join(proxy.log)
        assert "HTTPS_PROXY is not the URL of an HTTP proxy" in log
        assert "geheim" not in log


async def test_a_pods_own_authorities_are_trusted_beside_the_images_once_they_are_there(tmp_path: Path) -> None:
    async with tls_server(tmp_path, "localhost") as (server, bundle):
        late = tmp_path / "late.pem"
        proxy = Proxy(tmp_path, f"https://localhost:{server.port}", contract={"caFile": str(late)})
        await proxy.start()
        try:
            answer = await talk(proxy.port, post(CHAT))
            assert answer.startswith(b"HTTP/1.1 502 "), answer
            assert b'"code":"upstream_tls"' in answer
            assert "late.pem cannot be read yet" in "".join(proxy.log)
            late.write_bytes(bundle.read_bytes())
            async with asyncio.timeout(5):
                while not (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 "):
                    await asyncio.sleep(0.1)
        finally:
            await proxy.stop()


def identity(of: str) -> tuple[str, str]:
    """A client's certificate and key, PEM: by itself, so whoever trusts it trusts nobody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, of)])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + dt.timedelta(1)
    )
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return certificate.decode(), secret.decode()


async def until_served(proxy: Proxy) -> None:
    async with asyncio.timeout(10):
        while not (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 "):
            await asyncio.sleep(0.1)


async def test_an_upstream_that_asks_who_we_are_is_shown_the_services_certificate_also_a_new_one(
    tmp_path: Path,
) -> None:
    old, new = identity("bot"), identity("renewed")
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    route = {"clientCertificateFile": str(files[0]), "clientKeyFile": str(files[1])}

    def write(pair: tuple[str, str]) -> None:
        for file, text in zip(files, pair, strict=True):
            file.write_text(text)

    async with tls_server(tmp_path, "localhost", client=old[0] + new[0]) as (server, bundle):
        proxy = Proxy(tmp_path, f"https://localhost:{server.port}", contract={"caFile": str(bundle)}, route=route)
        await proxy.start()
        try:
            answer = await talk(proxy.port, post(CHAT))
            assert answer.startswith(b"HTTP/1.1 502 "), answer  # a Secret that is missing stops no pod
            assert "tls.crt cannot be read yet" in "".join(proxy.log)
            for pair in (old, new):
                write(pair)
                async with asyncio.timeout(20):
                    while not server.peers or server.peers[-1] != ssl.PEM_cert_to_DER_cert(pair[0]):
                        server.drop()  # new connections show what the files hold now
                        await until_served(proxy)
        finally:
            await proxy.stop()


async def test_once_its_service_is_gone_a_pod_shows_the_services_certificate_no_more(tmp_path: Path) -> None:
    pair = identity("bot")
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    for file, text in zip(files, pair, strict=True):
        file.write_text(text)
    route = {"clientCertificateFile": str(files[0]), "clientKeyFile": str(files[1])}
    async with (
        accounted(tmp_path) as ledger,
        tls_server(tmp_path, "localhost", client=pair[0]) as (server, bundle),
    ):
        proxy = Proxy(
            tmp_path,
            f"https://localhost:{server.port}",
            contract={"caFile": str(bundle)},
            route=route,
            ledger=ledger,
        )
        await proxy.start()
        try:
            await until_served(proxy)
            ledger.services["bot"] = wire.ServiceConfig("Active", "openai", departed=True)
            ledger.change()
            async with asyncio.timeout(20):
                while (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 "):
                    await asyncio.sleep(0.05)
            ledger.services["bot"] = wire.ServiceConfig("Active", "openai")
            ledger.change()
            await until_served(proxy)
        finally:
            await proxy.stop()


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
async def test_an_upstream_by_its_ipv6_address(tmp_path: Path) -> None:
    hosts: list[str] = []

    async def note(request: Received, writer: asyncio.StreamWriter) -> None:
        hosts.append(request.headers["host"])
        await echo(request, writer)

    server = Server(note)
    listener = await asyncio.start_server(server._serve, "::1", 0)
    port = listener.sockets[0].getsockname()[1]
    answer, _ = await one(tmp_path, f"http://[::1]:{port}", route={"listen": {"host": "::1", "port": 0}}, host="::1")
    listener.close()
    assert answer.endswith(CHAT)
    assert hosts == [f"[::1]:{port}"]


ORIGIN = "https://api.example.com"


@pytest.mark.parametrize(
    ("no_proxy", "upstream", "direct"),
    [
        ("", ORIGIN, False),
        ("*", ORIGIN, True),
        ("example.com", ORIGIN, True),
        (".example.com", ORIGIN, True),
        ("*.example.com", ORIGIN, True),
        ("ample.com", ORIGIN, False),
        ("API.EXAMPLE.COM", ORIGIN, True),
        ("api.example.com:443", ORIGIN, True),
        ("api.example.com:8443", ORIGIN, False),
        ("other, example.com ,", ORIGIN, True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("fd00::/8", "https://[fd00::5]", True),
        ("[fd00::5]:443", "https://[fd00::5]", True),
        ("fd00::5", "https://[fd00::5]", True),
        ("10.0.0.0/99", "https://10.1.2.3", False),
    ],
)
def test_no_proxy_is_read_as_others_read_it(no_proxy: str, upstream: str, direct: bool) -> None:  # noqa: FBT001 - a table
    found = proxies({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": no_proxy})
    assert (found.to(parse_origin(upstream)) is None) == direct


def test_variables_and_their_precedence() -> None:
    assert proxies({}) == Proxies()
    assert proxies({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2"}).https == HttpProxy("b", 2)
    assert proxies({"ALL_PROXY": "proxy:3128"}).http == HttpProxy("proxy", 3128)
    only = proxies({"HTTP_PROXY": "http://a:1"})
    assert only.to(parse_origin("https://x.example")) is None
    assert only.to(parse_origin("http://x.example")) == HttpProxy("a", 1)
    assert only.to(parse_origin("http://127.0.0.1:8000")) is None


async def test_an_address_that_hangs_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as full, socket.socket() as good, contextlib.ExitStack() as callers:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # its queue is full from here on: the kernel leaves further callers without an answer
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)  # noqa: FBT003 - the standard library's signature
            caller.connect_ex(full.getsockname())
        good.bind(("127.0.0.1", 0))
        good.listen(5)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", item.getsockname()) for item in (full, good)]

        async def resolve(*_: object, **__: object) -> list[Any]:
            return found

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        begun = time.monotonic()
        sock = await egress.connect(parse_origin("http://two.test"), None, tunnel=False)
        assert sock.getpeername() == good.getsockname()
        assert 0.2 < time.monotonic() - begun < 5  # after the stagger, and not after a connection's own time-out
        sock.close()
        good.close()
        found = found[1:]
        with pytest.raises(ConnectionRefusedError):
            await egress.connect(parse_origin("http://two.test"), None, tunnel=False)


def test_families_take_turns() -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    found: list[Any] = [(family, 0, 0, "", number) for number, family in enumerate((six, six, six, four))]
    assert [item[4] for item in egress._interleaved(found)] == [0, 3, 1, 2]
