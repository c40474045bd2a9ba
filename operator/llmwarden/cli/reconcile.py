"""`kubectl llm reconcile`: compares, by day, what providers bill with what was counted. Pure: makes text of the ledger's answer."""

import csv
import io
from typing import Final

from rich import box
from rich.markup import escape
from rich.table import Table

from llmwarden.contracts.reconciliation import DRIFTS, Reconciliation
from llmwarden.domain import drift, money

_STYLES: Final = {"Agrees": "green", "Partial": "dim"}


def table(answer: Reconciliation) -> Table:
    """Make the table."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("Account", "Day"):
        made.add_column(title, no_wrap=True)
    for title in ("Billed", "Counted", "Difference", "Billed tokens", "Counted tokens", "Beside tokens"):
        made.add_column(title, justify="right", no_wrap=True)
    made.add_column("Verdict", no_wrap=True)
    for name, account in answer.accounts.items():
        for day in account.days:
            made.add_row(
                escape(name),
                day.day,
                money.human(day.provider.picodollars),
                money.human(day.ledger.picodollars),
                _share(day.provider.picodollars, day.ledger.picodollars),
                f"{day.provider.tokens:,}",
                f"{day.ledger.tokens:,}",
                money.human(day.other_picodollars) if day.other_picodollars else "",
                f"[{_STYLES.get(day.verdict, 'red')}]{day.verdict}[/]",
            )
    return made


def sentences(answer: Reconciliation) -> list[str]:
    """Return the sentences below the table: why an account could not be read, and what its newest day that differs means."""
    said: list[str] = []
    for name, account in answer.accounts.items():
        if account.fault is not None:
            said.append(f"{name}: not read ({account.fault.reason}): {account.fault.message}")
        parted = next((day for day in account.days if day.verdict in DRIFTS), None)
        if parted is not None:
            said.append(f"{name}: {drift.sentence(parted)}")
    return said


def parts(answer: Reconciliation) -> bool:
    """Whether the newest compared day of some account differs: then the exit status is 1."""
    newest = (
        next((day for day in account.days if day.verdict != "Partial"), None) for account in answer.accounts.values()
    )
    return any(day is not None and day.verdict in DRIFTS for day in newest)


def as_csv(answer: Reconciliation) -> str:
    """Return the days as CSV with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["account", "provider", "day", "billed_usd", "counted_usd", "other_usd", "billed_tokens", "counted_tokens", "uncosted_tokens", "verdict"]
    )  # fmt: skip
    for name, account in answer.accounts.items():
        for day in account.days:
            costs = (day.provider.picodollars, day.ledger.picodollars, day.other_picodollars)
            tokens = (day.provider.tokens, day.ledger.tokens, day.uncosted_tokens)
            writer.writerow([name, account.provider, day.day, *map(money.to_decimal, costs), *tokens, day.verdict])
    return text.getvalue()


def _share(billed: int, counted: int) -> str:
    most = max(billed, counted)
    return f"{100 * (billed - counted) / most:+.1f} %" if most > 0 else ""
