"""Which price applies when, and that it is exact."""

import datetime as dt
from decimal import Decimal

import pytest

from llmwarden.ledger import view
from llmwarden.ledger.rating import pricing
from llmwarden.ledger.rating.pricing import Catalogue
from tests.unit.ledger.objects import NOW, model_price

JANUARY, JULY = "2026-01-01T00:00:00Z", "2026-07-01T00:00:00Z"


def catalogue(*items: dict[str, object]) -> Catalogue:
    made = Catalogue()
    read = [view.read_price(item) for item in items]
    made.override([one.price for one in read if one.price is not None])
    return made


def test_the_public_table_gives_exact_picodollars() -> None:
    found = catalogue().resolve("openai", "gpt-4o-mini", NOW)
    assert found is not None
    assert (found.price.input, found.price.cached_input, found.price.output) == (150_000, 75_000, 600_000)
    assert found.price_id.startswith("genai-prices:openai:gpt-4o-mini@")


@pytest.mark.parametrize("alias", ["gpt-4o-mini-2024-07-18", "GPT-4o-mini"])
def test_dated_names_and_case_are_the_same_model(alias: str) -> None:
    assert catalogue().resolve("openai", alias, NOW) == catalogue().resolve("openai", "gpt-4o-mini", NOW)


def test_azure_falls_back_to_the_models_of_openai() -> None:
    found = catalogue().resolve("azure.ai.openai", "gpt-4o-mini", NOW)
    assert found is not None
    assert found.price.input == 150_000


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "no-such-model"),
        ("vllm", "gpt-4o-mini"),
        ("openai_compatible", "gpt-4o-mini"),
        ("", "x"),
        ("openai", ""),
    ],
)
def test_unknown_is_none_never_zero(provider: str, model: str) -> None:
    assert catalogue().resolve(provider, model, NOW) is None


def test_a_model_that_is_not_priced_by_tokens_is_unknown() -> None:
    assert catalogue().resolve("openai", "whisper-1", NOW) is None


def test_the_newest_from_that_is_past_applies() -> None:
    prices = catalogue(model_price("contract", ["gpt-4o-mini"], (JANUARY, "0.12", "0.48"), (JULY, "0.10", "0.40")))
    by_day = {
        day: prices.resolve_until("openai", "gpt-4o-mini", dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC))[0]
        for day in ("2025-12-31", "2026-06-30", "2026-07-01")
    }
    assert {day: found.price.input for day, found in by_day.items() if found} == {
        "2025-12-31": 150_000,  # the public price
        "2026-06-30": 120_000,
        "2026-07-01": 100_000,
    }
    before, between, after = by_day.values()
    assert before is not None
    assert before.valid_until == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert between is not None
    assert between.valid_until == dt.datetime(2026, 7, 1, tzinfo=dt.UTC)
    assert after is not None
    assert after.valid_until is None


def test_a_price_that_is_yet_to_come_bounds_even_an_unknown_one() -> None:
    prices = catalogue(model_price("own", ["house"], ("2027-01-01T00:00:00Z", "1", "1"), provider="VLLM"))
    found, until = prices.resolve_until("vllm", "house", NOW)
    assert found is None
    assert until == dt.datetime(2027, 1, 1, tzinfo=dt.UTC)


def test_a_self_hosted_engine_is_priced_by_model_price() -> None:
    prices = catalogue(model_price("own", ["llama"], (JANUARY, "0.5", "1"), provider="VLLM"))
    found = prices.resolve("vllm", "llama", NOW)
    assert found is not None
    assert (found.price.input, found.price.cached_input, found.price.output) == (500_000, 500_000, 1_000_000)


def test_an_alias_gets_the_contract_price_of_its_model() -> None:
    prices = catalogue(model_price("contract", ["gpt-4o-mini"], (JANUARY, "0.12", "0.48")))
    found = prices.resolve("openai", "gpt-4o-mini-2024-07-18", NOW)
    assert found is not None
    assert found.price.input == 120_000


def test_of_two_objects_the_first_name_says_and_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    first = model_price("a-team", ["gpt-4o-mini"], (JANUARY, "0.2", "0.2"))
    second = model_price("b-team", ["gpt-4o-mini"], (JANUARY, "0.3", "0.3"))
    for items in ((first, second), (second, first)):
        prices = catalogue(*items)
        found = prices.resolve("openai", "gpt-4o-mini", NOW)
        assert found is not None
        assert found.price.input == 200_000
        assert prices.contested == 1
    assert "a-team, b-team" in caplog.text


def test_the_id_names_the_numbers() -> None:
    cheap, dear = (
        catalogue(model_price("p", ["m"], (JANUARY, price, price), provider="VLLM")).resolve("vllm", "m", NOW)
        for price in ("1", "2")
    )
    assert cheap is not None
    assert dear is not None
    assert cheap.price_id != dear.price_id


def test_the_generation_changes_with_an_edit_and_with_a_date() -> None:
    prices = catalogue(model_price("p", ["m"], (JANUARY, "1", "1"), (JULY, "2", "2")))
    june, august = NOW.replace(month=6), NOW.replace(month=8)
    assert prices.generation("openai", june) != prices.generation("openai", august)
    assert prices.generation("anthropic", june) == prices.generation("anthropic", august)
    assert prices.next_start(june) == dt.datetime(2026, 7, 1, tzinfo=dt.UTC)
    assert prices.next_start(august) is None
    before = prices.generation("openai", august)
    edited = view.read_price(model_price("p", ["m"], (JANUARY, "1", "1"), (JULY, "3", "3"))).price
    assert edited is not None
    prices.override([edited])
    assert prices.generation("openai", august) != before


