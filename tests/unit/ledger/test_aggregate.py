"""Sums in memory: exact, incremental, and rated again when a price is found."""

from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.contracts import ledger as wire
from llmwarden.domain import prices
from llmwarden.domain.cost import Rates
from llmwarden.ledger.rating import aggregate
from llmwarden.ledger.rating.aggregate import HORIZON_SECONDS, Aggregate, Rerated
from llmwarden.ledger.rating.rater import Rater, rate
from llmwarden.ledger.store import Delta, Issued
from llmwarden.ledger.store.counts import Counts
from tests.unit.ledger.objects import BUCKET
from tests.unit.ledger.test_merge import growth

PRICE = wire.Picodollars(input=150_000, output=600_000, cached_input=75_000, cache_write=200_000, request=7)


def delta(count: Counts, *, bucket: int = BUCKET, price_id: str | None = "p", model: str = "m") -> Delta:
    return Delta("shop/bot", "openai", model, price_id, bucket, count)


class Prices:
    """A table that learns."""

    def __init__(self) -> None:
        self.late: Rates | None = None

    def late_price(self, provider: str, model: str, at: int) -> Rates | None:
        del provider, model, at
        return self.late


def make(table: Prices | None = None) -> Aggregate:
    return Aggregate(Rater({Issued("openai", "m", "p"): Rates(PRICE)}.get, (table or Prices()).late_price))


@given(st.lists(st.tuples(growth(), st.integers(0, 20)), max_size=30), st.integers(0, 20))
def test_running_sums_equal_sums_from_scratch(calls: list[tuple[Counts, int]], start: int) -> None:
    asked_first, asked_last = make(), make()
    first = BUCKET - start * 900
    asked_first.since("shop/bot", first)
    for count, back in calls:
        for one in (asked_first, asked_last):
            one.apply([delta(count, bucket=BUCKET - back * 900)], BUCKET)
    assert asked_first.since("shop/bot", first) == asked_last.since("shop/bot", first)
    expected = sum(prices.cost(count.tokens, PRICE, requests=count.requests) for count, back in calls if back <= start)
    assert asked_last.since("shop/bot", first).picodollars == expected


def test_a_start_within_a_bucket_takes_the_next_one() -> None:
    sums = make()
    sums.apply([delta(Counts(requests=1)), delta(Counts(requests=2), bucket=BUCKET + 900)], BUCKET)
    assert sums.since("shop/bot", BUCKET + 1).counts.requests == 2
    assert sums.since("shop/bot", BUCKET).counts.requests == 3


def test_without_a_price_tokens_are_uncosted_until_one_is_known() -> None:
    table = Prices()
    sums = make(table)
    sums.since("shop/bot", BUCKET)
    sums.apply([delta(Counts(requests=1, input=100, output=10), price_id=None)], BUCKET)
    before = sums.since("shop/bot", BUCKET)
    assert (before.picodollars, before.uncosted) == (0, 110)
    assert sums.uncosted_models("shop/bot", BUCKET) == ["m"]
    table.late = Rates(PRICE)
    assert sums.reprice() == {"shop/bot": Rerated(100 * 150_000 + 10 * 600_000 + 7, 110)}
    after = sums.since("shop/bot", BUCKET)
    assert (after.picodollars, after.uncosted) == (100 * 150_000 + 10 * 600_000 + 7, 0)
    assert after == sums.total("shop/bot")
    assert after.counts == before.counts
    assert sums.uncosted_models("shop/bot", BUCKET) == []
    assert sums.reprice() == {}


def test_a_price_id_that_was_never_handed_out_is_no_price() -> None:
    sums = make()
    sums.apply([delta(Counts(requests=1, input=5), price_id="forged")], BUCKET)
    assert sums.total("shop/bot").uncosted == 5


def test_a_price_id_of_another_model_is_no_price() -> None:
    sums = make()
    sums.apply([delta(Counts(requests=1, input=5), model="dearer")], BUCKET)
    assert sums.total("shop/bot").uncosted == 5


