"""What the platform corrects in usage that was reported, version 1: `kubectl llm writeoff` and `release` write it, the ledger answers.

Start at `Order`. Nothing is deleted: a write-off adds negative counters beside what was reported, a release moves quarantined counters to the
ordinary ones. Every sum (status, budgets, `/v1/spend`) is over both. Apart from `contracts/ledger.py`, which every sidecar imports.
"""

import datetime as dt
from typing import Final, Literal

import msgspec

from llmwarden.contracts import ledger as wire

CORRECTIONS_PATH: Final = "/v1/corrections"
Action = Literal["WriteOff", "Release"]


class Order(msgspec.Struct, frozen=True, rename="camel"):
    """Body of POST /v1/corrections: what is to be corrected, and why.

    It is about the usage of a `service` (`namespace/name`, which may be gone) in the quarters of an hour from `from` to before `to`;
    of one `model` or one `pod` (by name) where they are given.
    `WriteOff` takes off all of it, quarantined usage included; with `quarantinedOnly` only that; with `picodollars` or `tokens` (input and
    output) at most so much, the same share of everything. It never takes off more than there is. `Release` makes quarantined usage ordinary.

    `id` is made by the client: an order that is sent again changes nothing, and is answered as it was. `onBehalfOf` is whose order it is, as the
    client says; who sends it, the ledger knows. With `dryRun` nothing is changed.
    """

    contract: int
    id: str
    action: Action
    service: str
    start: dt.datetime = msgspec.field(name="from")
    end: dt.datetime = msgspec.field(name="to")
    reason: str
    model: str = ""
    pod: str = ""
    quarantined_only: bool = False
    picodollars: int | None = None
    tokens: int | None = None
    on_behalf_of: str = ""
    dry_run: bool = False


class Correction(msgspec.Struct, frozen=True, rename="camel"):
    """Answer of POST /v1/corrections: the order, when it was done and by whom (a service account, as `namespace:name`), and what it moved.

    `picodollars` is what that costs, as it was rated then; `uncostedTokens` are those of it that had no price. Nothing moved: all are 0.
    `repeated`: this very order was done before, and was not done again.
    """

    order: Order
    at: dt.datetime
    by: str
    requests: int
    tokens: wire.Tokens
    picodollars: int
    usd: str
    uncosted_tokens: int = 0
    repeated: bool = False


class Corrections(msgspec.Struct, frozen=True):
    """Answer of GET /v1/corrections, newest first."""

    corrections: tuple[Correction, ...]
