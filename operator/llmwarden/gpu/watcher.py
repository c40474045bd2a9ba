"""What takes longer than a scrape may: XID events, which come when they come, and PCIe's throughput, which takes 20 ms to measure.

One thread for each time that the library is up. Its results outlive it.
"""

import ctypes
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Final

import pynvml

from llmwarden.gpu import readings

WAIT_MS: Final = 200  # how long `stop` may wait at most, where the driver answers
WHOLE_GPU: Final = 0xFFFFFFFF  # an event's instance where it concerns all of the GPU

Part = tuple[str, str]  # a GPU's UUID, and the number of a MIG instance or ""


class Findings:
    """What was seen in this process's life: the last XID and how often each came, by GPU or MIG instance; PCIe's KB/s by UUID."""

    def __init__(self) -> None:
        self.last: dict[Part, int] = {}
        self.counts: Counter[tuple[Part, int]] = Counter()
        self.pcie: dict[str, dict[str, float]] = {}
        self.watched: set[str] = set()  # GPUs that can report XIDs

    def last_xid(self, uuid: str, instance: str) -> int | None:
        """Return the last XID of a GPU or instance, 0 if there was none, None if the GPU reports none."""
        # What happens to the whole GPU happens to its instances.
        return self.last.get((uuid, instance), self.last.get((uuid, ""), 0)) if uuid in self.watched else None


class Watcher:
    """Waits for events of `devices` (handle, UUID) until `stop`. Raises NVMLError where the driver is gone."""

    def __init__(self, devices: list[tuple[Any, str]], findings: Findings, pcie_seconds: float) -> None:
        self._devices = devices
        self._findings = findings
        self._pcie_seconds = pcie_seconds
        self._uuids = {address(handle): uuid for handle, uuid in devices}
        self._stopping = threading.Event()
        self._events: Any = None
        with suppress(readings.LostError):  # no device is asked here: no more than that there are no events to be had
            self._events = readings.ask(pynvml.nvmlEventSetCreate)
        for handle, uuid in devices if self._events is not None else ():
            with suppress(readings.LostError):
                self._register(handle, uuid)
        self._thread = threading.Thread(target=self._run, name="nvml-events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, then let go of its events. A driver that hangs keeps both."""
        self._stopping.set()
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive() and self._events is not None:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._events)

    def _register(self, handle: Any, uuid: str) -> None:
        xid = pynvml.nvmlEventTypeXidCriticalError
        if (readings.ask(pynvml.nvmlDeviceGetSupportedEventTypes, handle) or 0) & xid:
            readings.ask(pynvml.nvmlDeviceRegisterEvents, handle, xid, self._events)
            self._findings.watched.add(uuid)

    def _run(self) -> None:
        measured = float("-inf")
        while not self._stopping.is_set():
            if time.monotonic() - measured >= self._pcie_seconds:
                self._measure()
                measured = time.monotonic()
            self._wait()

    def _wait(self) -> None:
        if self._events is None:
            self._stopping.wait(WAIT_MS / 1000)
            return
        try:
            event = pynvml.nvmlEventSetWait_v2(self._events, WAIT_MS)
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_TIMEOUT:
                self._stopping.wait(WAIT_MS / 1000)  # a lost GPU answers at once, and so does a driver that went
            return
        uuid = self._uuids.get(address(event.device))
        if uuid is not None:
            instance = "" if event.gpuInstanceId == WHOLE_GPU else str(event.gpuInstanceId)
            xid = int(event.eventData)
            if not instance:
                for part in [part for part in self._findings.last if part[0] == uuid]:
                    self._findings.last[part] = xid
            self._findings.last[uuid, instance] = xid
            self._findings.counts[(uuid, instance), xid] += 1

    def _measure(self) -> None:
        for handle, uuid in self._devices:
            if self._stopping.is_set():
                return
            try:
                self._findings.pcie[uuid] = readings.pcie(handle)
            except (readings.LostError, pynvml.NVMLError):
                self._findings.pcie.pop(uuid, None)


def address(handle: Any) -> int | None:
    """Return a device handle's address: the same GPU has the same."""
    return ctypes.cast(handle, ctypes.c_void_p).value