def test_what_is_beyond_the_horizon_stays_in_the_total() -> None:
    sums = make()
    sums.apply([delta(Counts(requests=1, input=5))], BUCKET)
    sums.forget(BUCKET + HORIZON_SECONDS + 1)
    assert sums.total("shop/bot").counts.input == 5
    assert sums.since("shop/bot", 0).counts.input == 0
    sums.apply([delta(Counts(requests=1, input=5))], BUCKET + HORIZON_SECONDS + 1)
    assert sums.total("shop/bot").counts.input == 10


def test_running_sums_are_bounded_and_still_right() -> None:
    sums = make()
    sums.apply([delta(Counts(requests=1))], BUCKET)
    for back in range(2 * aggregate.WINDOWS_KEPT):
        sums.since("shop/bot", BUCKET - back * 900)
    sums.apply([delta(Counts(requests=1))], BUCKET)
    assert sums.since("shop/bot", BUCKET).counts.requests == 2
    assert len(sums._services["shop/bot"].since) == aggregate.WINDOWS_KEPT


@given(growth())
def test_rating_is_the_formula_of_the_domain(count: Counts) -> None:
    assert rate(count, PRICE) == prices.cost(count.tokens, PRICE, requests=count.requests)


def test_a_tier_without_a_price_is_uncosted_by_its_name_until_one_is_known() -> None:
    table = Prices()
    sums = make(table)
    sums.apply([replace(delta(Counts(requests=1, input=10)), tier="priority")], BUCKET)
    assert sums.uncosted_models("shop/bot", BUCKET) == ["m (priority)"]
    assert sums.total("shop/bot").uncosted == 10
    table.late = Rates(PRICE, (wire.PriceVariant(0, "priority", msgspec.structs.replace(PRICE, input=300_000)),))
    assert sums.reprice() == {"shop/bot": Rerated(10 * 300_000 + 7, 10)}
    assert sums.uncosted_models("shop/bot", BUCKET) == []


def test_a_budget_holds_a_tier_without_a_price_for_the_dearest_that_has_one() -> None:
    """The same, whatever the price comes from and however many reports there are; once the tier has a price, only that counts."""
    flex = wire.PriceVariant(0, "flex", msgspec.structs.replace(PRICE, output=900_000, reasoning=950_000))
    long = wire.PriceVariant(200_000, "", msgspec.structs.replace(PRICE, input=300_000))
    table = Prices()
    sums = Aggregate(Rater({Issued("openai", "m", "p"): Rates(PRICE, (flex, long))}.get, table.late_price))
    served = replace(delta(Counts(requests=1, input=10, output=5, reasoning=2)), tier="priority")
    for _ in range(3):
        sums.apply([served], BUCKET)
    found = sums.since("shop/bot", BUCKET)
    assert (found.picodollars, found.uncosted) == (0, 45)
    assert found.spent("USD") == 3 * (10 * 300_000 + 3 * 900_000 + 2 * 950_000 + 7)
    assert found.spent("tokens") == 45
    table.late = Rates(PRICE, (wire.PriceVariant(0, "priority", PRICE),))
    sums.reprice()
    found = sums.since("shop/bot", BUCKET)
    assert found.spent("USD") == found.picodollars == 3 * rate(served.counts, PRICE)
    assert (found.assumed, found.uncosted) == (0, 0)
    table.late = None
    sums.reprice()
    assert sums.since("shop/bot", BUCKET).spent("USD") >= 0


def test_a_model_without_any_price_is_held_for_nothing() -> None:
    sums = make()
    sums.apply([delta(Counts(input=10), price_id=None, model="weird")], BUCKET)
    assert sums.total("shop/bot").spent("USD") == 0


def test_long_inputs_cost_their_own_price() -> None:
    long = wire.PriceVariant(200_000, "", msgspec.structs.replace(PRICE, input=300_000))
    sums = Aggregate(Rater({Issued("openai", "m", "p"): Rates(PRICE, (long,))}.get, Prices().late_price))
    sums.apply([delta(Counts(input=10)), replace(delta(Counts(input=10)), context=200_000)], BUCKET)
    assert sums.total("shop/bot").picodollars == 10 * 150_000 + 10 * 300_000
