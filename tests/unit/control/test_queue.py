import asyncio
from collections.abc import Awaitable, Callable

from llmwarden.control.handlers.queue import FIRST_SECONDS, WorkQueue
from llmwarden.control.observe.resources import WorkKey
from llmwarden.errors import UnavailableError

KEY = WorkKey("LLMService", "shop", "bot")


class Clock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    """Let every task that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def with_queue(
    work: Callable[[WorkKey], Awaitable[float | None]], steps: Callable[[WorkQueue, Clock], Awaitable[None]]
) -> None:
    clock = Clock()
    queue = WorkQueue(work, clock, jitter=lambda: 1.0)
    running = asyncio.create_task(queue.run(2))
    try:
        await steps(queue, clock)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_key_marked_often_is_worked_on_once() -> None:
    done: list[WorkKey] = []

    async def work(key: WorkKey) -> None:
        done.append(key)

    async def steps(queue: WorkQueue, _clock: Clock) -> None:
        for _ in range(5):
            queue.mark(KEY)
        await settle()
        assert done == [KEY]
        queue.mark(KEY)
        await settle()
        assert done == [KEY, KEY]

    await with_queue(work, steps)


async def test_a_key_is_never_worked_on_twice_at_a_time_and_what_was_marked_meanwhile_follows() -> None:
    begun, go = [], asyncio.Event()

    async def work(key: WorkKey) -> None:
        begun.append(key)
        await go.wait()

    async def steps(queue: WorkQueue, _clock: Clock) -> None:
        queue.mark(KEY)
        await settle()
        queue.mark(KEY)
        queue.mark(KEY)
        await settle()
        assert len(begun) == 1
        go.set()
        await settle()
        assert len(begun) == 2

    await with_queue(work, steps)


async def test_a_failing_key_backs_off_whatever_events_say_and_starts_over_after_success() -> None:
    calls, fail = [], True

    async def work(key: WorkKey) -> None:
        calls.append(key)
        if fail and key == KEY:
            message = "500"
            raise UnavailableError(message)

    async def steps(queue: WorkQueue, clock: Clock) -> None:
        nonlocal fail
        queue.mark(KEY)
        await settle()
        for _ in range(100):
            queue.mark(KEY)
        await settle()
        assert len(calls) == 1
        for doubled in (1, 2, 4):
            clock.now += FIRST_SECONDS * doubled
            queue.mark_later(WorkKey("Other"), 0)  # wakes the waiting for time
            await settle()
        assert len([key for key in calls if key == KEY]) == 4
        fail = False
        clock.now += 1000
        queue.mark_later(WorkKey("Other"), 0)
        await settle()
        before = len(calls)
        queue.mark(KEY)
        await settle()
        assert len(calls) == before + 1

    await with_queue(work, steps)


async def test_a_bug_over_one_object_does_not_end_the_work_on_others() -> None:
    done: list[str] = []

    async def work(key: WorkKey) -> None:
        if key.name == "bad":
            raise ZeroDivisionError
        done.append(key.name)

    async def steps(queue: WorkQueue, _clock: Clock) -> None:
        queue.mark(WorkKey("LLMService", "shop", "bad"))
        await settle()
        queue.mark(WorkKey("LLMService", "shop", "good"))
        await settle()
        assert done == ["good"]

    await with_queue(work, steps)


async def test_a_key_comes_back_when_it_asked_to() -> None:
    calls: list[WorkKey] = []

    async def work(key: WorkKey) -> float | None:
        calls.append(key)
        return 30.0 if len(calls) == 1 else None

    async def steps(queue: WorkQueue, clock: Clock) -> None:
        queue.mark(KEY)
        await settle()
        clock.now = 31.0
        queue.mark_later(WorkKey("Other"), 0)
        await settle()
        assert calls.count(KEY) == 2

    await with_queue(work, steps)


async def test_what_is_marked_while_a_failed_key_is_retried_is_not_lost() -> None:
    calls, go = [], asyncio.Event()

    async def work(key: WorkKey) -> None:
        if key != KEY:
            return
        calls.append(key)
        if len(calls) == 1:
            message = "500"
            raise UnavailableError(message)
        await go.wait()

    async def steps(queue: WorkQueue, clock: Clock) -> None:
        queue.mark(KEY)
        await settle()
        clock.now += FIRST_SECONDS
        queue.mark_later(WorkKey("Other"), 0)  # wakes the waiting for time
        await settle()
        assert len(calls) == 2
        queue.mark(KEY)  # an edit, after the retry has read the object
        await settle()
        go.set()
        await settle()
        assert len(calls) == 3

    await with_queue(work, steps)


async def test_a_lane_that_never_empties_does_not_stop_the_other() -> None:
    done: list[str] = []
    busy = [WorkKey("LLMService", "shop", f"busy-{number}") for number in range(3)]

    async def steps(queue: WorkQueue, _clock: Clock) -> None:
        for key in (*busy, KEY):
            queue.mark(key, urgent=key != KEY)
        for _ in range(20):
            await settle()
        assert KEY.name in done
        others = done.count(KEY.name)
        assert others * 4 < len(done), "edits must still come first"

    async def work(key: WorkKey) -> None:
        done.append(key.name)
        await asyncio.sleep(0)
        queues[0].mark(key, urgent=key != KEY)  # its pods change all the time

    queues: list[WorkQueue] = []

    async def with_own(queue: WorkQueue, clock: Clock) -> None:
        queues.append(queue)
        await steps(queue, clock)

    await with_queue(work, with_own)
