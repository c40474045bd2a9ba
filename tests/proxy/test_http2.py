"""HTTP/2 by a real implementation on both sides: passed through as it is, counted as not measured."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from tests.proxy.fakes import CHAT, Proxy

PIECES = 40
PIECE = b'data: {"choices":[]}\n\n' * 200


class Upstream:
    """An h2c server with prior knowledge that streams an answer to each request."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        bodies: dict[int, bytes] = {}
        waiting: dict[int, bytes] = {}
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        self.bodies.append(bodies.pop(event.stream_id))
                        connection.send_headers(
                            event.stream_id, [(":status", "200"), ("content-type", "text/event-stream")]
                        )
                        waiting[event.stream_id] = PIECE * PIECES
                self._send(connection, waiting)
                writer.write(connection.data_to_send())
                await writer.drain()
        writer.close()

    @staticmethod
    def _send(connection: h2.connection.H2Connection, waiting: dict[int, bytes]) -> None:
        """As much as the client's windows allow."""
        for stream, data in list(waiting.items()):
            rest = data
            while rest and (room := min(connection.local_flow_control_window(stream), 16384)):
                connection.send_data(stream, rest[:room])
                rest = rest[room:]
            waiting[stream] = rest
            if not rest:
                connection.end_stream(stream)
                del waiting[stream]


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[tuple[Upstream, int]]:
    made = Upstream()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    try:
        yield made, server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def ask(port: int, streams: int) -> dict[int, bytes]:
    """So many requests at once over one connection; the bodies of their answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    answers: dict[int, bytes] = {}
    for _ in range(streams):
        stream = connection.get_next_available_stream_id()
        head = [(":method", "POST"), (":path", "/v1/chat/completions"), (":scheme", "http"), (":authority", "chat")]
        connection.send_headers(stream, head)
        connection.send_data(stream, CHAT, end_stream=True)
        answers[stream] = b""
    writer.write(connection.data_to_send())
    open_streams = set(answers)
    async with asyncio.timeout(10):
        while open_streams:
            data = await reader.read(65536)
            assert data, "the connection was closed"
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    answers[event.stream_id] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    open_streams.discard(event.stream_id)
            writer.write(connection.data_to_send())
    connection.close_connection()
    writer.write(connection.data_to_send())
    writer.close()
    return answers


async def ping_after(port: int, seconds: float) -> None:
    """An idle connection is still there after so long, though an answer would have timed out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    await asyncio.sleep(seconds)
    connection.ping(b"12345678")
    writer.write(connection.data_to_send())
    async with asyncio.timeout(10):
        while data := await reader.read(65536):
            if any(isinstance(event, h2.events.PingAckReceived) for event in connection.receive_data(data)):
                writer.close()
                return
    pytest.fail("the connection was closed")


async def test_http2_passes_byte_for_byte_and_is_counted_as_unmeasured(tmp_path: Path) -> None:
    async with upstream() as (server, port):
        route = {"mode": "Port", "backend": "VLLM", "listen": {"host": "", "port": 0}}
        proxy = Proxy(tmp_path, f"http://127.0.0.1:{port}", route=route, limits={"responseSeconds": 0.5})
        await proxy.start()
        try:
            answers = await ask(proxy.port, 5)
            assert list(answers.values()) == [PIECE * PIECES] * 5
            assert server.bodies == [CHAT] * 5
            assert await proxy.metric("llmwarden_unmeasured_requests_total", reason="http2") == 1
            assert await proxy.metric("llmwarden_requests_total") == 0
            await ping_after(proxy.port, 1.5)
            # A server may speak first, and does before the proxy has turned round: not once in a while, but each time.
            for _ in range(20):
                assert list((await ask(proxy.port, 1)).values()) == [PIECE * PIECES]
        finally:
            await proxy.stop()
