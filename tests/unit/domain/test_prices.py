import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.api.v1alpha1 import ModelPrice, parse
from llmwarden.contracts.ledger import Picodollars, Tokens
from llmwarden.domain import prices
from llmwarden.errors import InvalidSpecError


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def price(name: str = "contract", **spec: Any) -> ModelPrice:
    return parse(ModelPrice, {"metadata": {"name": name}, "spec": spec})


CONTRACT = price(
    provider="OpenAI",
    models=["gpt-4o-mini"],
    prices=[
        {"from": "2026-07-01T00:00:00Z", "inputPerMillionTokens": "0.10", "outputPerMillionTokens": "0.40"},
        {
            "from": "2026-01-01T00:00:00Z",
            "inputPerMillionTokens": "0.12",
            "cachedInputPerMillionTokens": "0.06",
            "outputPerMillionTokens": "0.48",
            "perRequest": "0.001",
        },
    ],
)
RATE = Picodollars(input=100, output=400, cached_input=50, cache_write=125, request=7)


def test_the_cost_of_a_call_is_the_sum_of_its_parts() -> None:
    tokens = Tokens(input=1000, cached_input=300, cache_write=200, output=50, reasoning=20)
    assert prices.cost(tokens, RATE, requests=2) == 500 * 100 + 300 * 50 + 200 * 125 + 50 * 400 + 2 * 7


def test_parts_that_exceed_the_whole_cost_no_less_than_the_parts() -> None:
    assert prices.cost(Tokens(input=10, cached_input=300), RATE, requests=0) == 300 * 50


@given(st.lists(st.tuples(*[st.integers(min_value=0, max_value=10**9)] * 4), max_size=20))
def test_cost_of_a_sum_is_the_sum_of_costs(calls: list[tuple[int, int, int, int]]) -> None:
    # So that the ledger may price a row of many calls.
    tokens = [Tokens(input=a + b + c, cached_input=b, cache_write=c, output=d) for a, b, c, d in calls]
    whole = Tokens(
        input=sum(item.input for item in tokens),
        cached_input=sum(item.cached_input for item in tokens),
        cache_write=sum(item.cache_write for item in tokens),
        output=sum(item.output for item in tokens),
    )
    assert prices.cost(whole, RATE, requests=len(tokens)) == sum(prices.cost(item, RATE, requests=1) for item in tokens)


def test_a_token_budget_counts_input_and_output_once() -> None:
    assert prices.counted(Tokens(input=10, cached_input=5, cache_write=2, output=3, reasoning=3)) == 13


def test_the_newest_price_that_is_past_applies() -> None:
    first = prices.lookup([CONTRACT], "OpenAI", "gpt-4o-mini", at("2026-06-30T23:59:59Z"))
    assert first is not None
    assert first.price == Picodollars(
        input=120_000, output=480_000, cached_input=60_000, cache_write=120_000, request=10**9
    )
    assert first.valid_until == at("2026-07-01T00:00:00Z")
    second = prices.lookup([CONTRACT], "OpenAI", "gpt-4o-mini", at("2026-07-01T00:00:00Z"))
    assert second is not None
    # What is not set costs what input does.
    assert second.price == Picodollars(input=100_000, output=400_000, cached_input=100_000, cache_write=100_000)
    assert second.valid_until is None
    assert first.price_id != second.price_id


@pytest.mark.parametrize(
    ("backend", "model", "when"),
    [
        ("OpenAI", "gpt-4o-mini", "2025-12-31T23:59:59Z"),
        ("OpenAI", "gpt-4o", "2026-08-01T00:00:00Z"),
        ("Anthropic", "gpt-4o-mini", "2026-08-01T00:00:00Z"),
    ],
)
def test_an_unknown_price_is_none_and_never_zero(backend: str, model: str, when: str) -> None:
    assert prices.lookup([CONTRACT], backend, model, at(when)) is None


def test_the_first_by_name_says_where_two_name_a_model() -> None:
    entry = {"from": "2026-01-01T00:00:00Z", "inputPerMillionTokens": "9", "outputPerMillionTokens": "9"}
    other = price("aaa", provider="OpenAI", models=["gpt-4o-mini"], prices=[entry])
    found = prices.lookup([CONTRACT, other], "OpenAI", "gpt-4o-mini", at("2026-08-01T00:00:00Z"))
    assert found is not None
    assert found.price_id.startswith("ModelPrice:aaa:gpt-4o-mini@2026-01-01T00:00:00Z@")
    assert prices.duplicates([CONTRACT, other]) == {"OpenAI/gpt-4o-mini": ("aaa", "contract")}
    assert prices.duplicates([CONTRACT]) == {}


