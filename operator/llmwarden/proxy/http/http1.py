"""HTTP/1.1 that both sides share: how heads are read and written, which headers travel, how chunks are framed.

Strict, in plain Python, and faster than a parser in C that calls back for each header: lines of heads repeat from message to message, so
what a line means is remembered by its bytes. What cannot be remembered (a length, a date) costs a microsecond.
"""

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, TypeVar

from llmwarden.proxy.seam import Header, Kept, Request

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
# Header lines that never come twice, or that nobody should keep.
_FORGOTTEN: Final = frozenset(
    {
        *(b"content-length", b"date", b"traceparent", b"tracestate", b"idempotency-key", b"x-request-id", b"request-id", b"cf-ray"),
        *(b"authorization", b"proxy-authorization", b"api-key", b"x-api-key", b"x-goog-api-key", b"cookie", b"set-cookie"),
        *(b"x-amz-security-token", b"x-amz-date", b"x-amz-content-sha256"),
    }
)  # fmt: skip
# Of requests: what `check_request` looks at.
_CHECKED: Final = frozenset(
    {b"host", b"content-length", b"content-encoding", b"transfer-encoding", b"connection", b"upgrade", b"expect"}
)
# RFC 9110, 5.1, 5.5 and 5.6.2, obs-text among it. Nothing is tried twice (`*+`): a line of blanks would take its square.
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*)")
_VALUE: Final = bytes({*range(0x20, 0x7F), 0x09, *range(0x80, 0x100)})  # RFC 9110, 5.5, obs-text among it
_TARGET: Final = bytes({*range(0x21, 0x7F), *range(0x80, 0x100)})
_LOOKED_AT: Final = HOP_BY_HOP | {b"content-length"}  # of answers
_HEX: Final = b"0123456789abcdefABCDEF"
# RFC 9110 and the registry of methods; what else comes is noise, or another protocol.
_METHODS: Final = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK REPORT PURGE".split()
)
_REMEMBERED: Final = 1024
_REMEMBERED_BYTES: Final = 256  # a longer line is read each time
_REPEATED_BYTES: Final = 8192  # of a head: a longer one is not kept with its connection
_LINE: Final = 4096  # bytes of a chunk's size line, or of a trailer
_TRAILERS: Final = 16 * 1024
_MOST_HEADERS: Final = 200
_DIGITS: Final = 18  # of a length
_HEX_DIGITS: Final = 15
_STATUS: Final = re.compile(rb"[1-9][0-9]{2}")
_NOTHING: Final[frozenset[bytes]] = frozenset()
_FRAMES: Final = frozenset({b"content-length", b"transfer-encoding"})
_NEVER_DROPPED: Final = HOP_BY_HOP | {b"content-length"}
LAST_CHUNK: Final = b"0\r\n\r\n"
REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
NO_BODY: Final = frozenset({204, 304})


T = TypeVar("T")


