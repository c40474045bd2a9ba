import datetime as dt
from typing import get_args
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.api.v1alpha1 import common
from llmwarden.domain import windows
from llmwarden.errors import InvalidSpecError
from llmwarden.names import BUCKET_SECONDS

# Names that are links or rules ("EST5EDT") are zones too; `localtime` and `posixrules` are files of some machines only.
ZONES = sorted(available_timezones() - {"localtime", "posixrules", "Factory"})
SINCE = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
INSTANTS = st.timedeltas(min_value=dt.timedelta(0), max_value=dt.timedelta(days=23 * 365)).map(
    lambda since: SINCE + since
)
WINDOWS = st.builds(
    windows.Window, calendar=st.sampled_from(get_args(common.Calendar)), zone=st.sampled_from(ZONES)
) | st.builds(
    windows.Window, rolling_seconds=st.integers(min_value=1, max_value=99 * 24).map(lambda hours: hours * 3600)
)


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)


def day(text: str, zone: str) -> windows.Span:
    return windows.span(windows.Window(calendar="Day", zone=zone), at(text))


@given(WINDOWS, INSTANTS)
def test_an_instant_lies_in_its_window_and_bounds_are_bucket_bounds(window: windows.Window, now: dt.datetime) -> None:
    span = windows.span(window, now)
    assert span.start <= now < span.end
    assert windows.epoch(span.start) % BUCKET_SECONDS == 0
    assert windows.epoch(span.end) % BUCKET_SECONDS == 0
    buckets = windows.buckets(span)
    assert len(buckets) * BUCKET_SECONDS == span.seconds
    assert windows.epoch(windows.bucket_start(now)) in buckets


@given(st.sampled_from(get_args(common.Calendar)), st.sampled_from(ZONES), INSTANTS)
def test_calendar_windows_join_without_gap_or_overlap(calendar: common.Calendar, zone: str, now: dt.datetime) -> None:
    window = windows.Window(calendar=calendar, zone=zone)
    span = windows.span(window, now)
    instant = dt.timedelta(microseconds=1)
    assert windows.span(window, span.end).start == span.end
    assert windows.span(window, span.start - instant).end == span.start
    assert windows.span(window, span.end - instant) == span
    assert windows.span(window, span.start) == span


@given(st.sampled_from(ZONES), INSTANTS)
def test_a_day_is_the_instants_with_one_local_date(zone: str, now: dt.datetime) -> None:
    span = windows.span(windows.Window(calendar="Day", zone=zone), now)
    local = now.astimezone(ZoneInfo(zone)).date()
    assert {dt.datetime.fromtimestamp(bucket, ZoneInfo(zone)).date() for bucket in windows.buckets(span)} == {local}


@pytest.mark.parametrize(
    ("now", "zone", "start", "hours"),
    [
        ("2026-11-21T04:00:00+09:00", "Asia/Seoul", "2026-11-21T00:00:00+09:00", 24),
        ("2026-03-29T12:00:00+02:00", "Europe/Berlin", "2026-03-29T00:00:00+01:00", 23),
        ("2026-10-25T12:00:00+01:00", "Europe/Berlin", "2026-10-25T00:00:00+02:00", 25),
        # Clocks go from 24:00 to 01:00: midnight does not exist.
        ("2026-09-06T12:00:00-03:00", "America/Santiago", "2026-09-06T01:00:00-03:00", 23),
        # Clocks go from 24:00 back to 23:00: the day before has an hour more.
        ("2026-04-04T12:00:00-03:00", "America/Santiago", "2026-04-04T00:00:00-03:00", 25),
        # Clocks go from 01:00 back to 00:00: midnight comes twice, the day begins at the first.
        ("2026-11-01T12:00:00-05:00", "America/Havana", "2026-11-01T00:00:00-04:00", 25),
        ("2026-04-05T12:00:00+10:30", "Australia/Lord_Howe", "2026-04-05T00:00:00+11:00", 24.5),
        ("2026-06-01T12:00:00+05:45", "Asia/Kathmandu", "2026-06-01T00:00:00+05:45", 24),
    ],
)
def test_days_are_as_long_as_the_clock_makes_them(now: str, zone: str, start: str, hours: float) -> None:
    span = day(now, zone)
    assert span.start == at(start)
    assert span.seconds == hours * 3600


def test_a_day_that_never_was_is_nobodys_window() -> None:
    # Samoa went from 2011-12-29 to 2011-12-31.
    before = day("2011-12-29T12:00:00-10:00", "Pacific/Apia")
    after = day("2011-12-31T12:00:00+14:00", "Pacific/Apia")
    assert before.end == after.start == at("2011-12-30T10:00:00+00:00")


def test_hours_are_the_hours_of_the_clock_across_a_change() -> None:
    hour = windows.Window(calendar="Hour", zone="Europe/Berlin")
    first = windows.span(hour, at("2026-10-25T02:30:00+02:00"))
    second = windows.span(hour, at("2026-10-25T02:30:00+01:00"))
    assert first.end == second.start
    assert first.seconds == second.seconds == 3600
    half = windows.span(windows.Window(calendar="Hour", zone="Asia/Kolkata"), at("2026-10-25T10:20:00+05:30"))
    assert half.start == at("2026-10-25T10:00:00+05:30")


def test_a_week_begins_on_monday_and_a_month_on_the_first() -> None:
    now = at("2026-11-22T23:30:00+00:00")  # a Sunday in London, a Monday in Seoul
    assert windows.span(windows.Window(calendar="Week"), now).start == at("2026-11-16T00:00:00+00:00")
    assert windows.span(windows.Window(calendar="Week", zone="Asia/Seoul"), now).start == at(
        "2026-11-23T00:00:00+09:00"
    )
    month = windows.span(windows.Window(calendar="Month"), at("2026-12-31T23:59:59+00:00"))
    assert (month.start, month.end) == (at("2026-12-01T00:00:00+00:00"), at("2027-01-01T00:00:00+00:00"))
    february = windows.span(windows.Window(calendar="Month"), at("2028-02-29T00:00:00+00:00"))
    assert february.seconds == 29 * 86400


def test_a_rolling_window_ends_with_the_present_bucket() -> None:
    span = windows.span(windows.Window(rolling_seconds=86400), at("2026-11-21T10:07:00+00:00"))
    assert (span.start, span.end) == (at("2026-11-20T10:15:00+00:00"), at("2026-11-21T10:15:00+00:00"))


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "Europe", "/etc/localtime", "A" * 64])
def test_an_unknown_time_zone_is_a_sentence(zone: str) -> None:
    with pytest.raises(InvalidSpecError, match="is not known; write an IANA time zone"):
        windows.from_spec(common.Window(calendar="Day", time_zone=zone))


def test_the_spec_says_exactly_one_kind_of_window() -> None:
    assert windows.from_spec(common.Window(calendar="Day")) == windows.Window(calendar="Day", zone="UTC")
    assert windows.from_spec(common.Window(rolling="24h")) == windows.Window(rolling_seconds=86400)
    for wrong in (common.Window(), common.Window(calendar="Day", rolling="24h")):
        with pytest.raises(
            InvalidSpecError, match=r"exactly one of calendar \(such as Day\) and rolling \(such as 24h\)"
        ):
            windows.from_spec(wrong)
    assert str(windows.Window(calendar="Day", zone="Asia/Seoul")) == "Day (Asia/Seoul)"
    assert str(windows.Window(rolling_seconds=86400)) == "1d"
