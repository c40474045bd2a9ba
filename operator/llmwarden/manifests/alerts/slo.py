"""Objectives over time: what is recorded of them, and where error budgets burn by several windows and rates.

After the Google SRE workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts": a page when 2 % of the error budget burn in an hour (and the last
5 minutes still burn) or 5 % in 6 h (30 min), a ticket at 10 % in a day (2 h) or in three (6 h). Those windows are of an objective over 30
days; another objective's are scaled to its own, whole minutes, and not below what a few scrapes can tell. All shares are sums over recorded
rates, which stand at even distances: one rule serves all objectives of a service that have the same window, and weeks are cheap.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from llmwarden import names
from llmwarden.domain import durations, engine_objectives
from llmwarden.domain.objectives import AvailabilityObjective, Share
from llmwarden.manifests import promql
from llmwarden.manifests.alerts import shares, vocabulary
from llmwarden.manifests.params import Params

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86400
REFERENCE: Final = 30 * DAY  # the window that the workbook's figures are for
SHORTEST: Final = 2 * MINUTE  # a rate needs a few scrapes
SHORTEST_LONG: Final = 5 * MINUTE
RATE: Final = "5m"
RATE_SECONDS: Final = 5 * MINUTE
EXACT: Final = HOUR  # up to here the five minutes matter that a rate looks back
QUICK: Final = (
    6 * HOUR
)  # up to here a share is recorded as often as the rates that it is a sum of; above, every few minutes
CAP: Final = 0.9  # a low target's budget cannot burn 14 times faster: even an outage would not page
FEW_CALLS: Final = 10  # in the long window; below that one bad call would be an alert
_KEY: Final = f"{promql.BY}, objective"


@dataclass(frozen=True, slots=True)
class Burn:
    """A pair of windows, in seconds, and the share of the error budget that burns in the long one."""

    long: int
    short: int
    share: float
    severity: str


_REFERENCE_BURNS: Final = (
    Burn(HOUR, 5 * MINUTE, 0.02, "critical"),
    Burn(6 * HOUR, 30 * MINUTE, 0.05, "critical"),
    Burn(DAY, 2 * HOUR, 0.1, "warning"),
    Burn(3 * DAY, 6 * HOUR, 0.1, "warning"),
)


def burns(window_seconds: int) -> tuple[Burn, ...]:
    """Return the pairs of windows for an objective over so many seconds."""
    return tuple(
        Burn(
            max(_scaled(item.long, window_seconds), SHORTEST_LONG),
            max(_scaled(item.short, window_seconds), SHORTEST),
            item.share,
            item.severity,
        )
        for item in _REFERENCE_BURNS
    )


def measured(params: Params) -> tuple[Share, ...]:
    """Return the objectives that are a share of calls or of time, and that something measures."""
    engine = vocabulary.engine_of(params)
    return tuple(
        item
        for item in params.objectives
        if isinstance(item, Share) and engine_objectives.refusal(item, engine) is None
    )


def budget(objective: Share) -> Decimal:
    """Return the share that may be bad, exactly."""
    return (100 - objective.target_percent) / 100


def rates(params: Params) -> list[dict[str, Any]]:
    """Record of each objective how much is good and how much there is: what all its shares over longer windows are sums of."""
    records: list[dict[str, Any]] = []
    for objective in measured(params):
        labels = {"objective": objective.name}
        whose = {**labels, **_whose(params)} if isinstance(objective, AvailabilityObjective) else labels
        records += [
            {"record": names.RECORD_GOOD, "expr": shares.good(params, objective, RATE), "labels": whose},
            {"record": names.RECORD_TOTAL, "expr": shares.total(params, objective, RATE), "labels": whose},
        ]
    return records


def quick(params: Params) -> list[dict[str, Any]]:
    """Record the share of bad ones over the windows that a page asks for, and whether one is due."""
    records: list[dict[str, Any]] = []
    for same in _by_window(params):
        records += [rule for window in same.windows if window <= QUICK for rule in _bad(same, window)]
        records += _burn(same, "critical")
    return records


def slow(params: Params) -> list[dict[str, Any]]:
    """Record the share of bad ones over days, and whether a ticket is due: sums over many samples, so seldom."""
    records: list[dict[str, Any]] = []
    for same in _by_window(params):
        records += [rule for window in same.windows if window > QUICK for rule in _bad(same, window)]
        records += _burn(same, "warning")
    return records


def whole(params: Params) -> list[dict[str, Any]]:
    """Record shares over the objectives' windows, and what is left of their error budgets: of all rules what costs most."""
    return [
        rule
        for same in _by_window(params)
        for rule in (
            {
                "record": names.RECORD_RATIO,
                # Good and total are recorded one after another: a scrape that came between makes good a little more than all.
                "expr": f"clamp_max({_share(same.of, same.seconds)}, 1)",
            },
            {
                "record": names.RECORD_BUDGET_LEFT,
                "expr": f"1 - (1 - {names.RECORD_RATIO}{{{same.whose}}}) / on ({_KEY}) {same.budget}",
            },
        )
    ]


