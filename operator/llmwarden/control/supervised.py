"""Runs work whose unforeseen errors must not end its caller: an error over one object, an engine that answers nonsense."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def supervised(work: Awaitable[T]) -> asyncio.Task[T]:
    """Run `work` in a task of its own and return the task, which is done: ask it for its exception before its result.

    Raises nothing of what `work` raises. Where the caller is cancelled, `work` is cancelled, too.
    """
    task: asyncio.Task[T] = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()  # no effect on a finished task
    return task
