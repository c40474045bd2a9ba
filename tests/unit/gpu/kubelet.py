"""A kubelet's PodResources socket for tests: HTTP/2 by h2, the messages encoded here as api.proto says."""

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamEnded

Device = tuple[str, str, str, str, str]  # namespace, pod, container, resource, device id


def field(number: int, content: bytes | str) -> bytes:
    """Encode one length-delimited field."""
    content = content.encode() if isinstance(content, str) else content
    length = len(content)
    head = bytearray([number << 3 | 2])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(head) + bytes([length]) + content


def encode(devices: list[Device]) -> bytes:
    """Encode a ListPodResourcesResponse with one pod per device; cpu_ids beside it, as a real kubelet sends."""
    return b"".join(
        field(
            1,
            field(1, pod)
            + field(2, namespace)
            + field(
                3, field(1, container) + field(2, field(1, resource) + field(2, device)) + field(3, b"\x02\xac\x02")
            ),
        )
        for namespace, pod, container, resource, device in devices
    )


class Kubelet:
    """Answers `List` until `stop`. `delay` in seconds before each answer; `status` is the gRPC status."""

    def __init__(self, path: Path, devices: list[Device], *, status: int = 0, delay: float = 0.0) -> None:
        self.path, self.devices, self.status, self.delay = path, devices, status, delay
        self.asked: list[dict[str, str]] = []
        self.start()

    def start(self) -> None:
        """Listen, also again after `stop`: a new socket under the old name, as after a kubelet's restart."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Go away, socket file and all."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with suppress(OSError):  # the client gave up
            self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        body = encode(self.devices)
        left = memoryview(b"\0" + len(body).to_bytes(4) + body)
        asked = answered = False
        with connection:
            while True:
                connection.sendall(http.data_to_send())
                received = connection.recv(65536)
                if not received:
                    return
                for event in http.receive_data(received):
                    if isinstance(event, RequestReceived):
                        self.asked.append({str(name): str(value) for name, value in event.headers or ()})
                    elif isinstance(event, StreamEnded):
                        asked = True
                        time.sleep(self.delay)
                        if self.status:
                            refusal = [("grpc-status", str(self.status)), ("grpc-message", "rejected by rate limit")]
                            http.send_headers(1, [(":status", "200"), *refusal], end_stream=True)
                            answered = True
                        else:
                            http.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
                while asked and not answered and left and (size := http.local_flow_control_window(1)):
                    size = min(size, http.max_outbound_frame_size, len(left))
                    http.send_data(1, bytes(left[:size]))
                    left = left[size:]
                if asked and not answered and not left:
                    http.send_headers(1, [("grpc-status", "0")], end_stream=True)
                    answered = True