class BadMessageError(Exception):
    """A message that we refuse; `status` is what the sender gets."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Memory(dict[bytes, T]):
    """What byte strings mean, computed when first asked for; a bounded number of them, all forgotten when it is reached."""

    def __init__(self, learn: Callable[[bytes], T]) -> None:
        super().__init__()
        self._learn = learn

    def __missing__(self, key: bytes) -> T:
        value = self._learn(key)
        if len(key) <= _REMEMBERED_BYTES:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[key] = value
        return value


def tokens(value: bytes) -> frozenset[bytes]:
    """Lower-case tokens of a Connection or Upgrade header."""
    return frozenset(item.strip().lower() for item in value.split(b",") if item.strip())


def _read_field(line: bytes) -> Header:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise BadMessageError(400, "a malformed header")
    name = match[1]
    return name.lower(), name, match[2].rstrip(b" \t")


_fields: Final = Memory(_read_field)
_names: Final[dict[bytes, bytes]] = {}  # of lines that never come twice: as they are spelled, and in lower case


def fields(lines: list[bytes]) -> list[Header]:
    """Header lines, read. Raises BadMessageError: for a folded line too, whose name would begin with a space."""
    known = _fields.get
    return [known(line) or _learn(line) for line in lines]


def _learn(line: bytes) -> Header:
    name, _, value = line.partition(b":")
    low = _names.get(name)
    if low is not None and not value.translate(None, _VALUE):
        return low, name, value.strip(b" \t")
    header = _read_field(line)
    if header[0] in _FORGOTTEN:
        if len(_names) < _REMEMBERED:
            _names[name] = header[0]
    else:
        _fields[line]
    return header


def _read_request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    parts = line.split(b" ")
    if len(parts) != 3:  # noqa: PLR2004 - method, target, version
        raise BadMessageError(400, "a malformed request line")
    method, target, version = parts
    if method not in _METHODS or not target or target.translate(None, _TARGET):
        raise BadMessageError(400, "a malformed request line")
    if version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        raise BadMessageError(400, "not HTTP/1.1")
    if method != b"CONNECT":
        origin_form(target)
    return method, target, version == b"HTTP/1.0"


_request_lines: Final = Memory(_read_request_line)


def read_request(head: bytes, started: float) -> Request:
    """A request's head, without its empty line, checked. Raises BadMessageError."""
    lines = head.split(b"\r\n")
    method, target, old = _request_lines[lines[0]]
    del lines[0]
    if len(lines) > _MOST_HEADERS:
        raise BadMessageError(431, "the request has too many headers")
    request = Request(method, target, fields(lines), started, old=old, lines=lines)
    check_request(request)
    return request


class Repeated:
    """A head that comes again on its connection, but for the digits of its Content-Length: most of a client's requests are so."""

    __slots__ = ("_at", "_kept", "_name", "_prefix", "_request", "_suffix", "_target")

    def __init__(self, head: bytes, request: Request, lines: list[bytes], at: int) -> None:
        line, value = lines[at], request.headers[at][2]
        start = head.index(b"\r\n" + line) + 2 + line.rindex(value)
        self._prefix = head[:start]
        self._suffix = head[start + len(value) :]
        self._at = at
        self._name = request.headers[at][1]
        self._request = request
        self._target = request.target  # the exchange may change its own
        self._kept = Kept()

    def read(self, head: bytes, started: float) -> Request | None:
        """The request, if this is the head."""
        prefix, suffix = self._prefix, self._suffix
        size = len(head) - len(prefix) - len(suffix)
        if not 0 < size <= _DIGITS or not head.startswith(prefix) or not head.endswith(suffix):
            return None
        digits = head[len(prefix) : len(prefix) + size]
        if not digits.isdigit():
            return None
        known = self._request
        headers = known.headers.copy()
        headers[self._at] = (b"content-length", self._name, digits)
        return Request(
            known.method,
            self._target,
            headers,
            started,
            keep=known.keep,
            length=int(digits),
            encoded=known.encoded,
            drop=known.drop,
            lines=known.lines,  # that of the length never goes on
            kept=self._kept,
        )


def repeated(head: bytes, request: Request) -> Repeated | None:
    """What to compare the next head with; None for one that is not so plain."""
    lines = request.lines
    if request.length is None or request.old or request.expects or request.upgrade or len(head) > _REPEATED_BYTES:
        return None
    if lines is None:
        return None
    for at, header in enumerate(request.headers):
        if header[0] == b"content-length":
            return Repeated(head, request, lines, at)
    return None


def check_request(request: Request) -> None:  # noqa: C901, PLR0912 - one pass over the headers, once per request
    """Fill in framing and connection handling from the headers; raises BadMessageError for what could be smuggled."""
    hosts = 0
    connection: frozenset[bytes] = frozenset()
    upgrade = b""
    for header in request.headers:
        low = header[0]
        if low not in _CHECKED:
            continue
        value = header[2]
        if low == b"host":
            hosts += 1
        elif low == b"content-length":
            if request.length is not None or not value.isdigit() or len(value) > _DIGITS:
                raise BadMessageError(400, "bad Content-Length")
            request.length = int(value)
        elif low == b"transfer-encoding":
            if request.chunked or request.old or value.strip().lower() != b"chunked":
                raise BadMessageError(400, "bad Transfer-Encoding")
            request.chunked = True
        elif low == b"connection":
            connection |= _connections[value]
        elif low == b"upgrade":
            upgrade = value.strip().lower()
        elif low == b"content-encoding":
            request.encoded = True
        else:
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


