"""What the tokens of a model on our own GPUs cost: GPU-hours at a rate, shared over the tokens of a window. Pure, and integers only.

A window is an hour of UTC. Its cost is the time for which the service's pods held GPUs, at the GPU's rate. The part of that time
in which calls were in flight is used, the rest idle. What was used is shared over input and output tokens by the time that
prefill and decode were measured to take; a rate is whole picodollars a token, and what division leaves is idle. So always

    tokens x rates + covered + idle = cost

to the last picodollar; `covered` is the share of tokens that a ModelPrice prices by themselves (they pay that price instead).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from llmwarden.contracts.ledger import Picodollars

WINDOW_SECONDS: Final = 3600
"""Long enough for a steady rate, short enough that a budget of a day is gated by a rate of the same day; four buckets."""
GRACE_SECONDS: Final = 120
"""After its end a window closes: four of the longest reporting intervals, of proxies (30 s) and of the operator."""
MOST_IDLE_SECONDS: Final = 24 * 3600
"""For so long the last rate is the present one: a service that served nobody since then begins anew."""
LEAST_TOKENS: Final = 10_000
"""An hour with fewer sets no rate for the next: one slow call would make tokens so dear that a budget refuses all that could show
otherwise."""
FIRST_TOKENS_PER_GPU_HOUR: Final = 3_600_000
"""Before a first window closed: a thousand tokens a second and GPU, in and out alike. A model of 8 to 70 billion parameters does
that in batches; small ones more, so that a first hour is gated too dearly rather than too cheaply, and trued up at its close."""
OUTPUT_WEIGHT: Final = 4
"""An output token against an input token where no stream was measured in a window: what providers' prices make of it."""
MILLISECONDS_PER_HOUR: Final = 3_600_000


class GpuTime(NamedTuple):
    """GPUs times milliseconds for which they were held, and the picodollars of an hour of one; None where that is not known."""

    gpu_ms: int
    rate: int | None


@dataclass(frozen=True, slots=True)
class Work:
    """What a service did in a window. `own_*` are the tokens, of all, that a ModelPrice prices by themselves.

    `busy_ms`: milliseconds in which a pod had calls in flight, added over pods. `prefill_ms`, `decode_ms`: added over calls.
    """

    input: int = 0
    output: int = 0
    own_input: int = 0
    own_output: int = 0
    busy_ms: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """A window's GPUs in picodollars: `cost` = `charged` + `covered` + `idle`. Rates are picodollars a token.

    `unpriced_gpu_ms`: GPU time whose rate is not known. Then nothing else of the window is known: all other figures of money are
    zero, and there are no rates. There are none either where there were no tokens.
    """

    gpu_ms: int = 0
    unpriced_gpu_ms: int = 0
    cost: int = 0
    charged: int = 0
    covered: int = 0
    idle: int = 0
    rates: tuple[int, int] | None = None
    tokens: int = 0

    @property
    def is_telling(self) -> bool:
        """Whether its rates are good for the next hour."""
        return self.rates is not None and self.tokens >= LEAST_TOKENS

    @property
    def price(self) -> Picodollars | None:
        """The rates as a price: what an input token costs, cached or not, and an output token of any kind."""
        return None if self.rates is None else price(*self.rates)


def price(given: int, taken: int) -> Picodollars:
    """Return a price of so many picodollars an input token and an output token."""
    return Picodollars(input=given, output=taken, cached_input=given, cache_write=given)


def hours(milliseconds: int) -> str:
    """Decimal hours, to a hundredth, half up."""
    hundredths = (milliseconds + 18_000) // 36_000
    whole, rest = divmod(hundredths, 100)
    return f"{whole}.{rest:02d}".rstrip("0").rstrip(".")


def window_of(bucket: int) -> int:
    """Start of the window that an instant is in, in seconds since the epoch."""
    return bucket - bucket % WINDOW_SECONDS


def is_closed(window: int, now: float) -> bool:
    """Whether a window's true rate is what counts by now."""
    return now >= window + WINDOW_SECONDS + GRACE_SECONDS


def last_closed(now: float) -> int:
    """Start of the newest closed window."""
    return window_of(int(now) - GRACE_SECONDS) - WINDOW_SECONDS


def cost(times: Iterable[GpuTime]) -> int:
    """Picodollars of GPU time that has rates; a part of one picodollar, of all together, is dropped."""
    return sum(each.gpu_ms * (each.rate or 0) for each in times) // MILLISECONDS_PER_HOUR


def share(times: Iterable[GpuTime], pod_ms: int, work: Work) -> Share:
    """Share a window's GPU time over its tokens. `pod_ms`: for how long pods that serve calls held their GPUs, added over pods."""
    pieces = [piece for piece in times if piece.gpu_ms > 0]
    gpu_ms = sum(piece.gpu_ms for piece in pieces)
    unpriced = sum(piece.gpu_ms for piece in pieces if piece.rate is None)
    if unpriced:
        return Share(gpu_ms, unpriced)
    whole = cost(pieces)
    if not (work.input or work.output):
        return Share(gpu_ms, cost=whole, idle=whole)
    given, taken = _rates(_used(whole, pod_ms, work), work)
    covered = given * work.own_input + taken * work.own_output
    charged = given * (work.input - work.own_input) + taken * (work.output - work.own_output)
    return Share(
        gpu_ms, 0, whole, charged, covered, whole - charged - covered, (given, taken), work.input + work.output
    )


def first_price(rates: Iterable[int | None]) -> Picodollars | None:
    """Return what gates calls before any window closed: the most expensive of its GPUs, at `FIRST_TOKENS_PER_GPU_HOUR`; None where a rate is not known."""
    every_rate = list(rates)
    if not every_rate or None in every_rate:
        return None
    each = max(rate for rate in every_rate if rate is not None) // FIRST_TOKENS_PER_GPU_HOUR
    return price(each, each)


def _used(whole: int, pod_ms: int, work: Work) -> int:
    """The part of the cost in which calls were in flight: all of it where nobody measured that (proxies of an older version)."""
    if pod_ms <= 0 or work.busy_ms <= 0 or work.busy_ms >= pod_ms:
        return whole
    return whole * work.busy_ms // pod_ms


def _rates(used: int, work: Work) -> tuple[int, int]:
    read, written = work.prefill_ms, work.decode_ms
    if read + written <= 0:
        read, written = work.input, OUTPUT_WEIGHT * work.output
    if not work.output:
        return used // work.input, 0
    if not work.input:
        return 0, used // work.output
    of_input = used * read // (read + written)
    return of_input // work.input, (used - of_input) // work.output
