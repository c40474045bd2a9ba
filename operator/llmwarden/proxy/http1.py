"""HTTP/1.1 framing that both sides share: which headers travel, and how heads are written."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from llmwarden.proxy.seam import Header, Request

# RFC 9110, 7.6.1 and 11.7: of one connection, never forwarded.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# A Connection header may not strip these: it would change framing, routing or who is asking.
_KEPT: Final = frozenset(
    {b"content-length", b"host", b"authorization", b"api-key", b"x-api-key", b"content-type", b"content-encoding"}
)
_FRAMING: Final = frozenset({b"content-length", b"expect"})
_HOST: Final = frozenset({b"host"})
LAST_CHUNK: Final = b"0\r\n\r\n"
REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
NO_BODY: Final = frozenset({204, 304})


class BadMessageError(Exception):
    """A message that we refuse; `status` is what the sender gets."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def tokens(value: bytes) -> frozenset[bytes]:
    """Lower-case tokens of a Connection or Upgrade header."""
    return frozenset(item.strip().lower() for item in value.split(b",") if item.strip())


def check_request(request: Request) -> None:  # noqa: C901, PLR0912 - one pass over the headers, once per request
    """Fill in framing and connection handling from the headers; raises BadMessageError for what could be smuggled.

    The parser is strict already (obs-fold, both framings, bad lengths); this holds the same without it.
    """
    hosts = 0
    connection: frozenset[bytes] = frozenset()
    upgrade = b""
    for low, _, value in request.headers:
        if low == b"host":
            hosts += 1
        elif low == b"content-length":
            if request.length is not None or not value.isdigit():
                raise BadMessageError(400, "bad Content-Length")
            request.length = int(value)
        elif low == b"transfer-encoding":
            if request.chunked or request.old or value.strip().lower() != b"chunked":
                raise BadMessageError(400, "bad Transfer-Encoding")
            request.chunked = True
        elif low == b"connection":
            connection |= tokens(value)
        elif low == b"upgrade":
            upgrade = value.strip().lower()
        elif low == b"expect":
            if value.strip().lower() != b"100-continue":
                raise BadMessageError(417, "unknown expectation")
            request.expects = not request.old
    if hosts > 1 or (hosts == 0 and not request.old):
        raise BadMessageError(400, "exactly one Host is needed")
    if request.chunked and request.length is not None:
        raise BadMessageError(400, "Content-Length and Transfer-Encoding together")
    if connection:
        request.drop = connection - _KEPT
        if b"close" in connection:
            request.keep = False
        if b"upgrade" in connection:
            request.upgrade = upgrade
    if request.old:
        request.keep = False


def request_head(
    request: Request,
    *,
    prefix: bytes,
    host: bytes,
    drop: frozenset[bytes],
    lines: Iterable[bytes],
    body: bytes | None,
    upgrade: bool = False,
) -> bytes:
    """The head for the upstream. `host` replaces the client's Host when not empty; `body`, when not None, sets the length."""
    out = [request.method, b" ", prefix, origin_form(request.target), b" HTTP/1.1\r\n"]
    if host:
        out += (b"Host: ", host, b"\r\n")
        drop |= _HOST
    drop = drop | HOP_BY_HOP | request.drop | _FRAMING
    for low, name, value in request.headers:
        if low not in drop:
            out += (name, b": ", value, b"\r\n")
    if upgrade:
        out += (b"Connection: Upgrade\r\nUpgrade: ", request.upgrade, b"\r\n")
    out += lines
    if body is not None:
        out.append(b"Content-Length: %d\r\n" % len(body))
    elif request.chunked:
        out.append(b"Transfer-Encoding: chunked\r\n")
    elif request.length is not None:
        out.append(b"Content-Length: %d\r\n" % request.length)
    out.append(b"\r\n")
    return b"".join(out)


def origin_form(target: bytes) -> bytes:
    """The path and query of a request target, also of one in absolute form."""
    if target[:1] == b"/" or target == b"*":
        return target
    _, separator, rest = target.partition(b"://")
    if not separator:
        raise BadMessageError(400, "bad request target")
    _, slash, path = rest.partition(b"/")
    return slash + path if slash else b"/"


def response_head(
    status: int,
    reason: bytes,
    headers: Iterable[Header],
    *,
    drop: frozenset[bytes],
    extra: Iterable[tuple[bytes, bytes]],
    chunked: bool,
    close: bool,
) -> bytes:
    """The head for the client: the upstream's headers as they are, less what is of its connection."""
    out = [b"HTTP/1.1 %d " % status, reason, b"\r\n"]
    for low, name, value in headers:
        if low not in drop:
            out += (name, b": ", value, b"\r\n")
    for name, value in extra:
        out += (name, b": ", value, b"\r\n")
    if chunked:
        out.append(b"Transfer-Encoding: chunked\r\n")
    if close:
        out.append(b"Connection: close\r\n")
    out.append(b"\r\n")
    return b"".join(out)


def own_response(
    status: int, body: bytes, *, extra: Iterable[tuple[bytes, bytes]] = (), close: bool, bodiless: bool = False
) -> bytes:
    """A whole answer of our own, JSON; `bodiless` for an answer to HEAD."""
    out = [b"HTTP/1.1 %d " % status, REASONS.get(status, b"Error"), b"\r\nContent-Type: application/json\r\n"]
    for name, value in extra:
        out += (name, b": ", value, b"\r\n")
    out.append(b"Content-Length: %d\r\n" % len(body))
    if close:
        out.append(b"Connection: close\r\n")
    out.append(b"\r\n")
    if not bodiless:
        out.append(body)
    return b"".join(out)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; `data` is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)
