"""Service level objectives: what a spec asks for, the histogram bounds that it needs, and whether it is met."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from llmwarden.api.v1alpha1 import llmservice
from llmwarden.api.v1alpha1.common import Indicator
from llmwarden.domain import durations, indicators, money
from llmwarden.errors import InvalidSpecError


@dataclass(frozen=True, slots=True)
class Share(ABC):
    """At least `target_percent` of calls, or of time, are good, over the window. What good is, each kind says."""

    name: str
    target_percent: Decimal
    window_seconds: int

    @property
    def of(self) -> Literal["calls", "time"]:
        """What the share is of."""
        return "calls"

    @property
    @abstractmethod
    def good(self) -> str:
        """What is good, as a sentence goes on after "99 % of calls" or "99 % of time in which"."""

    @property
    @abstractmethod
    def bad(self) -> str:
        """What is bad, as a sentence goes on after "it is calls that" or "it is time in which"."""


@dataclass(frozen=True, slots=True)
class LatencyObjective(Share):
    """A call is good that is within the threshold; it is a bound of the proxies' histogram."""

    indicator: Indicator
    threshold_milliseconds: int

    @property
    def threshold_seconds(self) -> float:
        """The threshold as a histogram bound."""
        return self.threshold_milliseconds / 1000

    @property
    def good(self) -> str:
        """See Share."""
        return f"had {self.indicator} within {durations.human(self.threshold_seconds)}"

    @property
    def bad(self) -> str:
        """See Share."""
        return f"miss {self.indicator} of {durations.human(self.threshold_seconds)}"


@dataclass(frozen=True, slots=True)
class QueueObjective(Share):
    """A call is good that waited no longer in the engine's queue; the threshold must be a bound of the engine's own histogram."""

    threshold_milliseconds: int

    @property
    def threshold_seconds(self) -> float:
        """The threshold as a histogram bound."""
        return self.threshold_milliseconds / 1000

    @property
    def good(self) -> str:
        """See Share."""
        return f"waited in the engine's queue for {durations.human(self.threshold_seconds)} at most"

    @property
    def bad(self) -> str:
        """See Share."""
        return f"wait in the engine's queue for longer than {durations.human(self.threshold_seconds)}"


@dataclass(frozen=True, slots=True)
class ContextObjective(Share):
    """A call is good that took no more of the model's context window; a bound of the proxies' histogram, too."""

    threshold_percent: int

    @property
    def threshold_ratio(self) -> float:
        """The threshold as a histogram bound."""
        return self.threshold_percent / 100

    @property
    def good(self) -> str:
        """See Share."""
        return f"took at most {self.threshold_percent} % of the context window"

    @property
    def bad(self) -> str:
        """See Share."""
        return f"take more than {self.threshold_percent} % of the model's context window"


@dataclass(frozen=True, slots=True)
class ErrorsObjective(Share):
    """A call is good that does not fail."""

    @property
    def good(self) -> str:
        """See Share."""
        return "did not fail"

    @property
    def bad(self) -> str:
        """See Share."""
        return "fail"


@dataclass(frozen=True, slots=True)
class AvailabilityObjective(Share):
    """A time is good in which calls are answered: some in the last `quiet_seconds`, and not all of those that come fail."""

    quiet_seconds: int

    @property
    def of(self) -> Literal["calls", "time"]:
        """See Share."""
        return "time"

    @property
    def good(self) -> str:
        """See Share."""
        return "calls were answered"

    @property
    def bad(self) -> str:
        """See Share."""
        return f"no call is answered (none in {durations.human_whole(self.quiet_seconds)}, or all that come fail)"


@dataclass(frozen=True, slots=True)
class CacheObjective(Share):
    """A time is good in which the engine's key-value cache is no fuller."""

    threshold_percent: int

    @property
    def threshold_ratio(self) -> float:
        """The threshold as the engine's gauge has it."""
        return self.threshold_percent / 100

    @property
    def of(self) -> Literal["calls", "time"]:
        """See Share."""
        return "time"

    @property
    def good(self) -> str:
        """See Share."""
        return f"at most {self.threshold_percent} % of the KV cache was in use"

    @property
    def bad(self) -> str:
        """See Share."""
        return f"more than {self.threshold_percent} % of the engine's KV cache is in use"


@dataclass(frozen=True, slots=True)
class SpendObjective:
    """At most so many picodollars are spent in an hour."""

    name: str
    picodollars_per_hour: int


Objective = Share | SpendObjective


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured for one objective. `calls`: whether the service has calls at all, as far as is known.

    `good_percent`: the share of calls, or of time, that was good over the objective's window.
    `picodollars_last_hour`: what was spent (spend). None is unknown, which is neither good nor bad.
    """

    good_percent: Decimal | None = None
    picodollars_last_hour: int | None = None
    calls: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Whether one objective is met; None is unknown. `sentence` says by what figures.

    `measured` and `target` are decimals in percent of calls or time, or in US dollars an hour; `budget_left_percent` is whole percent of the share
    that may be bad, rounded down, below zero where it is overspent, at least -10000.
    """

    name: str
    met: bool | None
    sentence: str
    measured: str | None = None
    target: str | None = None
    budget_left_percent: int | None = None


def of_service(service: llmservice.LLMService) -> tuple[Objective, ...]:
    """Return the service's objectives. Raises InvalidSpecError, naming the objective, where one can never work."""
    return tuple(_objective(objective) for objective in service.spec.objectives)


