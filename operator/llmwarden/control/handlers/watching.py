"""kopf in a thread and an event loop of its own, begun again where it ends.

kopf ends over answers of the API server that it does not retry (an error within a watch other than 410, a list that is refused), and with it
ends every task of its event loop that was begun after it. In our loop that would be the whole operator, and each restart a list of everything.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final

import kopf
from prometheus_client import Counter

from llmwarden import names
from llmwarden.control.handlers import watches
from llmwarden.kube.informer import ERRORS, UP

logger = logging.getLogger(__name__)

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0
ENDING_SECONDS: Final = 5.0  # for kopf to close its connections
CANCEL_SECONDS: Final = 1.0  # after which a task that has not ended is cancelled again
LISTED_SECONDS: Final = 5.0  # within so long of its beginning, kopf has read what there is
RESOURCE: Final = names.GROUP  # as `llmwarden_watch_up` calls kopf's watches
WELL_SECONDS: Final = 300.0  # kopf that ran for so long was well: its next pause is the first again

# Signals are the main thread's business (serving.stop_on_signals): that kopf does without them is no warning.
logging.getLogger("kopf._core.reactor.running").addFilter(lambda record: "OS signals" not in record.getMessage())

ENDED = Counter("llmwarden_operator_watches_ended", "How often kopf's watches ended unexpectedly and were restarted.")


async def end_together(tasks: Collection["asyncio.Task[None]"]) -> None:
    """Wait until one of kopf's `tasks` ends, end every other task of the event loop, and raise what that one raised.

    In place of `kopf.run_tasks`, which cancels each task once and then waits without a bound: a watch that is cancelled
    while it waits for kopf's credentials (when its connections are closed already) takes that for a pause and watches
    again. kopf would never end, and neither would its successor begin.
    """
    ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.wait({*tasks}, timeout=ENDING_SECONDS)
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        for each in left:
            each.cancel()
        await asyncio.wait(left, timeout=CANCEL_SECONDS)
    for task in ended:
        task.result()


class Watching:
    """See the module. `take(kind, object or None, (namespace, name))` is called in the event loop that `run` runs in, in order.

    `missed()` is called when watches have begun again: what was deleted meanwhile, kopf does not tell.
    """

    def __init__(
        self,
        take: watches.Take,
        missed: Callable[[], None],
        pauses: tuple[float, float] = (FIRST_SECONDS, LONGEST_SECONDS),
    ) -> None:
        self._take = take
        self._missed = missed
        self._first, self._longest = pauses
        ERRORS.labels(RESOURCE)  # so that rules read 0 instead of nothing
        self._failing: tuple[float, str] | None = None  # since when (monotonic seconds), and why

    def fault(self, seconds: float) -> str:
        """Say why our kinds are not watched, where that is so for at least `seconds`; "" otherwise."""
        if self._failing is None or time.monotonic() - self._failing[0] < seconds:
            return ""
        return self._failing[1]

    def _works(self) -> None:
        UP.labels(RESOURCE).set(1)
        self._failing = None

    async def run(self) -> None:
        """Watch for ever; ends by cancellation only."""
        delay = self._first
        while True:
            began = time.monotonic()
            works = asyncio.get_running_loop().call_later(LISTED_SECONDS, self._works)
            try:
                error = await self._once()
            finally:
                works.cancel()
            ENDED.inc()
            UP.labels(RESOURCE).set(0)
            ERRORS.labels(RESOURCE).inc()
            self._failing = (began if self._failing is None else self._failing[0], f"our own kinds: {error!r}")
            if time.monotonic() - began > WELL_SECONDS:
                delay = self._first
            pause = random.uniform(delay / 2, delay)  # noqa: S311 - jitter, no secret
            logger.warning("kopf's watches ended: %r; again in %.1f s", error, pause)
            delay = min(delay * 2, self._longest)
            await asyncio.sleep(pause)
            asyncio.get_running_loop().call_later(LISTED_SECONDS, self._missed)

    async def _once(self) -> BaseException | None:
        """Run kopf until it ends; returns why it did."""
        ours, theirs, stop = asyncio.get_running_loop(), asyncio.new_event_loop(), asyncio.Event()

        seen: deque[tuple[Any, ...]] = deque()

        def take() -> None:
            try:
                while seen and not stop.is_set():
                    self._take(*seen.popleft())
            finally:
                if seen and not stop.is_set():  # an error over one event
                    ours.call_soon(take)

        def tell(*event: Any) -> None:
            # To wake another thread's loop is a system call: once for all that comes until it has woken.
            seen.append(event)
            if len(seen) == 1:
                ours.call_soon_threadsafe(take)

        async def watch() -> None:
            tasks = await kopf.spawn_tasks(
                registry=watches.registry(tell),
                settings=watches.settings(),
                standalone=True,
                clusterwide=True,
                stop_flag=stop,
            )
            await end_together(tasks)

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: theirs) as runner:
                runner.run(watch())

        running = asyncio.ensure_future(asyncio.to_thread(run))
        try:
            await asyncio.wait({running})
        finally:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
                theirs.call_soon_threadsafe(stop.set)
        return running.exception()
