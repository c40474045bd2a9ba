"""How the ledger divides what is left of a budget among the proxies that spend from it. Pure; amounts are in the budget's unit.

Nobody is believed: a report lowers a balance and never raises it (`kept`), and what one pod, one service and one namespace may hold of a
budget that others share is bounded by what they used lately (`HoldLimits`).

A lease is a right to spend, of one journal. With `spent` (S) what is counted in the present window and `outstanding` (O) the sum of all
journals' balances, S + O never rises above the limit by a grant. So whatever proxies do, crash or lose, what they spend within their
balances never exceeds the limit.
"""

from dataclasses import dataclass
from typing import Final

HUNGRY_SECONDS: Final = 3.0  # for so long after a call had to wait, idle balances of others are asked back
RETRY_SECONDS: Final = 0.25  # when to ask again while others still hold something
NEAR_PERCENT: Final = 80  # of the limit spent or leased: from here on reports come at short intervals


@dataclass(frozen=True, slots=True)
class Ask:
    """What one journal says of its lease. It keeps `balance`; the rest of what it had is spent (in its rows) or returned.

    `wanted` is what it would like on top, `needed` what the smallest of the calls that wait there lacks: less is of no use to it.
    """

    balance: int
    wanted: int = 0
    needed: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """`granted` is added to the balance. With `retry_seconds` above zero others hold what is missing: ask again then."""

    granted: int
    retry_seconds: float = 0.0
    hungry: bool = False  # calls wait there that this did not help: idle balances should come back


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """How much of a shared budget one holder may hold: a floor, in percent of the limit, and `factor` times what it used lately.

    A holder is a pod, a service or a namespace. "Lately" is the last `window_seconds`.
    """

    pod_percent: int = 10
    service_percent: int = 20
    namespace_percent: int = 25
    factor: int = 4
    window_seconds: int = 900

    def most(self, percent: int, limit: int, used: int) -> int:
        """Return the largest balance of a holder whose floor is `percent` and that used so much lately."""
        return -(-limit * percent // 100) + self.factor * max(used, 0)


@dataclass(frozen=True, slots=True)
class Room:
    """What a holder may be granted on top of what it holds; `held` is what it holds beside the asking journal's own balance."""

    amount: int
    held: int = 0


def kept(balance: int, outstanding: int) -> int:
    """Outstanding balance of a journal after its report, before a grant. `outstanding` is what the ledger granted it, less what it gave back.

    Less than the ledger knew: the difference was spent or is returned. More is not believed: nobody granted it.
    """
    return min(max(balance, 0), max(outstanding, 0))


def divide(*, limit: int, spent: int, outstanding: int, claimants: int, ask: Ask, room: Room | None = None) -> Grant:
    """What a journal gets. `outstanding` includes what it keeps; `claimants` are the live journals of this budget, it among them.

    `room` is what its pod, its service and its namespace may still hold; None where nobody bounds that. Each gets at most its share of what is free, one share being left over for who comes next: so shares shrink as the end comes
    near, and little lies idle then. A call that waits gets what it needs while that is there, whatever the share.
    """
    free = limit - spent - outstanding
    if ask.wanted <= 0:
        return Grant(0)
    needed = min(max(ask.needed, 0), ask.wanted)
    if free <= 0 or needed > free:
        held_by_others = outstanding - max(ask.balance, 0)
        # What others hold may come back: idle, or reserved above what their calls will cost.
        return Grant(0, RETRY_SECONDS if held_by_others > 0 and needed else 0.0, hungry=needed > 0)
    if room is not None and needed > room.amount:
        # Calls of its own may end and give something back. Balances of others would not help: they are not asked for.
        return Grant(0, RETRY_SECONDS if room.held > 0 or ask.balance > 0 else 0.0)
    share = free // (max(claimants, 1) + 1)
    most = free if room is None else min(free, max(room.amount, 0))
    return Grant(min(ask.wanted, max(needed, share), most))


def near(*, limit: int, spent: int, outstanding: int) -> bool:
    """Whether a budget is so near its end that its proxies should report at short intervals."""
    return (spent + outstanding) * 100 >= NEAR_PERCENT * limit and spent < limit


def interval(
    *, pods: int, base: float, near_end: bool, reports_per_second: float = 400.0, longest: float = 30.0
) -> float:
    """Seconds between two reports of one pod: `base` while few report, longer with many, at most `longest`; five at most near an end.

    `reports_per_second` is what one ledger takes at ease (benchmarks/). Near the end of a budget a small fleet reports every second.
    """
    crowd = pods / reports_per_second
    if near_end:
        return min(max(crowd, 1.0), 5.0, base)
    return min(max(crowd, base), max(longest, base))