def test_a_price_by_the_hour_of_the_day_says_until_when() -> None:
    prices = catalogue()
    day, _ = prices.resolve_until("deepseek", "deepseek-chat", dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC))
    night, _ = prices.resolve_until("deepseek", "deepseek-chat", dt.datetime(2026, 11, 20, 20, tzinfo=dt.UTC))
    assert day is not None
    assert night is not None
    assert day.price.input > night.price.input
    assert day.valid_until == dt.datetime(2026, 11, 20, 16, 30, tzinfo=dt.UTC)
    assert night.valid_until == dt.datetime(2026, 11, 21, 0, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("price", "expected"),
    [("0.15", (150_000, False)), ("0.0000005", (0, True)), ("0.0000015", (2, True)), ("0.0000025", (2, True))],
)
def test_what_is_finer_than_a_picodollar_is_rounded_half_to_even_and_told(
    price: str, expected: tuple[int, bool]
) -> None:
    assert pricing.per_token(Decimal(price)) == expected


def test_every_published_price_of_a_text_model_resolves() -> None:
    # A new kind of price in the table must not break the ledger.
    prices = catalogue()
    known = 0
    for name, owner in pricing.TABLE_PROVIDERS.items():
        for model in prices._providers[owner].models:
            known += prices.resolve(name, model.id, NOW) is not None
    assert known > 300


def test_the_lookup_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "MODELS_KEPT", 3)
    prices = catalogue()
    for number in range(10):
        prices.resolve("openai", f"made-up-{number}", NOW)
    assert len(prices._models) == 3


def test_long_inputs_and_tiers_are_variants_of_the_public_price() -> None:
    found = catalogue().resolve("anthropic", "claude-sonnet-4-5", NOW)
    assert found is not None
    plain, long, batch = (found.rates.at(*which) for which in ((0, ""), (200_001, ""), (0, "batch")))
    assert plain
    assert long
    assert batch
    assert (plain.input, plain.cache_write, plain.cache_write_1h) == (3_000_000, 3_750_000, 6_000_000)
    assert (long.input, long.output) == (6_000_000, 22_500_000)
    assert (batch.input, batch.output) == (1_500_000, 7_500_000)
    assert found.rates.at(0, "standard") == plain
    assert found.rates.at(200_000, "") == plain
    assert found.rates.at(0, "priority") is None


def test_a_tier_costs_what_the_table_says_from_its_date_on() -> None:
    prices = catalogue()
    after, before = (
        prices.resolve_until("openai", "gpt-5", dt.datetime(2026, 10, day, tzinfo=dt.UTC)) for day in (13, 11)
    )
    assert after[0]
    assert before[0]
    flex = after[0].rates.at(0, "flex")
    assert flex is not None
    assert flex.input == 625_000
    assert before[0].rates.at(0, "flex") is None
    assert before[1] == dt.datetime(2026, 10, 12, tzinfo=dt.UTC)


def test_audio_has_its_own_price() -> None:
    found = catalogue().resolve("openai", "gpt-4o-realtime-preview", NOW)
    assert found is not None
    assert (found.price.input_audio, found.price.output_audio) == (40_000_000, 80_000_000)


@pytest.mark.parametrize(
    "name",
    [
        "us.anthropic.claude-sonnet-4-20250514-v1:0",
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-20250514-v1:0",
        "anthropic.claude-sonnet-4-20250514-v1:0",
    ],
)
def test_bedrocks_names_of_one_model(name: str) -> None:
    found = catalogue().resolve("aws.bedrock", name, NOW)
    assert found is not None
    assert (found.price.input, found.price.output) == (3_000_000, 15_000_000)


def test_a_tier_of_openai_is_not_taken_for_one_of_azure() -> None:
    prices = catalogue()
    own, hosted = (prices.resolve(provider, "gpt-4o-mini", NOW) for provider in ("openai", "azure.ai.openai"))
    assert own
    assert hosted
    assert own.rates.at(0, "priority") is not None
    assert hosted.rates.at(0, "priority") is None


def test_the_model_s_window_and_the_bounds_are_told() -> None:
    prices = catalogue()
    assert prices.window("openai", "gpt-4o-mini-2024-07-18") == 128_000
    assert prices.window("openai", "no-such-model") == 0
    assert {200_001, 272_001} <= set(prices.bounds)
    priced = model_price("own", ["m"], (JANUARY, "1", "2"))
    priced["spec"]["prices"][0]["variants"] = [{"minInputTokens": 50_000, "inputPerMillionTokens": "3"}]
    assert 50_000 in catalogue(priced).bounds
    assert list(catalogue(priced).bounds) == sorted(catalogue(priced).bounds)


def test_a_time_in_the_past_is_rated_by_what_held_then_whatever_was_asked_before() -> None:
    prices = catalogue()
    times = [dt.datetime(2026, 11, 20, hour, tzinfo=dt.UTC) for hour in (12, 20, 12)]
    found = [prices.resolve("deepseek", "deepseek-chat", at) for at in times]
    assert found[0] == found[2] != found[1]
