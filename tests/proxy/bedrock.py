"""A simulated Bedrock (it is paid, and cannot be had here): it speaks the recorded protocol and checks every signature by botocore."""

import base64
import json
import struct
import zlib
from typing import Any


def message(name: str, payload: bytes, *, kind: str = "event", more: bytes = b"") -> bytes:
    """One message of the binary event stream. `more` are headers as bytes."""
    headers = more
    for key, value in (
        (f":{kind}-type", name),
        (":content-type", "application/json"),
        (":message-type", kind),
    ):
        headers += bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    data = prelude + headers + payload
    return data + struct.pack(">I", zlib.crc32(data))


def event(name: str, body: dict[str, Any], *, kind: str = "event") -> bytes:
    """A modelled event or exception; Bedrock pads them to hide their length."""
    return message(name, json.dumps({**body, "p": "abcdefghijk"}, separators=(",", ":")).encode(), kind=kind)


def chunk(body: dict[str, Any]) -> bytes:
    """A piece of InvokeModelWithResponseStream: the model's own event."""
    return event("chunk", {"bytes": base64.b64encode(json.dumps(body).encode()).decode()})
