"""Service level objectives: what a spec asks for, the histogram bounds that it needs, and whether it is met."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from llmwarden.api.v1alpha1 import llmservice
from llmwarden.api.v1alpha1.common import Indicator
from llmwarden.domain import durations, money
from llmwarden.errors import InvalidSpecError

# What LLMWARDEN_PROXY's thresholdsSeconds calls the indicators.
_THRESHOLD_NAMES: dict[Indicator, Literal["duration", "ttft", "tpot"]] = {
    "RequestDuration": "duration",
    "TimeToFirstToken": "ttft",
    "TimePerOutputToken": "tpot",
}


@dataclass(frozen=True, slots=True)
class LatencyObjective:
    """At least `target_percent` of calls are faster than the threshold, over the window."""

    name: str
    indicator: Indicator
    threshold_milliseconds: int
    target_percent: Decimal
    window_seconds: int

    @property
    def threshold_seconds(self) -> float:
        """The threshold as a histogram bound."""
        return self.threshold_milliseconds / 1000


@dataclass(frozen=True, slots=True)
class ErrorsObjective:
    """At least `target_percent` of calls do not fail, over the window."""

    name: str
    target_percent: Decimal
    window_seconds: int


@dataclass(frozen=True, slots=True)
class SpendObjective:
    """At most so many picodollars are spent in an hour."""

    name: str
    picodollars_per_hour: int


Objective = LatencyObjective | ErrorsObjective | SpendObjective


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured for one objective.

    `good_percent`: the share of calls that were good over the objective's window (latency, errors).
    `picodollars_last_hour`: what was spent (spend). None is unknown, which is neither good nor bad.
    """

    good_percent: Decimal | None = None
    picodollars_last_hour: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Whether one objective is met; None is unknown. `sentence` says by what figures.

    `measured` and `target` are decimals in percent of calls, or in US dollars an hour; `budget_left_percent` is whole percent of the share of
    calls that may be bad, rounded down, below zero where it is overspent, at least -10000.
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


def thresholds_seconds(objectives: Iterable[Objective]) -> dict[Literal["duration", "ttft", "tpot"], tuple[float, ...]]:
    """Return the bounds that each histogram needs so that thresholds are exact, rising, without doubles."""
    found: dict[Literal["duration", "ttft", "tpot"], set[float]] = {"duration": set(), "ttft": set(), "tpot": set()}
    for objective in objectives:
        if isinstance(objective, LatencyObjective):
            found[_THRESHOLD_NAMES[objective.indicator]].add(objective.threshold_seconds)
    return {name: tuple(sorted(values)) for name, values in found.items()}


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
            return Result(objective.name, None, f"{objective.name}: spending is not known")
        return Result(
            objective.name,
            spent <= objective.picodollars_per_hour,
            f"{objective.name}: {money.human(spent)} spent in the last hour, of {money.human(objective.picodollars_per_hour)}",
            measured=money.to_decimal(spent),
            target=money.to_decimal(objective.picodollars_per_hour),
        )
    good = reading.good_percent
    if good is None:
        return Result(objective.name, None, f"{objective.name}: no calls were measured")
    if isinstance(objective, LatencyObjective):
        what = f"of calls had {objective.indicator} within {durations.human(objective.threshold_seconds)}"
    else:
        what = "of calls did not fail"
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
    kinds = [kind for kind in (objective.latency, objective.errors, objective.spend) if kind is not None]
    if len(kinds) != 1:
        message = "exactly one of latency, errors and spend is needed"
        raise InvalidSpecError(message)
    if objective.spend is not None:
        return SpendObjective(objective.name, money.parse(objective.spend.per_hour))
    if objective.target_percent is None or objective.window is None:
        message = "targetPercent and window are required with latency and errors"
        raise InvalidSpecError(message)
    target = _percent(objective.target_percent)
    window = durations.whole_seconds(objective.window)
    if objective.latency is None:
        return ErrorsObjective(objective.name, target, window)
    threshold = durations.milliseconds(objective.latency.threshold)
    return LatencyObjective(objective.name, objective.latency.indicator, threshold, target, window)


def _percent(text: str) -> Decimal:
    # The same digits as money's: no sign, no exponent, no "NaN".
    money.parse(text)
    value = Decimal(text)
    if not 0 < value < 100:  # noqa: PLR2004 - percent
        message = f"targetPercent {text!r} must be above 0 and below 100"
        raise InvalidSpecError(message)
    return value
