"""A reading as Prometheus metrics under dcgm-exporter's names, labels and units, so that its dashboards work unchanged."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from llmwarden.gpu.nvml import Gpu, Reading
from llmwarden.gpu.pods import Holder, Pods, together

LOCK_SECONDS: Final = 8.0  # under Prometheus' usual scrape timeout of 10 s
# An empty label is to Prometheus one that is not there, but it keeps the scrape's own pod from being put on an idle GPU.
NOBODY: Final = {"container": "", "namespace": "", "pod": ""}

_GAUGES: Final = {
    "DCGM_FI_DEV_SM_CLOCK": "SM clock frequency (in MHz).",
    "DCGM_FI_DEV_MEM_CLOCK": "Memory clock frequency (in MHz).",
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": "Why clocks are below their maximum (bits of nvmlClocksEventReasons).",
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": "DCGM_FI_DEV_CLOCKS_EVENT_REASONS under its older name.",
    "DCGM_FI_DEV_MEMORY_TEMP": "Memory temperature (in C).",
    "DCGM_FI_DEV_GPU_TEMP": "GPU temperature (in C).",
    "DCGM_FI_DEV_POWER_USAGE": "Power draw (in W).",
    "DCGM_FI_DEV_PCIE_TX_THROUGHPUT": "PCIe throughput from the GPU (in KB/s), measured every 10 s.",
    "DCGM_FI_DEV_PCIE_RX_THROUGHPUT": "PCIe throughput to the GPU (in KB/s), measured every 10 s.",
    "DCGM_FI_DEV_GPU_UTIL": "GPU utilization (in %).",
    "DCGM_FI_DEV_MEM_COPY_UTIL": "Memory utilization (in %).",
    "DCGM_FI_DEV_ENC_UTIL": "Encoder utilization (in %).",
    "DCGM_FI_DEV_DEC_UTIL": "Decoder utilization (in %).",
    "DCGM_FI_DEV_FB_FREE": "Framebuffer memory free (in MiB).",
    "DCGM_FI_DEV_FB_USED": "Framebuffer memory used (in MiB).",
    "DCGM_FI_DEV_FB_RESERVED": "Framebuffer memory reserved (in MiB).",
    "DCGM_FI_DEV_XID_ERRORS": "Value of the last XID error encountered.",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "Whether remapping of memory rows has failed.",
}
# Counters in DCGM without the suffix that this library would give one: untyped keeps the name, and rate() works.
_COUNTERS: Final = {
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": "Total energy consumption since boot (in mJ).",
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": "PCIe retries.",
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": "Data over all NVLinks, both ways (in KiB).",
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": "Single-bit ECC errors since the driver was loaded.",
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": "Double-bit ECC errors since the driver was loaded.",
    "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": "Single-bit ECC errors in the GPU's life.",
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": "Double-bit ECC errors in the GPU's life.",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "Memory rows remapped for uncorrectable errors.",
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": "Memory rows remapped for correctable errors.",
}
_SHARE: Final = (
    "The part of a GPU or MIG instance that a container holds. attribution is exact where it holds the device alone, estimated where several "
    "share it: then each of the device's other metrics is the whole device's, once for each of them."
)


class BusyError(Exception):
    """The driver has not answered an earlier scrape yet."""


class GpuCollector(Collector):
    """Reads at each scrape, and names the pods that `pods` knows."""

    def __init__(self, read: Callable[[], Reading], hostname: str, pods: Pods | None = None) -> None:
        self._read = read
        self._hostname = hostname
        self._pods = pods
        self._lock = threading.Lock()
        self._last: Reading | None = None

    @property
    def stale_library(self) -> bool:
        """Whether only a new process can read on."""
        return self._last is not None and self._last.stale_library

    def reading(self) -> Reading:
        """Read now; raises BusyError."""
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            # A driver that hangs must not pile up threads.
            message = "the NVIDIA driver has not answered the last scrape yet"
            raise BusyError(message)
        try:
            self._last = self._read()
            return self._last
        finally:
            self._lock.release()

    def describe(self) -> Iterator[Metric]:
        """Describe nothing: registering must not touch the driver."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of one reading."""
        reading = self.reading()
        host = {"Hostname": self._hostname}
        up = Metric("llmwarden_gpu_driver_up", "1 if the NVIDIA driver answers on this node.", "gauge")
        up.add_sample(up.name, host, 0.0 if reading.problem else 1.0)
        yield up
        if self._pods is not None:
            resources_up = Metric(
                "llmwarden_gpu_pod_resources_up", "1 if the kubelet tells which pods use the GPUs.", "gauge"
            )
            resources_up.add_sample(resources_up.name, host, float(self._pods.up))
            yield resources_up
        rows = [(gpu, gpu.identity.labels(self._hostname), self._holders(gpu)) for gpu in reading.gpus]
        yield from _ours(rows)
        labelled = [
            (gpu.values, [labels | _names(one) for one in holders] or [labels | NOBODY])
            for gpu, labels, holders in rows
        ]
        for kind, table in (("gauge", _GAUGES), ("unknown", _COUNTERS)):
            for name, text in table.items():
                family = Metric(name, text, kind)
                for values, labels_of in labelled:
                    if name in values:
                        for labels in labels_of:
                            family.add_sample(name, labels, values[name])
                yield family

    def _holders(self, gpu: Gpu) -> tuple[Holder, ...]:
        current = self._pods.current() if self._pods is not None else {}
        return together([current[name] for name in gpu.identity.devices if name in current])


Row = tuple[Gpu, dict[str, str], tuple[Holder, ...]]


def _ours(rows: Iterable[Row]) -> Iterator[Metric]:
    """Yield what DCGM has no name for."""
    answers = Metric("llmwarden_gpu_up", "1 if the GPU answers, 0 if it is lost.", "gauge")
    share = Metric("llmwarden_gpu_pod_share", _SHARE, "gauge")
    memory = Metric(
        "llmwarden_gpu_process_memory_bytes", "Memory of the device that a process holds; pid is the node's.", "gauge"
    )
    events = Metric("llmwarden_gpu_xid_events", "XID errors since the exporter's start, by number.", "counter")
    for gpu, labels, holders in rows:
        alone = labels | (_names(holders[0]) if len(holders) == 1 else NOBODY)
        if not gpu.identity.instance:
            answers.add_sample(answers.name, labels | NOBODY, 0.0 if gpu.lost else 1.0)
        for holder in holders:
            share.add_sample(share.name, labels | _names(holder) | {"attribution": holder.attribution}, holder.share)
        for pid, size in dict(gpu.processes).items():  # one that is named twice would spoil the scrape
            memory.add_sample(memory.name, alone | {"pid": str(pid)}, size)
        for xid, count in gpu.xids:
            events.add_sample(f"{events.name}_total", alone | {"xid": str(xid)}, count)
    yield from (answers, share, memory, events)


def _names(holder: Holder) -> dict[str, str]:
    """Return dcgm-exporter's labels of a holder; `vgpu` as it says of a shared GPU."""
    names = {"container": holder.container, "namespace": holder.namespace, "pod": holder.pod}
    return names | {"vgpu": holder.vgpu} if holder.vgpu else names
