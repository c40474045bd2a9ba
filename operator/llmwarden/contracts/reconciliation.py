"""What `GET /v1/reconciliation` answers, version 1: providers' own figures beside the ledger's, by UTC day.

Start at `Reconciliation`. The ledger writes it; the operator and `kubectl llm reconcile` read it. How a day is judged is
`domain/drift.py`. Apart from `contracts/ledger.py`, which every sidecar imports.
"""

import datetime as dt
from typing import Literal

import msgspec

Verdict = Literal["Agrees", "ProviderHasMore", "LedgerHasMore", "ProviderDearer", "LedgerDearer", "Partial"]
"""How a day compares. Tokens first: where they part, something went around (or was counted that the provider does not know); where
only the cost does, it is the price. `Partial`: the ledger did not count the whole day."""

DRIFTS: frozenset[Verdict] = frozenset({"ProviderHasMore", "LedgerHasMore", "ProviderDearer", "LedgerDearer"})


class Side(msgspec.Struct, frozen=True):
    """What one of both has of a day: `input` (cached included) and `output` tokens, and what they cost."""

    input: int = 0
    output: int = 0
    picodollars: int = 0

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.input + self.output


class Day(msgspec.Struct, frozen=True, rename="camel"):
    """One UTC day (`2026-11-20`). `otherPicodollars` is what the provider charges beside tokens: compared with nothing."""

    day: str
    provider: Side
    ledger: Side
    verdict: Verdict
    other_picodollars: int = 0
    uncosted_tokens: int = 0  # of the ledger's: they have no price here


class Fault(msgspec.Struct, frozen=True):
    """Why a provider's figures could not be read: a word for machines, a sentence for people."""

    reason: str
    message: str


class Account(msgspec.Struct, frozen=True, rename="camel"):
    """One ProviderAccount. `days` newest first: only finished ones that the provider has had time to settle."""

    provider: str
    days: tuple[Day, ...] = ()
    read_at: dt.datetime | None = None  # when the provider last answered
    retry_at: dt.datetime | None = None  # when it is asked again
    fault: Fault | None = None


class Reconciliation(msgspec.Struct, frozen=True, rename="camel"):
    """Every ProviderAccount, by name."""

    contract: int
    as_of: dt.datetime
    accounts: dict[str, Account]