def thresholds_seconds(objectives: Iterable[Objective]) -> dict[indicators.Short, tuple[float, ...]]:
    """Return the bounds that each histogram needs so that thresholds are exact, rising, without doubles."""
    bounds: dict[indicators.Short, set[float]] = {item.short: set() for item in indicators.LATENCIES}
    for objective in objectives:
        if isinstance(objective, LatencyObjective):
            bounds[indicators.BY_NAME[objective.indicator].short].add(objective.threshold_seconds)
    return {name: tuple(sorted(values)) for name, values in bounds.items()}


def evaluate(objectives: Iterable[Objective], readings: Mapping[str, Reading]) -> tuple[Result, ...]:
    """Return whether each objective is met, by the reading of its name."""
    return tuple(_evaluate(objective, readings.get(objective.name, Reading())) for objective in objectives)


def all_met(results: Iterable[Result]) -> bool | None:
    """Return False where one is missed, else None where one is unknown, else True."""
    verdicts = [result.met for result in results]
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _evaluate(objective: Objective, reading: Reading) -> Result:
    if isinstance(objective, SpendObjective):
        spent = reading.picodollars_last_hour
        if spent is None:
            return Result(objective.name, None, f"{objective.name}: spending is unknown")
        return Result(
            objective.name,
            spent <= objective.picodollars_per_hour,
            f"{objective.name}: {money.human(spent)} spent in the last hour, of {money.human(objective.picodollars_per_hour)}",
            measured=money.to_decimal(spent),
            target=money.to_decimal(objective.picodollars_per_hour),
        )
    if reading.good_percent is None:
        return Result(objective.name, None, f"{objective.name}: {_nothing(objective, calls=reading.calls)}")
    # Two rates that are asked for one after another can differ by a scrape that came between.
    good = min(reading.good_percent, Decimal(100))
    what = f"of {objective.of}{' in which' if objective.of == 'time' else ''} {objective.good}"
    # Rounded down: 98.999 of 99 must not read "99 % of 99 %" and yet be missed.
    shown = Decimal(int(good * 100)) / 100
    return Result(
        objective.name,
        good >= objective.target_percent,
        f"{objective.name}: {shown:f} % {what}, of {objective.target_percent:f} % over {durations.human_whole(objective.window_seconds)}",
        measured=f"{shown:f}",
        target=f"{objective.target_percent:f}",
        budget_left_percent=_budget_left(good, objective.target_percent),
    )


def _nothing(objective: Share, *, calls: bool) -> str:
    match objective:
        case LatencyObjective() | ContextObjective() if calls:
            return "no call was measured against its threshold yet: pods that are older than the threshold get it when they restart"
        case QueueObjective() | CacheObjective():
            return "the engine has not reported it"
        case ContextObjective():
            return "no call to a model with a known context window was measured"
        case AvailabilityObjective():
            return "no call was answered yet"
        case _:
            return "no calls were measured"


def _budget_left(good: Decimal, target: Decimal) -> int:
    left = 100 - (100 - good) * 100 / (100 - target)
    return max(math.floor(left), -10000)


def _objective(objective: llmservice.Objective) -> Objective:
    try:
        return _parse(objective)
    except InvalidSpecError as error:
        message = f"objective {objective.name}: {error}"
        raise InvalidSpecError(message) from error


def _parse(objective: llmservice.Objective) -> Objective:
    kinds = [kind for kind in objective.kinds if kind is not None]
    if len(kinds) != 1:
        message = f"set exactly one of {', '.join(llmservice.KINDS[:-1])} and {llmservice.KINDS[-1]}"
        raise InvalidSpecError(message)
    kind = kinds[0]
    if isinstance(kind, llmservice.SpendObjective):
        return SpendObjective(objective.name, money.parse(kind.per_hour))
    if objective.target_percent is None or objective.window is None:
        message = 'targetPercent and window are required with every kind but spend, such as targetPercent: "99" and window: 28d'
        raise InvalidSpecError(message)
    return _share(kind, objective.name, _percent(objective.target_percent), durations.whole_seconds(objective.window))


def _share(kind: llmservice.ShareKind, name: str, target: Decimal, window: int) -> Share:
    match kind:
        case llmservice.LatencyObjective():
            return LatencyObjective(name, target, window, kind.indicator, durations.milliseconds(kind.threshold))
        case llmservice.QueueTimeObjective():
            return QueueObjective(name, target, window, durations.milliseconds(kind.threshold))
        case llmservice.ContextUseObjective():
            return ContextObjective(name, target, window, kind.threshold_percent)
        case llmservice.AvailabilityObjective():
            return AvailabilityObjective(name, target, window, durations.whole_seconds(kind.quiet_for))
        case llmservice.KvCacheObjective():
            return CacheObjective(name, target, window, kind.threshold_percent)
        case llmservice.ErrorsObjective():
            return ErrorsObjective(name, target, window)


def _percent(text: str) -> Decimal:
    # The same digits as money's: no sign, no exponent, no "NaN".
    money.parse(text)
    value = Decimal(text)
    if not 0 < value < 100:  # noqa: PLR2004 - percent
        message = f"targetPercent {text!r} must be above 0 and below 100: write a percentage such as 99.9"
        raise InvalidSpecError(message)
    return value
