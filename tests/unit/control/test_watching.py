"""How kopf is ended, over tasks as it makes them. With a real kopf: tests/api/test_operator_faults.py."""

import asyncio

import pytest

from llmwarden.control.handlers import watching


async def ignores(cancels: int) -> None:
    """Wait for ever, as kopf's watches do, and take the first `cancels` cancellations for something else."""
    for _ in range(cancels):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    await asyncio.Event().wait()


async def fails() -> None:
    raise ConnectionResetError


async def test_one_failed_task_ends_all_even_those_that_ignore_being_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "ENDING_SECONDS", 0.01)
    monkeypatch.setattr(watching, "CANCEL_SECONDS", 0.01)
    strays = [asyncio.create_task(ignores(cancels)) for cancels in (0, 1, 3)]
    roots = [asyncio.create_task(ignores(2)), asyncio.create_task(fails())]
    with pytest.raises(ConnectionResetError):
        await watching.end_together(roots)
    assert all(task.done() for task in (*strays, *roots))


async def test_a_task_that_ends_without_an_error_ends_all_without_one() -> None:
    roots = [asyncio.create_task(ignores(0)), asyncio.create_task(asyncio.sleep(0))]
    await watching.end_together(roots)
    assert all(task.done() for task in roots)
