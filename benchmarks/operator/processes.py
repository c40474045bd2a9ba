"""What processes take: CPU by the kernel's clock, memory by /proc; and what of the machine others took meanwhile."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024


@dataclass(frozen=True)
class Memory:
    """MiB. `peak` is the largest resident size since the process began, `proportional` counts shared pages by their share."""

    resident: float
    proportional: float
    peak: float


def cpu(pid: int) -> float:
    """CPU seconds of a process, user and system: the kernel's clock of it (clock_getcpuclockid(3)), finer than /proc's ticks."""
    return time.clock_gettime(~pid << 3 | 2)


def memory(pid: int) -> Memory:
    """What a process holds."""
    status = _fields(Path(f"/proc/{pid}/status"))
    rollup = _fields(Path(f"/proc/{pid}/smaps_rollup"))
    return Memory(
        resident=round(status["VmRSS"] / _KIB, 1),
        proportional=round(rollup["Pss"] / _KIB, 1),
        peak=round(status["VmHWM"] / _KIB, 1),
    )


def available() -> float:
    """MiB that the machine could still give."""
    return _fields(Path("/proc/meminfo"))["MemAvailable"] / _KIB


def _fields(path: Path) -> dict[str, int]:
    """Fields in KiB of a file of /proc."""
    found: dict[str, int] = {}
    for line in path.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":  # noqa: PLR2004 - a number and its unit
            found[name] = int(words[0])
    return found


@dataclass(frozen=True)
class Mark:
    """CPU seconds at a moment: of each process that is watched, and of the whole machine (steal included)."""

    at: float
    used: dict[str, float]
    busy: float


class Accounts:
    """Takes marks, and says what was used between two of them. `pids` are ours by name."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}

    def mark(self) -> Mark:
        """Take a mark now."""
        used = {name: cpu(pid) for name, pid in self.pids.items()}
        return Mark(time.monotonic(), used | {"benchmark": time.process_time()}, _busy())

    def since(self, mark: Mark) -> dict[str, float]:
        """CPU seconds by process since a mark, the time as `seconds`, and as `others` the cores that were not ours."""
        now = self.mark()
        found = {name: round(value - mark.used.get(name, 0.0), 3) for name, value in now.used.items()}
        seconds = now.at - mark.at
        others = max(0.0, (now.busy - mark.busy - sum(found.values())) / seconds)
        return {**found, "seconds": round(seconds, 2), "others": round(others, 3)}


def _busy() -> float:
    """Seconds that cores were busy since boot, steal included."""
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    user, nice, system, _, _, irq, soft, steal, *_ = (int(value) / _TICK for value in first.split()[1:])
    return user + nice + system + irq + soft + steal


def total(found: dict[str, float], names: Iterable[str]) -> float:
    """CPU seconds of some of the processes."""
    return sum(found.get(name, 0.0) for name in names)
