"""The ledger's clock, as far as a pod can know it: what it last said, and the monotonic time since.

Buckets and windows go by it, so that a pod whose clock is wrong, or jumps, spends in the right window. Until the ledger has
said something it is the pod's own.
"""

import time
from collections.abc import Callable
from typing import Final

# Answers travel for different times: within this the latest reading is kept, above it the ledger's clock was set.
_JUMP_SECONDS: Final = 2.0


class LedgerClock:
    """POSIX seconds. `wall` and `monotonic` are the pod's."""

    __slots__ = ("_monotonic", "_offset", "_wall")

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset: float | None = None

    def told(self, now: float) -> None:
        """The ledger has just said what time it is.

        It is late by the answer's travel, never early: so of readings that agree the latest time counts. A grant is therefore never
        spent in a window before the one in which it was given.
        """
        offset = now - self._monotonic()
        if self._offset is None or abs(offset - self._offset) > _JUMP_SECONDS:
            self._offset = offset
        else:
            self._offset = max(self._offset, offset)

    def __call__(self) -> float:
        """The time now."""
        return self._wall() if self._offset is None else self._monotonic() + self._offset
