"""How much usage one pod can plausibly report, given how long it has been there. Pure; times are in milliseconds since the epoch.

Usage is measured in the time that a pod would need for it at the highest plausible pace (`Pace`, far above real traffic). Of each pod one
number is kept: until when its reports have told, at that pace. It moves on with what is reported, and never past now (and a burst). A pod
that was silent because the ledger was down has all that time to tell of. But it falls behind by at most `CATCH_UP_SECONDS`: a pod that has
been there for a month, and reported all the while, cannot suddenly tell of a month.

So what a pod can report that is not quarantined, however it reports it, is at most

    pace x (min(age, CATCH_UP_SECONDS) + BURST_SECONDS + the seconds that it goes on reporting)

Growth that does not fit is implausible as a whole, and moves nothing: honest growth after it is judged as if it had not come.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmwarden.contracts import ledger as wire

BURST_SECONDS: Final = 30  # the ledger's clock may be behind the API server's, which says when a pod was created
# What is left of a long outage after the first report. Real traffic is far below the pace: at a tenth of it, these are 60 hours of usage.
CATCH_UP_SECONDS: Final = 6 * 3600
BUSY_PER_SECOND: Final = 64  # seconds in which calls were in flight: one a second for each service of a pod
STREAMS: Final = 16_384  # calls that one pod can have in flight: their times of prefill and decode add up
SECOND: Final = 1000


@dataclass(frozen=True, slots=True)
class Pace:
    """The highest plausible tokens and calls of one pod in a second."""

    tokens: int = 200_000
    requests: int = 10_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which growth is plausible, in the order given, and until when the pod has told now."""

    plausible: tuple[bool, ...]
    told_until: int


def milliseconds(tokens: wire.Tokens, *, requests: int, busy_ms: int, streamed_ms: int, pace: Pace) -> int:
    """Return the time that usage takes at the highest pace. A kind that exceeds the kind that it is a part of counts as well."""
    taken = max(tokens.input, tokens.cached_input + max(tokens.cache_write, tokens.cache_write_1h) + tokens.input_audio)
    given = max(tokens.output, tokens.reasoning + tokens.output_audio)
    return max(
        _up((taken + given) * SECOND, pace.tokens),
        _up(requests * SECOND, pace.requests),
        _up(busy_ms, BUSY_PER_SECOND),
        _up(streamed_ms, STREAMS),
    )


def judge(times: Sequence[int], *, told_until: int, born: int, now: int) -> Verdict:
    """Judge growth that one report tells of, each part by the time (`milliseconds`) that it takes.

    A part that takes more than all the time there is, is implausible by itself. If the others together do, all of them are.
    """
    start = max(told_until, born, now - CATCH_UP_SECONDS * SECOND)
    room = now + BURST_SECONDS * SECOND - start
    fit = [0 <= time <= room for time in times]
    whole = sum(time for time, fits in zip(times, fit, strict=True) if fits)
    if whole > room:
        return Verdict((False,) * len(times), told_until)
    return Verdict(tuple(fit), start + whole)


def _up(amount: int, per: int) -> int:
    return -(-amount // per)
