"""How connections to upstreams are made: addresses raced (RFC 8305), through an HTTP proxy where the environment names one."""

import asyncio
import base64
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from llmwarden.proxy.settings import LOOPBACK, Origin

_LOG: Final = logging.getLogger(__name__)
_STAGGER_SECONDS: Final = 0.25  # RFC 8305, 5: until the next address is tried beside the one that hangs
_MAX_HEAD: Final = 16 * 1024  # bytes of an HTTP proxy's answer to CONNECT
_PROXY_PORT: Final = 80
_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


class TunnelError(OSError):
    """The HTTP proxy did not open a way to the upstream; the message says why."""


class HttpProxy(msgspec.Struct, frozen=True):
    """An HTTP proxy; `authorization` is a whole header line, with CRLF, or empty."""

    host: str
    port: int
    authorization: bytes = b""


class Proxies(msgspec.Struct, frozen=True):
    """Which proxy stands before which upstreams; `direct` are the items of NO_PROXY."""

    http: HttpProxy | None = None
    https: HttpProxy | None = None
    direct: tuple[str, ...] = ()

    def to(self, origin: Origin) -> HttpProxy | None:
        """The proxy for an origin; the pod's own loopback and what NO_PROXY names are reached without."""
        proxy = self.https if origin.tls else self.http
        if proxy is None or origin.host in LOOPBACK or any(_covers(item, origin) for item in self.direct):
            return None
        return proxy


def proxies(environ: Mapping[str, str]) -> Proxies:
    """Read HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in lower case too, which wins. What is no proxy is said and left out."""

    def value(name: str) -> str:
        return environ.get(name.lower()) or environ.get(name) or ""

    either = value("ALL_PROXY")
    return Proxies(
        http=_parse("HTTP_PROXY", value("HTTP_PROXY") or either),
        https=_parse("HTTPS_PROXY", value("HTTPS_PROXY") or either),
        direct=tuple(item.strip().lower() for item in value("NO_PROXY").split(",") if item.strip()),
    )


def _parse(name: str, url: str) -> HttpProxy | None:
    if not url:
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or _PROXY_PORT
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "http" or not parts.hostname:
        # Not the value: it may hold a password. The application starts all the same; its calls go out directly.
        _LOG.warning("%s is not the URL of an HTTP proxy (http://host:port); calls go out without it", name)
        return None
    authorization = b""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = b"Proxy-Authorization: Basic %b\r\n" % base64.b64encode(pair)
    return HttpProxy(parts.hostname, port, authorization)


def _covers(item: str, origin: Origin) -> bool:
    """Whether an item of NO_PROXY means an origin: `*`, a domain with all below it, an address, a network, any with a port."""
    if item == "*":
        return True
    address = _ip(origin.host)
    if address is not None and "/" in item:
        with contextlib.suppress(ValueError):
            return address in ipaddress.ip_network(item, strict=False)
    host, port = item, ""
    if item.startswith("["):
        host, _, port = item[1:].partition("]")
        port = port.removeprefix(":")
    elif item.count(":") == 1:
        host, _, port = item.partition(":")
    if port and port != str(origin.port):
        return False
    if address is not None:
        return _ip(host) == address
    domain = host.removeprefix("*").removeprefix(".")
    return bool(domain) and (origin.host == domain or origin.host.endswith("." + domain))


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


class Authorities:
    """A bundle of the pod's own that a context trusts beside the image's; it may come late, and change."""

    def __init__(self, path: str, tls: ssl.SSLContext) -> None:
        self._path = Path(path)
        self._tls = tls
        self._stamp: tuple[int, int] | None = None
        self._complained = False

    def refresh(self) -> None:
        """Trust what the file holds now: an init container may write it only after we have started. What it held stays trusted."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                self._tls.load_verify_locations(self._path)
                self._stamp = stamp
        except OSError as error:  # ssl.SSLError is one
            # The upstream may be known without it; where it is not, each call says so.
            if not self._complained:
                self._complained = True
                _LOG.warning("the authorities in %s cannot be read yet: %s", self._path, error)


class ClientCertificate:
    """What a context shows an upstream that asks who we are; Kubernetes replaces both files when the Secret changes."""

    def __init__(self, certificate: str, key: str, tls: ssl.SSLContext) -> None:
        self._files = Path(certificate), Path(key)
        self._tls = tls
        self._stamp: list[tuple[int, int]] = []
        self._complained = False

    def refresh(self) -> None:
        """Show what the files hold now, on new connections. Until there is anything the upstream refuses, and each call says so."""
        certificate, key = self._files
        try:
            stamp = [(status.st_mtime_ns, status.st_ino) for status in (certificate.stat(), key.stat())]
            if stamp != self._stamp:
                self._tls.load_cert_chain(certificate, key)
                self._stamp = stamp
                self._complained = False
        except OSError as error:  # ssl.SSLError is one: half of a renewal, or no certificate
            if not self._complained:
                self._complained = True
                _LOG.warning("the client certificate %s cannot be read yet: %s", certificate, error)


class AliasError(OSError):
    """The upstream's name is an alias of another one; the message names both."""