class AnswerHead:
    """An answer's head. `framing` is "length", "chunked", "close" (its connection's end) or "none"; `drop` is what `Connection` names."""

    framing: str = "close"
    length: int = 0
    drop: frozenset[bytes] = _NOTHING
    whole: bytes = b""  # the head as it came, where nothing of it is of its connection but how its body is framed

    def __init__(self, status: int, reason: bytes, headers: list[Header], lines: list[bytes], *, keep: bool) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.lines = lines
        self.keep = keep


def _read_status_line(line: bytes) -> tuple[int, bytes, bool]:
    version, _, rest = line.partition(b" ")
    code, _, reason = rest.partition(b" ")
    if version not in {b"HTTP/1.1", b"HTTP/1.0"} or not _STATUS.fullmatch(code) or reason.translate(None, _VALUE):
        raise BadMessageError(502, "not an HTTP/1.1 answer")
    return int(code), reason, version == b"HTTP/1.0"


_status_lines: Final = Memory(_read_status_line)


def read_answer(head: bytes) -> AnswerHead:  # noqa: C901, PLR0912 - one pass over the headers
    """An answer's head, without its empty line. Raises BadMessageError."""
    lines = head.split(b"\r\n")
    status, reason, old = _status_lines[lines[0]]
    del lines[0]
    headers = fields(lines)
    answer = AnswerHead(status, reason, headers, lines, keep=not old)
    length = b""
    passes = not old
    for header in headers:
        low = header[0]
        if low not in _LOOKED_AT:
            continue
        if low == b"content-length":
            if not header[2].isdigit() or len(header[2]) > _DIGITS or (length and length != header[2]):
                raise BadMessageError(502, "bad Content-Length")
            length = header[2]
        elif low == b"transfer-encoding":
            # Other codings, two of them, or HTTP/1.0: who reads the length otherwise reads another answer.
            if old or answer.framing == "chunked" or header[2].lower() != b"chunked":
                raise BadMessageError(502, "bad Transfer-Encoding")
            answer.framing = "chunked"
        elif low == b"connection":
            passes = False
            answer.drop |= _connections[header[2]] - _NEVER_DROPPED
            if b"close" in _connections[header[2]]:
                answer.keep = False
        else:
            passes = False
    if length:
        if answer.framing == "chunked":
            raise BadMessageError(502, "Content-Length and Transfer-Encoding together")
        answer.length = int(length)
        answer.framing = "length"
    if status in NO_BODY:
        answer.framing = "none"
    elif passes:
        answer.whole = head
    return answer


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
    """The head for the upstream. `host` replaces the client's Host when not empty; `body`, when not None, sets the length.

    Of one connection `prefix` and `host` are always the same.
    """
    kept = request.kept
    if kept is not None and kept.drop is drop and kept.target is request.target:
        begin = kept.begin
    else:
        begin = _request_begin(request, prefix, host, drop)
        if kept is not None:
            kept.begin, kept.drop, kept.target = begin, drop, request.target
    framing = b""
    if body is not None:
        framing = b"Content-Length: %d\r\n" % len(body)
    elif request.chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    elif request.length is not None:
        framing = b"Content-Length: %d\r\n" % request.length
    if upgrade:
        framing = b"Connection: Upgrade\r\nUpgrade: %b\r\n%b" % (request.upgrade, framing)
    return b"".join([begin, framing, *lines, b"\r\n"])


def _request_begin(request: Request, prefix: bytes, host: bytes, drop: frozenset[bytes]) -> bytes:
    """The request line and the client's headers, less what is of its connection or left out."""
    gone = drop | HOP_BY_HOP | request.drop | _FRAMING | (_HOST if host else frozenset())
    out = [b"%b %b%b HTTP/1.1\r\n" % (request.method, prefix, origin_form(request.target))]
    if host:
        out.append(b"Host: %b\r\n" % host)
    own = request.lines
    for at, (low, name, value) in enumerate(request.headers):
        if low not in gone:
            out += (own[at] if own is not None else name + b": " + value, b"\r\n")
    return b"".join(out)


