"""How long a pod's own model was busy: the ledger shares GPU-hours by it. Only for routes whose upstream is in the pod.

The time is added up at the end of each call and enters the journal with it. So it is exact over crashes, and a call of half an hour
counts when it ends, as its tokens do.
"""

from typing import Final

_MOST: Final = (
    64  # stretches that are remembered. Beyond that the oldest two become one, and the gap between them counts as busy
)
NO_TIMES: Final = (0, 0, 0)


class Busy:
    """Adds up the time in which at least one call was in flight. Times are seconds of one steady clock, and ends only rise."""

    def __init__(self) -> None:
        self._stretches: list[tuple[float, float]] = []
        self._seconds = 0.0
        self._counted = 0

    def add(self, start: float, end: float) -> int:
        """Take a call that ended now; returns by how many milliseconds the busy time has grown."""
        fresh = end - start
        stretches = self._stretches
        while stretches and stretches[-1][1] > start:
            began, ended = stretches.pop()
            fresh -= ended - max(began, start)
            start = min(began, start)
        stretches.append((start, end))
        if len(stretches) > _MOST:
            stretches[:2] = [(stretches[0][0], stretches[1][1])]
        self._seconds += max(0.0, fresh)
        grown = int(self._seconds * 1000) - self._counted
        self._counted += grown
        return grown

    def times(
        self, start: float, end: float, first_token: float | None, queued: float, written: int
    ) -> tuple[int, int, int]:
        """Milliseconds that the model was busy with a call and with no other, and that its prefill and its decode took.

        `first_token`: seconds from the start, None where the answer came whole; then prefill and decode cannot be told apart, unless it had no
        output tokens (`written`) at all.
        """
        grown = self.add(start, end)
        duration = end - start
        if first_token is not None:
            return grown, int(max(0.0, first_token - queued) * 1000), int(max(0.0, duration - first_token) * 1000)
        return grown, 0 if written else int(max(0.0, duration - queued) * 1000), 0
