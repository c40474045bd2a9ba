"""What of a budget, a price or a provider account was changed, in words for the audit."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from llmwarden.domain.differences import difference
from llmwarden.ledger.audit import Trail
from llmwarden.ledger.view import ReadBudget, ReadPrice, ReadService


class Change(NamedTuple):
    """What happened to an object of ours. `old` and `new` are what the ledger read of it (`view.read_*`), or its spec (JSON); None is nothing.

    `name` is its namespace ("" where it has none) and name, `by` the field manager that wrote it, `mark` tells it from all other changes.
    """

    kind: str
    name: tuple[str, str]
    old: Any
    new: Any
    by: str
    mark: str


def record(trail: Trail, change: Change) -> None:
    """Record a change, where money depends on what changed."""
    text = described(change.old, change.new)
    if text:
        place = "/".join(part for part in (change.kind, *change.name) if part)
        trail.record("Changed", text, namespace=change.name[0], about=place, by=change.by, mark=change.mark)


def described(old: Any, new: Any) -> str:
    """Say how an object came to be what it is (`Change`); empty where nothing changed that money depends on."""
    before, after = _money(old), _money(new)
    if before == after:
        return ""
    if new is None:
        return f"deleted; it was {difference({}, before)}" if before else ""
    if old is None:
        return f"created; {difference({}, after)}" if after else ""
    return difference(before, after)


def _money(read: Any) -> Mapping[str, Any]:
    match read:
        case None:
            return {}
        case ReadService():
            # Only its own budgets: nothing else of a service bounds money.
            return {"budgets": msgspec.to_builtins(read.budgets, enc_hook=str)} if read.budgets else {}
        case ReadBudget():
            return _spec(read.source.spec) if read.source is not None else {"invalid": read.fault}
        case ReadPrice():
            return _spec(read.price.spec) if read.price is not None else {"invalid": read.fault}
        case _:
            return dict(read)


def _spec(spec: Any) -> Mapping[str, Any]:
    dumped: Mapping[str, Any] = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return dumped
