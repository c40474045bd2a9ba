"""Leases on the disk: the outstanding balance of each (budget, journal). Who gets what is `domain/leases.py`' to say.

Two steps keep a budget exact, each one transaction under the lock of the change number:
1. `Store.merge` takes a report's rows, and by its `leases` what the journal keeps (`domain.leases.kept`), where no newer
   report of the journal was there (`Merged.latest`); a final report ends all leases of its journal. Spent grows and
   outstanding shrinks together.
2. `Store.grant(budgets, decide)` gives `decide` the `Ground` to decide on, and adds what it grants to the balances. Under the
   lock nothing else moves: first bring what is counted up to date with `ground.foreign` (by `Core`, in the event loop: `decide`
   runs in a worker thread, so hop with `anyio.from_thread.run_sync`), then limit - spent - outstanding is exact on every replica.
   Only when `grant` has returned is a grant on the disk and may be told.
Between the two steps, or when an answer is lost, less is granted than could be: never more.

`Store.lease_state()` lists every balance with its journal and pod; `Store.silent(...)` lists journals that neither ended nor
report any more, and `Store.release(journal_ids)` ends those, and their leases, whose pod is confirmed dead.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from llmwarden.domain.cost import Rates
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.store.model import Delta, Issued


@dataclass(frozen=True, slots=True)
class Held:
    """What is out of a budget: the sum of all balances, and of how many journals above zero."""

    outstanding: int = 0
    holders: int = 0


@dataclass(frozen=True, slots=True)
class Ground:
    """What a grant is decided on: what others committed since we last looked, and what is out of each budget asked about."""

    held: Mapping[str, Held]
    foreign: tuple[Delta, ...] = ()
    prices: Mapping[Issued, Rates] | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """One journal's balance of one budget, and whose journal it is. Times in seconds since the epoch."""

    budget: str
    journal_id: int
    outstanding: int
    namespace: str
    pod_name: str
    pod_uid: str
    last_reported_at: int
    final: bool


@dataclass(frozen=True, slots=True)
class Silent:
    """A journal that has not ended but does not report any more; `services` are those that it has reported."""

    journal_id: int
    namespace: str
    pod_name: str
    pod_uid: str
    services: tuple[str, ...]


Granted = Mapping[tuple[str, int], int]
"""By budget and journal id (`Merged.journal_id`), what is added to the balance."""
Decide = Callable[[Ground], Granted]


def held(connection: sa.Connection, budgets: Sequence[str]) -> dict[str, Held]:
    """What is out of these budgets."""
    found = {budget: Held() for budget in budgets}
    query = (
        sa.select(t.leases.c.budget, sa.func.sum(t.leases.c.outstanding), sa.func.count())
        .where(t.leases.c.budget.in_(sorted(found)), t.leases.c.outstanding > 0)
        .group_by(t.leases.c.budget)
    )
    for budget, outstanding, holders in connection.execute(query):
        found[budget] = Held(int(outstanding), holders)
    return found


def add(database: Database, connection: sa.Connection, granted: Granted) -> None:
    """Add to balances."""
    values = [
        {"budget": budget, "journal_id": journal_id, "outstanding": amount}
        for (budget, journal_id), amount in sorted(granted.items())
        if amount > 0
    ]
    if not values:
        return
    statement = database.insert(t.leases)
    upsert = statement.on_conflict_do_update(
        index_elements=["budget", "journal_id"],
        set_={"outstanding": t.leases.c.outstanding + statement.excluded["outstanding"]},
    )
    connection.execute(upsert, values)


def state(connection: sa.Connection) -> list[Holding]:
    """Every balance above zero."""
    journals = t.journals.c
    query = (
        sa.select(
            t.leases.c.budget,
            t.leases.c.journal_id,
            t.leases.c.outstanding,
            journals.namespace,
            journals.pod_name,
            journals.pod_uid,
            journals.last_reported_at,
            journals.final,
        )
        .join_from(t.leases, t.journals)
        .where(t.leases.c.outstanding > 0)
        .order_by(t.leases.c.budget, t.leases.c.journal_id)
    )
    return [Holding(*row) for row in connection.execute(query)]


def silent(connection: sa.Connection, after: int, before: int, most: int) -> list[Silent]:
    """At most so many journals that have not ended and whose last report came after one time and before another, oldest first."""
    journals = t.journals.c
    query = (
        sa.select(journals.id, journals.namespace, journals.pod_name, journals.pod_uid)
        .where(sa.not_(journals.final), journals.last_reported_at > after, journals.last_reported_at < before)
        .order_by(journals.last_reported_at)
        .limit(most)
    )
    found = connection.execute(query).all()
    services: dict[int, list[str]] = {}
    spent = (
        sa.select(t.rows.c.journal_id, t.keys.c.service)
        .join_from(t.rows, t.keys)
        .where(t.rows.c.journal_id.in_([row[0] for row in found]))
        .distinct()
    )
    for journal_id, service in connection.execute(spent) if found else ():
        services.setdefault(journal_id, []).append(service)
    return [Silent(*row, tuple(sorted(services.get(row[0], ())))) for row in found]


def release(connection: sa.Connection, journal_ids: Iterable[int]) -> list[int]:
    """End these journals and all their leases; returns those that had not ended."""
    wanted = sorted(set(journal_ids))
    if not wanted:
        return []
    connection.execute(sa.delete(t.leases).where(t.leases.c.journal_id.in_(wanted)))
    ended = (
        sa.update(t.journals)
        .where(t.journals.c.id.in_(wanted), sa.not_(t.journals.c.final))
        .values(final=True)
        .returning(t.journals.c.id)
    )
    return sorted(connection.execute(ended).scalars())
