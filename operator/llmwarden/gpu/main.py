"""`python -m llmwarden gpu-exporter [--port 9400]`: this node's GPUs as Prometheus metrics, where dcgm-exporter is not.

It starts and stays up without a driver: on such a node it serves `llmwarden_gpu_driver_up 0` and asks again later.
Which pods use them it asks the kubelet, whose socket may come and go.
Paths: `/metrics`, `/readyz` (listening), `/livez` (fails when only a new process could load the driver's new library).

The exporter may not import starlette, so `serving.guard` does not guard this server. Its bounds are its own:

- head: at most 100 lines of 64 KiB, which are the standard library's limits;
- body: never read, because every path is a GET; the connection is closed after the answer (HTTP/1.0);
- time: 15 s for the whole head, however the client spreads it (`HEAD_SECONDS`), and 15 s for the answer (`ANSWER_SECONDS`).
"""

import argparse
import io
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from llmwarden import names
from llmwarden.gpu.metrics import BusyError, GpuCollector
from llmwarden.gpu.nvml import Driver
from llmwarden.gpu.podresources import SOCKET
from llmwarden.gpu.pods import Pods

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

HEAD_SECONDS = 15.0  # a scrape's own time-out is 10 s by default: a client that is slower has given up
ANSWER_SECONDS = 15.0

log = logging.getLogger(__name__)


class Server(ThreadingHTTPServer):
    """Serves a collector on every address, IPv4 and IPv6."""

    daemon_threads = True

    def __init__(self, port: int, collector: GpuCollector) -> None:
        """Listen at once; raises OSError when the port is taken."""
        self.collector = collector
        self.registry = CollectorRegistry()
        self.registry.register(collector)
        if socket.has_dualstack_ipv6():
            self.address_family = socket.AF_INET6
        super().__init__(("", port), Handler)

    def server_bind(self) -> None:
        """Take IPv4 connections too on an IPv6 socket; send at once on all that are accepted."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Head(io.RawIOBase):
    """What a client sends, for `HEAD_SECONDS` in all. A time-out of the socket itself would begin again with each byte."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = time.monotonic() + HEAD_SECONDS

    def readable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Receive what there is. Raises TimeoutError at the deadline."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """Answers GET."""

    server: Server

    def setup(self) -> None:
        """Bound the time of the head."""
        super().setup()
        self.rfile = io.BufferedReader(Head(self.connection))

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._metrics()
        elif path == "/readyz":
            self._answer(200, "text/plain", b"ok\n")
        elif path == "/livez":
            stale = self.server.collector.stale_library
            self._answer(503 if stale else 200, "text/plain", b"the driver was replaced\n" if stale else b"ok\n")
        else:
            self._answer(404, "text/plain", b"there are /metrics, /livez and /readyz\n")

    def _metrics(self) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        try:
            body = encode(self.server.registry)
        except BusyError as error:
            self._answer(503, "text/plain", f"{error}\n".encode())
            return
        self._answer(200, content_type, body)

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.connection.settimeout(ANSWER_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Log requests at debug level: a scrape every few seconds is no news."""
        log.debug(format, *arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="llmwarden gpu-exporter")
    parser.add_argument("--port", type=int, default=names.GPU_EXPORTER_PORT)
    parser.add_argument("--pod-resources", default=SOCKET, metavar="SOCKET", help="the kubelet's; empty for none")
    parser.add_argument(
        "--retry-seconds", type=float, default=10.0, help="first pause before a driver that is away is asked again"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=os.environ.get("LLMWARDEN_LOG_LEVEL") or "INFO", format="%(asctime)s %(levelname)s %(message)s"
    )
    hostname = os.environ.get("LLMWARDEN_NODE_NAME") or socket.gethostname()
    driver = Driver(retry_seconds=options.retry_seconds)
    pods = Pods(options.pod_resources) if options.pod_resources else None
    collector = GpuCollector(driver.read, hostname, pods)
    try:
        server = Server(options.port, collector)
    except OSError:
        log.exception("cannot listen on port %d", options.port)
        return 1

    def stop(_number: int, _frame: FrameType | None) -> None:
        # shutdown() waits for serve_forever(), which runs in this very thread.
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if pods is not None:
        pods.start()
    first = collector.reading()
    if first.problem:
        log.warning("no GPU metrics yet: %s", first.problem)
    else:
        log.info("driver %s, %d GPUs", first.driver, len(first.gpus))
    with server:
        server.serve_forever()
    if pods is not None:
        pods.close()
    driver.close()
    return 0
