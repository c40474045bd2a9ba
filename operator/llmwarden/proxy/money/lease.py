"""One budget as a proxy sees it: what the ledger last told, what was used since, and the lease that calls are admitted from.

Times are POSIX seconds by the ledger's clock, and arguments. Amounts are picodollars or tokens, as the budget's unit says.
"""

import datetime as dt
from typing import Final

from llmwarden.contracts.ledger import BudgetConfig, BudgetState, BudgetUpdate, LeaseGrant, LeaseUse

# After a window's end the old figures hold until the ledger has said the new ones, which it is asked for at once: a rolling
# window goes on with most of what was spent. Only when it does not say, the window counts as new.
_ROLL_SECONDS: Final = 10.0
_KNEE_PERCENT: Final = 80  # of the limit, from where Throttle paces where no warning says otherwise
_WHOLE: Final = 100  # percent
_DRY_SECONDS: Final = 1.0  # after a grant of nothing: for so long the ledger is not asked for as much again
_QUIET_REPORTS: Final = 2  # in a row, after which nothing is expected to be used soon
_RATE_SECONDS: Final = 0.5  # a shorter time says nothing of how fast is spent
_OLD_INTERVALS: Final = 10  # a last report that is older says nothing of the present rate
_STANDBY_SHARE: Final = 1000  # an idle proxy keeps at most this part of the limit, so that a first call need not wait


