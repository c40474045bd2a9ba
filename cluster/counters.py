"""Netfilter's named counters (nfacct), of which kube-proxy makes some and removes none.

Debian has a tool for them, but for two messages of netlink it would be one more package to install.
Source of the numbers: linux/netfilter/nfnetlink.h and nfnetlink_acct.h.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 7 << 8  # NFNL_SUBSYS_ACCT
_NEW, _GET, _DELETE = 0, 1, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_NAME = 1  # NFACCT_NAME


def _ask(message: int, flags: int, payload: bytes = b"") -> Iterator[tuple[int, bytes]]:
    """Yield the type and body of each message of the answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        link.settimeout(5)
        body = struct.pack("=BBH", 0, 0, 0) + payload
        link.send(struct.pack("=IHHII", 16 + len(body), _SUBSYSTEM | message, _REQUEST | flags, 1, 0) + body)
        while True:
            data = link.recv(65536)
            while data:
                length, kind, _, _, _ = struct.unpack_from("=IHHII", data)
                if kind in {_ERROR, _DONE}:
                    return
                yield kind, data[16:length]
                data = data[(length + 3) & ~3 :]


def names() -> list[str]:
    """Return the counters' names; none where the kernel has no such counters or we may not ask."""
    found = []
    with contextlib.suppress(OSError):
        for kind, body in _ask(_GET, _DUMP):
            attributes = body[4:]
            while kind == _SUBSYSTEM | _NEW and attributes:
                length, attribute = struct.unpack_from("=HH", attributes)
                if attribute == _NAME:
                    found.append(attributes[4:length].rstrip(b"\0").decode())
                attributes = attributes[(length + 3) & ~3 :]
    return sorted(found)


def delete(name: str) -> None:
    """Delete a counter, unless a rule still uses it."""
    value = name.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(value), _NAME) + value
    with contextlib.suppress(OSError):
        list(_ask(_DELETE, _ACK, attribute + b"\0" * (-len(attribute) % 4)))
