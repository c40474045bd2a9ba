"""Listening sockets: on one address, or on every address of IPv4 and IPv6 where the node has IPv6."""

import socket
from typing import Final

_BACKLOG: Final = 1024


def listeners(host: str, port: int) -> list[socket.socket]:
    """Bind and listen; the empty host is every address. Raises OSError when no family can be bound, or a port is taken."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return [_bind(family, host, port)]
    first = _bind(socket.AF_INET, "0.0.0.0", port)  # noqa: S104 - a route in front of the app's port is for everyone
    if not socket.has_ipv6:
        return [first]
    try:
        return [first, _bind(socket.AF_INET6, "::", first.getsockname()[1])]
    except OSError:
        return [first]  # the node has no IPv6: the port itself was free a moment ago


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )  # whatever the event loop does: those accepted inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
        sock.settimeout(0.0)  # non-blocking, as asyncio wants it
    except OSError:
        sock.close()
        raise
    return sock
