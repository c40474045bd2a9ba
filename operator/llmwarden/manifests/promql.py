"""The queries that rules, dashboards and status share, so that an alert and its panel can never disagree."""

from llmwarden import names

BY = f"namespace, {names.LABEL_M_SERVICE}"


def selector(namespace: str, service: str, *more: str) -> str:
    """Label matchers of one service, and more of them, without the braces."""
    return ",".join((f'namespace="{namespace}"', f'{names.LABEL_M_SERVICE}="{service}"', *more))


def bound(seconds: float) -> str:
    """Return the matcher of a histogram's bucket with this bound.

    A whole number is spelled `10` by some clients and `10.0` by others, and `le` is compared as text.
    """
    if seconds == int(seconds):
        return f'le=~"{int(seconds)}(\\\\.0)?"'
    return f'le="{seconds!r}"'


def duration(seconds: int) -> str:
    """Return whole minutes as a range, exactly: `90m` would be, but `1h30m` is read more easily."""
    hours, minutes = divmod(seconds // 60, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes or not hours else "")


def quantile(q: float, metric: str, matchers: str, window: str) -> str:
    """Return a quantile of a histogram, by service."""
    return f"histogram_quantile({q}, sum by ({BY}, le) (rate({metric}_bucket{{{matchers}}}[{window}])))"


def rate(metric: str, matchers: str, window: str, by: str = BY) -> str:
    """Return a counter's rate, summed by service."""
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[{window}]))"


def error_ratio(matchers: str, window: str) -> str:
    """Return the share of calls that failed; nothing where there were no calls, zero where none failed."""
    failed = rate(names.METRIC_REQUESTS, f'{matchers}{"," if matchers else ""}{names.LABEL_M_ERROR}!=""', window)
    every = rate(names.METRIC_REQUESTS, matchers, window)
    return f"(({failed}) or 0 * ({every})) / (({every}) > 0)"
