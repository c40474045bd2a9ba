"""What a client can do to the exporter's server: send its head slowly, or without end."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from llmwarden.gpu import main
from llmwarden.gpu.metrics import GpuCollector


class Nothing:
    """In place of GPUs."""

    stale_library = False

    def collect(self) -> Iterator[object]:
        yield from ()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(main, "HEAD_SECONDS", 0.5)
    with main.Server(0, cast("GpuCollector", Nothing())) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def drained(client: socket.socket) -> bytes:
    """Read until the server closes."""
    received = b""
    try:
        while part := client.recv(65536):
            received += part
    except ConnectionError:
        pass
    return received


def test_a_head_that_trickles_is_given_up(port: int) -> None:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /readyz HTTP/1.1\r\nX-Slow: ")
        stop = threading.Event()

        def trickle() -> None:
            try:
                while not stop.wait(0.05):
                    client.sendall(b"x")
            except OSError:
                pass

        writer = threading.Thread(target=trickle)
        writer.start()
        assert drained(client) == b""
        stop.set()
        writer.join()
    assert 0.5 <= time.monotonic() - begun < 5


@pytest.mark.parametrize(("head", "status"), [(b"GET /" + b"x" * 70_000, b"414"), (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101, b"431")])  # fmt: skip
def test_a_head_that_is_too_long_is_refused(port: int, head: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(head + b" HTTP/1.1\r\n\r\n")
        assert drained(client).split(b" ")[1] == status


def test_a_body_is_not_waited_for(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /readyz HTTP/1.1\r\nContent-Length: 100\r\n\r\n")
        assert drained(client).endswith(b"\r\n\r\nok\n")
