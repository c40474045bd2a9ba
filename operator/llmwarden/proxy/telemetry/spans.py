"""One span per measured call, over OTLP/JSON, beside the path: a bounded queue, small batches, drops counted."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from llmwarden.proxy.http.client import Client, ClientError
from llmwarden.proxy.record import Record
from llmwarden.proxy.settings import Identity
from llmwarden.proxy.telemetry.otlp import encode

_QUEUE: Final = 2048
_BATCH: Final = 64  # encoding holds the interpreter: 64 spans are about half a millisecond
_LINGER_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 5.0
_MAX_PAUSE_SECONDS: Final = 10.0  # between tries at a failing collector


class Exporter:
    """A sink that delivers spans to a collector. It never waits: a collector that is down, slow or hanging costs spans, not calls."""

    def __init__(self, identity: Identity, client: Client, dropped: Callable[[int], None]) -> None:
        self._identity = identity
        self._client = client
        self._dropped = dropped
        self._queue: deque[Record] = deque()
        self._wake = asyncio.Event()

    def finished(self, record: Record) -> None:
        """Queue a sampled call, or drop it when the queue is full."""
        if not record.trace.sampled:
            return
        if len(self._queue) >= _QUEUE:
            self._dropped(1)
            return
        self._queue.append(record)
        if len(self._queue) % _BATCH == 0:
            self._wake.set()

    async def run(self) -> None:
        """Deliver full batches at once and the rest after a second, until cancelled. After a failure it pauses before the next try."""
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
        """Deliver the rest of the queue, until the collector fails; the caller bounds the time."""
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