def over(window_seconds: int) -> str:
    """Return how a window is spelled in the label `over`, which tells a service's error budgets of several windows apart."""
    return durations.human_whole(window_seconds)


@dataclass(frozen=True, slots=True)
class _Same:
    """A service's objectives over one window: one rule states the same of all. `whose`: matchers of the service."""

    seconds: int
    whose: str
    objectives: tuple[Share, ...]

    @property
    def windows(self) -> list[int]:
        """Windows that burn rates ask for, in seconds, rising."""
        return sorted({window for burn in burns(self.seconds) for window in (burn.long, burn.short)})

    @property
    def budget(self) -> str:
        """Their error budgets."""
        return f'{names.RECORD_ERROR_BUDGET}{{{self.whose},over="{over(self.seconds)}"}}'

    @property
    def of(self) -> str:
        """Matchers of their recorded series."""
        return self.matching(self.objectives)

    def matching(self, items: Iterable[Share]) -> str:
        """Matchers of some of their recorded series. By name: those of an objective that was taken out are there until Prometheus forgets them."""
        each = [item.name for item in items]
        return f'{self.whose},objective{"=~" if len(each) > 1 else "="}"{"|".join(each)}"'

    def bad(self, window: int) -> str:
        """The recorded share of bad ones over a window."""
        return f'{names.RECORD_BAD}{{{self.whose},window="{promql.duration(window)}"}}'


def _by_window(params: Params) -> list[_Same]:
    objectives: dict[int, list[Share]] = {}
    for objective in measured(params):
        objectives.setdefault(objective.window_seconds, []).append(objective)
    whose = promql.selector(params.service.metadata.namespace, params.service.metadata.name)
    return [_Same(seconds, whose, tuple(items)) for seconds, items in objectives.items()]


def _share(of: str, seconds: int) -> str:
    """The share of good calls, or of good time, by the rates that were recorded in so many seconds; none: by the last ones."""
    good, total = (f"{name}{{{of}}}" for name in (names.RECORD_GOOD, names.RECORD_TOTAL))
    if seconds:
        good, total = (f"sum_over_time({series}[{promql.duration(seconds)}])" for series in (good, total))
    return f"{good} / ({total} > 0)"


def _bad(same: _Same, window: int) -> list[dict[str, Any]]:
    """Record the share of bad ones over a window: of all objectives alike, but where a window is short."""
    kinds: list[tuple[tuple[Share, ...], int]] = [(same.objectives, window)]
    if window <= EXACT:
        # A rate of calls is of the five minutes before it: with those of 25 minutes, the share is of half an hour. Time is judged at each moment.
        calls = tuple(item for item in same.objectives if item.of == "calls")
        time = tuple(item for item in same.objectives if item.of == "time")
        kinds = [(calls, max(window - RATE_SECONDS, 0)), (time, window)]
    return [
        {
            "record": names.RECORD_BAD,
            "expr": f"clamp_min(1 - {_share(same.matching(items), seconds)}, 0)",
            "labels": {"window": promql.duration(window)},
        }
        for items, seconds in kinds
        if items
    ]


def _burn(same: _Same, severity: str) -> list[dict[str, Any]]:
    parts = []
    pairs = [burn for burn in burns(same.seconds) if burn.severity == severity]
    for burn in pairs:
        limit = f"clamp_max({burn.share * same.seconds / burn.long:.6g} * {same.budget}, {CAP})"
        calls = f"avg_over_time({names.RECORD_TOTAL}{{{same.of}}}[{promql.duration(burn.long)}]) * {burn.long} >= {FEW_CALLS}"
        parts.append(
            # group_left: the window stays a label, so that two pairs are two series, of which the faster one counts.
            f"({same.bad(burn.long)} > on (objective) group_left () {limit}\n"
            f" and on (objective) ({same.bad(burn.short)} > on (objective) {limit})\n"
            f" and on (objective) {calls})"
        )
    labels = {"severity": severity}
    joined = "\nor\n".join(parts)
    return [
        {
            "record": names.RECORD_BURN,
            "expr": f"max by ({_KEY}) (\n{joined}\n) / on ({_KEY}) {same.budget}",
            "labels": labels,
        },
        {
            "record": names.RECORD_BURNING,
            "expr": f'last_over_time({names.RECORD_BURN}{{{same.of},severity="{severity}"}}[{promql.duration(pairs[0].short)}])',
            "labels": labels,
        },
    ]


def _whose(params: Params) -> dict[str, str]:
    """Labels that a rule gives to what it records: of an outage there is no series that has them."""
    metadata = params.service.metadata
    return {"namespace": metadata.namespace, names.LABEL_M_SERVICE: metadata.name}


def _scaled(seconds: int, window_seconds: int) -> int:
    return round(seconds * window_seconds / REFERENCE / MINUTE) * MINUTE