class Budget:
    """See the module. `balance` is what may still be spent here, `reserved` the part of it that is promised to calls under way."""

    __slots__ = (
        "_dry_need",
        "_dry_until",
        "_knee",
        "_quiet",
        "_rate",
        "_rated_at",
        "_rolled",
        "_used",
        "balance",
        "config",
        "line",
        "peak",
        "recalled",
        "reserved",
        "resets_at",
        "soft",
        "spent",
        "state",
        "unacknowledged",
        "waiting",
    )  # fmt: skip

    def __init__(self, config: BudgetConfig) -> None:
        self.unacknowledged = 0  # used, and not yet in the ledger's figure
        self.balance = 0
        self.reserved = 0
        self.waiting: list[int] = []  # what each call that waits for a grant needs
        self.peak = 0  # highest reservation since the last report, fading
        self.recalled = False
        self.line: tuple[float, int] | None = None  # Throttle: where pacing began
        self._dry_need = 0
        self._dry_until = 0.0
        self._quiet = 0  # reports in a row before which nothing was used or under way
        self._rate = 0.0  # used per second, of late
        self._rated_at = 0.0
        self._used = 0  # since then
        self.renew(config)

    def renew(self, config: BudgetConfig, *, figures: bool = True) -> None:
        """Take the ledger's configuration; what we used and it does not know yet stays counted, and the lease stays ours.

        Without `figures` what is spent stays as it is known: the configuration is older than that.
        """
        self.config = config
        percent = max((warning for warning in config.warn_at_percent if warning < _WHOLE), default=_KNEE_PERCENT)
        self._knee = config.limit * percent // _WHOLE
        self.soft = (
            self._knee if config.action == "Throttle" else config.limit
        )  # from here on a call is looked at closely
        if figures:
            self._view(config.spent, config.state, config.resets_at)

    def update(self, update: BudgetUpdate) -> None:
        """Take what a report's answer says."""
        self._view(update.spent, update.state, update.resets_at)

    def _view(self, spent: int, state: BudgetState, resets_at: dt.datetime) -> None:
        self.spent = spent
        self.state: BudgetState = state
        self.resets_at = resets_at.timestamp()
        self._rolled = False
        if spent < self._knee:
            self.line = None  # a new window, or a higher limit

    @property
    def hard(self) -> int:
        """What may be spent at most: the ceiling of a fallback, else the limit."""
        config = self.config
        return config.ceiling if config.action == "Fallback" and config.ceiling is not None else config.limit

    @property
    def awaits_reset(self) -> bool:
        """Whether the ledger is to say when the present window ends."""
        return not self._rolled

    def used(self, now: float) -> int:
        """What is spent, as far as is known."""
        if now >= self.resets_at + _ROLL_SECONDS and not self._rolled:
            self._rolled = True
            self.spent = 0
            self.unacknowledged = 0
            self.state = "Open"
            self.line = None
        return self.spent + self.unacknowledged

    def use(self, amount: int) -> None:
        """Count what a call has used."""
        self.unacknowledged += amount
        if self.config.leased:
            self._used += amount
            self.balance -= amount

    def reserve(self, amount: int) -> None:
        """Promise a part of the balance to a call."""
        self.reserved += amount
        self.peak = max(self.peak, self.reserved)

    # Throttle.

    def pace(self, spent: int, now: float) -> float:
        """How long until a call may pass, 0 when it may now: spending is held to the straight line to (the window's end, the limit).

        Before the knee (the highest warning below 100 %, else 80 %) everything passes. The line begins where we first saw the knee passed;
        a call passes while what is spent is not above the line. From the limit on none does until the window ends.
        """
        if spent < self._knee:
            self.line = None
            return 0.0
        if self.line is None:
            self.line = (now, spent)
        begun, level = self.line
        room = self.config.limit - level
        ends = max(self.resets_at - now, 1.0)
        if spent >= self.config.limit or self.state == "Exceeded" or room <= 0 or begun >= self.resets_at:
            return ends
        length = self.resets_at - begun
        allowed = level + int(room * max(now - begun, 0.0) / length)
        return 0.0 if spent <= allowed else min(ends, (spent - allowed) * length / room)

    # The lease.

    def dry(self, need: int, now: float) -> bool:
        """Whether the ledger has just said that there is not as much left."""
        return need >= self._dry_need and self._dry_until - _DRY_SECONDS <= now < self._dry_until

    def granted(self, grant: LeaseGrant, now: float) -> None:
        """Take what the answer to the latest report gives."""
        self.balance += max(grant.granted, 0)
        self.recalled = grant.recall
        if self.waiting and not grant.granted and not grant.retry_seconds:
            self._dry_need = min(self.waiting)
            self._dry_until = now + _DRY_SECONDS

    def idles(self) -> bool:
        """Whether more of the lease lies idle than a report would leave here."""
        return self.balance > self.reserved + self._standby()

    def give_back(self, key: str) -> LeaseUse:
        """Keep only what is promised to calls under way."""
        self.balance = self.reserved
        return LeaseUse(budget=key, balance=self.balance)

    def report(self, key: str, now: float, interval: float) -> LeaseUse:
        """Keep what is reserved and what will be needed until the next reports, by recent use; return the rest, or want what is missing.

        What is returned is not ours from here on, whether the report arrives or not.
        """
        # Where calls ran over their bounds: what the others may spend is said all the same.
        self.balance = max(self.balance, self.reserved)
        calls = self._look(now, interval)
        idle = self.balance - self.reserved
        soon = max(calls - self.reserved + int(self._rate * interval), self._standby())
        if self.recalled:
            # Others wait for what lies idle here. What we need ourselves we ask for again, in the same report: the ledger divides.
            self.balance = self.reserved
            needed = min(self.waiting, default=0)
        else:
            self.balance = self.reserved + min(idle, 2 * soon + sum(self.waiting))
            needed = max(min(self.waiting, default=0) - idle, 0)
        target = self.reserved + soon + sum(self.waiting)
        return LeaseUse(budget=key, balance=self.balance, wanted=max(target - self.balance, needed), needed=needed)

    def _look(self, now: float, interval: float) -> int:
        """Learn how fast is spent; returns how much calls hold at a time, of late."""
        elapsed = now - self._rated_at
        calls = max(self.reserved, self.peak)
        if 0 <= elapsed < _RATE_SECONDS:
            return calls
        recent = self._used / elapsed if 0 < elapsed < _OLD_INTERVALS * interval else 0.0
        self._quiet = 0 if self._used or self.reserved or self.waiting else self._quiet + 1
        # Up at once, down by halves: one quiet interval between two busy ones must not give everything away.
        self._rate = max(recent, (self._rate + recent) / 2)
        if self._quiet >= _QUIET_REPORTS:
            self._rate, calls = 0.0, 0
        self.peak = max(self.reserved, calls // 2)
        self._rated_at, self._used = now, 0
        return calls

    def _standby(self) -> int:
        """What an idle proxy may keep: so little that it is missed nowhere, and nothing once half is spent."""
        config = self.config
        if not config.leased or self.recalled or self.spent * 2 > config.limit:
            return 0
        return config.limit // _STANDBY_SHARE


Reservations = tuple[tuple[Budget, int], ...]  # the part of each lease that one call has reserved until it ends
