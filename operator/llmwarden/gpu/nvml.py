"""What NVIDIA's management library says of this node's GPUs, read through pynvml. Called at every scrape.

The driver may be missing, be installed later, or be replaced while we run; a GPU may fall off its bus. None of this is an
error of ours: each is a state that the reading shows. What a GPU does not support is absent, never zero.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pynvml

T = TypeVar("T")
MIB: Final = 1024 * 1024

# Errors after which nothing can be read until the library is initialised again.
_DRIVER_GONE: Final = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_RESET_REQUIRED,
    }
)
_ABSENT: Final = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NO_DATA,
    }
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What names a GPU; the fields of DCGM's labels."""

    index: str
    uuid: str
    pci_bus_id: str
    device: str
    model: str

    def labels(self, hostname: str) -> tuple[str, ...]:
        """Return the label values in the order of `metrics.LABELS`."""
        return (self.index, self.uuid, self.pci_bus_id, self.device, self.model, hostname)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU's reading. `values` go by DCGM's field names in DCGM's units (MiB, W, mJ, MHz, °C, %)."""

    identity: Identity
    values: dict[str, float]
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """All GPUs at one moment. `driver` is the driver's version, or empty with the reason in `problem`."""

    driver: str
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    stale_library: bool = False  # the driver was replaced under us: only a new process can load its library


class _LostError(Exception):
    """The GPU does not answer any more."""


class Driver:
    """The library's life: initialised on demand, and again after it went away. Not safe for threads: lock around `read`."""

    def __init__(self) -> None:
        self._devices: list[tuple[Any, Identity]] = []
        self._events: Any = None
        self._known: dict[str, Identity] = {}  # every GPU seen in this process's life, by UUID
        self._xids: dict[str, float] = {}
        self._version = ""
        self._up = False

    def read(self) -> Reading:
        """Read every GPU; raises nothing that the hardware or the driver can cause."""
        try:
            if not self._up:
                self._open()
            self._drain_events()
            gpus = [self._read_gpu(handle, identity) for handle, identity in self._devices]
        except pynvml.NVMLError as error:
            self.close()
            stale = error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
            return Reading("", problem=str(error), stale_library=stale)
        present = {gpu.identity.uuid for gpu in gpus}
        gpus += [Gpu(identity, {}, lost=True) for uuid, identity in self._known.items() if uuid not in present]
        if any(gpu.lost for gpu in gpus):
            # A GPU that was reset answers only to a fresh initialisation.
            self.close()
        return Reading(self._version, tuple(gpus))

    def close(self) -> None:
        """Let go of the library; `read` takes it up again."""
        if self._up:
            self._up = False
            with _ignored():
                if self._events is not None:
                    pynvml.nvmlEventSetFree(self._events)
            with _ignored():
                pynvml.nvmlShutdown()
        self._devices = []
        self._events = None

    def _open(self) -> None:
        pynvml.nvmlInit()
        self._up = True
        self._version = str(pynvml.nvmlSystemGetDriverVersion())
        for index in range(pynvml.nvmlDeviceGetCount()):
            # A GPU that is lost already has no handle; its neighbours have.
            with _ignored(pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                identity = _identity(handle, index)
                self._devices.append((handle, identity))
                self._known[identity.uuid] = identity
        self._watch_events()

    def _watch_events(self) -> None:
        with _ignored(*_ABSENT):
            self._events = pynvml.nvmlEventSetCreate()
        for handle, identity in self._devices if self._events is not None else ():
            with _ignored(*_ABSENT):
                if pynvml.nvmlDeviceGetSupportedEventTypes(handle) & pynvml.nvmlEventTypeXidCriticalError:
                    pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._events)
                    self._xids.setdefault(identity.uuid, 0.0)

    def _drain_events(self) -> None:
        """Note each GPU's latest XID: the library keeps events for us between two scrapes."""
        for _ in range(64 if self._events is not None else 0):
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, 0)
            except pynvml.NVMLError as error:
                if error.value in _DRIVER_GONE:
                    raise
                return  # a timeout: there is no more
            with _ignored():
                self._xids[str(pynvml.nvmlDeviceGetUUID(event.device))] = float(event.eventData)

    def _read_gpu(self, handle: Any, identity: Identity) -> Gpu:
        values: dict[str, float] = {}
        lost = False
        try:
            for read in (_utilisation, _memory, _power, _clocks):
                values.update(read(handle))
        except _LostError:
            lost = True
        if identity.uuid in self._xids:
            values["DCGM_FI_DEV_XID_ERRORS"] = self._xids[identity.uuid]
        return Gpu(identity, values, lost)


@contextmanager
def _ignored(*codes: int) -> Iterator[None]:
    """Ignore these errors of the library, or all of them where none is named."""
    try:
        yield
    except pynvml.NVMLError as error:
        if codes and error.value not in codes:
            raise


def _identity(handle: Any, index: int) -> Identity:
    device = f"nvidia{index}"
    with _ignored(*_ABSENT):  # no minor number under some virtualisation
        device = f"nvidia{pynvml.nvmlDeviceGetMinorNumber(handle)}"
    bus = pynvml.nvmlDeviceGetPciInfo(handle).busId
    return Identity(
        index=str(index),
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        pci_bus_id=bus.decode() if isinstance(bus, bytes) else str(bus),
        device=device,
        model=str(pynvml.nvmlDeviceGetName(handle)),
    )


def _ask(question: Callable[..., T], *arguments: Any) -> T | None:
    """Return the answer, None where this GPU has none; raises _LostError, or NVMLError when the driver is gone."""
    try:
        return question(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _DRIVER_GONE:
            raise
        if error.value in _ABSENT:
            return None
        raise _LostError from error


def _utilisation(handle: Any) -> Iterator[tuple[str, float]]:
    rates = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    if rates is not None:
        yield "DCGM_FI_DEV_GPU_UTIL", rates.gpu
        yield "DCGM_FI_DEV_MEM_COPY_UTIL", rates.memory


def _memory(handle: Any) -> Iterator[tuple[str, float]]:
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    if memory is not None:
        yield "DCGM_FI_DEV_FB_RESERVED", memory.reserved // MIB
    else:
        # Drivers before 510 count what is reserved as used.
        memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if memory is not None:
        yield "DCGM_FI_DEV_FB_USED", memory.used // MIB
        yield "DCGM_FI_DEV_FB_FREE", memory.free // MIB


def _power(handle: Any) -> Iterator[tuple[str, float]]:
    milliwatts = _ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    if milliwatts is not None:
        yield "DCGM_FI_DEV_POWER_USAGE", milliwatts / 1000
    millijoules = _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    if millijoules is not None:
        yield "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", millijoules
    celsius = _ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    if celsius is not None:
        yield "DCGM_FI_DEV_GPU_TEMP", celsius


def _clocks(handle: Any) -> Iterator[tuple[str, float]]:
    for name, clock in (("SM", pynvml.NVML_CLOCK_SM), ("MEM", pynvml.NVML_CLOCK_MEM)):
        megahertz = _ask(pynvml.nvmlDeviceGetClockInfo, handle, clock)
        if megahertz is not None:
            yield f"DCGM_FI_DEV_{name}_CLOCK", megahertz
