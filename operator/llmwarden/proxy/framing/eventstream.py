"""Cutting Amazon's binary event stream (`application/vnd.amazon.eventstream`) into messages, whatever the pieces it arrives in.

A message: total length, headers' length, CRC-32 of these eight bytes, headers, payload, CRC-32 of all before (big-endian, 4 bytes each).
"""

import re
import struct
import zlib
from typing import Final

import msgspec

CAP: Final = 1024 * 1024  # bytes of one message that are held and understood; a larger one passes unread
BROKEN: Final = b""  # the payload of a message that cannot be understood: no JSON, so its reader counts it as malformed

_PRELUDE: Final = struct.Struct(">III")
_PRELUDE_SIZE: Final = 12
_CRC_SIZE: Final = 4
_SMALLEST: Final = _PRELUDE_SIZE + _CRC_SIZE
# Bytes of a header's value by its type; the two others (6 bytes, 7 string) say their length themselves.
_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_BYTES, _STRING = 6, 7
_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9-]{0,63}")
_KNOWN: Final = 64  # blocks of headers that are remembered
_KNOWN_SIZE: Final = 1024  # bytes of one that is
# What names a message, by what it is.
_NAMED_BY: Final = {b"event": b":event-type", b"exception": b":exception-type"}


class Splitter:
    """`framing.Splitter`. A message's payload is given as `{"NAME": PAYLOAD}`: a union as the service's model has it.

    NAME is the event's or the exception's type; an unmodelled error is `{"error": {"code": ..., "message": ...}}`. A message whose checksum
    does not match, or that cannot be read, has the payload `BROKEN`. Where a prelude's own checksum does not match nothing
    says where the next message begins: all that follows passes unread.
    """

    __slots__ = ("_cap", "_carry", "_lost", "_need", "_skip")

    def __init__(self, cap: int = CAP) -> None:
        self._cap = cap
        self._carry = bytearray()
        self._need = _PRELUDE_SIZE  # bytes without which nothing more can be said
        self._skip = 0  # bytes to come of a message that is larger than the cap
        self._lost = False

    def feed(self, data: bytes) -> list[tuple[bytes, bytes | None]]:
        """The messages that are complete by now, each with its payload: None for pieces of one that is too large."""
        pieces: list[tuple[bytes, bytes | None]] = []
        if self._skip:
            passed = data[: self._skip]
            self._skip -= len(passed)
            pieces.append((passed, None))
            data = data[len(passed) :]
            if not data:
                return pieces
        if self._lost:
            pieces.append((data, None))
            return pieces
        carry = self._carry
        if len(carry) + len(data) < self._need:
            carry += data
            return pieces
        self._cut(bytes(carry) + data if carry else data, pieces)
        return pieces

    def _cut(self, buffer: bytes, pieces: list[tuple[bytes, bytes | None]]) -> None:
        start, end, self._need = 0, len(buffer), _PRELUDE_SIZE
        while end - start >= _PRELUDE_SIZE:
            total, headers, crc = _PRELUDE.unpack_from(buffer, start)
            if crc != zlib.crc32(buffer[start : start + 8]) or not _SMALLEST + headers <= total:
                self._lost = True
                pieces.append((buffer[start:], BROKEN))
                start = end
                break
            if total > self._cap:
                pieces.append((buffer[start : start + total], None))
                self._skip = max(start + total - end, 0)
                start = min(start + total, end)
                continue
            if end - start < total:
                self._need = total
                break
            message = buffer[start : start + total]
            pieces.append((message, _payload(message, _PRELUDE_SIZE + headers)))
            start += total
        self._carry = bytearray(buffer[start:])

    def rest(self) -> tuple[bytes, bytes | None]:
        """What has not made a whole message; the splitter is empty after it."""
        carry, self._carry = bytes(self._carry), bytearray()
        self._need = _PRELUDE_SIZE
        return carry, None


def _payload(message: bytes, headers_end: int) -> bytes:
    """A whole message's payload under its name; `BROKEN` where it has none."""
    end = len(message) - _CRC_SIZE
    if zlib.crc32(message[:end]) != int.from_bytes(message[end:], "big"):
        return BROKEN
    block = message[_PRELUDE_SIZE:headers_end]
    before = _known.get(block)
    if before is None:
        before = _before(block)
        if len(_known) >= _KNOWN:
            _known.clear()
        if len(block) <= _KNOWN_SIZE:
            _known[block] = before
    if not before:
        return _error(_headers(block))
    return before + (message[headers_end:end] or b"{}") + b"}"


# What stands before a payload, by its block of headers: a stream has the same few, over and over.
_known: Final[dict[bytes, bytes]] = {}


def _before(block: bytes) -> bytes:
    headers = _headers(block)
    name = headers.get(_NAMED_BY.get(headers.get(b":message-type", b"event"), b""), b"")
    return b'{"%b":' % name if _NAME.fullmatch(name) else b""


def _error(headers: dict[bytes, bytes]) -> bytes:
    """What is neither event nor exception: an error that the service's model does not know, or nothing that could be understood."""
    if headers.get(b":message-type") != b"error":
        return BROKEN
    code, text = headers.get(b":error-code", b""), headers.get(b":error-message", b"")
    return msgspec.json.encode({"error": {"code": code.decode("latin-1"), "message": text.decode("latin-1")}})


def _headers(block: bytes) -> dict[bytes, bytes]:
    """The headers whose values are strings; none where the block is not well formed."""
    found: dict[bytes, bytes] = {}
    at, end = 0, len(block)
    while at < end:
        name_end = at + 1 + block[at]
        if name_end >= end:
            return {}
        name, kind, value = block[at + 1 : name_end], block[name_end], name_end + 1
        size = _SIZES.get(kind)
        if size is None:
            if kind not in {_BYTES, _STRING} or value + 2 > end:
                return {}
            size = int.from_bytes(block[value : value + 2], "big")
            value += 2
        at = value + size
        if at > end:
            return {}
        if kind == _STRING:
            found[name] = block[value:at]
    return found
