"""A keyed work queue: a key waits once however often it is marked, and is worked on by one worker at a time.

What is urgent overtakes what is not: an edit does not wait until thousands of services have been looked at in their turn. After nine
urgent keys in a row, one that is not urgent has its turn.

A key that fails comes back after a delay that doubles, with jitter; one that succeeds starts over.
"""

import asyncio
import contextlib
import heapq
import itertools
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from llmwarden.control.observe.resources import WorkKey
from llmwarden.control.supervised import supervised
from llmwarden.errors import UnavailableError, WardenError
from llmwarden.kube import ThrottledError

logger = logging.getLogger(__name__)

FIRST_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 120.0
MOST_IN_A_ROW: Final = 9  # urgent keys, while others wait: pods that change all the time must not stop the others

RECONCILES = Counter("llmwarden_operator_reconcile", "Reconciliations.", ["kind", "result"])
DURATION = Histogram(
    "llmwarden_operator_reconcile_duration_seconds",
    "Seconds that a reconciliation took.",
    ["kind"],
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
LAST_SUCCESS = Gauge(
    "llmwarden_operator_last_success_timestamp_seconds",
    "When a reconciliation last succeeded, in Unix seconds. Alert on its age: a watch can stall silently.",
)
DEPTH = Gauge("llmwarden_operator_queue_depth", "Keys that are waiting to be reconciled.", ["lane"])
LATER = Gauge("llmwarden_operator_queue_delayed", "Keys that will be reconciled later, such as after a back-off.")


class WorkQueue:
    """See the module. `work(key)` returns after how many seconds the key is due again, or None; `clock` is monotonic seconds."""

    def __init__(
        self,
        work: Callable[[WorkKey], Awaitable[float | None]],
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._work = work
        self._clock = clock
        self._jitter = jitter
        self._urgent: OrderedDict[WorkKey, None] = OrderedDict()
        self._others: OrderedDict[WorkKey, None] = OrderedDict()
        self._some = asyncio.Semaphore(0)  # how many wait in both
        self._in_a_row = 0  # urgent keys that were taken since another one was
        self._working: set[WorkKey] = set()
        self._again: dict[WorkKey, bool] = {}  # marked while being worked on, and whether urgently
        self._failures: dict[WorkKey, int] = {}
        self._heap: list[tuple[float, int, WorkKey]] = []
        self._due: dict[WorkKey, float] = {}
        self._order = itertools.count()
        self._earlier = asyncio.Event()
        DEPTH.labels("urgent").set_function(lambda: len(self._urgent))
        DEPTH.labels("other").set_function(lambda: len(self._others))
        LATER.set_function(lambda: len(self._due))

    def mark(self, key: WorkKey, *, urgent: bool = True) -> None:
        """Mark a key dirty: it is worked on soon. A key in backoff stays there: an event is no reason to hurry a server that fails."""
        # A retry that has started may have read the object already: what is marked meanwhile must follow it if it succeeds.
        if key in self._failures and key not in self._working:
            return
        self._enqueue(key, urgent=urgent)

    def mark_later(self, key: WorkKey, seconds: float) -> None:
        """Mark a key dirty for a time to come; the earliest of several counts."""
        due = self._clock() + seconds
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._earlier.set()

    def _enqueue(self, key: WorkKey, *, urgent: bool) -> None:
        if key in self._working:
            self._again[key] = urgent or self._again.get(key, False)
        elif urgent and key in self._others:
            del self._others[key]
            self._urgent[key] = None
        elif key not in self._urgent and key not in self._others:
            (self._urgent if urgent else self._others)[key] = None
            self._some.release()

    def _next(self) -> WorkKey:
        urgent = bool(self._urgent) and not (self._others and self._in_a_row >= MOST_IN_A_ROW)
        self._in_a_row = self._in_a_row + 1 if urgent else 0
        key, _ = (self._urgent if urgent else self._others).popitem(last=False)
        return key

    async def run(self, workers: int) -> None:
        """Work for ever; ends by cancellation only."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wake(), name="wake")
            for number in range(workers):
                group.create_task(self._worker(), name=f"worker {number}")

    async def _wake(self) -> None:
        """Move keys whose time has come."""
        while True:
            now = self._clock()
            while self._heap and self._heap[0][0] <= now:
                due, _, key = heapq.heappop(self._heap)
                if self._due.get(key) == due:
                    del self._due[key]
                    self._enqueue(key, urgent=key in self._failures)
            self._earlier.clear()
            wait = self._heap[0][0] - self._clock() if self._heap else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._earlier.wait(), wait)

    async def _worker(self) -> None:
        while True:
            await self._some.acquire()
            key = self._next()
            self._working.add(key)
            try:
                await self._once(key)
            finally:
                self._working.discard(key)
                again = self._again.pop(key, None)
                if again is not None:
                    self.mark(key, urgent=again)

    async def _once(self, key: WorkKey) -> None:
        """Work on a key in a task of its own: an error that nobody foresaw, over one object, must not end the work on all others."""
        started = self._clock()
        task = await supervised(self._work(key))
        DURATION.labels(key.kind).observe(self._clock() - started)
        error = None if task.cancelled() else task.exception()
        if error is None:
            RECONCILES.labels(key.kind, "success").inc()
            LAST_SUCCESS.set_to_current_time()
            self._failures.pop(key, None)
            again = None if task.cancelled() else task.result()
            if again is not None:
                self.mark_later(key, again)
        elif isinstance(error, WardenError):
            RECONCILES.labels(key.kind, "unavailable" if isinstance(error, UnavailableError) else "error").inc()
            self._back_off(key, error)
        else:
            RECONCILES.labels(key.kind, "bug").inc()
            logger.error("%s %s/%s: this is a bug", key.kind, key.namespace, key.name, exc_info=error)
            self._back_off(key, error)

    def _back_off(self, key: WorkKey, error: BaseException) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(FIRST_SECONDS * 2**failures, LONGEST_SECONDS)
        seconds = delay * (0.5 + self._jitter() / 2)
        if isinstance(error, ThrottledError) and error.retry_after:
            seconds += error.retry_after
        logger.warning("%s %s/%s: %s; again in %.1f s", key.kind, key.namespace, key.name, error, seconds)
        self.mark_later(key, seconds)
