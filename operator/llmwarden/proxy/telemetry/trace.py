"""A call's place in its distributed trace: W3C trace context is continued, or a trace is started."""

import random
import re
from typing import Final

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# Ids of zeros are invalid (W3C trace context).
_NO_TRACE: Final = "0" * 32
_ONE_TRACE: Final = "0" * 31 + "1"
_NO_SPAN: Final = "0" * 16
_ONE_SPAN: Final = "0" * 15 + "1"
_FULL: Final = 100.0


class Trace:
    """A call's place in its trace; ids in hex."""

    __slots__ = ("parent_id", "sampled", "span_id", "trace_id")

    def __init__(self, trace_id: str, span_id: str, parent_id: str, *, sampled: bool) -> None:
        self.trace_id: Final = trace_id
        self.span_id: Final = span_id
        self.parent_id: Final = parent_id
        self.sampled: Final = sampled

    def header(self) -> bytes:
        """The traceparent for the upstream."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}".encode()


def begin(traceparent: bytes, sample_percent: float) -> Trace:
    """Continue the caller's trace, and its decision to sample; or start one, and decide."""
    ids = random.getrandbits(192).to_bytes(24, "big").hex()
    trace_id, span_id = ids[:32], ids[32:]
    if span_id == _NO_SPAN:
        span_id = _ONE_SPAN
    if traceparent:
        match = _TRACEPARENT.fullmatch(traceparent.strip())
        if match and match[1] != b"ff" and match[2].strip(b"0") and match[3].strip(b"0"):
            return Trace(match[2].decode(), span_id, match[3].decode(), sampled=bool(int(match[4], 16) & 1))
    if trace_id == _NO_TRACE:
        trace_id = _ONE_TRACE
    sampled = sample_percent >= _FULL or random.random() * _FULL < sample_percent  # noqa: S311 - a sample
    return Trace(trace_id, span_id, "", sampled=sampled)
