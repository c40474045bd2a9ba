"""Asks the kubelet which container holds which device: PodResources API v1, `List`, gRPC over the kubelet's unix socket.

gRPC here is one HTTP/2 request on a connection of its own, which h2 carries; the few fields that we need of the answer are
taken out of the protobuf by hand. grpcio would cost 12 MiB of memory on every GPU node, h2 costs 1.2 (docs/gpu.md).
"""

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError

from llmwarden import names

METHOD: Final = "/v1.PodResourcesLister/List"
SOCKET: Final = "/var/lib/kubelet/pod-resources/kubelet.sock"
LIMIT: Final = 16 * 1024 * 1024  # bytes of an answer: what kubelets' own clients take
_NO_BYTES: Final = b"\0\0\0\0\0"  # a gRPC message without content: not compressed, length 0


class PodResourcesError(Exception):
    """The kubelet gave no answer that can be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Use:
    """One device in a container's hands. `device` as the device plugin names it: `GPU-…`, `MIG-…`, `GPU-…::0`."""

    namespace: str
    pod: str
    container: str
    device: str


def list_devices(path: str, timeout: float) -> tuple[Use, ...]:
    """Ask the kubelet at the socket `path` for NVIDIA's devices in use; raises PodResourcesError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            body = _call(connection, deadline)
        return tuple(_uses(memoryview(body)))
    except (OSError, ProtocolError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        message = f"{path}: {str(error) or type(error).__name__}"
        raise PodResourcesError(message) from error


def _request() -> tuple[H2Connection, int]:
    """Return a connection with the empty request on it to be sent, and its stream."""
    http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    http.initiate_connection()
    http.increment_flow_control_window(LIMIT)
    stream = http.get_next_available_stream_id()
    http.send_headers(
        stream,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", METHOD),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", names.GPU_EXPORTER),
        ],
    )
    http.increment_flow_control_window(LIMIT, stream)
    http.send_data(stream, _NO_BYTES, end_stream=True)
    return http, stream


def _receive(connection: socket.socket, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        message = "no answer in time"
        raise TimeoutError(message)
    connection.settimeout(left)
    received = connection.recv(65536)
    if not received:
        message = "the kubelet closed the connection"
        raise ConnectionError(message)
    return received


def _call(connection: socket.socket, deadline: float) -> bytes:
    """Send the empty request and return the answer's protobuf."""
    http, stream = _request()
    body = bytearray()
    answer: dict[str, str] = {}
    while True:
        if sending := http.data_to_send():
            connection.sendall(sending)
        for event in http.receive_data(_receive(connection, deadline)):
            if isinstance(event, ResponseReceived | TrailersReceived):
                answer |= {str(name): str(value) for name, value in event.headers or ()}
            elif isinstance(event, DataReceived):
                body += event.data or b""
                http.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                if len(body) > LIMIT:
                    _refuse(f"the answer is longer than {LIMIT} bytes")
            elif isinstance(event, StreamReset):
                message = f"the kubelet reset the call ({event.error_code})"
                raise ConnectionError(message)
            elif isinstance(event, StreamEnded):
                return _message(bytes(body), answer)


def _message(body: bytes, answer: dict[str, str]) -> bytes:
    """Return the one message of a unary answer; raises ValueError for any other."""
    status = answer.get("grpc-status", "missing")
    if answer.get(":status") != "200" or status != "0":
        _refuse(f"HTTP {answer.get(':status')}, gRPC status {status} {answer.get('grpc-message', '')}".strip())
    if len(body) < len(_NO_BYTES) or body[0] != 0 or int.from_bytes(body[1:5]) != len(body) - 5:
        _refuse("not one uncompressed gRPC message")
    return body[5:]


def _uses(response: memoryview) -> Iterator[Use]:
    """Walk ListPodResourcesResponse: pods, their containers, their devices. The numbers are api.proto's."""
    for number, pod in _fields(response):
        if number != 1:
            continue
        name = namespace = ""
        containers = []
        for field, value in _fields(pod):
            match field:
                case 1:
                    name = _text(value)
                case 2:
                    namespace = _text(value)
                case 3:
                    containers.append(value)
        for container in containers:
            yield from _of_container(namespace, name, container)


def _of_container(namespace: str, pod: str, container: memoryview) -> Iterator[Use]:
    name = ""
    device_lists = []
    for field, value in _fields(container):
        match field:
            case 1:
                name = _text(value)
            case 2:
                device_lists.append(value)
    for devices in device_lists:
        resource = ""
        ids = []
        for field, value in _fields(devices):
            match field:
                case 1:
                    resource = _text(value)
                case 2:
                    ids.append(_text(value))
        for device in ids:
            if device.startswith(("GPU-", "MIG-")) or resource.startswith("nvidia.com/"):
                yield Use(namespace, pod, name, device)


def _text(value: memoryview) -> str:
    return bytes(value).decode()


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of a message's length-delimited fields; the others are skipped. Raises ValueError."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:  # the wire type
            case 0:
                _, at = _varint(message, at)
                continue
            case 1:
                length = 8
            case 2:
                length, at = _varint(message, at)
            case 5:
                length = 4
            case other:
                _refuse(f"wire type {other}")
        end = at + length
        if end > len(message):
            _refuse("a field runs over its message's end")
        if key & 7 == 2:  # noqa: PLR2004 - length-delimited
            yield key >> 3, message[at:end]
        at = end


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(message):
            break
        value |= (message[at] & 0x7F) << shift
        at += 1
        if not message[at - 1] & 0x80:
            return value, at
    message_ends = "a number without end"
    raise ValueError(message_ends)


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)
