"""`kubectl llm audit`: what happened, as a table or as JSON lines. Pure: makes text of the ledger's answer."""

import msgspec
from rich import box
from rich.markup import escape
from rich.table import Table

from llmwarden.contracts.audit import Audit


def table(answer: Audit) -> Table:
    """Make the table, oldest entry first."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("Time (UTC)", "Kind"):
        made.add_column(title, no_wrap=True)
    for title in ("Object", "By", "What"):
        made.add_column(title, overflow="fold")
    for entry in reversed(answer.entries):
        times = f" ({entry.count} times)" if entry.count > 1 else ""
        where = entry.object or (f"Namespace/{entry.namespace}" if entry.namespace else "")
        cells = (where, entry.by, f"{entry.text}{times}")
        made.add_row(f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.kind, *map(escape, cells))
    return made


def as_lines(answer: Audit) -> str:
    """Return one JSON object a line, oldest first: what the ledger's own log has."""
    return "".join(f"{msgspec.json.encode(entry).decode()}\n" for entry in reversed(answer.entries))
