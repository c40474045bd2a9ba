"""What `GET /v1/spend` answers, version 1: the ledger writes it, `kubectl llm cost` reads it. As JSON (`Spend`), or as CSV (`as_csv`).

Start at `Spend`. How the sums come about is `ledger/rating/spend.py`. Apart from `contracts/ledger.py`, which every sidecar imports.
"""

import csv
import datetime as dt
import io
from typing import Final, Literal, get_args

import msgspec

from llmwarden.contracts import ledger as wire

By = Literal[
    "service", "provider", "model", "tier", "kind", "label.feature", "label.team", "label.cohort", "pod", "hour", "day"
]
_CORRECTED: Final = (
    "quarantined_picodollars",
    "quarantined_tokens",
    "written_off_picodollars",
    "written_off_tokens",
)
DIMENSIONS: Final[tuple[By, ...]] = get_args(By)


class SpendRow(msgspec.Struct, frozen=True, rename="camel"):
    """What one combination of the dimensions that were asked for used and cost.

    `by` has a value for each dimension: a service as namespace/name, an hour or day as the instant at which it begins. Money is
    exact: `picodollars` (1e-12 US dollars) and the same in decimal `usd`. `uncostedTokens` have no known price: they are not in it.
    By kind, `tokens` has one kind, without its parts that have rows of their own, and `requests` are in the kind `request`.

    Everything is net of what the platform wrote off: `writtenOff…` says how much that was. `quarantined…` is a part of the row that is
    implausible, and that budgets over several namespaces do not count. Tokens of both are input and output.
    """

    by: dict[str, str]
    requests: int
    errors: int
    tokens: wire.Tokens
    picodollars: int
    usd: str
    uncosted_tokens: int = 0
    quarantined_picodollars: int = 0
    quarantined_tokens: int = 0
    written_off_picodollars: int = 0
    written_off_tokens: int = 0


class GpuSpend(msgspec.Struct, frozen=True, rename="camel"):
    """What the GPUs of a service (`namespace/name`) cost in the closed hours of the span; of hours whose rates are all known.

    `picodollars` is the whole, `idlePicodollars` the part that is in no row: no call pays it. The rest is in the rows, or
    (`coveredPicodollars`) the GPUs' share of tokens that a ModelPrice prices by themselves.
    """

    service: str
    gpu_hours: str
    picodollars: int
    usd: str
    idle_picodollars: int
    idle_usd: str
    covered_picodollars: int = 0
    unpriced_gpu_hours: str = "0"


class Spend(msgspec.Struct, frozen=True, rename="camel"):
    """Answer of GET /v1/spend: the most expensive first, or in the order of time where time is asked for. `total` is of all rows.

    `gpu` has the services that hold GPUs, idle ones included: what is idle is in no row, and not in `total`. `from` and `to` are bounds of whole quarters of an hour; the last may still grow.
    """

    start: dt.datetime = msgspec.field(name="from")
    end: dt.datetime = msgspec.field(name="to")
    by: tuple[By, ...]
    rows: tuple[SpendRow, ...]
    total: SpendRow
    gpu: tuple[GpuSpend, ...] = ()


def as_csv(spend: Spend) -> str:
    """The rows as CSV with a header line; the total is not in it: sums are the reader's to make."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    kinds = wire.Tokens.__struct_fields__
    writer.writerow([*spend.by, "usd", "requests", "errors", *kinds, "uncosted_tokens", *_CORRECTED])
    for row in spend.rows:
        dimensions = [_safe(row.by[dimension]) for dimension in spend.by]
        writer.writerow(
            [
                *(*dimensions, row.usd, row.requests, row.errors),
                *(*msgspec.structs.astuple(row.tokens), row.uncosted_tokens),
                *(getattr(row, column) for column in _CORRECTED),
            ]
        )
    return text.getvalue()


def _safe(text: str) -> str:
    # Models and labels come from outside: a spreadsheet must not run one as a formula.
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text
