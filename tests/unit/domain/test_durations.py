import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.domain import durations
from llmwarden.errors import InvalidSpecError


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("500ms", 500), ("1s", 1000), ("2m", 120_000), ("24h", 86_400_000), ("28d", 28 * 86_400_000)],
)
def test_durations_are_whole_milliseconds(text: str, milliseconds: int) -> None:
    assert durations.milliseconds(text) == milliseconds


@pytest.mark.parametrize("text", ["", "0s", "-1s", "1", "s", "1.5s", "1h30m", "1S", "1 s", "1s\n", "1w", "٣s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidSpecError, match='such as "500ms" or "28d"'):
        durations.milliseconds(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15d", 15 * 86400), ("1d12h", 36 * 3600), ("2w", 14 * 86400), ("1y", 365 * 86400), ("90m", 5400), ("1500ms", 1)],
)
def test_prometheus_durations_are_whole_seconds(text: str, seconds: int) -> None:
    assert durations.prometheus(text) == seconds


@pytest.mark.parametrize("text", ["", "10GiB", "15", "d", "-1d", "15d or 10GiB", " 1d"])
def test_what_prometheus_would_not_read_is_none(text: str) -> None:
    assert durations.prometheus(text) is None


def test_a_fraction_of_a_second_is_no_whole_second() -> None:
    assert durations.whole_seconds("2000ms") == 2
    with pytest.raises(InvalidSpecError, match="whole number of seconds"):
        durations.whole_seconds("1500ms")


@given(st.integers(min_value=1, max_value=10**8))
def test_seconds_are_the_float_that_the_decimal_text_means(value: int) -> None:
    # A histogram's bound and the `le` of a rule must be the same float.
    whole, rest = divmod(value, 1000)
    assert durations.seconds(f"{value}ms") == float(f"{whole}.{rest:03d}")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.00042, "420µs"),
        (0.12, "120ms"),
        (0.9996, "1.0s"),
        (1.24, "1.2s"),
        (9.96, "10s"),
        (59.6, "1m"),
        (125.0, "2m5s"),
        (12_000.0, "3h20m"),
        (187_200.0, "2d4h"),
        (86_405.0, "1d"),
    ],
)
def test_people_read_two_units_at_most(seconds: float, text: str) -> None:
    assert durations.human(seconds) == text
