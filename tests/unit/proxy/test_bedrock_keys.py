"""When AWS credentials are asked for, and what becomes of those that wait. What answers is in place of the child process, whose own work
`tests/proxy/test_dialect_bedrock.py` shows."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from llmwarden.proxy.aws import keyring
from llmwarden.proxy.aws.keyring import Keyring, NoKeysError
from llmwarden.proxy.aws.sigv4 import Keys


class Source:
    """Answers with what it is told to, and counts how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.failed = 0
        self.answer = keyring._Resolved(access_key="A1", secret_key="s", method="env")
        self.go = asyncio.Event()
        self.go.set()
        monkeypatch.setattr(keyring, "_ask", self._ask)
        self.ring = Keyring(self._fail)

    async def _ask(self, _: str | None) -> keyring._Resolved:
        self.asked += 1
        await self.go.wait()
        return self.answer

    def _fail(self) -> None:
        self.failed += 1

    def gives(self, key: str, seconds: float | None = None) -> None:
        expires = time.time() + seconds if seconds is not None else None
        self.answer = keyring._Resolved(access_key=key, secret_key="s", method="web", expires=expires)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    return Source(monkeypatch)


async def test_what_never_ends_is_asked_for_once(source: Source) -> None:
    assert source.ring.current() is None
    keys = await asyncio.gather(*(source.ring.get() for _ in range(5)))
    assert keys == [Keys("A1", "s")] * 5
    assert source.ring.current() == Keys("A1", "s")
    assert source.asked == 1


async def test_a_client_that_leaves_does_not_take_the_others_along(source: Source) -> None:
    source.go.clear()
    waiting = [asyncio.create_task(source.ring.get()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    source.go.set()
    assert (await waiting[1]).access_key == "A1"
    assert source.asked == 1


async def test_renewed_beside_the_traffic_before_the_end(source: Source) -> None:
    source.gives("A1", 800)
    await source.ring.get()
    source.gives("A2", 3600)
    assert source.ring.current() == Keys("A1", "s")  # still good, and in use
    await asyncio.sleep(0.01)
    assert source.ring.current() == Keys("A2", "s")
    assert source.asked == 2
    assert source.ring.current() == Keys("A2", "s")
    await asyncio.sleep(0.01)
    assert source.asked == 2


async def test_a_failed_renewal_leaves_the_old_ones_in_use_and_is_tried_again(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.gives("A1", 800)
    await source.ring.get()
    source.answer = keyring._Resolved(error="ConnectTimeoutError")
    for _ in range(5):
        assert source.ring.current() == Keys("A1", "s")
        await asyncio.sleep(0.01)
    assert (source.asked, source.failed) == (2, 1)  # and then it pauses
    monkeypatch.setattr(source.ring, "_pause_until", 0.0)
    source.gives("A2")
    source.ring.current()
    await asyncio.sleep(0.01)
    assert source.ring.current() == Keys("A2", "s")


async def test_what_is_about_to_end_is_not_used(source: Source) -> None:
    source.gives("A1", 30)
    with pytest.raises(NoKeysError):
        await source.ring.get()
    source.gives("A2", 3600)
    assert (await source.ring.get()).access_key == "A2"


async def test_a_failure_is_told_to_all_for_a_while_without_asking_again(source: Source) -> None:
    source.answer = keyring._Resolved(error="none")
    for _ in range(3):
        with pytest.raises(NoKeysError, match="found no AWS credentials") as caught:
            await source.ring.get()
        assert caught.value.lasting
    assert (source.asked, source.failed) == (1, 1)
    source.ring._pause_until = 0.0
    source.answer = keyring._Resolved(error="ReadTimeoutError")
    with pytest.raises(NoKeysError, match="ReadTimeoutError") as caught:
        await source.ring.get()
    assert not caught.value.lasting


async def test_a_rejection_asks_anew_but_not_for_each_call(source: Source) -> None:
    await source.ring.get()
    source.gives("A2")
    for _ in range(10):
        source.ring.reject()
        await asyncio.sleep(0.001)
    assert source.asked == 2
    assert source.ring.current() == Keys("A2", "s")


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("print('Traceback')", "exit status 0"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import time; time.sleep(60)", "Timeout"),
    ],
)
async def test_a_child_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, program: str, error: str) -> None:
    monkeypatch.setattr(keyring, "_CHILD", (sys.executable, "-c", program))
    monkeypatch.setattr(keyring, "_CHILD_SECONDS", 5.0 if error != "Timeout" else 0.5)
    before = _children()
    assert (await keyring._ask(None)).error == error
    assert _children() <= before  # nothing is left behind


def _children() -> set[str]:
    found: set[str] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        found.update(path.read_text().split())
    return found


async def test_a_child_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_CHILD", ("/nonexistent/python",))
    assert (await keyring._ask(None)).error == "FileNotFoundError"


def test_nothing_of_it_shows() -> None:
    assert "s3cr3t" not in repr(keyring._Resolved(secret_key="s3cr3t"))
