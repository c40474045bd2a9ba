"""Over what time a budget is counted: calendar periods in an IANA zone, and rolling spans.

Every instant lies in exactly one calendar window, and windows join without gap or overlap: a day is 23 or 25 hours long where clocks
change. All bounds are multiples of `names.BUCKET_SECONDS`, so that a window is an exact sum of the ledger's buckets.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from llmwarden.api.v1alpha1 import common
from llmwarden.domain import durations
from llmwarden.errors import InvalidSpecError
from llmwarden.names import BUCKET_SECONDS

_BUCKET: Final = dt.timedelta(seconds=BUCKET_SECONDS)
_HOUR: Final = dt.timedelta(hours=1)
CALENDAR_SECONDS: Final = {
    "Hour": 3600,
    "Day": 86400,
    "Week": 7 * 86400,
    "Month": 30 * 86400,
}  # as good as; for rules of thumb
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` (in it) to `end` (not in it), both in UTC."""

    start: dt.datetime
    end: dt.datetime

    @property
    def seconds(self) -> int:
        """Its length."""
        return (self.end - self.start) // dt.timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """A calendar period in a zone, or a rolling number of seconds: exactly one of `calendar` and `rolling_seconds`."""

    calendar: common.Calendar | None = None
    zone: str = "UTC"
    rolling_seconds: int | None = None

    def __str__(self) -> str:
        if self.calendar is not None:
            return self.calendar if self.zone == "UTC" else f"{self.calendar} ({self.zone})"
        return durations.human_whole(self.rolling_seconds or 0)


def from_spec(window: common.Window) -> Window:
    """Return the window of a spec. Raises InvalidSpecError where the time zone is not known, or neither kind is set."""
    if window.calendar is not None and window.rolling is None:
        zone = window.time_zone or "UTC"
        _zone(zone)
        return Window(calendar=window.calendar, zone=zone)
    if window.rolling is not None and window.calendar is None:
        seconds = durations.whole_seconds(window.rolling)
        if seconds % BUCKET_SECONDS:
            message = f'window.rolling {window.rolling!r} must be a multiple of 15 minutes: write hours or days, such as "24h"'
            raise InvalidSpecError(message)
        return Window(rolling_seconds=seconds)
    message = "window needs exactly one of calendar (such as Day) and rolling (such as 24h)"
    raise InvalidSpecError(message)


def span(window: Window, now: dt.datetime) -> Span:
    """Return the window that holds `now` (aware).

    A rolling window ends with the bucket that holds `now`: its end is when its oldest bucket leaves it.
    Raises InvalidSpecError where the time zone is not known.
    """
    now = now.astimezone(dt.UTC)
    if window.rolling_seconds is not None:
        end = bucket_start(now) + _BUCKET
        return Span(end - dt.timedelta(seconds=window.rolling_seconds), end)
    zone = _zone(window.zone)
    today = _local_date(now, zone)
    match window.calendar:
        case "Hour":
            return _hour(now, today, zone)
        case "Day":
            first, following = today, today + dt.timedelta(days=1)
        case "Week":
            first = today - dt.timedelta(days=today.weekday())
            following = first + dt.timedelta(days=7)
        case "Month":
            first = today.replace(day=1)
            following = (first + dt.timedelta(days=32)).replace(day=1)
        case None:
            message = "window needs exactly one of calendar (such as Day) and rolling (such as 24h)"
            raise InvalidSpecError(message)
    return Span(_day_start(first, zone), _day_start(following, zone))


def buckets(of: Span) -> range:
    """Return the starts, in seconds since the epoch, of the buckets in a span."""
    return range(epoch(of.start), epoch(of.end), BUCKET_SECONDS)


def bucket_start(at: dt.datetime) -> dt.datetime:
    """Return the start of the bucket that holds an instant."""
    return at.astimezone(dt.UTC) - (at - _EPOCH) % _BUCKET


def epoch(at: dt.datetime) -> int:
    """Return whole seconds since the epoch."""
    return (at - _EPOCH) // dt.timedelta(seconds=1)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        # ValueError: a path such as ../etc; OSError: the name of a folder of the database, such as "Europe".
        message = f'window.timeZone {name!r} is not known; write an IANA time zone such as "Asia/Seoul" or "UTC"'
        raise InvalidSpecError(message) from error


def _local_date(at: dt.datetime, zone: ZoneInfo) -> dt.date:
    return at.astimezone(zone).date()


def _day_start(day: dt.date, zone: ZoneInfo) -> dt.datetime:
    # Midnight need not exist (Santiago, Beirut), may come twice (Havana: the first counts), and a whole day may be missing
    # (Samoa, 2011-12-30: it is empty, and begins where the next one does): the first instant whose local date is not before the day.
    midnight = dt.datetime(
        day.year, day.month, day.day, tzinfo=zone
    )  # fold=0: the first; in a gap: the offset before it
    start = midnight.astimezone(dt.UTC)
    while _local_date(start - _BUCKET, zone) >= day:
        start -= _BUCKET
    while _local_date(start, zone) < day:
        start += _BUCKET
    return start


def _hour(now: dt.datetime, today: dt.date, zone: ZoneInfo) -> Span:
    # Whole hours since local midnight: the hours of the clock, wherever clocks change by whole hours. Where they change by half an
    # hour (Lord Howe), counting on keeps windows apart; the day's last one is then half an hour long.
    midnight = _day_start(today, zone)
    start = midnight + (now - midnight) // _HOUR * _HOUR
    return Span(start, min(start + _HOUR, _day_start(today + dt.timedelta(days=1), zone)))