def united(one: frozenset[bytes], other: frozenset[bytes]) -> frozenset[bytes]:
    """Both sets of names, always as the same object for the same two: its hash is then made once."""
    key = (one, other)
    known = _united.get(key)
    if known is None:
        known = one | other
        if len(_united) < _REMEMBERED:
            _united[key] = known
    return known


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
    head: AnswerHead, *, drop: frozenset[bytes], extra: Iterable[tuple[bytes, bytes]], chunked: bool, close: bool
) -> bytes:
    """The head for the client: the upstream's headers as they are, less what is of its connection."""
    if head.whole and drop is HOP_BY_HOP and not extra and not close and chunked == (head.framing == "chunked"):
        return head.whole + b"\r\n\r\n"
    out = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    out += [line for line, header in zip(head.lines, head.headers, strict=True) if header[0] not in drop]
    for name, value in extra:
        out.append(name + b": " + value)
    if chunked:
        out.append(b"Transfer-Encoding: chunked")
    if close:
        out.append(b"Connection: close")
    out.append(b"\r\n")
    return b"\r\n".join(out)


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


class Chunks:
    """Takes chunks apart (RFC 9112, 7.1), whatever pieces they come in; extensions and trailers are dropped."""

    __slots__ = ("_left", "_line", "_state", "_trailers", "ended", "plain")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left = 0  # bytes of the chunk that are still to come
        self._line = b""  # of a line that is not complete
        self._trailers = 0
        self.ended = False
        self.plain = False  # what was last fed holds whole chunks, and nothing else: it can go on as it is

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """The content that has come, and how far the data was read: all of it, or to the end of the body. Raises BadMessageError."""
        at, size = 0, len(data)
        pieces: list[bytes] = []
        if self._state == _SIZE and not self._line:
            # Mostly what comes are whole chunks.
            while at < size:
                end = data.find(b"\r\n", at, at + 10)
                if end < 0:
                    break
                left = _sizes.get(data[at:end])
                if not left:
                    break
                end += 2
                after = end + left
                if data[after : after + 2] != b"\r\n":
                    break
                pieces.append(data[end:after])
                at = after + 2
        self.plain = at == size
        while at < size and not self.ended:
            at = self._step(data, at, pieces)
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), at

    def _step(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        state = self._state
        if state == _CONTENT:
            piece = data[at : at + self._left]
            pieces.append(piece)
            self._left -= len(piece)
            if not self._left:
                self._state = _END
            return at + len(piece)
        end = data.find(b"\n", at) + 1
        line = self._line + data[at : end or len(data)]
        if len(line) > _LINE:
            raise BadMessageError(400, "a malformed chunk")
        if not end:
            self._line = line
            return len(data)
        self._line = b""
        if not line.endswith(b"\r\n"):
            raise BadMessageError(400, "a malformed chunk")
        self._read(line[:-2])
        return end

    def _read(self, line: bytes) -> None:
        if self._state == _SIZE:
            self._left = _sizes[line.partition(b";")[0]]
            self._state = _CONTENT if self._left else _TRAILER
        elif self._state == _END:
            if line:
                raise BadMessageError(400, "a malformed chunk")
            self._state = _SIZE
        elif line:
            # Dropped, but what is no header may be the next message to somebody else, or may frame this one anew.
            if _read_field(line)[0] in _FRAMES:
                raise BadMessageError(400, "a trailer that frames")
            self._trailers += len(line)
            if self._trailers > _TRAILERS:
                raise BadMessageError(400, "too many trailers")
        else:
            self.ended = True


_SIZE, _CONTENT, _END, _TRAILER = range(4)


def _read_size(digits: bytes) -> int:
    if not digits or len(digits) > _HEX_DIGITS or digits.translate(None, _HEX):
        raise BadMessageError(400, "a malformed chunk")
    return int(digits, 16)


_sizes: Final = Memory(_read_size)
_connections: Final = Memory(tokens)
_united: Final[dict[tuple[frozenset[bytes], frozenset[bytes]], frozenset[bytes]]] = {}
