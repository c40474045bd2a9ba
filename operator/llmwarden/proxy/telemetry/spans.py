"""One span per measured call, over OTLP/JSON, beside the path: a bounded queue, small batches, drops counted.

Attribute names: the OpenTelemetry GenAI conventions (shared/conventions.md). W3C trace context is continued.
"""

import asyncio
import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final, Protocol

import msgspec

from llmwarden.proxy.http.client import Client, ClientError
from llmwarden.proxy.settings import Identity

_QUEUE: Final = 2048
_BATCH: Final = 64  # encoding holds the interpreter: 64 spans are about half a millisecond
_LINGER_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 5.0
_MAX_PAUSE_SECONDS: Final = 10.0  # between tries at a failing collector
_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
CLIENT_KIND: Final = 3  # SPAN_KIND_CLIENT
ERROR_STATUS: Final = 2  # STATUS_CODE_ERROR
# Ids of zeros are none (W3C trace context).
_NO_TRACE: Final = "0" * 32
_ONE_TRACE: Final = "0" * 31 + "1"
_NO_SPAN: Final = "0" * 16
_ONE_SPAN: Final = "0" * 15 + "1"
_FULL: Final = 100.0

Value = str | int | float | bool | list[str]


class Trace:
    """A call's place in its trace; ids in hex."""

    __slots__ = ("parent_id", "sampled", "span_id", "trace_id")

    def __init__(self, trace_id: str, span_id: str, parent_id: str, *, sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.sampled = sampled

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


class Finished(Protocol):
    """A finished call (`record.Record`): its text is made when its batch goes, not on the path."""

    service: str

    def span(self) -> str:
        """The span as OTLP/JSON."""


class Exporter:
    """Delivers spans to a collector. `offer` never waits; a collector that is down, slow or hanging costs spans, not calls."""

    def __init__(self, identity: Identity, client: Client, dropped: Callable[[int], None]) -> None:
        self._identity = identity
        self._client = client
        self._dropped = dropped
        self._queue: deque[Finished] = deque()
        self._wake = asyncio.Event()

    def offer(self, call: Finished) -> None:
        """Take a finished call, or drop it when the queue is full."""
        if len(self._queue) >= _QUEUE:
            self._dropped(1)
            return
        self._queue.append(call)
        if len(self._queue) % _BATCH == 0:
            self._wake.set()

    async def run(self) -> None:
        """Deliver full batches at once and the rest when it has lingered, until cancelled; a failing collector is left alone for a while."""
        failures = 0
        while True:
            lingered = False
            try:
                async with asyncio.timeout(_LINGER_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                lingered = True
            self._wake.clear()
            waiting = len(self._queue)
            for _ in range(-(-waiting // _BATCH) if lingered else waiting // _BATCH):
                if await self._send():
                    failures = 0
                    continue
                failures += 1
                await asyncio.sleep(min(_MAX_PAUSE_SECONDS, _LINGER_SECONDS * 2**failures))
                break

    async def flush(self) -> None:
        """Deliver what is left while the collector takes it; the caller bounds the time."""
        while self._queue and await self._send():
            pass

    async def _send(self) -> bool:
        batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
        try:
            answer = await self._client.request(
                "POST",
                "/v1/traces",
                body=encode(batch, self._identity),
                timeout=_TIMEOUT_SECONDS,
            )
        except ClientError:
            self._dropped(len(batch))
            return False
        if not 200 <= answer.status < 300:  # noqa: PLR2004 - success
            self._dropped(len(batch))
            return False
        return True


def encode(calls: Iterable[Finished], identity: Identity) -> bytes:
    """An OTLP ExportTraceServiceRequest in JSON: 64-bit integers are strings, ids are hex.

    Written as text: building the same as objects, to be encoded by a library, takes twice the time.
    """
    by_service: dict[str, list[str]] = {}
    for call in calls:
        by_service.setdefault(call.service, []).append(call.span())
    resources = (
        f'{{"resource":{{"attributes":[{_resource(service, identity)}]}},'
        f'"scopeSpans":[{{"scope":{{"name":"llmwarden.proxy"}},"spans":[{",".join(items)}]}}]}}'
        for service, items in by_service.items()
    )
    return f'{{"resourceSpans":[{",".join(resources)}]}}'.encode()


@lru_cache(maxsize=256)
def _resource(service: str, identity: Identity) -> str:
    values: dict[str, Value] = {
        "service.name": service,
        "service.namespace": identity.namespace,
        "k8s.namespace.name": identity.namespace,
        "k8s.pod.name": identity.pod,
        "k8s.pod.uid": identity.uid,
        "k8s.node.name": identity.node,
    }
    return attributes(values)


def attributes(values: Mapping[str, Value]) -> str:
    """Attributes as text."""
    return ",".join([attribute(key, value) for key, value in values.items()])


def number(value: float) -> str:
    """A number as text."""
    return _encode(value).decode()


def attribute(key: str, value: Value) -> str:
    """One attribute as text; keys are constants of ours and need no escapes."""
    kind = type(value)
    if kind is int:
        return f'{{"key":"{key}","value":{{"intValue":"{value}"}}}}'
    if isinstance(value, str):
        return f'{{"key":"{key}","value":{{"stringValue":{text(value)}}}}}'
    if isinstance(value, bool):
        return f'{{"key":"{key}","value":{{"boolValue":{"true" if value else "false"}}}}}'
    if isinstance(value, list):
        items = ",".join([f'{{"stringValue":{text(item)}}}' for item in value])
        return f'{{"key":"{key}","value":{{"arrayValue":{{"values":[{items}]}}}}}}'
    return f'{{"key":"{key}","value":{{"doubleValue":{text(value)}}}}}'


def text(value: object) -> str:
    """A value as JSON."""
    return _encode(value).decode()


_encode: Final = msgspec.json.Encoder().encode
