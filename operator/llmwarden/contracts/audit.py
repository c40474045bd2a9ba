"""What `GET /v1/audit` answers, version 1: the ledger writes it, `kubectl llm audit` reads it.

Start at `Audit`. Entries are recorded by `ledger/audit.py`. The same entries go to the logger `llmwarden.audit` as JSON lines, one an entry,
with the same names of fields.
"""

import datetime as dt
from typing import Final, Literal, get_args

import msgspec

Kind = Literal["Changed", "Refused", "Quarantined", "WrittenOff", "Released", "Unmetered", "OptedOut"]
"""Changed: a budget, a price or a provider account was created, edited or deleted. Refused: a caller of the ledger was not let in, or a pod
may not report. Quarantined, WrittenOff, Released: usage that was held back, taken back, or counted after all. Unmetered, OptedOut: a pod
without a proxy, and why."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class Entry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One thing that happened.

    `namespace` is empty for what belongs to the platform. `object` is what it happened to, such as `LLMBudget/shop/daily`. `by` is who did
    it, as far as it is known: a field manager for changes, a user or service account for others. `count` is above 1 where the same happened
    several times within a minute: it is told once, with the time of the first.
    """

    at: dt.datetime
    kind: Kind
    text: str
    namespace: str = ""
    object: str = ""
    by: str = ""
    count: int = 1


class Audit(msgspec.Struct, frozen=True, rename="camel"):
    """Entries, newest first. `more`: there are older ones in the span than were asked for."""

    contract: int
    entries: tuple[Entry, ...]
    more: bool = False
