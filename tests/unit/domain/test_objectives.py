from decimal import Decimal
from typing import Any

import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.domain import objectives
from llmwarden.domain.objectives import Reading
from llmwarden.errors import InvalidSpecError


def service(*wanted: dict[str, Any]) -> LLMService:
    return parse(
        LLMService,
        {
            "metadata": {"name": "bot", "namespace": "shop"},
            "spec": {
                "backend": {"type": "OpenAI"},
                "workload": {"selector": {"matchLabels": {"app": "bot"}}},
                "objectives": list(wanted),
            },
        },
    )


def latency(name: str, indicator: str, threshold: str) -> dict[str, Any]:
    return {
        "name": name,
        "latency": {"indicator": indicator, "threshold": threshold},
        "targetPercent": "99",
        "window": "28d",
    }


FIRST = latency("first", "TimeToFirstToken", "1s")
ERRORS = {"name": "errors", "errors": {}, "targetPercent": "95", "window": "28d"}
SHARE = {"targetPercent": "99", "window": "28d"}
SPEND = {"name": "spend", "spend": {"perHour": "50.00"}}


def test_objectives_are_exact_values() -> None:
    first, errors, spend = objectives.of_service(service(FIRST, ERRORS, SPEND))
    assert first == objectives.LatencyObjective("first", Decimal(99), 28 * 86400, "TimeToFirstToken", 1000)
    assert errors == objectives.ErrorsObjective("errors", Decimal(95), 28 * 86400)
    assert spend == objectives.SpendObjective("spend", 50 * 10**12)


def test_the_other_kinds_are_shares_of_calls_or_of_time() -> None:
    wanted = (
        {**SHARE, "name": "up", "availability": {}},
        {**SHARE, "name": "up-2", "availability": {"quietFor": "1h"}},
        {**SHARE, "name": "room", "contextUse": {"thresholdPercent": 80}},
        {**SHARE, "name": "queue", "queueTime": {"threshold": "500ms"}},
        {**SHARE, "name": "cache", "kvCache": {"thresholdPercent": 90}},
    )
    found = objectives.of_service(service(*wanted))
    whole = (Decimal(99), 28 * 86400)
    assert found == (
        objectives.AvailabilityObjective("up", *whole, 300),
        objectives.AvailabilityObjective("up-2", *whole, 3600),
        objectives.ContextObjective("room", *whole, 80),
        objectives.QueueObjective("queue", *whole, 500),
        objectives.CacheObjective("cache", *whole, 90),
    )
    shares = [item for item in objectives.of_service(service(*wanted)) if isinstance(item, objectives.Share)]
    assert [item.of for item in shares] == [
        "time",
        "time",
        "calls",
        "calls",
        "time",
    ]
    readings = {item.name: Reading(good_percent=Decimal("98.5")) for item in found}
    assert [result.sentence for result in objectives.evaluate(found, readings)] == [
        "up: 98.5 % of time in which calls were answered, of 99 % over 28d",
        "up-2: 98.5 % of time in which calls were answered, of 99 % over 28d",
        "room: 98.5 % of calls took at most 80 % of the context window, of 99 % over 28d",
        "queue: 98.5 % of calls waited in the engine's queue for 500ms at most, of 99 % over 28d",
        "cache: 98.5 % of time in which at most 90 % of the KV cache was in use, of 99 % over 28d",
    ]
    assert all(result.met is None for result in objectives.evaluate(found, {}))


def test_pods_without_the_thresholds_bound_are_told_from_a_service_without_calls() -> None:
    wanted = objectives.of_service(service(FIRST, {**ERRORS, "name": "errors"}))
    readings = {item.name: Reading(calls=True) for item in wanted}
    first, errors = objectives.evaluate(wanted, readings)
    assert first.sentence.endswith("pods that are older than the threshold get it when they restart")
    assert errors.sentence == "errors: no calls were measured"


def test_each_histogram_gets_the_bounds_that_its_thresholds_need() -> None:
    wanted = objectives.of_service(
        service(
            FIRST,
            latency("a", "RequestDuration", "10s"),
            latency("b", "RequestDuration", "1500ms"),
            latency("c", "RequestDuration", "10s"),
            ERRORS,
        )
    )
    assert objectives.thresholds_seconds(wanted) == {"duration": (1.5, 10.0), "ttft": (1.0,), "tpot": ()}


@pytest.mark.parametrize(
    ("reading", "met"),
    [
        (Reading(good_percent=Decimal("99.0")), True),
        (Reading(good_percent=Decimal("98.9999")), False),
        (Reading(), None),
    ],
)
def test_a_share_is_met_missed_or_unknown(reading: Reading, met: bool | None) -> None:  # noqa: FBT001
    (result,) = objectives.evaluate(objectives.of_service(service(FIRST)), {"first": reading})
    assert result.met is met
    if met is False:
        assert result.sentence == "first: 98.99 % of calls had TimeToFirstToken within 1.0s, of 99 % over 28d"


def test_spending_is_held_against_its_rate() -> None:
    wanted = objectives.of_service(service(SPEND))
    (over,) = objectives.evaluate(wanted, {"spend": Reading(picodollars_last_hour=51 * 10**12)})
    (level,) = objectives.evaluate(wanted, {"spend": Reading(picodollars_last_hour=50 * 10**12)})
    (unknown,) = objectives.evaluate(wanted, {})
    assert (over.met, level.met, unknown.met) == (False, True, None)
    assert over.sentence == "spend: $51.00 spent in the last hour, of $50.00"


def test_unknown_is_neither_met_nor_missed() -> None:
    met = objectives.Result("a", met=True, sentence="")
    missed = objectives.Result("b", met=False, sentence="")
    unknown = objectives.Result("c", met=None, sentence="")
    assert objectives.all_met([]) is True
    assert objectives.all_met([met]) is True
    assert objectives.all_met([met, unknown]) is None
    assert objectives.all_met([unknown, missed]) is False


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"name": "x"}, "set exactly one of latency, errors, .* and spend$"),
        ({**ERRORS, "spend": {"perHour": "1"}}, "set exactly one of latency, errors, .* and spend$"),
        ({"name": "x", "errors": {}}, "targetPercent and window are required"),
        ({**ERRORS, "targetPercent": "100"}, "must be above 0 and below 100"),
        ({**ERRORS, "targetPercent": "NaN"}, "is not an amount"),
        (latency("x", "RequestDuration", "0s"), "is not a duration"),
    ],
)
def test_an_objective_that_can_never_work_is_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidSpecError, match=f"objective .*: .*{sentence}"):
        objectives.of_service(service(wrong))


@pytest.mark.parametrize(
    ("good", "left"),
    [("100.005", 100), ("100", 100), ("99.5", 50), ("99", 0), ("98.999", -1), ("90", -900), ("0", -9900)],
)
def test_an_error_budget_is_what_is_left_of_the_calls_that_may_be_bad(good: str, left: int) -> None:
    wanted = objectives.of_service(service({"name": "errors", "errors": {}, "targetPercent": "99", "window": "28d"}))
    (result,) = objectives.evaluate(wanted, {"errors": Reading(good_percent=Decimal(good))})
    assert result.budget_left_percent == left
    assert result.target == "99"
