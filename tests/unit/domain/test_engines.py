"""Which engine an exposition is of."""

from pathlib import Path

import pytest

from llmwarden.domain.engines import BY_TYPE, ENGINES, metrics_of, recognise

SAMPLES = Path(__file__).parent / "engines"


@pytest.mark.parametrize(
    ("sample", "type_", "prefix", "missing"),
    [
        ("vllm", "VLLM", "", ()),
        ("vllm-kserve", "VLLM", "kserve_", ()),
        ("vllm-ray", "VLLM", "ray_", ()),
        (
            "vllm-old",
            "VLLM",
            "",
            ("preemptions", "prefix_queries", "prefix_hits", "queue", "prefill", "decode"),
        ),
        ("sglang", "SGLang", "", ("requests", "preemptions", "prefix_hits", "queue")),
        ("tgi", "TGI", "", ()),
        ("triton-trtllm", "TensorRTLLM", "", ()),
        ("llama-cpp", "LlamaCpp", "", ("cache_used",)),
        ("nim", "NIM", "", ()),
    ],
)
def test_each_engine_is_known_by_its_metrics(sample: str, type_: str, prefix: str, missing: tuple[str, ...]) -> None:
    found = recognise((SAMPLES / f"{sample}.prom").read_text(encoding="utf-8"))
    assert found is not None
    assert (found.type, found.prefix) == (type_, prefix)
    assert found.missing == missing


@pytest.mark.parametrize("text", ["", "# HELP vllm:x y\n", "go_goroutines 12\n", "my_vllm:num_requests_running 1\n"])
def test_what_is_no_engine_is_not_taken_for_one(text: str) -> None:
    assert recognise(text) is None


def test_no_exposition_is_taken_for_another_engine() -> None:
    for sample in SAMPLES.glob("*.prom"):
        text = sample.read_text(encoding="utf-8")
        found = recognise(text)
        assert found is not None
        # Recognised whatever stands around it: an engine behind an agent that adds its own series.
        again = recognise(f"process_cpu_seconds_total 1.0\n{text}go_threads 3\n")
        assert again == found


def test_every_engine_counts_its_requests_or_says_that_it_cannot() -> None:
    without = {engine.type for engine in ENGINES if "requests" not in engine.metrics}
    assert without == {"LlamaCpp"}
    assert set(BY_TYPE) == {engine.type for engine in ENGINES}


def test_an_engines_own_bounds_are_read_from_what_it_shows() -> None:
    def bounds(sample: str) -> tuple[float, ...]:
        found = recognise((SAMPLES / f"{sample}.prom").read_text(encoding="utf-8"))
        assert found is not None
        return found.queue_bounds

    assert bounds("vllm")[:5] == (0.3, 0.5, 0.8, 1.0, 1.5)
    assert bounds("vllm")[-1] == 7680.0
    assert bounds("vllm-kserve") == bounds("vllm-ray") == (0.3,)
    assert bounds("tgi") == (0.1,)
    assert bounds("llama-cpp") == bounds("nim") == ()


def test_all_engines_spellings_of_one_thing_are_one_question_and_those_told_apart_by_labels_one_each() -> None:
    plain, labelled = metrics_of("waiting")
    assert set(plain.names) == {
        name for engine in ENGINES for name in engine.metrics["waiting"].names if not engine.metrics["waiting"].labels
    }
    assert labelled.labels == 'request_type="waiting"'
    assert metrics_of("preemptions")[0].names == ("vllm:num_preemptions_total", "sglang:num_retractions_total")
