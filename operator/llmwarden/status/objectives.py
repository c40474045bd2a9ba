"""Objectives in a status: what is measured of each."""

from typing import Literal

from llmwarden.api.v1alpha1 import llmservice as api
from llmwarden.domain import objectives
from llmwarden.domain.objectives import SpendObjective
from llmwarden.errors import InvalidSpecError
from llmwarden.snapshot import Snapshot


def statuses(snapshot: Snapshot, old: api.LLMServiceStatus) -> tuple[api.ObjectiveStatus, ...]:
    """Show of each objective whether it is met, and its error budget left."""
    try:
        wanted = objectives.of_service(snapshot.service)
    except InvalidSpecError:
        return ()
    if not snapshot.prometheus.fresh and snapshot.prometheus.configured:
        names = {objective.name for objective in wanted}
        return tuple(item for item in old.objectives if item.name in names)
    results = objectives.evaluate(wanted, readings(snapshot, wanted))
    states: dict[bool | None, Literal["Met", "Missed", "Unknown"]] = {True: "Met", False: "Missed", None: "Unknown"}
    return tuple(
        api.ObjectiveStatus(
            name=result.name,
            state=states[result.met],
            measured=result.measured,
            target=result.target,
            error_budget_left_percent=result.budget_left_percent,
        )
        for result in results
    )


def readings(snapshot: Snapshot, wanted: tuple[objectives.Objective, ...]) -> dict[str, objectives.Reading]:
    """Find what was measured of each objective, by its name."""
    hour = snapshot.usage.last_hour if snapshot.usage is not None and snapshot.ledger.fresh else None
    by_name = {}
    for objective in wanted:
        if isinstance(objective, SpendObjective):
            reading = objectives.Reading(picodollars_last_hour=hour.picodollars if hour else None)
        else:
            good = snapshot.figures.good.get(objective.name)
            calls = bool(snapshot.figures.requests_per_second)
            reading = objectives.Reading(good_percent=None if good is None else good * 100, calls=calls)
        by_name[objective.name] = reading
    return by_name
