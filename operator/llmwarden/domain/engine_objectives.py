"""Objectives that only the engine itself can measure: what its metrics lack, or how they are cut, decides whether one can be held.

A share of calls below a threshold is exact only where the threshold is a bound of the histogram. The proxies' histograms get the bounds that are
asked for; an engine's are its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from llmwarden.domain import durations
from llmwarden.domain.engines import Engine
from llmwarden.domain.objectives import CacheObjective, Objective, QueueObjective

# What of an engine's vocabulary each needs, and what a person calls it.
_NEEDS: Final = {
    QueueObjective: ("queue", "the time in its queue"),
    CacheObjective: ("cache_used", "how full its KV cache is"),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an objective cannot be measured, and what helps."""

    reason: str
    message: str


def refusal(objective: Objective, engine: Engine | None, bounds: tuple[float, ...] = ()) -> Refusal | None:
    """Return why an objective cannot be held; None where it can.

    `engine` is what stands behind the service (None: nothing whose metrics are scraped), `bounds` are of its histogram of time in the queue, in
    seconds; empty while they are not known.
    """
    if not isinstance(objective, QueueObjective | CacheObjective):
        return None
    key, what = _NEEDS[type(objective)]
    if engine is None:
        text = f"Objective {objective.name}: {what} is unknown, because no engine's metrics are scraped for this service. Remove the objective."
        return Refusal("EngineLacksSeries", text)
    if key not in engine.metrics:
        text = f"Objective {objective.name}: {engine.type} does not report {what}. Remove the objective."
        return Refusal("EngineLacksSeries", text)
    if isinstance(objective, QueueObjective) and bounds and objective.threshold_seconds not in bounds:
        text = f"Objective {objective.name}: {durations.human(objective.threshold_seconds)} is not a bucket bound of {engine.type}'s histogram, so the share below it is unknown. Set the threshold to {_nearest(objective.threshold_seconds, bounds)}."
        return Refusal("ThresholdNotABound", text)
    return None


def refusals(
    objectives: Iterable[Objective], engine: Engine | None, bounds: tuple[float, ...] = ()
) -> tuple[Refusal, ...]:
    """Return why some of these cannot be held."""
    refused = (refusal(item, engine, bounds) for item in objectives)
    return tuple(item for item in refused if item is not None)


def holdable(
    objectives: Iterable[Objective], engine: Engine | None, bounds: tuple[float, ...] = ()
) -> tuple[Objective, ...]:
    """Return those of these that can be held."""
    return tuple(item for item in objectives if refusal(item, engine, bounds) is None)


def _nearest(threshold: float, bounds: tuple[float, ...]) -> str:
    """Name the bounds on both sides, as a spec writes them."""
    bounds = tuple(bound for bound in bounds if bound > 0 and (bound * 1000).is_integer())
    below = max((bound for bound in bounds if bound < threshold), default=None)
    above = min((bound for bound in bounds if bound > threshold), default=None)
    return " or ".join(_written(bound) for bound in (below, above) if bound is not None)


def _written(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds * 1000:g}ms"
