"""Whether the machine is quiet enough to judge on: other work, steal, and whether a core's speed holds still."""

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LOOK_SECONDS: Final = 2.0
_MOST_BUSY: Final = 0.08  # of a core, by others
_MOST_STEAL: Final = 0.02
_MOST_SPREAD: Final = 0.15  # of the calibration's times, between the first and the ninth tenth
_LOOP: Final = 40_000
_LOOPS: Final = 60
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ticks:
    """A core's time in seconds since boot: busy with anything, and taken by the hypervisor."""

    busy: float
    steal: float


def ticks(core: int) -> Ticks:
    """What the kernel says of a core."""
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *values = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, irq, soft, steal, *_ = (int(value) / _TICK for value in values)
            return Ticks(user + nice + system + irq + soft, steal)
    return Ticks(0.0, 0.0)


def obstacles(cores: tuple[int, int]) -> list[str]:
    """Why this machine cannot be judged on now; empty when it can."""
    found: list[str] = []
    before = {core: ticks(core) for core in cores}
    time.sleep(_LOOK_SECONDS)
    for core, first in before.items():
        second = ticks(core)
        busy = (second.busy - first.busy) / _LOOK_SECONDS
        steal = (second.steal - first.steal) / _LOOK_SECONDS
        if busy > _MOST_BUSY:
            found.append(f"core {core} is {busy:.0%} busy with other work")
        if steal > _MOST_STEAL:
            found.append(f"the hypervisor takes {steal:.0%} of core {core}")
    for core in cores:
        spread = _calibrate(core)
        if spread > _MOST_SPREAD:
            found.append(f"the same loop takes up to {spread:.0%} longer at times on core {core}")
    return found


def _calibrate(core: int) -> float:
    """How much longer the slow tenth of a loop's runs takes than the fast tenth, on one core."""
    home = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        times = [_loop() for _ in range(_LOOPS)]
    finally:
        os.sched_setaffinity(0, home)
    tenths = statistics.quantiles(times, n=10)
    return tenths[-1] / tenths[0] - 1


def _loop() -> float:
    begun = time.perf_counter()
    total = 0
    for number in range(_LOOP):
        total += number
    return time.perf_counter() - begun


class Watch:
    """How much of a core others took while something of ours was measured."""

    def __init__(self, core: int) -> None:
        self._core = core
        self._begun = time.monotonic()
        self._ticks = ticks(core)

    def others(self, own_seconds: float) -> float:
        """The share of the core since the beginning that was neither idle nor ours; steal is others'."""
        now = ticks(self._core)
        busy = now.busy - self._ticks.busy + now.steal - self._ticks.steal
        return max(0.0, (busy - own_seconds) / (time.monotonic() - self._begun))
