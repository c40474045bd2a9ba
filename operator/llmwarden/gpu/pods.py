"""Which pods use which device, kept current in a thread: a scrape never waits for the kubelet.

A device that one container holds whole, a GPU or a MIG instance, is that container's: `exact`. One that several hold (time slicing,
MPS) has one set of readings for all of them, and no figure says whose they are: each is named with an equal part of the device by
the replicas it holds: `estimated`.
"""

import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from llmwarden.gpu.podresources import PodResourcesError, Use, list_devices

log = logging.getLogger(__name__)

# GKE's plugin names devices by number and instance: nvidia0, nvidia0/gi3, nvidia0/vgpu1, nvidia0/gi3/vgpu0.
_GKE: Final = re.compile(r"(?P<device>nvidia\d+)(?:/gi(?P<instance>\d+))?(?:/vgpu(?P<replica>\d+))?")
# MIG devices of drivers before 470.
_OLD_MIG: Final = re.compile(r"MIG-(?P<gpu>GPU-[^/]+)/(?P<instance>\d+)/\d+")

Attribution = Literal["exact", "estimated"]


@dataclass(frozen=True, slots=True)
class Holder:
    """A container that uses a device. `share` is its part of the device, above 0 and at most 1; `vgpu` the replicas it holds."""

    namespace: str
    pod: str
    container: str
    attribution: Attribution = "exact"
    share: float = 1.0
    vgpu: str = ""


# By what names the device: a UUID of a GPU or a MIG device; `nvidia0` or `GPU-…`, and with an instance `nvidia0/3`.
Holders = Mapping[str, tuple[Holder, ...]]


def holders(uses: Iterable[Use]) -> Holders:
    """Group uses by device."""
    by_device: dict[str, dict[tuple[str, str, str], set[str]]] = defaultdict(lambda: defaultdict(set))
    for use in uses:
        device, replica = _split(use.device)
        by_device[device][use.namespace, use.pod, use.container].add(replica)
    return {device: merge(containers) for device, containers in by_device.items()}


def merge(containers: Mapping[tuple[str, str, str], set[str]]) -> tuple[Holder, ...]:
    """Return the holders of one device from the replicas that each container has ("" for the whole)."""
    if len(containers) == 1:
        ((key, replicas),) = containers.items()
        if replicas == {""}:
            return (Holder(*key),)
    # Also a single holder of a replica is estimated: others come and go, and its limit is none of the device's.
    everything = sum(len(replicas) for replicas in containers.values())
    return tuple(
        Holder(*key, "estimated", len(replicas) / everything, ",".join(sorted(replicas - {""})))
        for key, replicas in sorted(containers.items())
    )


def together(devices: Sequence[tuple[Holder, ...]]) -> tuple[Holder, ...]:
    """Return the holders of a MIG instance by those of its compute instances, which share its memory and its clocks."""
    if len(devices) <= 1:
        return devices[0] if devices else ()
    shares: dict[tuple[str, str, str], float] = defaultdict(float)
    for holders_of_device in devices:
        for one in holders_of_device:
            shares[one.namespace, one.pod, one.container] += one.share / len(devices)
    if len(shares) == 1 and all(
        one.attribution == "exact" for holders_of_device in devices for one in holders_of_device
    ):
        return devices[0]
    return tuple(Holder(*key, "estimated", share) for key, share in shares.items())


def _split(device: str) -> tuple[str, str]:
    """Return what names the device and the replica of it, or ""."""
    device, _, replica = device.partition("::")
    if match := _GKE.fullmatch(device):
        instance = match["instance"]
        return match["device"] + (f"/{instance}" if instance else ""), match["replica"] or replica
    if match := _OLD_MIG.fullmatch(device):
        return f"{match['gpu']}/{match['instance']}", replica
    return device, replica


class Pods:
    """The kubelet's latest answer. While the kubelet is away it counts for `keep` seconds more, then nobody is named."""

    def __init__(
        self,
        path: str,
        *,
        interval: float = 5.0,
        timeout: float = 5.0,
        keep: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._interval = interval
        self._timeout = timeout
        self._keep = keep
        self._clock = clock
        self._holders: Holders = {}
        self._answered = float("-inf")  # when
        self._problem = "not asked yet"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pod-resources", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """Stop asking; returns at once."""
        self._stop.set()

    @property
    def up(self) -> bool:
        """Whether the kubelet answered the last question."""
        return not self._problem

    def current(self) -> Holders:
        """Return who holds what, empty when that is not known any more."""
        return self._holders if self._clock() - self._answered <= self._keep else {}

    def refresh(self) -> None:
        """Ask once, now."""
        try:
            self._holders = holders(list_devices(self._path, self._timeout))
            self._answered = self._clock()
            if self._problem:
                log.info("the kubelet tells which pods use the GPUs")
            self._problem = ""
        except PodResourcesError as error:
            if str(error) != self._problem:
                log.warning("pods are not known: %s", error)
            self._problem = str(error)

    def _run(self) -> None:
        while True:
            self.refresh()
            if self._stop.wait(self._interval):
                return
