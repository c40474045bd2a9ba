"""What self-hosted tokens cost: exact for any pods, times and tokens."""

import random

from hypothesis import given
from hypothesis import strategies as st

from llmwarden.contracts.ledger import Picodollars
from llmwarden.domain import gpuhours, spans
from llmwarden.domain.gpuhours import GpuTime, Share, Work, share
from llmwarden.domain.spans import Span

HOUR_MS = 3_600_000
DOLLAR = 10**12

amount = st.integers(0, 10**10)
milliseconds = st.integers(0, 10**9)
held = st.builds(GpuTime, st.integers(0, 10**9), st.integers(0, 10**17))


@st.composite
def work(draw: st.DrawFn) -> Work:
    own_input, own_output = draw(amount), draw(amount)
    return Work(
        own_input + draw(amount), own_output + draw(amount), own_input, own_output,
        draw(milliseconds), draw(milliseconds), draw(milliseconds),
    )  # fmt: skip


@given(st.lists(held, max_size=5), milliseconds, work())
def test_tokens_at_their_rates_and_idle_are_the_cost(pieces: list[GpuTime], pod_ms: int, done: Work) -> None:
    found = share(pieces, pod_ms, done)
    assert found.charged + found.covered + found.idle == found.cost == gpuhours.cost(pieces)
    assert min(found.charged, found.covered, found.idle) >= 0
    given_rate, taken_rate = found.rates or (0, 0)
    shared = (done.input - done.own_input, done.output - done.own_output)
    assert given_rate * shared[0] + taken_rate * shared[1] == found.charged
    assert (found.rates is None) == (done.input == done.output == 0)


def test_what_is_used_is_shared_by_measured_time() -> None:
    # Two GPUs for an hour at $3, busy for half of it; prefill took a quarter of the calls' time.
    done = Work(input=1_000_000, output=500_000, busy_ms=HOUR_MS // 2, prefill_ms=250_000, decode_ms=750_000)
    found = share([GpuTime(2 * HOUR_MS, 3 * DOLLAR)], HOUR_MS, done)
    assert found.cost == 6 * DOLLAR
    assert found.idle == 3 * DOLLAR
    assert found.rates == (750_000, 4_500_000)  # $0.75 and $4.50 a million
    assert found.price == Picodollars(input=750_000, output=4_500_000, cached_input=750_000, cache_write=750_000)


def test_an_hour_without_tokens_is_idle() -> None:
    assert share([GpuTime(HOUR_MS, DOLLAR)], HOUR_MS, Work(busy_ms=5)) == Share(HOUR_MS, cost=DOLLAR, idle=DOLLAR)


def test_one_rate_that_is_not_known_makes_the_hour_unknown() -> None:
    found = share([GpuTime(HOUR_MS, DOLLAR), GpuTime(100, None)], HOUR_MS, Work(input=5))
    assert found == Share(HOUR_MS + 100, unpriced_gpu_ms=100)


def test_gpus_that_cost_nothing_make_tokens_free_and_not_unknown() -> None:
    assert share([GpuTime(HOUR_MS, 0)], HOUR_MS, Work(input=5, output=5)).rates == (0, 0)


def test_without_measured_times_all_is_used_and_output_weighs_more() -> None:
    found = share([GpuTime(HOUR_MS, DOLLAR)], HOUR_MS, Work(input=600, output=100))
    assert found.rates is not None
    assert found.rates[0] * 600 == found.rates[1] * 100 * 600 // 400
    assert found.idle < 700  # what division left


def test_embeddings_have_no_output_to_pay() -> None:
    assert share([GpuTime(HOUR_MS, DOLLAR)], HOUR_MS, Work(input=1000, prefill_ms=3)).rates == (DOLLAR // 1000, 0)
    assert share([GpuTime(HOUR_MS, DOLLAR)], HOUR_MS, Work(output=1000, prefill_ms=3)).rates == (0, DOLLAR // 1000)


def test_tokens_with_a_price_of_their_own_take_their_part_of_the_gpu() -> None:
    found = share([GpuTime(HOUR_MS, DOLLAR)], HOUR_MS, Work(input=1000, own_input=400, busy_ms=HOUR_MS, prefill_ms=1))
    assert (found.charged, found.covered, found.idle) == (6 * DOLLAR // 10, 4 * DOLLAR // 10, 0)


def test_the_first_price_is_that_of_the_dearest_gpu() -> None:
    first = gpuhours.first_price([2 * DOLLAR, 36 * DOLLAR // 10])
    assert first is not None
    assert (first.input, first.output) == (1_000_000, 1_000_000)
    assert gpuhours.first_price([DOLLAR, None]) is None
    assert gpuhours.first_price([]) is None


def test_a_window_closes_after_its_grace() -> None:
    assert gpuhours.window_of(7199) == 3600
    assert not gpuhours.is_closed(0, 3719.9)
    assert gpuhours.is_closed(0, 3720)
    assert gpuhours.last_closed(3720) == 0
    assert gpuhours.last_closed(3719) == -3600


instant = st.integers(0, 10 * 900_000)
span = st.builds(lambda a, b, ended: Span(min(a, b), max(a, b), ended), instant, instant, st.booleans())


@given(st.lists(span, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_spans_merge_alike_in_any_order_and_repeated(told: list[Span], shuffle: random.Random) -> None:
    def merged(sequence: list[Span]) -> Span:
        found = sequence[0]
        for one in sequence[1:]:
            found = spans.merge(found, one)
        return found

    other = told * 2
    shuffle.shuffle(other)
    # Beginnings may come after an earlier end: then the first beginning has already won, in whatever order.
    assert merged(told) == merged(other)


@given(st.lists(span, min_size=1, max_size=8))
def test_growth_sums_to_the_span(told: list[Span]) -> None:
    known: Span | None = None
    sums: dict[int, int] = {}
    for one in told:
        new = one if known is None else spans.merge(known, one)
        for bucket, value in spans.growth(known, new).items():
            sums[bucket] = sums.get(bucket, 0) + value
        known = new
    assert known is not None
    expected = {
        bucket: value
        for bucket in range(0, 11 * 900, 900)
        if (value := max(0, min(known.until, (bucket + 900) * 1000) - max(known.since, bucket * 1000)))
    }
    assert {bucket: value for bucket, value in sums.items() if value} == expected


def test_an_end_counts_whatever_was_seen_later() -> None:
    assert spans.merge(Span(10, 500), Span(10, 400, ended=True)) == Span(10, 400, ended=True)
    assert spans.merge(Span(10, 400, ended=True), Span(5, 900)) == Span(5, 400, ended=True)
    assert spans.merge(Span(10, 400, ended=True), Span(10, 300, ended=True)) == Span(10, 300, ended=True)


def test_nobody_saw_the_future() -> None:
    assert Span(10, 900).within(0, 500) == Span(10, 500)
    assert Span(800, 900).within(0, 500) == Span(500, 500)
    assert Span(10, 400).within(100, 500) == Span(100, 400)
