from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.domain import money
from llmwarden.errors import InvalidSpecError

AMOUNTS = st.integers(min_value=0, max_value=10**24)


@pytest.mark.parametrize(
    ("text", "picodollars"),
    [
        ("0", 0),
        ("25.00", 25 * 10**12),
        ("0.000000000001", 1),
        ("0.1", 10**11),
        ("999999999.999999999999", 10**21 - 1),
    ],
)
def test_parse_is_exact(text: str, picodollars: int) -> None:
    assert money.parse(text) == picodollars


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "-1",
        "+1",
        "1.",
        ".5",
        "01",
        "1e3",
        "NaN",
        "inf",
        "1,5",
        "$1",
        "0.0000000000001",
        "٣",
        "1\n",
        "1_0",
    ],
)
def test_what_is_no_amount_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidSpecError, match=r'write a decimal number such as "25\.00"'):
        money.parse(text)


@given(AMOUNTS)
def test_text_and_picodollars_are_the_same_thing(picodollars: int) -> None:
    text = money.to_decimal(picodollars)
    assert Decimal(text) * 10**12 == picodollars
    if picodollars < 10**30:
        assert money.parse(text) == picodollars


@given(st.integers(min_value=-(10**24), max_value=10**24), st.integers(min_value=0, max_value=12))
def test_rounding_is_never_off_by_more_than_half_a_unit(picodollars: int, places: int) -> None:
    text = money.rounded(picodollars, places)
    assert abs(Decimal(text) * 10**12 - picodollars) * 2 <= 10 ** (12 - places)
    assert len(text.partition(".")[2]) == places


def test_prices_per_million_are_whole_picodollars_per_token() -> None:
    assert money.parse_per_million("0.15") == 150_000
    assert money.parse_per_million("0.000001") == 1
    with pytest.raises(InvalidSpecError, match="more than 6 decimal places"):
        money.parse_per_million("0.0000001")


@pytest.mark.parametrize(
    ("picodollars", "text"),
    [
        (0, "$0.00"),
        (420_000_000, "$0.00042"),
        (12_300_000_000_000, "$12.30"),
        (1_234_500_000_000_000, "$1,234.50"),
        (-3_000_000_000_000, "-$3.00"),
        (10_000_000_000, "$0.01"),
        (9_949_999_999, "$0.0099"),
        (9_999_999_999, "$0.01"),
        (1, "$0.000000000001"),
        (123, "$0.00000000012"),
        (1_000_000_000, "$0.001"),
        (999_999_999_999, "$1.00"),
    ],
)
def test_people_read_cents_and_small_amounts_alike(picodollars: int, text: str) -> None:
    assert money.human(picodollars) == text


@given(st.integers(min_value=1, max_value=10**18))
def test_what_is_not_zero_never_reads_as_zero(picodollars: int) -> None:
    shown = Decimal(money.human(picodollars).replace("$", "").replace(",", ""))
    assert shown > 0
    assert (
        abs(shown * 10**12 - picodollars) <= Decimal(picodollars) / 10 or abs(shown * 10**12 - picodollars) <= 5 * 10**9
    )
