"""The client of the control side: a broken server is an error of its own kind, and one caller's time-out is no other's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from llmwarden.proxy.http.client import Client, ClientError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def serving(answer: bytes, *, after: float = 0.0) -> AsyncIterator[tuple[Client, list[bytes]]]:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                await asyncio.sleep(after)
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield client, heads
    finally:
        client.close()
        server.close()
        await asyncio.sleep(0.05)  # its connections end


@pytest.mark.parametrize("answer", [b"HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1 two\r\n\r\n", b"\xff\x00 \r\n\r\n"])
async def test_what_is_no_answer_is_a_client_error(answer: bytes) -> None:
    async with serving(answer) as (client, _):
        with pytest.raises(ClientError) as caught:
            await client.request("GET", "/", timeout=5)
        assert caught.value.reason == "protocol"


async def test_who_waits_for_its_turn_too_long_breaks_nobody_elses() -> None:
    async with serving(OK, after=0.5) as (client, heads):
        first = asyncio.create_task(client.request("GET", "/first", timeout=5))
        await asyncio.sleep(0.1)
        with pytest.raises(ClientError):
            await client.request("GET", "/second", timeout=0.1)
        assert (await first).body == b"ok"
        assert len(heads) == 1
