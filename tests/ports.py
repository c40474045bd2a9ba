"""Ports for programs that must be told one before they listen, where several test processes run side by side.

A port that was free a moment ago may be another's the next: whoever asks for port 0, and every outgoing connection, takes one of the
kernel's ephemeral ports. So each process claims a block below those for its life, by listening on the block's first port.
"""

import errno
import random
import socket
from functools import cache
from itertools import cycle

_BLOCKS = range(10_000, 20_000, 50)  # the clusters' own are above (cluster/control_plane.py), node ports from 30,000


@cache
def _block() -> tuple[socket.socket, "cycle[int]"]:
    """Return the socket that claims this process's block, and the block's other ports, over and over."""
    for first in random.sample(_BLOCKS, len(_BLOCKS)):
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first))
            claim.listen()
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        return claim, cycle(range(first + 1, first + _BLOCKS.step))
    message = "every block of ports is claimed"
    raise AssertionError(message)


def free_port() -> int:
    """Return a port of this process's block on which nobody listens on loopback."""
    _, ports = _block()
    for _ in range(_BLOCKS.step):
        port = next(ports)
        with socket.socket() as probe:
            # As servers have it, which may listen where a connection has just ended.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    message = "every port of the block is taken"
    raise AssertionError(message)
