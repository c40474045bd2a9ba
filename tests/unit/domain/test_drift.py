"""How a day's two figures compare, and what is said of it."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.api.v1alpha1 import ProviderAccount, parse
from llmwarden.contracts.reconciliation import Day, Side
from llmwarden.domain import drift
from llmwarden.errors import InvalidSpecError

DOLLAR = 10**12
MILLION = 10**6


def account(name: str = "main", **spec: Any) -> drift.Account:
    item = {
        "metadata": {"name": name, "creationTimestamp": "2026-11-10T09:00:00Z"},
        "spec": {"provider": "OpenAI", "adminKey": "openai", **spec},
    }
    return drift.account(parse(ProviderAccount, item))


def side(dollars: float, millions: float) -> Side:
    return Side(input=int(millions * MILLION), picodollars=int(dollars * DOLLAR))


@pytest.mark.parametrize(
    ("provider", "ledger", "verdict"),
    [
        (side(100, 50), side(100, 50), "Agrees"),
        (side(101.9, 50), side(100, 50), "Agrees"),  # within 2 %
        (side(10.9, 5), side(10, 5), "Agrees"),  # 8 %, but less than a dollar
        (side(0, 0), side(0, 0), "Agrees"),
        (side(110, 55), side(100, 50), "ProviderHasMore"),
        (side(5, 10), side(0, 0), "ProviderHasMore"),  # nothing at all went through us
        (side(0, 100), side(0, 0), "ProviderHasMore"),  # free of charge, and still around us
        (side(90, 45), side(100, 50), "LedgerHasMore"),
        (side(120, 50), side(100, 50), "ProviderDearer"),
        (side(80, 50), side(100, 50), "LedgerDearer"),
        (side(7, 0), side(0, 0), "ProviderDearer"),  # a charge without tokens that says it is of tokens
    ],
)
def test_tokens_decide_first_then_the_cost(provider: Side, ledger: Side, verdict: str) -> None:
    assert drift.judge(provider, ledger, drift.Tolerance()) == verdict


@given(
    st.builds(
        Side, input=st.integers(0, 10**12), output=st.integers(0, 10**12), picodollars=st.integers(-(10**15), 10**18)
    ),
    st.builds(Side, input=st.integers(0, 10**12), output=st.integers(0, 10**12), picodollars=st.integers(0, 10**18)),
)
def test_the_greater_side_is_named_whichever_comes_first(one: Side, other: Side) -> None:
    mirrored = {
        "ProviderHasMore": "LedgerHasMore", "LedgerHasMore": "ProviderHasMore", "ProviderDearer": "LedgerDearer",
        "LedgerDearer": "ProviderDearer", "Agrees": "Agrees",
    }  # fmt: skip
    tolerance = drift.Tolerance()
    assert drift.judge(one, other, tolerance) == mirrored[drift.judge(other, one, tolerance)]
    assert drift.judge(one, one, tolerance) == "Agrees"


def test_a_tolerance_of_its_own() -> None:
    tight = account(tolerance={"percent": "0.5", "amount": "0.10"}).tolerance
    assert drift.judge(side(10.2, 5), side(10, 5), tight) == "ProviderDearer"
    assert drift.judge(side(10.04, 5), side(10, 5), tight) == "Agrees"


def test_a_day_counts_once_it_is_over_for_six_hours() -> None:
    assert drift.last_settled(dt.datetime(2026, 11, 21, 5, 59, tzinfo=dt.UTC)) == dt.date(2026, 11, 19)
    assert drift.last_settled(dt.datetime(2026, 11, 21, 6, 0, tzinfo=dt.UTC)) == dt.date(2026, 11, 20)


@pytest.mark.parametrize(
    "verdict", ["Agrees", "ProviderHasMore", "LedgerHasMore", "ProviderDearer", "LedgerDearer", "Partial"]
)
def test_a_sentence_has_both_figures_and_a_meaning(verdict: Any) -> None:
    said = drift.sentence(Day("2026-11-20", side(12.5, 3), side(10, 2), verdict, uncosted_tokens=1234))
    for part in ("2026-11-20", "$12.50 billed", "$10.00 counted", "3,000,000", "2,000,000", "1,234"):
        assert part in said
    assert len({drift.sentence(Day("d", Side(), Side(), other)) for other in ("Agrees", verdict)}) == (
        1 if verdict == "Agrees" else 2
    )


def test_accounts_that_share_services_are_found_by_the_second_name() -> None:
    labels = {"shop": {"team": "a"}, "web": {"team": "b"}}
    everywhere, shop = account("z"), account("a", namespaceSelector={"matchLabels": {"team": "a"}})
    web = account("b", namespaceSelector={"matchLabels": {"team": "b"}})
    assert drift.overlapping([everywhere, shop, web], labels) == {"z": "a"}
    assert drift.overlapping([shop, web], labels) == {}
    assert drift.overlapping([shop, account("c", provider="Anthropic")], labels) == {}


def test_another_project_or_host_is_another_scope() -> None:
    scopes = {
        account().scope, account(projects=["p"]).scope, account(baseUrl="https://eu.api.openai.com").scope,
        account(provider="Anthropic").scope, account("other").scope,
    }  # fmt: skip
    assert len(scopes) == 5
    assert account(tolerance={"percent": "5"}).scope == account().scope


@pytest.mark.parametrize("tolerance", [{"percent": "many"}, {"amount": "1e3"}])
def test_a_tolerance_that_was_stored_under_another_schema_is_invalid(tolerance: dict[str, str]) -> None:
    with pytest.raises(InvalidSpecError):
        account(tolerance=tolerance)
