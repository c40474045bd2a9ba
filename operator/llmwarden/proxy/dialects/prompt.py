"""What several dialects read of requests in the same way."""

import re
from collections.abc import Iterable
from typing import Any, Final
from zlib import crc32

import msgspec

from llmwarden.proxy.dialects.base import NAME_LENGTH

_SAMPLE: Final = 256  # bytes at each end of a message that its hash is made of, with its length
_KEPT: Final = 32  # prefixes of one request
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_ERROR_LENGTH: Final = 64
_MOST: Final = (1 << 63) - 1


def chain(messages: Iterable[bytes]) -> tuple[int, ...]:
    """A 64-bit hash of all messages up to each of the last ones: a request that goes on from another one has that one's last hash.

    Not cryptographic, and of a sample of each message: it costs half a microsecond or so per message, whatever its size. A tuple of numbers
    has the same hash in every process of one Python.
    """
    kept: list[int] = []
    value = 0
    for message in messages:
        value = hash((value, sample(message, 0), len(message)))
        kept.append(value)
    return tuple(kept[-_KEPT:])


def chain_parts(messages: Iterable[tuple[msgspec.Raw, ...]]) -> tuple[int, ...]:
    """The same of messages in parts, without copying any."""
    kept: list[int] = []
    value = 0
    for parts in messages:
        check = size = 0
        for part in parts:
            length = len(part)
            if length:
                check = crc32(part, check) if length <= 2 * _SAMPLE else sample(part, check)
                size += length
        value = hash((value, check, size))
        kept.append(value)
    return tuple(kept[-_KEPT:])


def sample(data: "bytes | msgspec.Raw", check: int) -> int:
    """A checksum of a message, or of both its ends, going on from another."""
    view = memoryview(data)
    if view.nbytes <= 2 * _SAMPLE:
        return crc32(view, check)
    return crc32(view[-_SAMPLE:], crc32(view[:_SAMPLE], check))


def positive(value: Any) -> int | None:
    """A count that a request names; None for what is none, or above 64 bits: no server means it, and no collector reads it."""
    return value if type(value) is int and 0 <= value <= _MOST else None


def number(value: Any) -> float | None:
    """A number that a request names."""
    if type(value) is int:
        return float(value) if -_MOST <= value <= _MOST else None
    return value if type(value) is float else None


def name(value: Any) -> str:
    """A model's name or an id."""
    return value[:NAME_LENGTH] if isinstance(value, str) else ""


def error_type(value: Any) -> str:
    """An error's type as a label: what comes from outside is shortened and made plain."""
    return _UNSAFE.sub("_", str(value or "error"))[:_ERROR_LENGTH]


def replaced(body: bytes, **values: Any) -> bytes:
    """A JSON object with other values for some names; all others keep their bytes."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for key, value in values.items():
        fields[key] = msgspec.Raw(msgspec.json.encode(value))
    return msgspec.json.encode(fields)
