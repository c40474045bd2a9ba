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


async def test_without_certificates_prometheus_is_asked_no_more_often_and_with_them_the_ledger_at_once(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation may forbid to write Secrets: then there are no certificates for as long as it runs."""
    asked = 0
    sleep = asyncio.sleep

    async def ask() -> None:
        nonlocal asked
        asked += 1

    async def rounds() -> None:
        for _ in range(200):
            await sleep(0)

    monkeypatch.setattr(operator._sources, "ask", ask)
    monkeypatch.setattr(asyncio, "sleep", lambda _seconds: sleep(0))
    operator._can_ask.set()
    running = asyncio.create_task(operator._tick())
    try:
        await rounds()
        assert asked == 1
        operator._world.ca_bundle = "PEM"
        await rounds()
        assert asked == 2
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
