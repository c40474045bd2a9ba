"""Keeps the garbage collector from looking at what is there for good: ten thousand connections are half a million objects.

What ends by itself is freed at once in any case, a closed connection with all that is its own, too (a test holds that). Only cycles wait
for the collector. By its usual rules it would look at everything, for a third of a second in which every report waits, whenever a
quarter has come on top. So here it looks at what is young only, each second, and what it finds alive is frozen: it is not looked at
again until memory has grown by half, which garbage among it may have caused.
"""

import asyncio
import gc
import sys
from typing import Final

YOUNG: Final = 50_000  # objects that came and did not go: Python's own collections begin only then
SETTLE_SECONDS: Final = 1.0
GROWTH: Final = 1.5


class Collector:
    """See the module."""

    def __init__(self) -> None:
        """Look at everything once, and freeze it: modules, classes, what was read at the start."""
        self._most = 0.0  # allocated blocks of memory, above which everything is looked at
        gc.set_threshold(YOUNG, 10, 10)
        self._whole()

    async def run(self) -> None:
        """Settle for ever; ends by cancellation only."""
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            self.settle()

    def settle(self) -> None:
        """Free what young objects are garbage, and freeze the others."""
        gc.collect(1)
        gc.freeze()
        # Blocks and not the count of frozen objects, which goes over all of them.
        if sys.getallocatedblocks() > self._most:
            self._whole()

    def _whole(self) -> None:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._most = GROWTH * sys.getallocatedblocks()
