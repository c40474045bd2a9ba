"""`kubectl llm cost`: the ledger's answer as a table with sparklines. Pure: an answer in, something to print out."""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich import box
from rich.markup import escape
from rich.table import Table

from llmwarden.contracts.spend import By, Spend, SpendRow
from llmwarden.domain import money

BARS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 24  # columns of a sparkline, at most
TIMES: Final[frozenset[By]] = frozenset({"hour", "day"})
_TITLES: Final = {"label.feature": "Feature", "label.team": "Team", "label.cohort": "Cohort"}
_THOUSAND: Final = 1000
_TWO_DAYS: Final = dt.timedelta(days=2)


@dataclass
class Line:
    """One line of the table: what it is of, its sums, and what it cost over time."""

    by: tuple[str, ...]
    requests: int = 0
    errors: int = 0
    input: int = 0
    output: int = 0
    picodollars: int = 0
    uncosted: int = 0
    quarantined: int = 0
    written_off: int = 0
    course: dict[str, int] = field(default_factory=dict)

    def add(self, row: SpendRow, slot: str | None) -> None:
        """Count a row."""
        self.requests += row.requests
        self.errors += row.errors
        self.input += row.tokens.input
        self.output += row.tokens.output
        self.picodollars += row.picodollars
        self.uncosted += row.uncosted_tokens
        self.quarantined += row.quarantined_picodollars
        self.written_off += row.written_off_picodollars
        if slot is not None:
            self.course[slot] = self.course.get(slot, 0) + row.picodollars


def with_time(by: Sequence[By], since: dt.timedelta) -> tuple[By, ...]:
    """What to ask the ledger for, so that sparklines can be drawn: hours of up to two days, else days."""
    if TIMES & set(by):
        return tuple(by)
    return (*by, "hour" if since <= _TWO_DAYS else "day")


def lines(spend: Spend, by: Sequence[By]) -> list[Line]:
    """Return one line for each combination of `by`. A time that was added for sparklines becomes each line's course."""
    by_place: dict[tuple[str, ...], Line] = {}
    extra = next((dimension for dimension in spend.by if dimension not in by), None)
    for row in spend.rows:
        place = tuple(row.by[dimension] for dimension in by)
        by_place.setdefault(place, Line(place)).add(row, row.by[extra] if extra else None)
    if extra is None:
        return list(by_place.values())  # in the order of time, or as the ledger has it
    return sorted(by_place.values(), key=lambda line: (-line.picodollars, -line.input - line.output, line.by))


def table(spend: Spend, by: Sequence[By]) -> Table:
    """Make the table."""
    extra = next((dimension for dimension in spend.by if dimension not in by), None)
    slots = _slots(spend, extra) if extra else []
    uncosted = bool(spend.total.uncosted_tokens)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    total = spend.total
    for index, dimension in enumerate(by):
        title = _TITLES.get(dimension, dimension.capitalize())
        made.add_column(title, "Total" if index == 0 else "", overflow="fold")
    for title, footer in (
        ("Requests", _count(total.requests)),
        ("Errors", _count(total.errors)),
        ("Input", _count(total.tokens.input)),
        ("Output", _count(total.tokens.output)),
        ("Cost", money.human(total.picodollars)),
        ("Share", ""),
    ):
        made.add_column(title, footer, justify="right", no_wrap=True)
    if uncosted:
        made.add_column("Uncosted tokens", _count(total.uncosted_tokens), justify="right", style="yellow", no_wrap=True)
    corrected = _corrected(total)
    for title, picodollars, _ in corrected:
        made.add_column(title, money.human(picodollars), justify="right", style="yellow", no_wrap=True)
    if slots:
        made.add_column(f"Cost by {extra}", no_wrap=True)
    for line in lines(spend, by):
        share = f"{100 * line.picodollars / total.picodollars:.0f} %" if total.picodollars else ""
        cells = [
            *(escape(value) or "-" for value in line.by),
            _count(line.requests),
            _count(line.errors),
            _count(line.input),
            _count(line.output),
            money.human(line.picodollars) if line.picodollars or not line.uncosted else "?",
            share,
        ]
        if uncosted:
            cells.append(_count(line.uncosted) if line.uncosted else "")
        cells += [money.human(value) if (value := of(line)) else "" for _, _, of in corrected]
        if slots:
            cells.append(sparkline([line.course.get(slot, 0) for slot in slots]))
        made.add_row(*cells)
    return made


def _corrected(total: SpendRow) -> list[tuple[str, int, Callable[[Line], int]]]:
    """Columns about corrections: title, sum, and what a line has. Both are in the costs, or taken off them, already."""
    found: list[tuple[str, int, Callable[[Line], int]]] = []
    if total.quarantined_tokens:
        found.append(("Quarantined", total.quarantined_picodollars, lambda line: line.quarantined))
    if total.written_off_tokens:
        found.append(("Written off", total.written_off_picodollars, lambda line: line.written_off))
    return found


def gpus(spend: Spend) -> Table | None:
    """Make the table of what GPUs cost, idle time apart; None where nobody holds any."""
    if not spend.gpu:
        return None
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="GPUs of closed hours", title_justify="left")
    made.add_column("Service", overflow="fold")
    for title in ("GPU-hours", "Cost", "Used", "Idle", "Idle share"):
        made.add_column(title, justify="right", no_wrap=True)
    unpriced = any(one.unpriced_gpu_hours != "0" for one in spend.gpu)
    if unpriced:
        made.add_column("Without a rate", justify="right", style="yellow", no_wrap=True)
    for one in sorted(spend.gpu, key=lambda one: (-one.idle_picodollars, one.service)):
        cells = [
            escape(one.service),
            one.gpu_hours,
            money.human(one.picodollars),
            money.human(one.picodollars - one.idle_picodollars),
            money.human(one.idle_picodollars),
            f"{100 * one.idle_picodollars // one.picodollars} %" if one.picodollars else "",
        ]
        if unpriced:
            cells.append(f"{one.unpriced_gpu_hours} h" if one.unpriced_gpu_hours != "0" else "")
        made.add_row(*cells)
    return made


def sparkline(values: Sequence[int], width: int = WIDTH) -> str:
    """Draw values as bars, the largest the highest; more than fit are summed in groups. Nothing at all is a blank."""
    if not any(values):
        return ""
    size = -(-len(values) // width)
    first = len(values) % size if size > 1 else 0  # the last group is whole: it is the one that is looked at
    starts = [0, *range(first, len(values), size)] if first else list(range(0, len(values), size))
    groups = [sum(values[start:end]) for start, end in zip(starts, [*starts[1:], len(values)], strict=True)]
    top = max(groups)
    return "".join(" " if not value else BARS[(value * len(BARS) - 1) // top] for value in groups)


def _slots(spend: Spend, extra: By) -> list[str]:
    step = 3600 if extra == "hour" else 86_400
    first, last = int(spend.start.timestamp()), int(spend.end.timestamp())
    return [
        dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for at in range(first - first % step, last, step)
    ]


def _count(value: int) -> str:
    """A count as people read it: 1,234, 56.7k, 8.9M."""
    if value < 10 * _THOUSAND:
        return f"{value:,}"
    scaled = float(value)
    for unit in ("k", "M", "G", "T"):
        scaled /= _THOUSAND
        if scaled < _THOUSAND:
            return f"{scaled:.1f}{unit}"
    return f"{scaled:,.1f}T"
