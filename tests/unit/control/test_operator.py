"""The operator's loops, where what they ask does not answer."""

import asyncio
import contextlib
from pathlib import Path
from typing import cast

import pytest

from llmwarden.control.handlers import main
from llmwarden.control.handlers.main import Operator
from llmwarden.errors import UnavailableError
from llmwarden.kube import Client
from llmwarden.settings import Settings

SETTINGS = Settings(prometheus_url="", resync_seconds=3600.0, status_seconds=1800.0)


@pytest.fixture
def operator() -> Operator:
    # Nothing is asked here: a client is only handed on.
    return Operator(cast("Client", None), SETTINGS, Path("/nonexistent"), asyncio.Event())


async def test_a_resync_that_failed_is_tried_again_soon(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what was deleted while kopf was away stays for a whole period."""
    lists = 0
    done = asyncio.Event()

    async def read() -> None:
        nonlocal lists
        lists += 1
        if lists == 1:
            message = "503"
            raise UnavailableError(message)
        done.set()

    monkeypatch.setattr(operator, "_list", read)
    monkeypatch.setattr(main, "RETRY_SECONDS", 0.01)
    operator._synced.set()
    operator._due.set()
    running = asyncio.create_task(operator._resync())
    try:
        await asyncio.wait_for(done.wait(), 5)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
