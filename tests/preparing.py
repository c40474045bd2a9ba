"""What the dear tiers need, made in the background while the cheap ones run. Standard library only, as tests/run.py."""

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import processes
from tests.processes import Children, last_line, say

HEARTBEAT_SECONDS = 30.0
STANDING_SECONDS = 60.0
UNDO_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Preparation:
    """Something slow that is made in the background; `quota` in seconds.

    What `standing` finds (exit status 0) is somebody's already: used, and left alone. What was made here, `undo` takes away at the end.
    """

    name: str
    argv: tuple[str, ...]
    quota: float
    low_priority: bool = True
    standing: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()


class Preparer:
    """Builds the preparations one after another in a thread, so that tests that need none of them run meanwhile."""

    def __init__(self, children: Children, wanted: Sequence[Preparation]) -> None:
        self._children = children
        self._wanted = tuple(wanted)
        self._done = {item.name: threading.Event() for item in wanted}
        self._errors: dict[str, str] = {}
        self._current = ""
        self._undo: list[Preparation] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        for item in self._wanted:
            self._current = item.name
            log = processes.LOGS / f"prepare-{item.name}.log"
            started = time.monotonic()
            try:
                if item.undo and self._ours(item, log):
                    self._undo.append(item)
                child = self._children.start(item.argv, log, low_priority=item.low_priority)
                status = child.wait(item.quota)
                self._children.forget(child)
                if status:
                    self._errors[item.name] = f"exit status {status}: {last_line(log)}"
            except subprocess.TimeoutExpired:
                self._children.end(child)
                self._errors[item.name] = f"not done after its {item.quota:.0f} s: {last_line(log)}"
            except OSError as error:
                self._errors[item.name] = str(error)
            seconds = time.monotonic() - started
            say(f"  (prepared {item.name} in {seconds:.0f} s{self._failure(item.name)})")
            self._done[item.name].set()

    def _ours(self, item: Preparation, log: Path) -> bool:
        child = self._children.start(item.standing, log)
        standing = child.wait(STANDING_SECONDS) == 0
        self._children.forget(child)
        return not standing

    def undo(self) -> None:
        """Take away what was made here, once everything that used it has ended."""
        for item in reversed(self._undo):
            say(f"  taking away {item.name}")
            with (processes.LOGS / f"undo-{item.name}.log").open("wb") as log:
                # In a session of its own: a second Ctrl-C must not stop it in the middle.
                subprocess.run(
                    item.undo, cwd=processes.ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False, timeout=UNDO_SECONDS,
                    start_new_session=True,
                )  # fmt: skip

    def _failure(self, name: str) -> str:
        return f": FAILED, see build/test-logs/prepare-{name}.log" if name in self._errors else ""

    def wait(self, name: str) -> str:
        """Wait for a preparation, showing what it is at; returns why it failed, or nothing."""
        while not self._done[name].wait(HEARTBEAT_SECONDS):
            say(f"  waiting for {name}: {self._current}: {last_line(processes.LOGS / f'prepare-{self._current}.log')}")
        return self._errors.get(name, "")
