"""The GPU exporter against a stub of NVIDIA's library: the real pynvml, the real server, pretended GPUs."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmwarden.gpu.metrics import LABELS, GpuCollector
from llmwarden.gpu.nvml import Reading

HERE = Path(__file__).parent
Samples = dict[tuple[str, str], float]  # (metric, gpu) -> value


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail("no C compiler for the stub of libnvidia-ml: apt-get install gcc")
        pytest.skip("no C compiler for the stub of libnvidia-ml: apt-get install gcc")
    folder = tmp_path_factory.mktemp("nvml")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", str(target), str(HERE / "nvml_stub.c")], check=True)
    return folder


class Exporter:
    """A running exporter process and the switches of its driver."""

    def __init__(self, library: Path | None, state: Path) -> None:
        self.state = state
        self.set()
        code = (
            "import sys, llmwarden.gpu.main as m; from llmwarden.gpu import metrics;"
            "metrics.GpuCollector.__init__.__kwdefaults__['retry_seconds'] = 0.0;"  # the test sets the driver's state itself
            "serve = m.Server.serve_forever;"
            "m.Server.serve_forever = lambda s: (print(s.server_address[1], flush=True), serve(s))[1];"
            "sys.exit(m.main(['--port', '0']))"
        )
        environment = {
            **os.environ,
            "NVML_STUB": str(state),
            "LLMWARDEN_NODE_NAME": "node-a",
            "LD_LIBRARY_PATH": str(library or state.parent),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def set(self, *words: str) -> None:
        self.state.write_text("".join(f"{word}\n" for word in words))

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def samples(self) -> Samples:
        status, text = self.get("/metrics")
        assert status == 200
        return {
            (sample.name, sample.labels.get("gpu", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def close(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture
def exporter(library: Path, tmp_path: Path) -> Iterator[Exporter]:
    running = Exporter(library, tmp_path / "state")
    yield running
    running.close()


def test_every_value_has_dcgms_name_and_unit(exporter: Exporter) -> None:
    samples = exporter.samples()
    assert {name: value for (name, gpu), value in samples.items() if gpu == "0"} == {
        "llmwarden_gpu_up": 1,
        "DCGM_FI_DEV_GPU_UTIL": 83,
        "DCGM_FI_DEV_MEM_COPY_UTIL": 41,
        "DCGM_FI_DEV_FB_USED": 250,
        "DCGM_FI_DEV_FB_FREE": 700,
        "DCGM_FI_DEV_FB_RESERVED": 50,
        "DCGM_FI_DEV_POWER_USAGE": 350.5,
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 123456789,
        "DCGM_FI_DEV_GPU_TEMP": 61,
        "DCGM_FI_DEV_SM_CLOCK": 1980,
        "DCGM_FI_DEV_MEM_CLOCK": 2619,
        "DCGM_FI_DEV_XID_ERRORS": 0,
    }
    assert samples["llmwarden_gpu_driver_up", ""] == 1
    assert ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "1") not in samples  # not supported there: absent, not zero


def test_labels_are_dcgms(exporter: Exporter) -> None:
    _, text = exporter.get("/metrics")
    (line,) = [row for row in text.splitlines() if row.startswith("DCGM_FI_DEV_GPU_UTIL{") and 'gpu="1"' in row]
    families = list(text_string_to_metric_families(f"{line}\n"))
    assert families[0].samples[0].labels == {
        "gpu": "1",
        "UUID": "GPU-1",
        "pci_bus_id": "00000000:08:00.0",
        "device": "nvidia1",
        "modelName": "Stub H200",
        "Hostname": "node-a",
    }


def test_openmetrics_keeps_the_names(exporter: Exporter) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{exporter.port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own process
        text = answer.read().decode()
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert "\nDCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{" in text


def test_an_old_driver_knows_no_reserved_memory(exporter: Exporter) -> None:
    exporter.set("no-v2")
    samples = exporter.samples()
    assert samples["DCGM_FI_DEV_FB_USED", "0"] == 300
    assert ("DCGM_FI_DEV_FB_RESERVED", "0") not in samples


def test_a_lost_gpu_does_not_take_its_neighbour_along_and_returns(exporter: Exporter) -> None:
    exporter.samples()
    exporter.set("lost1")
    for _ in range(3):  # also when its handle can no longer be had
        samples = exporter.samples()
        assert samples["llmwarden_gpu_up", "1"] == 0
        assert ("DCGM_FI_DEV_GPU_UTIL", "1") not in samples
        assert samples["DCGM_FI_DEV_GPU_UTIL", "0"] == 83
    exporter.set()
    exporter.samples()
    samples = exporter.samples()
    assert (samples["llmwarden_gpu_up", "1"], samples["DCGM_FI_DEV_GPU_UTIL", "1"]) == (1, 83)


def test_the_last_xid_is_kept(exporter: Exporter) -> None:
    exporter.set("xid")
    assert exporter.samples()["DCGM_FI_DEV_XID_ERRORS", "0"] == 79
    exporter.set()
    samples = exporter.samples()
    assert (samples["DCGM_FI_DEV_XID_ERRORS", "0"], samples["DCGM_FI_DEV_XID_ERRORS", "1"]) == (79, 0)


def test_a_driver_that_goes_and_comes(exporter: Exporter) -> None:
    exporter.set("mismatch")
    samples = exporter.samples()
    assert samples == {("llmwarden_gpu_driver_up", ""): 0}
    assert exporter.get("/livez")[0] == 503  # only a new process can load the new library
    exporter.set("no-driver")
    assert exporter.samples() == {("llmwarden_gpu_driver_up", ""): 0}
    assert exporter.get("/livez")[0] == 200
    exporter.set()
    samples = exporter.samples()
    assert samples["llmwarden_gpu_driver_up", ""] == 1
    assert samples["DCGM_FI_DEV_GPU_TEMP", "1"] == 61


def test_a_node_without_the_library(tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
        pytest.skip("this machine has the library")
    except OSError:
        pass
    running = Exporter(None, tmp_path / "state")
    try:
        assert running.samples() == {("llmwarden_gpu_driver_up", ""): 0}
        assert running.get("/readyz")[0] == 200
        assert running.get("/nothing")[0] == 404
    finally:
        assert running.close() == 0


def test_a_failure_is_not_asked_again_at_once() -> None:
    asked: list[float] = []
    now = [100.0]

    def read() -> Reading:
        asked.append(now[0])
        return Reading("", problem="Driver Not Loaded")

    collector = GpuCollector(read, "node-a", retry_seconds=10.0, clock=lambda: now[0])
    for moment in (100.0, 101.0, 109.9, 110.0):
        now[0] = moment
        collector.reading()
    assert asked == [100.0, 110.0]


def test_labels_are_spelled_as_dcgm_exporter_does() -> None:
    assert LABELS == ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname")
