"""Leases on the disk: the outstanding balance of each (budget, journal). Who gets what is `domain/leases.py`' to say.

One transaction keeps a budget exact, `Store.merge` under the lock of the change number:
1. It takes the reports' rows, and by their `leases` what each journal keeps (`domain.leases.kept`: never more than is stored, which is
   what it was granted and has not given back), where no newer report of the journal was there (`Merged.latest`); a final report ends
   all leases of its journal. Spent grows and outstanding shrinks together. Only after a database was restored from a backup, and only
   while the platform says so (`Store.believe_until`), a journal is believed a balance that is not stored.
2. Where a journal wants more, `Lending.decide` is given the `Ground` to decide on, and what it grants is added. Under the lock
   nothing else moves: with what others committed (`Ground.foreign`) counted, and what these reports add on top (`Ground.merged`,
   which is not counted before it is on the disk), limit - spent - outstanding is exact on every replica. `decide` runs in a worker
   thread; what is counted is the event loop's, so it hops there (`anyio.from_thread.run_sync`).
3. Only when `merge` has returned are rows and grants on the disk and may be told. Where it fails, neither is: the proxies send the
   same again. Where a commit's answer is lost, rows are found by the log, and what was granted is out until the journal's next report.
A report whose leases are too old (it is not `latest`) has its rows counted all the same: only its lease part is left out.

`Store.lease_state()` lists every balance with its journal and pod, `Store.holding()` the journals that have one; `Store.silent(...)` lists journals that neither ended nor
report any more, and `Store.release(journal_ids)` ends those, and their leases, whose pod is confirmed dead.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from llmwarden.domain.cost import Rates
from llmwarden.ledger.store import statements
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.store.model import Delta, Issued, Merged
from llmwarden.ledger.store.row_parameter import text


@dataclass(frozen=True, slots=True)
class Held:
    """What is out of a budget: the sum of all balances, and of how many journals above zero."""

    outstanding: int = 0
    holders: int = 0


@dataclass(frozen=True, slots=True)
class Ground:
    """What grants are decided on: what is out of each budget asked about, with what these reports' journals keep.

    `merged` is what the reports change, in their order: it is not committed. `foreign` is what others committed since we last looked, and
    `prices` what they handed out: to be counted first, whatever becomes of this transaction.
    """

    held: Mapping[str, Held]
    kept: Mapping[tuple[str, int], int] = field(
        default_factory=dict
    )  # by budget and journal id, what these journals keep
    merged: Sequence[Merged] = ()
    foreign: tuple[Delta, ...] = ()
    prices: Mapping[Issued, Rates] = field(default_factory=dict)


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
    """A journal whose pod may be gone; `services` are those that it has reported, `balances` by budget what it holds, where that was asked."""

    journal_id: int
    namespace: str
    pod_name: str
    pod_uid: str
    services: tuple[str, ...]
    balances: dict[str, int] = field(default_factory=dict)


Granted = Mapping[tuple[str, int], int]
"""By budget and journal id (`Merged.journal_id`), what is added to the balance."""
Decide = Callable[[Ground], Granted]


@dataclass(frozen=True, slots=True)
class Lending:
    """What reports' leases are decided by: the budgets that are asked about, and who decides."""

    budgets: Collection[str]
    decide: Decide


@dataclass(frozen=True, slots=True)
class Stored:
    """Balances above zero as they are stored: of some journals, and of some budgets the sum and how many there are."""

    own: Mapping[tuple[str, int], int]
    sums: Mapping[str, tuple[int, int]]


def stored(
    database: Database, connection: sa.Connection, budgets: Collection[str], places: Collection[tuple[str, int]]
) -> Stored:
    """What is stored of these (budget, journal id), and what is out of these budgets in all. One statement."""
    own: dict[tuple[str, int], int] = {}
    sums: dict[str, tuple[int, int]] = {}
    if not places and not budgets:
        return Stored(own, sums)
    given = {
        "budgets": text([{"budget": budget} for budget in budgets]),
        "pairs": text([{"budget": budget, "journal_id": journal} for budget, journal in places]),
    }
    for budget, journal_id, outstanding, holders in connection.execute(statements.of(database).held, given):
        if journal_id:
            own[budget, journal_id] = int(outstanding)
        else:
            sums[budget] = (int(outstanding), holders)
    return Stored(own, sums)


def held(stored: Stored, budgets: Collection[str], balances: Mapping[tuple[str, int], int]) -> dict[str, Held]:
    """What is out of these budgets, where these journals' balances are not what is stored (`stored.own`) but what they keep."""
    out = {budget: list(stored.sums.get(budget, (0, 0))) for budget in budgets}
    for (budget, _), outstanding in stored.own.items():
        if budget in out:
            out[budget][0] -= outstanding
            out[budget][1] -= 1
    for (budget, _), kept in balances.items():
        if budget in out and kept > 0:
            out[budget][0] += kept
            out[budget][1] += 1
    return {budget: Held(outstanding, holders) for budget, (outstanding, holders) in out.items()}


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


def holding(connection: sa.Connection) -> list[Silent]:
    """Every journal that holds something, whether it reports or has ended, and how much of which budgets it holds."""
    journals = t.journals.c
    query = (
        sa.select(
            journals.id,
            journals.namespace,
            journals.pod_name,
            journals.pod_uid,
            t.leases.c.budget,
            t.leases.c.outstanding,
        )
        .join_from(t.leases, t.journals)
        .where(t.leases.c.outstanding > 0)
    )
    holders: dict[int, tuple[str, str, str]] = {}
    balances: dict[int, dict[str, int]] = {}
    for journal_id, namespace, name, uid, budget, outstanding in connection.execute(query):
        holders[journal_id] = (namespace, name, uid)
        balances.setdefault(journal_id, {})[budget] = int(outstanding)
    return [Silent(journal_id, *pod, (), balances[journal_id]) for journal_id, pod in holders.items()]


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
    reported = services(connection, [row[0] for row in found])
    return [Silent(*row, reported.get(row[0], ())) for row in found]


def services(connection: sa.Connection, journal_ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Which services (bare names) these journals have reported."""
    if not journal_ids:
        return {}
    found: dict[int, list[str]] = {}
    spent = (
        sa.select(t.rows.c.journal_id, t.keys.c.service)
        .join_from(t.rows, t.keys)
        .where(t.rows.c.journal_id.in_(journal_ids))
        .distinct()
    )
    for journal_id, service in connection.execute(spent):
        found.setdefault(journal_id, []).append(service)
    return {journal_id: tuple(sorted(some)) for journal_id, some in found.items()}


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
