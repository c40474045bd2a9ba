"""Kubernetes conditions: a condition keeps its transition time unless its status changes; its generation always moves."""

import datetime as dt
from collections.abc import Iterable

from llmwarden.api.v1alpha1.common import Condition, ConditionStatus, ConditionType


def set_condition(
    conditions: Iterable[Condition],
    kind: ConditionType,
    status: ConditionStatus,
    reason: str,
    message: str,
    *,
    generation: int,
    now: dt.datetime,
) -> tuple[Condition, ...]:
    """Return the conditions with one of them set, sorted by type so that their order is no difference."""
    by_type = {condition.type: condition for condition in conditions}
    old = by_type.get(kind)
    since = old.last_transition_time if old is not None and old.status == status else now
    by_type[kind] = Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )
    return tuple(by_type[name] for name in sorted(by_type))


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """Return the condition of a type."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether a condition is there and True."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"
