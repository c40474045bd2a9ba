"""The GPU exporter against a stub of NVIDIA's library: the real pynvml, the real server, pretended GPUs."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmwarden.gpu.metrics import NOBODY
from tests.unit.gpu.kubelet import Kubelet

HERE = Path(__file__).parent
DOWN = {("llmwarden_gpu_driver_up", ""): 0, ("llmwarden_gpu_pod_resources_up", ""): 0}
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
            "import sys, llmwarden.gpu.main as m;"
            "serve = m.Server.serve_forever;"
            "m.Server.serve_forever = lambda s: (print(s.server_address[1], flush=True), serve(s))[1];"
            f"sys.exit(m.main(['--port', '0', '--retry-seconds', '0', '--pod-resources', {str(state.parent / 'kubelet.sock')!r}]))"
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

    def rows(self, metric: str) -> list[tuple[dict[str, str], float]]:
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
            if sample.name == metric
        ]

    def until(self, reached: Callable[[Samples], bool]) -> Samples:
        """Scrape until what a thread of the exporter does has happened."""
        deadline = time.monotonic() + 20
        while not reached(samples := self.samples()):
            assert time.monotonic() < deadline, samples
            time.sleep(0.02)
        return samples

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
    samples = exporter.until(lambda found: ("DCGM_FI_DEV_PCIE_RX_THROUGHPUT", "0") in found)
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
        "DCGM_FI_DEV_MEMORY_TEMP": 70,
        "DCGM_FI_DEV_ENC_UTIL": 7,
        "DCGM_FI_DEV_DEC_UTIL": 9,
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": 0x24,
        "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": 0x24,
        # The stub answers a field with its number in NVML.
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": 3,
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": 4,
        "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": 5,
        "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": 6,
        "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": 94,
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": 142,
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": 143,
        "DCGM_FI_DEV_ROW_REMAP_FAILURE": 145,
        "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": 2**41,  # KiB, more than 32 bits, both ways
        "DCGM_FI_DEV_PCIE_TX_THROUGHPUT": 1000,
        "DCGM_FI_DEV_PCIE_RX_THROUGHPUT": 2000,
        "llmwarden_gpu_process_memory_bytes": 200 * 1024 * 1024,  # the second of two
    }
    assert {gpu for _, gpu in samples} == {"", *map(str, range(8))}
    for absent in ("TOTAL_ENERGY_CONSUMPTION", "ECC_DBE_VOL_TOTAL", "NVLINK_BANDWIDTH_TOTAL"):
        assert (f"DCGM_FI_DEV_{absent}", "1") not in samples  # not supported there: absent, not zero
    assert samples["llmwarden_gpu_driver_up", ""] == 1


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
        **NOBODY,
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
    assert exporter.samples()["DCGM_FI_DEV_XID_ERRORS", "0"] == 0
    exporter.set("xid")
    exporter.until(lambda found: found["DCGM_FI_DEV_XID_ERRORS", "0"] == 79)
    exporter.set()
    samples = exporter.samples()
    assert (samples["DCGM_FI_DEV_XID_ERRORS", "0"], samples["DCGM_FI_DEV_XID_ERRORS", "1"]) == (79, 0)
    ((labels, count),) = exporter.rows("llmwarden_gpu_xid_events_total")
    assert (labels["gpu"], labels["xid"], count) == ("0", "79", 1)


def test_a_driver_that_goes_and_comes(exporter: Exporter) -> None:
    exporter.set("mismatch")
    samples = exporter.samples()
    assert samples == DOWN
    assert exporter.get("/livez")[0] == 503  # only a new process can load the new library
    exporter.set("no-driver")
    assert exporter.samples() == DOWN
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
        assert running.samples() == DOWN
        assert running.get("/readyz")[0] == 200
        assert running.get("/nothing")[0] == 404
    finally:
        assert running.close() == 0


# Every field of dcgm-exporter's etc/default-counters.csv [4.5.3] and its type. What is behind # there is off there.
DEFAULT_COUNTERS = {
    "gauge": "SM_CLOCK MEM_CLOCK MEMORY_TEMP GPU_TEMP POWER_USAGE GPU_UTIL MEM_COPY_UTIL ENC_UTIL DEC_UTIL XID_ERRORS FB_FREE FB_USED ROW_REMAP_FAILURE",
    "counter": "TOTAL_ENERGY_CONSUMPTION PCIE_TX_THROUGHPUT PCIE_RX_THROUGHPUT PCIE_REPLAY_COUNTER NVLINK_BANDWIDTH_TOTAL "
    "UNCORRECTABLE_REMAPPED_ROWS CORRECTABLE_REMAPPED_ROWS",
}


def test_all_of_dcgm_exporters_default_counters_are_there(exporter: Exporter) -> None:
    # But DCGM_FI_DEV_VGPU_LICENSE_STATUS: only a vGPU's guest knows it.
    exporter.until(lambda found: ("DCGM_FI_DEV_PCIE_RX_THROUGHPUT", "0") in found)
    types = {family.name: family.type for family in text_string_to_metric_families(exporter.get("/metrics")[1])}
    for kind, fields in DEFAULT_COUNTERS.items():
        for field in fields.split():
            # A rate is no counter, whatever the table says: rate() over KB/s means nothing.
            rate = field.startswith("PCIE_") and field.endswith("_THROUGHPUT")
            assert types[f"DCGM_FI_DEV_{field}"] == ("gauge" if kind == "gauge" or rate else "unknown"), field


def test_an_old_driver_says_throttle_where_a_new_one_says_event(exporter: Exporter) -> None:
    exporter.set("old-names")
    assert exporter.samples()["DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "0"] == 4


def test_mig_instances_have_rows_of_their_own(exporter: Exporter) -> None:
    exporter.set("mig", "xid-mig")
    memory = {row["GPU_I_ID"]: (row, value) for row, value in exporter.rows("DCGM_FI_DEV_FB_USED") if "GPU_I_ID" in row}
    assert {key: (row["GPU_I_PROFILE"], value) for key, (row, value) in memory.items()} == {
        "1": ("1g.10gb", 35),
        "2": ("3g.40gb", 35),  # two compute instances of it, one row
    }
    assert (memory["1"][0]["gpu"], memory["1"][0]["UUID"]) == ("2", "GPU-2")
    # What adds up is the GPU's alone; what is true of both is on both.
    assert [row.get("GPU_I_ID") for row, _ in exporter.rows("DCGM_FI_DEV_POWER_USAGE") if row["gpu"] == "2"] == [None]
    assert [row.get("GPU_I_ID") for row, _ in exporter.rows("DCGM_FI_DEV_GPU_TEMP") if row["gpu"] == "2"] == [
        None,
        "1",
        "2",
    ]
    assert ("DCGM_FI_DEV_GPU_UTIL", "2") not in exporter.samples()

    def xids() -> dict[str | None, float]:
        return {
            row.get("GPU_I_ID"): value for row, value in exporter.rows("DCGM_FI_DEV_XID_ERRORS") if row["gpu"] == "2"
        }

    exporter.until(lambda _: xids() == {None: 0, "1": 31, "2": 0})
    exporter.set("mig", "xid-whole")
    exporter.until(lambda _: xids() == {None: 94, "1": 94, "2": 94})
    ((process, size),) = [
        found for found in exporter.rows("llmwarden_gpu_process_memory_bytes") if found[0]["gpu"] == "2"
    ]
    assert (process["GPU_I_ID"], process["pid"], size) == ("1", "4020", 100 * 1024 * 1024)


def test_pods_are_named_and_it_is_said_how_surely(library: Path, tmp_path: Path) -> None:
    gpu = "nvidia.com/gpu"
    kubelet = Kubelet(
        tmp_path / "kubelet.sock",
        [
            ("shop", "chat-0", "vllm", gpu, "GPU-0"),
            ("shop", "embed-0", "tei", "nvidia.com/mig-1g.10gb", "MIG-20"),
            ("lab", "one", "jupyter", "nvidia.com/mig-3g.40gb", "MIG-21"),
            ("lab", "two", "jupyter", "nvidia.com/mig-3g.40gb", "MIG-22"),
            ("lab", "a", "jupyter", gpu, "GPU-3::0"),
            ("lab", "b", "jupyter", gpu, "GPU-3::1"),
        ],
    )
    running = Exporter(library, tmp_path / "state")
    try:
        running.set("mig")
        running.until(lambda found: found["llmwarden_gpu_pod_resources_up", ""] == 1)
        shares = running.rows("llmwarden_gpu_pod_share")
        assert sorted(
            (row["gpu"], row.get("GPU_I_ID"), row["pod"], row["attribution"], value) for row, value in shares
        ) == [
            ("0", None, "chat-0", "exact", 1),
            ("2", "1", "embed-0", "exact", 1),
            ("2", "2", "one", "estimated", 0.5),
            ("2", "2", "two", "estimated", 0.5),
            ("3", None, "a", "estimated", 0.5),
            ("3", None, "b", "estimated", 0.5),
        ]
        power = {
            (row["gpu"], row["namespace"], row["pod"], row["container"], row.get("vgpu"))
            for row, _ in running.rows("DCGM_FI_DEV_POWER_USAGE")
        }
        # Exactly dcgm-exporter's labels, with its label for a shared GPU; an idle GPU is nobody's.
        assert power == {
            ("0", "shop", "chat-0", "vllm", None),
            ("3", "lab", "a", "jupyter", "0"),
            ("3", "lab", "b", "jupyter", "1"),
            *((number, "", "", "", None) for number in "124567"),
        }
        assert {row["pod"] for row, _ in running.rows("llmwarden_gpu_process_memory_bytes")} == {"chat-0", "embed-0"}
        kubelet.stop()
        running.until(lambda found: found["llmwarden_gpu_pod_resources_up", ""] == 0)
        assert len(running.rows("llmwarden_gpu_pod_share")) == 6  # while the kubelet restarts
    finally:
        running.close()


def test_a_scrape_of_eight_gpus_waits_for_nothing(exporter: Exporter) -> None:
    # PCIe's throughput alone is 320 ms of waiting in the driver, the stub's too; docs/gpu.md has the figures of a scrape.
    exporter.until(lambda found: ("DCGM_FI_DEV_PCIE_RX_THROUGHPUT", "7") in found)
    took = []
    for _ in range(10):
        began = time.monotonic()
        exporter.get("/metrics")
        took.append(time.monotonic() - began)
    assert min(took) < 0.1, took


def test_no_series_comes_twice(library: Path, tmp_path: Path) -> None:
    # Prometheus refuses a scrape with doubles as a whole.
    held = [("lab", "both", "jupyter", "nvidia.com/mig-3g.40gb", f"MIG-{number}") for number in (21, 22)]
    Kubelet(
        tmp_path / "kubelet.sock",
        [*held, *(("lab", "a", "jupyter", "nvidia.com/gpu", f"GPU-3::{number}") for number in range(4))],
    )
    running = Exporter(library, tmp_path / "state")
    try:
        running.set("mig", "lost1", "xid-mig")
        running.until(lambda found: found["llmwarden_gpu_pod_resources_up", ""] == 1)
        lines = [
            line.rpartition(" ")[0] for line in running.get("/metrics")[1].splitlines() if not line.startswith("#")
        ]
        assert len(lines) == len(set(lines))
    finally:
        running.close()


def test_a_driver_that_is_unloaded_under_way_and_loaded_again(exporter: Exporter) -> None:
    assert exporter.samples()["llmwarden_gpu_driver_up", ""] == 1
    exporter.set("unloaded")
    assert exporter.samples() == DOWN
    exporter.set()
    exporter.set("xid")  # events are watched anew
    exporter.until(lambda found: found.get(("DCGM_FI_DEV_XID_ERRORS", "0")) == 79)
