"""Durations as the custom resources write them ("500ms", "1s", "2m", "24h", "28d"), exactly: whole milliseconds."""

import re
from typing import Final

from llmwarden.errors import InvalidSpecError

_UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PROMETHEUS_UNITS: Final = {**_UNITS, "w": 7 * 86_400_000, "y": 365 * 86_400_000}
_PROMETHEUS: Final = re.compile(r"([0-9]+(ms|[smhdwy]))+", re.ASCII)
_DURATION: Final = re.compile(r"([1-9][0-9]{0,8})(ms|s|m|h|d)", re.ASCII)


def milliseconds(text: str) -> int:
    """Return whole milliseconds, above zero. Raises InvalidSpecError when the text is no duration."""
    match = _DURATION.fullmatch(text)
    if match is None:
        message = f'{text!r} is not a duration; write a whole number and ms, s, m, h or d, such as "500ms" or "28d"'
        raise InvalidSpecError(message)
    return int(match.group(1)) * _UNITS[match.group(2)]


def seconds(text: str) -> float:
    """Return seconds: the float nearest to the written decimal, as histogram bounds want it ("500ms" is 0.5)."""
    return milliseconds(text) / 1000


def whole_seconds(text: str) -> int:
    """Return whole seconds. Raises InvalidSpecError when the text is no duration, or has a fraction of a second."""
    value, rest = divmod(milliseconds(text), 1000)
    if rest:
        message = f"{text!r} is not a whole number of seconds: write one such as 30s or 5m"
        raise InvalidSpecError(message)
    return value


def prometheus(text: str) -> int | None:
    """Return whole seconds of a duration as Prometheus writes it ("15d", "1d12h", "2w"); None where it is none. Parts of a second are dropped."""
    if not text or _PROMETHEUS.fullmatch(text) is None:
        return None
    parts = re.findall(r"([0-9]+)(ms|[smhdwy])", text)
    return sum(int(number) * _PROMETHEUS_UNITS[unit] for number, unit in parts) // 1000


def human(value: float) -> str:
    """Return what a person reads of so many seconds: "850µs", "120ms", "1.2s", "2m5s", "3h20m", "2d4h"."""
    if value < 0.9995:  # noqa: PLR2004 - what rounds to less than a second
        return f"{value * 1_000_000:.0f}µs" if value < 0.0009995 and value else f"{value * 1000:.0f}ms"  # noqa: PLR2004
    if value < 9.95:  # noqa: PLR2004 - what rounds to less than ten seconds
        return f"{value:.1f}s"
    return human_whole(round(value))


def human_whole(value: int) -> str:
    """Return what a person reads of whole seconds: "45s", "2m5s", "3h20m", "2d4h"; the two largest units."""
    minutes, second = divmod(value, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    parts = [(days, "d"), (hour, "h"), (minute, "m"), (second, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    (large, unit), rest = parts[0], parts[1:]
    if rest and rest[0][0]:
        return f"{large}{unit}{rest[0][0]}{rest[0][1]}"
    return f"{large}{unit}"
