"""What a client can do to the sidecar's admin port: send its head slowly or without end, or not read the answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest
import pytest_asyncio

from llmwarden.proxy import admin
from llmwarden.proxy.admin import Admin
from llmwarden.proxy.telemetry.metrics import Metrics

HUGE = 64 * 1024 * 1024  # more than the kernel's buffers of both ends hold


class Exposed:
    """In place of the proxy's metrics: a page that no socket buffer holds."""

    def expose(self, _accept: str) -> tuple[str, bytes]:
        return "text/plain", b"x" * HUGE


@pytest_asyncio.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(admin, "_TIMEOUT_SECONDS", 0.5)
    server = Admin(cast("Metrics", Exposed()), {"/readyz": lambda: True})
    await server.listen(0)
    yield server.port
    server.close()


async def test_a_head_that_trickles_is_given_up(port: int) -> None:
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /readyz HTTP/1.1\r\nX-Slow: ")

    async def trickle() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    writing = asyncio.create_task(trickle())
    try:
        assert await asyncio.wait_for(reader.read(), 5) == b""
    except ConnectionError:
        pass  # it was dropped while we wrote
    finally:
        writing.cancel()
        writer.close()
    assert 0.5 <= time.monotonic() - begun < 5


async def test_a_head_that_is_too_long_is_not_read(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /readyz HTTP/1.1\r\nX-Long: " + b"x" * 64 * 1024)
    try:
        assert await asyncio.wait_for(reader.read(), 5) == b""
    except ConnectionError:
        pass  # it was closed with what we wrote unread
    finally:
        writer.close()


async def test_a_body_is_not_waited_for(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /readyz HTTP/1.1\r\nContent-Length: 100\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"\r\n\r\nok\n")
    writer.close()


async def test_a_client_that_does_not_read_its_answer_is_dropped(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    await asyncio.sleep(1)  # past the time-out; our buffers are full, and the server's are not empty
    received = 0
    try:
        while part := await asyncio.wait_for(reader.read(1 << 20), 5):
            received += len(part)
    except ConnectionError:
        pass
    finally:
        writer.close()
    assert 0 < received < HUGE