async def connect(
    origin: Origin, proxy: HttpProxy | None, *, tunnel: bool, resolves_to: str | None = None
) -> socket.socket:
    """A connected, non-blocking socket to an origin, or through a proxy. Raises OSError, TunnelError and AliasError among them.

    `resolves_to`: the name that the origin's must stand for (without a proxy).

    With `tunnel` the proxy is asked for a way of bytes; without, it is spoken to as a proxy (absolute form), which is how
    plain HTTP goes. The caller bounds the time.
    """
    if proxy is None:
        return await _dial(origin.host, origin.port, resolves_to)
    sock = await _dial(proxy.host, proxy.port)
    if tunnel:
        try:
            await _open_tunnel(sock, origin, proxy)
        except BaseException:  # a cancellation too: whatever ends this, the socket is nobody's
            sock.close()
            raise
    return sock


async def _dial(host: str, port: int, resolves_to: str | None = None) -> socket.socket:
    loop = asyncio.get_running_loop()
    flags = socket.AI_CANONNAME if resolves_to is not None else 0
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    if resolves_to is not None:
        # By the answer that is then connected to: another answer could be another one's.
        name = str(found[0][3]).lower().removesuffix(".")
        if name != resolves_to:
            message = f"{host} is an alias of {name}, and a key is sent without TLS only to {resolves_to}"
            raise AliasError(message)
    addresses = _interleaved(found)
    if len(addresses) == 1:
        return await _try(addresses[0])
    return await _race(addresses)


def _interleaved(found: Sequence[_Address]) -> list[_Address]:
    """The resolver's order, with families taking turns."""
    first = [item for item in found if item[0] == found[0][0]]
    others = [item for item in found if item[0] != found[0][0]]
    out = []
    for index, item in enumerate(first):
        out.append(item)
        out += others[index : index + 1]
    return out + others[len(first) :]


async def _race(addresses: list[_Address]) -> socket.socket:
    """The first address that accepts. Raises the first failure where none does."""
    waiting = deque(addresses)
    trying: set[asyncio.Task[socket.socket]] = set()
    every: list[asyncio.Task[socket.socket]] = []
    failure: BaseException | None = None
    winner: socket.socket | None = None
    try:
        while winner is None and (waiting or trying):
            if waiting:
                task = asyncio.get_running_loop().create_task(_try(waiting.popleft()))
                trying.add(task)
                every.append(task)
            done, trying = await asyncio.wait(
                trying, timeout=_STAGGER_SECONDS if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is not None:
                    failure = failure or error
                elif winner is None:
                    winner = task.result()
    finally:
        for task in every:
            task.cancel()
            task.add_done_callback(lambda task: _close_loser(task, winner))
    if winner is None:
        raise failure or OSError("no address")
    return winner


def _close_loser(task: asyncio.Task[socket.socket], winner: socket.socket | None) -> None:
    if not task.cancelled() and task.exception() is None and task.result() is not winner:
        task.result().close()


async def _try(address: _Address) -> socket.socket:
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:  # a cancellation too: the socket is nobody's
        sock.close()
        raise
    return sock


async def _open_tunnel(sock: socket.socket, origin: Origin, proxy: HttpProxy) -> None:
    loop = asyncio.get_running_loop()
    target = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    where = target.encode("idna") if not target.isascii() else target.encode()
    await loop.sock_sendall(sock, b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (where, where, proxy.authorization))
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await loop.sock_recv(sock, _MAX_HEAD)
        head += piece
        if not piece or len(head) > _MAX_HEAD:
            message = f"the HTTP proxy {proxy.host}:{proxy.port} did not answer CONNECT in HTTP"
            raise TunnelError(message)
    line, _, _ = head.partition(b"\r\n")
    parts = line.split(b" ", 2)
    if not line.startswith(b"HTTP/1.") or len(parts) < 2 or not parts[1].startswith(b"2"):  # noqa: PLR2004 - a status line
        status = line.decode("latin-1")[:100]
        message = f"the HTTP proxy {proxy.host}:{proxy.port} refused a tunnel to {target}: {status}"
        raise TunnelError(message)
    if not head.endswith(b"\r\n\r\n"):
        message = f"the HTTP proxy {proxy.host}:{proxy.port} sent more than the answer to CONNECT"
        raise TunnelError(message)
