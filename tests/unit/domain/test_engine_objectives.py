"""What an engine's metrics cannot tell is refused, with the nearest that they can."""

from decimal import Decimal

import pytest

from llmwarden.domain.engine_objectives import refusal, refusals
from llmwarden.domain.engines import BY_TYPE
from llmwarden.domain.objectives import CacheObjective, ErrorsObjective, QueueObjective

DAY = 86400
VLLM_BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0)


def queue(milliseconds: int) -> QueueObjective:
    return QueueObjective("queue", Decimal(99), DAY, milliseconds)


CACHE = CacheObjective("cache", Decimal(99), DAY, 90)


@pytest.mark.parametrize(
    ("milliseconds", "nearest"),
    [(700, "500ms or 800ms"), (100, "300ms"), (60_000, "20s"), (3000, "2500ms or 5s")],
)
def test_a_threshold_off_the_engines_bounds_names_the_nearest(milliseconds: int, nearest: str) -> None:
    found = refusal(queue(milliseconds), BY_TYPE["VLLM"], VLLM_BOUNDS)
    assert found is not None
    assert found.reason == "ThresholdNotABound"
    assert found.message.endswith(f"Set the threshold to {nearest}.")
    assert "is not a bucket bound of VLLM's histogram" in found.message


def test_bounds_that_no_spec_can_write_are_not_named() -> None:
    found = refusal(queue(2), BY_TYPE["SGLang"], (0.0, 0.0005, 0.001, 0.0015, 0.005))
    assert found is not None
    assert found.message.endswith("Set the threshold to 1ms or 5ms.")


def test_what_is_a_bound_or_not_known_yet_is_taken() -> None:
    assert refusal(queue(500), BY_TYPE["VLLM"], VLLM_BOUNDS) is None
    assert refusal(queue(1000), BY_TYPE["VLLM"], VLLM_BOUNDS) is None
    assert refusal(queue(700), BY_TYPE["VLLM"], ()) is None
    assert refusal(CACHE, BY_TYPE["VLLM"], VLLM_BOUNDS) is None


def test_an_engine_that_lacks_the_series_is_named() -> None:
    for engine, objective in (
        ("LlamaCpp", queue(500)),
        ("NIM", queue(500)),
        ("TensorRTLLM", queue(500)),
        ("TGI", CACHE),
    ):
        found = refusal(objective, BY_TYPE[engine])
        assert found is not None
        assert found.reason == "EngineLacksSeries"
        assert f"{engine} does not report" in found.message
    nothing = refusal(CACHE, None)
    assert nothing is not None
    assert nothing.reason == "EngineLacksSeries"


def test_what_proxies_measure_is_never_refused() -> None:
    errors = ErrorsObjective("errors", Decimal(99), DAY)
    assert refusals((errors,), None) == ()
    assert len(refusals((errors, CACHE, queue(1)), None)) == 2
