"""Who is connected to a server of ours, and who must go for others: a crowd of strangers never keeps out those that we serve.

A connection is a stranger's until it proves itself: by a good token, by a path that only the API server knows, or by a client certificate.
Strangers may be many, so four rules hold, in this order:

1. An address may open `BURST` connections at once and `PER_SECOND` after that. Others are closed before their TLS handshake, which is what
   costs processor time. An address from which somebody proved itself within the last hour is free of this.
2. An address has at most `most_from_one` strangers. Its own oldest makes room for its next.
3. All together have at most `most` connections. A stranger makes room for the next: of the oldest ones, one whose address has the most.
   Where there is no stranger, a connection that waits for its next request does.
4. A stranger's head must be complete in time (`connections.HEAD_SECONDS`).

So whoever proves itself within milliseconds, as the API server does, gets through while others open thousands of connections. Only counts are
kept here. Start at `Crowd.enter`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Final, Literal

import prometheus_client

from llmwarden import names

BURST: Final = 256  # connections that an address may open at once
PER_SECOND: Final = 64.0  # connections that an address may open in a second, after that: 6 % of a core, with TLS
MOST_FROM_ONE: Final = 64  # strangers from one address
MOST: Final = 256  # connections
TRUSTED_SECONDS: Final = 3600.0
ADDRESSES: Final = 4096  # of which the rate is remembered
LOOKED_AT: Final = 64  # of the oldest strangers, for the one that goes

PROVE: Final = "prove"  # the key in an ASGI scope's extensions of a function that says: this caller has proved itself

Reason = Literal["rate", "address", "crowd", "full", "head", "certificate"]

CLOSED = prometheus_client.Counter(
    names.METRIC_CONNECTIONS_CLOSED,
    "Connections that were closed to protect a server. reason: rate, address and crowd (strangers that were too many), full, head (too slow "
    "or too long), certificate (a client certificate with a name that may not call).",
    ["server", "reason"],
)
REASONS: Final[tuple[Reason, ...]] = ("rate", "address", "crowd", "full", "head", "certificate")


def _nothing() -> bool:
    return False


class Guest:
    """One connection. `abort` ends it at once; `idle` tells whether it waits for its next request; `gone`: it has ended, or must."""

    __slots__ = ("_crowd", "abort", "address", "gone", "idle", "proved")

    def __init__(self, crowd: "Crowd", address: str) -> None:
        self._crowd = crowd
        self.address = address
        self.proved = False
        self.gone = False
        self.abort: Callable[[], object] = _nothing
        self.idle: Callable[[], bool] = _nothing

    def prove(self) -> None:
        """Note that the caller has proved itself. May be called for each request."""
        if not self.proved:
            self._crowd.prove(self)

    def leave(self) -> None:
        """Note that the connection has ended. May be called twice."""
        self._crowd.leave(self)
        self.abort = self.idle = _nothing

    def close(self, reason: Reason) -> None:
        """End the connection at once, and count why."""
        self._crowd.close(self, reason)


class Crowd:
    """See the module. `server` names it in metrics; `monotonic` is in seconds."""

    def __init__(
        self,
        server: str,
        most: int = MOST,
        most_from_one: int = MOST_FROM_ONE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._most = most
        self._most_from_one = most_from_one
        self._monotonic = monotonic
        self._strangers: OrderedDict[Guest, None] = OrderedDict()  # oldest first, as are those of an address
        self._by_address: dict[str, OrderedDict[Guest, None]] = {}
        self._proved: OrderedDict[Guest, None] = OrderedDict()
        self._rates: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and as of when
        self._trusted: OrderedDict[str, float] = OrderedDict()  # until when
        for reason in REASONS:
            CLOSED.labels(server, reason)  # so that rules read 0 instead of nothing

    def __len__(self) -> int:
        """Number of connections."""
        return len(self._strangers) + len(self._proved)

    def enter(self, address: str) -> Guest | None:
        """Let a new connection in, before its TLS handshake; None where it must be closed. Others may be closed for it."""
        if not self._in_time(address):
            CLOSED.labels(self._server, "rate").inc()
            return None
        own = self._by_address.get(address)
        if own is not None and len(own) >= self._most_from_one:
            self.close(next(iter(own)), "address")
        if len(self) >= self._most and not self._make_room():
            CLOSED.labels(self._server, "full").inc()
            return None
        guest = Guest(self, address)
        self._strangers[guest] = None
        self._by_address.setdefault(address, OrderedDict())[guest] = None
        return guest

    def prove(self, guest: Guest) -> None:
        """See Guest.prove."""
        if guest not in self._strangers:
            return
        self._forget(guest)
        guest.proved = True
        self._proved[guest] = None
        self._trusted[guest.address] = self._monotonic() + TRUSTED_SECONDS
        self._trusted.move_to_end(guest.address)
        while len(self._trusted) > ADDRESSES:
            self._trusted.popitem(last=False)

    def leave(self, guest: Guest) -> None:
        """See Guest.leave."""
        guest.gone = True
        self._proved.pop(guest, None)
        if guest in self._strangers:
            self._forget(guest)

    def close(self, guest: Guest, reason: Reason) -> None:
        """See Guest.close."""
        if guest.gone:
            return
        CLOSED.labels(self._server, reason).inc()
        self.leave(guest)
        guest.abort()

    def _make_room(self) -> bool:
        oldest = islice(self._strangers, LOOKED_AT)
        stranger = max(oldest, key=lambda guest: len(self._by_address[guest.address]), default=None)
        victim = stranger or next((guest for guest in self._proved if guest.idle()), None)
        if victim is None:
            return False
        self.close(victim, "crowd")
        return True

    def _forget(self, guest: Guest) -> None:
        del self._strangers[guest]
        own = self._by_address[guest.address]
        del own[guest]
        if not own:
            del self._by_address[guest.address]

    def _in_time(self, address: str) -> bool:
        """Tell whether the address may open a connection now (a token bucket)."""
        now = self._monotonic()
        if self._trusted.get(address, now) > now:
            return True
        tokens, since = self._rates.pop(address, (float(BURST), now))
        tokens = min(BURST, tokens + (now - since) * PER_SECOND)
        allowed = tokens >= 1
        self._rates[address] = (tokens - allowed, now)
        while len(self._rates) > ADDRESSES:
            self._rates.popitem(last=False)
        return allowed