def test_an_entry_edited_in_place_is_another_price() -> None:
    entry = {"from": "2026-07-01T00:00:00Z", "inputPerMillionTokens": "0.11", "outputPerMillionTokens": "0.40"}
    edited = price(provider="OpenAI", models=["gpt-4o-mini"], prices=[entry])
    ids = {
        found.price_id
        for item in (CONTRACT, edited)
        if (found := prices.lookup([item], "OpenAI", "gpt-4o-mini", at("2026-08-01T00:00:00Z")))
    }
    assert len(ids) == 2


def test_gpu_hours_have_their_price() -> None:
    h100 = price(
        gpu={"product": "H100"},
        prices=[
            {"from": "2026-07-01T00:00:00Z", "perGPUHour": "2.00"},
            {"from": "2026-01-01T00:00:00Z", "perGPUHour": "2.50"},
        ],
    )
    assert prices.gpu_hour_prices(h100.spec.prices) == [
        (at("2026-01-01T00:00:00Z"), 2_500_000_000_000),
        (at("2026-07-01T00:00:00Z"), 2_000_000_000_000),
    ]
    assert prices.gpu_hour_prices(CONTRACT.spec.prices) == []
    assert prices.duplicates([h100, h100]) == {"GPU H100": ("contract", "contract")}


def test_a_price_without_output_is_a_sentence() -> None:
    half = price(
        provider="OpenAI", models=["m"], prices=[{"from": "2026-01-01T00:00:00Z", "inputPerMillionTokens": "1"}]
    )
    with pytest.raises(InvalidSpecError, match="needs inputPerMillionTokens and outputPerMillionTokens"):
        prices.lookup([half], "OpenAI", "m", at("2026-02-01T00:00:00Z"))


def variants(**entry: Any) -> prices.Rates:
    plain = {"from": "2026-01-01T00:00:00Z", "inputPerMillionTokens": "1", "outputPerMillionTokens": "4"}
    spec = price(provider="OpenAI", models=["m"], prices=[{**plain, **entry}]).spec
    return prices.rates(spec.prices[0])


def test_a_variant_has_its_own_prices_and_the_entry_s_for_the_rest() -> None:
    rates = variants(
        cachedInputPerMillionTokens="0.5",
        variants=[
            {"minInputTokens": 200_000, "inputPerMillionTokens": "2"},
            {"tier": "priority", "outputPerMillionTokens": "9"},
        ],
    )
    long, fast = rates.at(200_000, ""), rates.at(999_999, "priority")
    assert long
    assert fast
    assert (long.input, long.cached_input, long.cache_write, long.output) == (2_000_000, 500_000, 2_000_000, 4_000_000)
    assert (fast.input, fast.output) == (1_000_000, 9_000_000)
    assert rates.at(199_999, "") == rates.picodollars
    assert rates.at(0, "flex") is None


def test_a_batch_is_cheaper_by_so_many_percent_with_long_inputs_too() -> None:
    rates = variants(
        batchDiscountPercent=50, perRequest="0.01", variants=[{"minInputTokens": 10, "inputPerMillionTokens": "3"}]
    )
    short, long = rates.at(0, "batch"), rates.at(10, "batch")
    assert short
    assert long
    assert (short.input, short.output, short.request) == (500_000, 2_000_000, 10**10)
    assert (long.input, long.output) == (1_500_000, 2_000_000)


def test_a_discount_of_an_odd_price_is_rounded_half_to_even() -> None:
    found = variants(inputPerMillionTokens="0.000001", outputPerMillionTokens="0.000003", batchDiscountPercent=50).at(
        0, "batch"
    )
    assert found
    assert (found.input, found.output) == (0, 2)


@pytest.mark.parametrize(
    "entry",
    [
        {"variants": [{"inputPerMillionTokens": "2"}]},
        {"variants": [{"tier": "flex"}, {"tier": "flex"}]},
        {"variants": [{"tier": "batch"}], "batchDiscountPercent": 50},
        {"variants": [{"tier": "flex", "inputPerMillionTokens": "-2"}]},
    ],
)
def test_variants_that_contradict_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpecError):
        variants(**entry)


def test_each_part_costs_its_own_price() -> None:
    rate = Picodollars(
        input=100,
        output=400,
        cached_input=50,
        cache_write=125,
        cache_write_1h=200,
        reasoning=500,
        input_audio=1000,
        output_audio=3000,
    )
    tokens = Tokens(
        input=1000,
        cached_input=300,
        cache_write=200,
        cache_write_1h=50,
        input_audio=10,
        output=90,
        reasoning=20,
        output_audio=30,
    )
    assert prices.cost(tokens, rate, requests=0) == (
        490 * 100 + 300 * 50 + 150 * 125 + 50 * 200 + 10 * 1000 + 40 * 400 + 20 * 500 + 30 * 3000
    )
