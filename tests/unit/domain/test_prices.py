import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.api.v1alpha1 import ModelPrice, parse
from llmwarden.domain import prices
from llmwarden.errors import InvalidSpecError
from llmwarden.wire import Picodollars, Tokens


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
    h100 = price(gpu={"product": "H100"}, prices=[{"from": "2026-01-01T00:00:00Z", "perGPUHour": "2.50"}])
    assert prices.gpu_hour_price([CONTRACT, h100], "H100", at("2026-02-01T00:00:00Z")) == 2_500_000_000_000
    assert prices.gpu_hour_price([CONTRACT, h100], "A100", at("2026-02-01T00:00:00Z")) is None
    assert prices.gpu_hour_price([h100], "H100", at("2025-02-01T00:00:00Z")) is None


def test_a_price_without_output_is_a_sentence() -> None:
    half = price(
        provider="OpenAI", models=["m"], prices=[{"from": "2026-01-01T00:00:00Z", "inputPerMillionTokens": "1"}]
    )
    with pytest.raises(InvalidSpecError, match="needs inputPerMillionTokens and outputPerMillionTokens"):
        prices.lookup([half], "OpenAI", "m", at("2026-02-01T00:00:00Z"))
