"""The kubelet's PodResources API: the wire as a real gRPC server wrote it, and a kubelet that is absent, slow, or restarts."""

import socket
import threading
import time
from pathlib import Path

import pytest

from llmwarden.gpu.podresources import PodResourcesError, Use, list_devices
from llmwarden.gpu.pods import Holder, Pods, holders, together
from tests.unit.gpu.kubelet import Kubelet, encode

HERE = Path(__file__).parent
GPU = ("shop", "chat-0", "vllm", "nvidia.com/gpu", "GPU-0")


def test_a_real_grpc_servers_bytes_are_read(tmp_path: Path) -> None:
    # Recorded from grpcio 1.85.1 serving v1.PodResourcesLister with messages of protobuf's own encoder.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "kubelet.sock"))
    listener.listen()

    def replay() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall((HERE / "podresources.wire").read_bytes())
            while connection.recv(65536):
                pass

    threading.Thread(target=replay, daemon=True).start()
    with listener:
        assert list_devices(str(tmp_path / "kubelet.sock"), 5.0) == (
            Use("shop", "chat-0", "vllm", "GPU-0"),
            Use("shop", "chat-0", "vllm", "GPU-1"),
            Use("shop", "embed-7", "tei", "MIG-2-1"),
            Use("lab", "notebook-a", "jupyter", "GPU-3::0"),
            Use("lab", "notebook-b", "jupyter", "GPU-3::1"),
            Use("lab", "notebook-b", "jupyter", "GPU-3::2"),
        )


def test_the_call_is_grpcs(tmp_path: Path) -> None:
    kubelet = Kubelet(tmp_path / "kubelet.sock", [GPU])
    assert list_devices(str(kubelet.path), 5.0) == (Use("shop", "chat-0", "vllm", "GPU-0"),)
    (asked,) = kubelet.asked
    assert (asked[":method"], asked[":path"], asked["content-type"], asked["te"]) == (
        "POST",
        "/v1.PodResourcesLister/List",
        "application/grpc",
        "trailers",
    )


def test_an_answer_longer_than_every_window_is_read_whole(tmp_path: Path) -> None:
    devices = [("shop", f"pod-{number}", "c" * 100, "nvidia.com/gpu", f"GPU-{number}") for number in range(2000)]
    assert len(encode(devices)) > 4 * 65535
    kubelet = Kubelet(tmp_path / "kubelet.sock", devices)
    assert len(list_devices(str(kubelet.path), 10.0)) == 2000


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"status": 8}, "gRPC status 8 rejected by rate limit"), ({"delay": 5.0}, "timed out|in time")],
)
def test_a_kubelet_that_refuses_or_sleeps_is_said(tmp_path: Path, changes: dict[str, float], text: str) -> None:
    kubelet = Kubelet(tmp_path / "kubelet.sock", [GPU], **changes)  # type: ignore[arg-type] # status is whole
    began = time.monotonic()
    with pytest.raises(PodResourcesError, match=text):
        list_devices(str(kubelet.path), 0.3)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("junk", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\0\0\0\4\0\0\0\0\0" * 3])
def test_what_is_no_kubelet_is_an_error_and_nothing_worse(tmp_path: Path, junk: bytes) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "kubelet.sock"))
    listener.listen()

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(junk)

    threading.Thread(target=answer, daemon=True).start()
    with listener, pytest.raises(PodResourcesError):
        list_devices(str(tmp_path / "kubelet.sock"), 1.0)


@pytest.mark.parametrize("broken", [b"\x0a\x05ab", b"\x0b", b"\x0a" + b"\xff" * 10, b"\x0a\x03\x0a\x01\xff"])
def test_broken_protobuf_is_an_error(tmp_path: Path, broken: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.gpu.kubelet.encode", lambda _devices: broken)
    kubelet = Kubelet(tmp_path / "kubelet.sock", [GPU])
    with pytest.raises(PodResourcesError):
        list_devices(str(kubelet.path), 5.0)


def test_an_absent_kubelet_comes_goes_and_comes_again(tmp_path: Path) -> None:
    now = [0.0]
    pods = Pods(str(tmp_path / "kubelet.sock"), keep=60.0, timeout=2.0, clock=lambda: now[0])
    pods.refresh()
    assert (pods.up, pods.current()) == (False, {})
    kubelet = Kubelet(tmp_path / "kubelet.sock", [GPU])
    pods.refresh()
    named = {"GPU-0": (Holder("shop", "chat-0", "vllm"),)}
    assert (pods.up, pods.current()) == (True, named)
    kubelet.stop()
    pods.refresh()
    assert (pods.up, pods.current()) == (False, named)  # a restart of the kubelet takes no pod away
    now[0] = 61.0
    assert pods.current() == {}  # but for how long it may say nothing is bounded
    kubelet.start()
    pods.refresh()
    assert (pods.up, pods.current()) == (True, named)


def test_whole_devices_are_exact_and_shared_ones_estimated_by_replicas() -> None:
    found = holders(
        [
            Use("shop", "chat-0", "vllm", "GPU-a"),
            Use("shop", "mig-0", "vllm", "MIG-b"),
            Use("lab", "one", "jupyter", "GPU-c::0"),
            Use("lab", "three", "jupyter", "GPU-c::1"),
            Use("lab", "three", "jupyter", "GPU-c::2"),
            Use("lab", "three", "jupyter", "GPU-c::3"),
            Use("lab", "alone", "jupyter", "GPU-d::0"),
            Use("lab", "two", "first", "GPU-e"),
            Use("lab", "two", "second", "GPU-e"),
        ]
    )
    assert found == {
        "GPU-a": (Holder("shop", "chat-0", "vllm"),),
        "MIG-b": (Holder("shop", "mig-0", "vllm"),),
        "GPU-c": (
            Holder("lab", "one", "jupyter", "estimated", 0.25, "0"),
            Holder("lab", "three", "jupyter", "estimated", 0.75, "1,2,3"),
        ),
        "GPU-d": (Holder("lab", "alone", "jupyter", "estimated", 1.0, "0"),),
        "GPU-e": (
            Holder("lab", "two", "first", "estimated", 0.5),
            Holder("lab", "two", "second", "estimated", 0.5),
        ),
    }


@pytest.mark.parametrize(
    ("device", "named", "attribution"),
    [
        ("nvidia0", "nvidia0", "exact"),
        ("nvidia0/gi3", "nvidia0/3", "exact"),
        ("nvidia0/vgpu1", "nvidia0", "estimated"),
        ("nvidia0/gi3/vgpu0", "nvidia0/3", "estimated"),
        ("MIG-GPU-a/7/0", "GPU-a/7", "exact"),
        ("MIG-a::0", "MIG-a", "estimated"),
    ],
)
def test_other_plugins_names_are_understood(device: str, named: str, attribution: str) -> None:
    ((key, (holder,)),) = holders([Use("shop", "chat-0", "vllm", device)]).items()
    assert (key, holder.attribution) == (named, attribution)


def test_compute_instances_of_one_mig_instance_share_it() -> None:
    one, two = Holder("lab", "one", "jupyter"), Holder("lab", "two", "jupyter")
    assert together([]) == ()
    assert together([(one,)]) == (one,)
    assert together([(one,), (one,)]) == (one,)  # a container that holds both holds all, on one row
    assert together([(one,), (one,), (two,), (two,)]) == (
        Holder("lab", "one", "jupyter", "estimated", 0.5),
        Holder("lab", "two", "jupyter", "estimated", 0.5),
    )
