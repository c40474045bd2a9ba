"""Keeps the garbage collector from looking at what is there for good: ten thousand connections are half a million objects.

What ends by itself is freed at once in any case, a closed connection with all that is its own, too (a test holds that). Only cycles wait
for the collector. By its usual rules it would look at everything, for a third of a second in which every report waits, whenever a
quarter has come on top. So here it looks at what is young only, every few seconds, and what it finds alive is frozen: it is not looked at again
until so much was frozen that garbage among it could matter.
"""

import asyncio
import gc
from typing import Final

YOUNG: Final = 50_000  # objects that came and did not go: Python's own collections begin only then
SETTLE_SECONDS: Final = 5.0
FROZEN: Final = 1_000_000  # objects since everything was looked at: some 100 MiB if all of them were garbage


class Collector:
    """See the module."""

    def __init__(self) -> None:
        """Look at everything once, and freeze it: modules, classes, what was read at the start."""
        self._frozen = 0  # objects since everything was looked at
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
        self._frozen += len(gc.get_objects(generation=2))
        gc.freeze()
        if self._frozen > FROZEN:
            self._whole()

    def _whole(self) -> None:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._frozen = 0
