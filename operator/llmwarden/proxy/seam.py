"""The narrow seam between the bytes (`server`, `exchange`, `upstream`) and what understands them (`calls`).

Nothing here does anything. The byte side may be replaced as long as it keeps these promises:
`Service.open` once per request head; then, for a measured request, `Call.admit` once, `Call.answered` once, `Call.feed` for each
piece of the answer's body, and exactly one of `Call.end`, `Call.fail`.
"""

from collections.abc import Awaitable
from typing import Final, Protocol

import msgspec

_NONE: Final[frozenset[bytes]] = frozenset()

Header = tuple[bytes, bytes, bytes]  # lower-case name, name as received, value


class Kept:
    """What is remembered between requests of one connection that have the same head but for its length."""

    def __init__(self) -> None:
        self.opened: object | None = None  # what the service has understood of it
        # The head for the upstream up to what differs, and what it was made by.
        self.begin = b""
        self.drop: frozenset[bytes] | None = None
        self.target = b""


class Request:
    """One request's head. `started` is `time.perf_counter()` at its first byte; `length` is None without a declared length."""

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: list[Header],
        started: float,
        *,
        old: bool = False,
        keep: bool = True,
        length: int | None = None,
        encoded: bool = False,
        drop: frozenset[bytes] = _NONE,
        lines: list[bytes] | None = None,
        kept: Kept | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.started = started
        self.old = old  # HTTP/1.0
        self.keep = keep
        self.length = length
        self.chunked = False
        self.expects = False
        self.encoded = encoded  # its body has a content encoding
        self.upgrade = b""
        self.drop = drop  # what its Connection header names
        self.lines = lines  # the headers as they came, one for one; None where they were made here
        self.kept = kept  # of a head that comes again on its connection


class Forward(msgspec.Struct, frozen=True):
    """Send it on. `body` is None when the request's own body is to be streamed as it is; `target` replaces the request's, if not empty."""

    body: bytes | None = None
    answer_headers: tuple[tuple[bytes, bytes], ...] = ()
    target: bytes = b""


class Refusal(msgspec.Struct, frozen=True):
    """Answer it ourselves, with a JSON body."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


Decision = Forward | Refusal


class Call(Protocol):
    """One measured request and its answer."""

    def admit(self, body: bytes | None) -> Decision | Awaitable[Decision]:
        """Decide; None means a body that is too large to hold, or that cannot be read (a content encoding)."""

    def head(self, request: Request) -> tuple[frozenset[bytes], list[bytes]]:
        """Lower-case names to leave out of the upstream's request head, and whole lines (with CRLF) to add."""

    def answered(self, status: int, headers: list[Header]) -> bool:
        """Note the answer's head; True when `feed` may return other bytes than it is given."""

    def feed(self, data: bytes) -> bytes:
        """Understand a piece of the answer's body; returns what goes to the client now."""

    def end(self) -> bytes:
        """Note that the answer is complete and settle the call; returns what was still held."""

    def fail(self, error: str, status: int | None = None) -> bytes:
        """Settle a call that broke; `status` is what we answered, if we did. Returns what was still held."""

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of our own in the shape of the call's dialect."""


class Service(Protocol):
    """What a route's requests are understood by."""

    def open(self, request: Request) -> Call | None:
        """A measured call, or None for a request that passes through (and is counted as such)."""

    def spliced(self, reason: str) -> None:
        """Count a connection that is passed through as bytes."""

    def limited(self, reason: str) -> None:
        """Count a request or a connection that a limit of ours turned away."""

    def credentials(self) -> tuple[frozenset[bytes], bytes]:
        """Lower-case names to leave out of every request to the upstream, and the line to put there instead (or b"")."""

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of our own in the dialect's shape."""
