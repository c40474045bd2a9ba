"""What the program is doing and how long is left, for a terminal (one line, redrawn) or a log (a line now and then)."""

import sys
import time
from dataclasses import dataclass, field

_LOG_EVERY = 15.0  # seconds between lines where there is no terminal
_DRAW_EVERY = 0.2


def say(sentence: str) -> None:
    """Tell the person, on stderr: stdout is for what scripts read."""
    print(f"cluster: {sentence}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return `seconds` as people say it.

    >>> duration(42.4), duration(125)
    ('42 s', '2 min 05 s')
    """
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60:02d} s"  # noqa: PLR2004 - "90 s" reads well


@dataclass
class Progress:
    """Steps done of steps known; the time left follows from the pace so far, and `prior` (seconds a step) before it."""

    title: str
    total: int
    prior: float = 0.0
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    _shown: float = field(default_factory=time.monotonic)

    def left(self, now: float) -> float:
        """Return the estimated seconds left."""
        # The prior counts like a few steps of evidence, so that the first second's estimate is not nonsense.
        weight = 20
        pace = (now - self.started + weight * self.prior) / (self.done + weight)
        return pace * max(self.total - self.done, 0)

    def step(self, what: str, steps: int = 1) -> None:
        """Count `steps` as done and show the newest."""
        self.done += steps
        self.total = max(self.total, self.done)
        self.show(what)

    def show(self, what: str) -> None:
        """Redraw, if it is time to."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if now - self._shown < (_DRAW_EVERY if terminal else _LOG_EVERY):
            return
        self._shown = now
        line = f"{self.title}: {self.done} of {self.total} ({what}), about {duration(self.left(now))} left"
        if terminal:
            print(f"\r\x1b[2Kcluster: {line[:110]}", end="", file=sys.stderr, flush=True)
        else:
            say(line)

    def finish(self) -> None:
        """Say how long it took."""
        if sys.stderr.isatty():
            print("\r\x1b[2K", end="", file=sys.stderr)
        say(f"{self.title}: done in {duration(time.monotonic() - self.started)}")
