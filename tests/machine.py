"""How busy the machine is with other work, so that quotas of seconds mean the same on a busy one. Standard library only."""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
LOOK_SECONDS = 1.0
CORES = 2  # what quotas are made for


def slowness(stat: Path = STAT, seconds: float = LOOK_SECONDS, cores: int | None = None) -> float:
    """Measure by how much longer work takes here than on two cores that nobody else uses: 1.0 where nobody does.

    To be called before any work of ours begins. Other work at our own priority gets as much of a core as we do, so each core that it
    fills doubles the time of that core's share. 1.0 where the machine does not say (no /proc/stat).
    """
    try:
        before = _jiffies(stat)
        time.sleep(seconds)
        after = _jiffies(stat)
    except (OSError, ValueError, IndexError):
        return 1.0
    total = sum(after) - sum(before)
    if total <= 0:
        return 1.0
    idle = sum(after[3:5]) - sum(before[3:5])  # idle and waiting for a disk
    busy = min(1.0, max(0.0, 1 - idle / total))
    few = max(1.0, CORES / (cores or os.cpu_count() or 1))
    return few * (1 + busy)


def _jiffies(stat: Path) -> list[int]:
    return [int(word) for word in stat.read_text().splitlines()[0].split()[1:9]]
