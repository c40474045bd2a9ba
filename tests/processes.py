"""The processes of the test command and their logs: started each in a session of its own, and all ended at an interrupt.

Standard library only, as tests/run.py.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "test-logs"
GRACE_SECONDS = 90.0  # for fixtures to take a cluster down after an interrupt
TERMINATE_SECONDS = 10.0
LOW_PRIORITY = 10


def say(text: str = "") -> None:
    """Print one line at once: the output is a progress display."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, shortened."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            text = file.read().decode(errors="replace").replace("\r", "\n")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""


def tail(log: Path, lines: int = 60) -> None:
    """Show the end of a failed step's log."""
    text = log.read_text(errors="replace").splitlines()[-lines:]
    say(f"  ---- end of {log.relative_to(ROOT)}")
    for line in text:
        say(f"  | {line}")


class Children:
    """Every process that we started, so that an interrupt leaves none behind. Each leads a session of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def start(self, argv: Sequence[str], log: Path, *, low_priority: bool = False) -> subprocess.Popen[bytes]:
        """Start `argv` in the repository root with its output appended to `log`; raises OSError."""
        prefix = ("nice", "-n", str(LOW_PRIORITY)) if low_priority and shutil.which("nice") else ()
        with self._lock, log.open("ab") as output:
            if self._closed:
                message = "interrupted"
                raise OSError(message)
            child = subprocess.Popen(
                (*prefix, *argv),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            self._running.add(child)
        return child

    def forget(self, child: subprocess.Popen[bytes]) -> None:
        """Note that `child` has ended."""
        with self._lock:
            self._running.discard(child)

    def end(self, child: subprocess.Popen[bytes]) -> None:
        """End a child: interrupt first, so that fixtures clean up; then terminate; then kill its whole group."""
        for number, patience in (
            (signal.SIGINT, GRACE_SECONDS),
            (signal.SIGTERM, TERMINATE_SECONDS),
            (signal.SIGKILL, 10.0),
        ):
            if child.poll() is not None:
                break
            try:
                # Only the leader is interrupted: it ends what it started. The kill at the end takes the group.
                if number == signal.SIGKILL:
                    os.killpg(child.pid, number)
                else:
                    child.send_signal(number)
                child.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        with contextlib.suppress(
            ProcessLookupError
        ):  # what it started and left: pytest's workers end their test first, if let
            os.killpg(child.pid, signal.SIGKILL)
        self.forget(child)

    @property
    def closed(self) -> bool:
        """Whether no more are started."""
        return self._closed

    def close(self) -> None:
        """End all of them and start no more."""
        with self._lock:
            self._closed = True
            children = list(self._running)
        enders = [threading.Thread(target=self.end, args=(child,)) for child in children]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
