"""The life of NVIDIA's management library on this node, through pynvml. Read at every scrape.

The driver may be missing, be installed later, or be replaced while we run; a GPU may fall off its bus. None of this is an
error of ours: each is a state that the reading shows.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pynvml

from llmwarden.gpu import readings
from llmwarden.gpu.readings import ABSENT, LostError
from llmwarden.gpu.watcher import Findings, Watcher

LONGEST_PAUSE: Final = 60.0  # seconds between two initialisations, each of which can take the driver seconds
# What a MIG instance shares with its GPU and is true of both. Power and the like are the GPU's alone: a sum must count them once.
_SHARED: Final = (
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_MEMORY_TEMP",
    "DCGM_FI_DEV_SM_CLOCK",
    "DCGM_FI_DEV_MEM_CLOCK",
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS",
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What names a GPU or a MIG instance of it; the fields of DCGM's labels. `devices`: how a device plugin may name it."""

    index: str
    uuid: str
    pci_bus_id: str
    device: str
    model: str
    profile: str = ""
    instance: str = ""
    devices: tuple[str, ...] = ()

    def labels(self, hostname: str) -> dict[str, str]:
        """Return dcgm-exporter's labels, in its spelling and order."""
        mig = {"GPU_I_PROFILE": self.profile, "GPU_I_ID": self.instance} if self.instance else {}
        return {
            "gpu": self.index,
            "UUID": self.uuid,
            "pci_bus_id": self.pci_bus_id,
            "device": self.device,
            "modelName": self.model,
            **mig,
            "Hostname": hostname,
        }


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU's or MIG instance's reading.

    `values` go by DCGM's field names in DCGM's units (MiB, W, mJ, MHz, °C, %, KB/s); `processes` are (host's pid, bytes);
    `xids` is how often each XID came.
    """

    identity: Identity
    values: dict[str, float]
    lost: bool = False
    processes: tuple[tuple[int, int], ...] = ()
    xids: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """All GPUs at one moment. `driver` is the driver's version, or empty with the reason in `problem`."""

    driver: str
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    stale_library: bool = False  # the driver was replaced under us: only a new process can load its library


class Driver:
    """The library: initialised on demand, and again after it went away, after ever longer pauses from `retry_seconds` on.

    Not safe for threads: lock around `read`.
    """

    def __init__(
        self, *, retry_seconds: float = 10.0, pcie_seconds: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._retry_seconds = retry_seconds
        self._pcie_seconds = pcie_seconds
        self._clock = clock
        self._devices: list[tuple[Any, Identity]] = []
        self._known: dict[str, Identity] = {}  # every GPU seen in this process's life, by UUID
        self._lost: set[str] = set()  # not to be asked before the next initialisation
        self._findings = Findings()
        self._watcher: Watcher | None = None
        self._version = ""
        self._up = False
        self._failure = Reading("", problem="not read yet")
        self._pause = retry_seconds
        self._open_at = float("-inf")  # not before, while the driver is away
        self._reopen_at = float("-inf")  # not before, for the sake of a lost GPU

    def read(self) -> Reading:
        """Read every GPU; raises nothing that the hardware or the driver can cause."""
        try:
            if not self._up:
                if self._clock() < self._open_at:
                    return self._failure
                self._open()
            gpus = [gpu for handle, identity in self._devices for gpu in self._read_gpu(handle, identity)]
        except pynvml.NVMLError as error:
            self.close()
            self._open_at = self._next()
            stale = error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
            self._failure = Reading("", problem=str(error), stale_library=stale)
            return self._failure
        present = {gpu.identity.uuid for gpu in gpus}
        gpus += [Gpu(identity, {}, lost=True) for uuid, identity in self._known.items() if uuid not in present]
        if not any(gpu.lost for gpu in gpus):
            self._pause = self._retry_seconds
        elif self._clock() >= self._reopen_at:
            # A GPU that was reset answers only to a fresh initialisation, which the next scrape makes.
            self.close()
            self._reopen_at = self._next()
        return Reading(self._version, tuple(gpus))

    def close(self) -> None:
        """Let go of the library; `read` takes it up again."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        if self._up:
            self._up = False
            with _ignored():
                pynvml.nvmlShutdown()
        self._devices = []
        self._lost = set()

    def _next(self) -> float:
        """Return when to try again, and make the next pause longer."""
        at = self._clock() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return at

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
        handles = [(handle, identity.uuid) for handle, identity in self._devices]
        self._watcher = Watcher(handles, self._findings, self._pcie_seconds)

    def _read_gpu(self, handle: Any, identity: Identity) -> Iterator[Gpu]:
        """Yield the GPU, and its MIG instances after it."""
        if identity.uuid not in self._lost:
            try:
                values = readings.whole(handle) | self._findings.pcie.get(identity.uuid, {})
                instances = list(_instances(handle, identity))
                processes = () if instances else readings.processes(handle)
                # Who holds an instance does not hold the GPU.
                whole = replace(identity, devices=()) if instances else identity
                yield self._with_xids(Gpu(whole, values, processes=processes))
                shared = {name: values[name] for name in _SHARED if name in values}
                for instance in instances:
                    yield self._with_xids(replace(instance, values=shared | instance.values))
            except LostError:
                self._lost.add(identity.uuid)
        if identity.uuid in self._lost:
            yield self._with_xids(Gpu(identity, {}, lost=True))

    def _with_xids(self, gpu: Gpu) -> Gpu:
        part = (gpu.identity.uuid, gpu.identity.instance)
        last = self._findings.last_xid(*part)
        counts = tuple((xid, count) for (where, xid), count in list(self._findings.counts.items()) if where == part)
        return gpu if last is None else replace(gpu, values=gpu.values | {"DCGM_FI_DEV_XID_ERRORS": last}, xids=counts)


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
    with _ignored(*ABSENT):  # no minor number under some virtualisation
        device = f"nvidia{pynvml.nvmlDeviceGetMinorNumber(handle)}"
    bus = pynvml.nvmlDeviceGetPciInfo(handle).busId
    uuid = str(pynvml.nvmlDeviceGetUUID(handle))
    return Identity(
        index=str(index),
        uuid=uuid,
        pci_bus_id=bus.decode() if isinstance(bus, bytes) else str(bus),
        device=device,
        model=str(pynvml.nvmlDeviceGetName(handle)),
        devices=(uuid, device),
    )


def _instances(handle: Any, gpu: Identity) -> Iterator[Gpu]:
    """Yield a GPU's MIG instances, asked anew each time: they are made and removed under way."""
    mode = readings.ask(pynvml.nvmlDeviceGetMigMode, handle)
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return
    instances: dict[str, Gpu] = {}
    for index in range(readings.ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        device = readings.ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        uuid = device and readings.ask(pynvml.nvmlDeviceGetUUID, device)
        number = device and readings.ask(pynvml.nvmlDeviceGetGpuInstanceId, device)
        if uuid is None or number is None:
            continue  # no device there, or one that was removed between two questions
        if (instance := str(number)) not in instances:
            # What the plugins of GKE and of old drivers would call it comes beside the UUID.
            names = (f"{gpu.device}/{instance}", f"{gpu.uuid}/{instance}")
            identity = replace(gpu, profile=_profile(device), instance=instance, devices=names)
            instances[instance] = Gpu(identity, dict(readings.memory(device)))
        one = instances[instance]
        # Several compute instances of one GPU instance share its memory: one row, several devices.
        identity = replace(one.identity, devices=(*one.identity.devices, str(uuid)))
        instances[instance] = replace(one, identity=identity, processes=one.processes + readings.processes(device))
    yield from instances.values()


def _profile(device: Any) -> str:
    """Return a MIG device's GPU instance profile, such as `1g.10gb`."""
    name = str(readings.ask(pynvml.nvmlDeviceGetName, device) or "")
    profile = name.partition(" MIG ")[2]
    # `1c.3g.40gb` is a compute instance in 3g.40gb.
    return profile.partition(".")[2] if profile.partition(".")[0].endswith("c") else profile
