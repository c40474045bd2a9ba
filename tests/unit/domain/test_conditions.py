import datetime as dt

from llmwarden.api.v1alpha1 import Condition
from llmwarden.domain import conditions

NOW = dt.datetime(2026, 11, 21, 10, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(hours=1)


def first() -> tuple[Condition, ...]:
    return conditions.set_condition((), "Ready", "True", "AllInPlace", "", generation=1, now=NOW)


def test_a_condition_keeps_its_transition_time_unless_its_status_changes() -> None:
    same = conditions.set_condition(first(), "Ready", "True", "StillInPlace", "fine", generation=2, now=LATER)
    assert (same[0].last_transition_time, same[0].reason, same[0].observed_generation) == (NOW, "StillInPlace", 2)
    changed = conditions.set_condition(same, "Ready", "Unknown", "NoAnswer", "", generation=2, now=LATER)
    assert changed[0].last_transition_time == LATER


def test_order_is_no_difference() -> None:
    one = conditions.set_condition(first(), "MetricsFresh", "False", "Down", "", generation=1, now=NOW)
    other = conditions.set_condition((), "MetricsFresh", "False", "Down", "", generation=1, now=NOW)
    other = conditions.set_condition(other, "Ready", "True", "AllInPlace", "", generation=1, now=NOW)
    assert one == other


def test_conditions_are_found_by_type() -> None:
    assert conditions.is_true(first(), "Ready")
    assert not conditions.is_true(first(), "MetricsFresh")
    assert conditions.find(first(), "MetricsFresh") is None


def test_a_long_message_is_shortened_rather_than_refused() -> None:
    (condition,) = conditions.set_condition((), "Ready", "False", "Long", "x" * 10_000, generation=1, now=NOW)
    assert len(condition.message) == 4096
    assert condition.message.endswith("…")


def test_times_are_written_as_kubernetes_writes_them() -> None:
    (condition,) = conditions.set_condition(
        (),
        "Ready",
        "True",
        "Fine",
        "",
        generation=1,
        now=NOW.replace(microsecond=123).astimezone(dt.timezone(dt.timedelta(hours=9))),
    )
    assert condition.dump()["lastTransitionTime"] == "2026-11-21T10:00:00Z"
