"""The proxy's own registry: read back by the reference parsers, equal to the reference client, bounded whatever comes from outside."""

import math
import time

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as text_families
from prometheus_client.utils import floatToGoString

from llmwarden import names
from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects.base import Answer, Asked
from llmwarden.proxy.record import Record
from llmwarden.proxy.telemetry.metrics import Metrics, wants_latest
from llmwarden.proxy.telemetry.registry import Counter, Gauge, Histogram, Registry, number
from llmwarden.proxy.telemetry.trace import Trace

ODD = 'a\\b"c\nd'
TRACE = "0af7651916cd43dd8448eb211c80319c"


def filled() -> Registry:
    registry = Registry()
    Counter(registry, "calls_total", "Calls", ("model",)).labels(ODD).inc(3)
    Gauge(registry, "now", "A gauge").labels().set(1.5)
    histogram = Histogram(registry, "time_seconds", "Times", ("model",), (0.1, 2.0)).labels("m")
    histogram.observe(0.1, TRACE, time.time())
    histogram.observe(5)
    histogram.add([1, 2, 0], 0.5)
    return registry


def open_families(registry: Registry) -> list[Metric]:
    return list(parse_open(registry.expose(openmetrics=True).decode()))  # type: ignore[no-untyped-call]


def test_both_formats_are_read_back_by_the_reference_parsers() -> None:
    registry = filled()
    for families in (
        list(text_families(registry.expose(openmetrics=False).decode())),
        open_families(registry),
    ):
        samples = {(item.name, tuple(item.labels.items())): item for family in families for item in family.samples}
        assert samples["calls_total", (("model", ODD),)].value == 3
        assert samples["now", ()].value == 1.5
        assert samples["time_seconds_bucket", (("model", "m"), ("le", "0.1"))].value == 2
        assert samples["time_seconds_bucket", (("model", "m"), ("le", "2.0"))].value == 4
        assert samples["time_seconds_bucket", (("model", "m"), ("le", "+Inf"))].value == 5
        assert samples["time_seconds_count", (("model", "m"),)].value == 5
        assert samples["time_seconds_sum", (("model", "m"),)].value == pytest.approx(5.6)


def test_a_bucket_shows_the_last_trace_that_fell_into_it() -> None:
    families = open_families(filled())
    examples = [item.exemplar for family in families for item in family.samples if item.exemplar is not None]
    assert [(example.labels, example.value) for example in examples] == [({"trace_id": TRACE}, 0.1)]
    assert examples[0].timestamp is not None
    assert float(str(examples[0].timestamp)) == pytest.approx(time.time(), abs=60)


@given(st.floats(allow_nan=False, min_value=0))
def test_numbers_are_spelled_as_the_reference_client_spells_them(value: float) -> None:
    assert number(value) == floatToGoString(value)  # type: ignore[no-untyped-call]


@given(st.lists(st.floats(0, 10), max_size=20))
def test_buckets_are_those_of_the_reference_client(values: list[float]) -> None:
    bounds = (0.5, 1.0, 2.5)
    reference = prometheus_client.Histogram("h", "h", buckets=bounds, registry=None)
    registry = Registry()
    ours = Histogram(registry, "h", "h", (), bounds).labels()
    for value in values:
        reference.observe(value)
        ours.observe(value)
    expected = [
        sample.value for metric in reference.collect() for sample in metric.samples if sample.name == "h_bucket"
    ]
    below = [sum(ours.counts[: index + 1]) for index in range(len(ours.counts))]
    assert below == expected
    assert math.isclose(ours.sum, sum(values))


def call(model: str) -> Record:
    answer = Answer()
    answer.model = model
    trace = Trace(TRACE, "b7ad6b7169203331", "", sampled=True)
    made = Record("bot", "", "openai", "chat", trace, Asked(model=model), answer)
    made.ended, made.status, made.duration = 1, 200, 0.1
    made.tokens, made.picodollars = Tokens(input=1, output=1), 1
    return made


def test_ten_thousand_model_names_make_a_hundred_series_and_one_for_the_others() -> None:
    metrics = Metrics([], 100)
    for index in range(10_000):
        finished = call(f"model-{index}")
        metrics.series("bot", "openai", "chat", finished.asked.model, finished.answer.model).record(finished)
    text = metrics.expose("")[1].decode()
    lines = [line for line in text.splitlines() if line.startswith(names.METRIC_REQUESTS + "{")]
    assert len(lines) == 101
    other = [line for line in lines if f'{names.LABEL_M_REQUEST_MODEL}="other"' in line]
    assert len(other) == 1
    assert other[0].endswith(" 9900.0")
    assert len(metrics._series) == 101


def test_models_that_are_known_have_their_label_whatever_clients_made_up_before() -> None:
    metrics = Metrics([], 100)
    for index in range(10_000):
        assert metrics.capped(f"made-up-{index}") == (f"made-up-{index}" if index < 100 else "other")
    assert metrics.capped("gpt-5") == "other"
    for index in range(2_000):  # a price may cover a family of names, which are a client's to make up, too
        metrics.reserve("gpt-5" if not index else f"gpt-5-{index}")
    assert metrics.capped("gpt-5") == "gpt-5"
    assert sum(metrics.capped(f"gpt-5-{index}") != "other" for index in range(10_000)) == 899


def test_a_model_that_becomes_known_gives_its_place_back() -> None:
    metrics = Metrics([], 1)
    assert metrics.capped("first") == "first"
    metrics.reserve("first")
    assert [metrics.capped(name) for name in ("second", "third", "first")] == ["second", "other", "first"]


def test_the_conventions_next_names_stand_beside_ours_where_they_are_asked_for() -> None:
    assert wants_latest({"OTEL_SEMCONV_STABILITY_OPT_IN": "http, gen_ai_latest_experimental"})
    assert not wants_latest({"OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup"})
    metrics = Metrics([], 10, latest=True)
    metrics.series("bot", "openai", "chat", "m", "m").record(call("m"))
    samples = {
        item.name: item for family in open_families(metrics.registry) for item in family.samples if item.value == 1
    }
    assert names.METRIC_DURATION + "_count" in samples
    assert samples[names.LATEST[names.METRIC_DURATION] + "_count"].labels[names.LABEL_M_SERVICE] == "bot"
    for kind in ("input", "output"):
        assert names.LABEL_M_TOKEN_TYPE not in samples[names.LATEST_TOKENS[kind]].labels
    assert not any(name in Metrics([], 10).expose("")[1].decode() for name in names.LATEST.values())
