"""A reading as Prometheus metrics under dcgm-exporter's names, labels and units, so that its dashboards work unchanged."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from llmwarden.gpu.nvml import Reading

# dcgm-exporter's labels, in its spelling.
LABELS: Final = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname")
LOCK_SECONDS: Final = 8.0  # under Prometheus' usual scrape timeout of 10 s

_GAUGES: Final = {
    "DCGM_FI_DEV_SM_CLOCK": "SM clock frequency (in MHz).",
    "DCGM_FI_DEV_MEM_CLOCK": "Memory clock frequency (in MHz).",
    "DCGM_FI_DEV_GPU_TEMP": "GPU temperature (in C).",
    "DCGM_FI_DEV_POWER_USAGE": "Power draw (in W).",
    "DCGM_FI_DEV_GPU_UTIL": "GPU utilization (in %).",
    "DCGM_FI_DEV_MEM_COPY_UTIL": "Memory utilization (in %).",
    "DCGM_FI_DEV_FB_FREE": "Framebuffer memory free (in MiB).",
    "DCGM_FI_DEV_FB_USED": "Framebuffer memory used (in MiB).",
    "DCGM_FI_DEV_FB_RESERVED": "Framebuffer memory reserved (in MiB).",
    "DCGM_FI_DEV_XID_ERRORS": "Value of the last XID error encountered.",
}
# A counter in DCGM without the suffix that this library would give one: untyped keeps the name, and rate() works.
_COUNTERS: Final = {"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": "Total energy consumption since boot (in mJ)."}


class BusyError(Exception):
    """The driver has not answered an earlier scrape yet."""


class GpuCollector(Collector):
    """Reads at each scrape. While there is no driver it asks for one every `retry_seconds` at most."""

    def __init__(
        self,
        read: Callable[[], Reading],
        hostname: str,
        *,
        retry_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._hostname = hostname
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Reading | None = None
        self._last_at = 0.0

    @property
    def stale_library(self) -> bool:
        """Whether only a new process can read on."""
        return self._last is not None and self._last.stale_library

    def reading(self) -> Reading:
        """Read now, or return the last failure while it is younger than `retry_seconds`; raises BusyError."""
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            # A driver that hangs must not pile up threads.
            message = "the NVIDIA driver has not answered the last scrape yet"
            raise BusyError(message)
        try:
            now = self._clock()
            if self._last is None or not self._last.problem or now - self._last_at >= self._retry_seconds:
                self._last = self._read()
                self._last_at = now
            return self._last
        finally:
            self._lock.release()

    def describe(self) -> Iterator[Metric]:
        """Describe nothing: registering must not touch the driver."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of one reading."""
        reading = self.reading()
        up = GaugeMetricFamily(
            "llmwarden_gpu_driver_up", "1 if the NVIDIA driver answers on this node.", labels=("Hostname",)
        )
        up.add_metric((self._hostname,), 0.0 if reading.problem else 1.0)
        yield up
        answers = GaugeMetricFamily("llmwarden_gpu_up", "1 if the GPU answers, 0 if it is lost.", labels=LABELS)
        for gpu in reading.gpus:
            answers.add_metric(gpu.identity.labels(self._hostname), 0.0 if gpu.lost else 1.0)
        yield answers
        for kind, table in ((GaugeMetricFamily, _GAUGES), (UnknownMetricFamily, _COUNTERS)):
            for name, text in table.items():
                family = kind(name, text, labels=LABELS)
                for gpu in reading.gpus:
                    if name in gpu.values:
                        family.add_metric(gpu.identity.labels(self._hostname), gpu.values[name])
                yield family
