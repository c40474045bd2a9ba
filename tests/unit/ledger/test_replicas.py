"""Several ledgers on one PostgreSQL: each has all sums, whoever took the report; grants are decided on exact figures."""

import datetime as dt
from collections.abc import Iterator

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmwarden.contracts import ledger as wire
from llmwarden.domain.cost import Rates
from llmwarden.ledger.core import Core
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.store import (
    Batch,
    BehindError,
    Delta,
    Ground,
    Held,
    Issued,
    Lending,
    PriceRecord,
    Store,
    counts,
    presence,
)
from llmwarden.ledger.store.counts import Counts
from llmwarden.ledger.store.merge import Merge
from tests import postgresql
from tests.unit.ledger.objects import FakeClock, granting, service, view_of
from tests.unit.ledger.test_merge import report, row

PRICE = Rates(wire.Picodollars(input=2, output=3, cached_input=1, cache_write=2))
BUDGET = "LLMService/shop/bot/daily"


class Replica:
    """A store and the sum that it would have in memory."""

    def __init__(self, url: str) -> None:
        self.store = Store(url)
        self.sum = counts.ZERO
        self.rebuild()

    def rebuild(self) -> None:
        self.sum = counts.ZERO
        self.take(self.store.sums())

    def take(self, deltas: "Iterator[Delta] | tuple[Delta, ...]") -> None:
        for delta in deltas:
            self.sum = counts.add(self.sum, delta.counts)

    def done(self, batch: Batch) -> Batch:
        self.take(batch.foreign)
        for merged in batch.merged:
            self.take(merged.deltas)
        return batch

    def report(self, count: Counts, journal: str = "j", sequence: int = 1, price_id: str | None = None) -> Batch:
        sent = report(row(count, price_id=price_id), journal=journal, sequence=sequence)
        return self.done(self.store.merge([(sent, 1)]))


@pytest.fixture
def pair() -> Iterator[tuple[Replica, Replica]]:
    url = postgresql.shared().database()
    first, second = Replica(url), Replica(url)
    yield first, second
    first.store.close()
    second.store.close()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.integers(1, 50)), min_size=1, max_size=12))
def test_every_replica_has_all_sums_wherever_the_reports_went(
    pair: tuple[Replica, Replica], steps: list[tuple[bool, int, int]]
) -> None:
    for at_first, journal, requests in steps:
        (pair[0] if at_first else pair[1]).report(Counts(requests=requests), journal=f"j{journal}")
    for replica in pair:
        replica.done(replica.store.follow())
    (known,) = pair[0].store.sums()
    assert pair[0].sum == pair[1].sum == known.counts


def test_a_journal_that_moves_to_another_replica_is_merged_with_what_the_first_took(
    pair: tuple[Replica, Replica],
) -> None:
    pair[0].report(Counts(requests=5, input=50))
    batch = pair[1].report(Counts(requests=7, input=60), sequence=2)
    assert [delta.counts for delta in batch.foreign] == [Counts(requests=5, input=50)]
    assert [delta.counts for delta in batch.merged[0].deltas] == [Counts(requests=2, input=10)]


def test_a_price_that_another_replica_handed_out_comes_with_the_first_row_that_names_it(
    pair: tuple[Replica, Replica],
) -> None:
    issued = Issued("openai", "m", "p")
    pair[0].store.record_prices([PriceRecord(issued, PRICE)], 1)
    assert pair[1].report(Counts(requests=1), price_id="p").prices == {issued: PRICE}
    assert pair[1].report(Counts(requests=2), price_id="p", sequence=2).prices == {}


def test_a_commit_whose_answer_was_lost_is_found_by_the_next(
    pair: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = pair
    with monkeypatch.context() as patch:
        # As if the connection broke between the commit and its answer.
        patch.setattr(first.store._ids, "committed", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            first.store.merge([(report(row(Counts(requests=5))), 1)])
    first.report(Counts(requests=5))
    assert first.sum == Counts(requests=5)


def test_a_replica_that_was_away_too_long_is_told_to_read_everything(pair: tuple[Replica, Replica]) -> None:
    first, second = pair
    first.report(Counts(requests=5))
    with second.store.database.writer.begin() as connection:
        connection.execute(sa.text("UPDATE changes SET number = number + 10000"))
    for work in (second.store.follow, lambda: second.store.merge([(report(row(Counts(requests=6))), 1)])):
        with pytest.raises(BehindError):
            work()
    second.rebuild()
    second.report(Counts(requests=6), sequence=2)
    assert second.sum == Counts(requests=6)


def lent(amount: int, seen: list[Ground]) -> Lending:
    """Grants so much to the first report's journal, and notes on what ground."""

    def decide(ground: Ground) -> dict[tuple[str, int], int]:
        seen.append(ground)
        return {(BUDGET, ground.merged[0].journal_id): amount}

    return Lending([BUDGET, "other"], decide)


def test_grants_see_what_other_replicas_took_and_gave(pair: tuple[Replica, Replica]) -> None:
    first, second = pair
    seen: list[Ground] = []
    sent = msgspec.structs.replace(report(row(Counts(requests=1, input=10))), leases=(wire.LeaseUse(BUDGET, 0, 100),))
    batch = first.done(first.store.merge([(sent, 1)], lent(70, seen)))
    assert batch.merged[0].latest
    assert seen[0].held == {BUDGET: Held(), "other": Held()}  # before the grant
    assert [delta.counts for delta in seen[0].merged[0].deltas] == [Counts(requests=1, input=10)]
    # Another journal asks another replica: what the first took and was granted is there.
    other = msgspec.structs.replace(sent, journal="k", leases=(wire.LeaseUse(BUDGET, 0, 100),))
    batch = second.store.merge([(other, 2)], lent(7, seen))
    assert seen[1].held == {BUDGET: Held(70, 1), "other": Held()}
    assert [delta.counts for delta in seen[1].foreign] == [Counts(requests=1, input=10)]
    assert batch.foreign == ()  # it was given to `decide`
    # The first journal spends 30 of it: what it keeps stands, and an older report changes nothing of that.
    for sequence, balance in ((3, 45), (2, 70)):
        use = (wire.LeaseUse(BUDGET, balance),)
        (merged,) = second.store.merge([(msgspec.structs.replace(sent, sequence=sequence, leases=use), 2)]).merged
        assert merged.latest is (sequence == 3)
    assert {holding.journal_id: holding.outstanding for holding in first.store.lease_state()} == {
        one[0].merged[0].journal_id: amount for one, amount in ((seen[:1], 45), (seen[1:], 7))
    }
    first.store.release([one.merged[0].journal_id for one in seen])
    assert second.store.lease_state() == []


def test_a_transaction_that_fails_after_its_grants_leaves_neither_rows_nor_grants(
    pair: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    second.report(Counts(requests=2), journal="elsewhere")
    seen: list[Ground] = []
    sent = msgspec.structs.replace(report(row(Counts(requests=5))), leases=(wire.LeaseUse(BUDGET, 0, 100),))
    with monkeypatch.context() as patch:
        patch.setattr(Merge, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            first.store.merge([(sent, 1)], lent(70, seen))
    first.take(seen[0].foreign)  # as the ledger does before it decides
    assert second.store.lease_state() == []
    first.done(first.store.merge([(sent, 1)], lent(70, seen)))
    assert seen[1].foreign == ()  # and it is not told twice
    assert seen[1].held[BUDGET] == Held()
    assert [holding.outstanding for holding in second.store.lease_state()] == [70]
    second.done(second.store.follow())
    assert first.sum == second.sum == Counts(requests=7)


def test_a_final_report_ends_the_leases_of_its_journal(database: str) -> None:
    store = Store(database)
    sent = report(row(Counts(requests=1)))
    asking = msgspec.structs.replace(sent, leases=(wire.LeaseUse(BUDGET, 0, 5),))
    (merged,) = store.merge([(asking, 1)], granting(BUDGET, 5)).merged
    assert [holding.outstanding for holding in store.lease_state()] == [5]
    store.merge([(msgspec.structs.replace(sent, sequence=2, final=True), 1)])
    assert store.lease_state() == []
    assert merged.journal_id
    store.close()


async def test_any_replica_knows_how_many_pods_report_whomever_they_speak_with(pair: tuple[Replica, Replica]) -> None:
    """A pod speaks with one replica, and moves to another when that restarts: it is counted once all the same."""
    clock = FakeClock()
    cores = [Core(Catalogue(), {}, clock, 5.0) for _ in pair]
    for core in cores:
        core.configure(view_of(service(), service("web")))

    def share() -> None:
        for _ in range(2):  # the first hears of the second only when that has said something
            for number, (core, replica) in enumerate(zip(cores, pair, strict=True)):
                now = int(clock.now.timestamp())
                core.usage.elsewhere = presence.share(
                    replica.store.database, str(number), core.usage.presence.by_service, now
                )

    async def pods(name: str = "shop/bot") -> list[int]:
        return [(await core.usage.usage()).services[name].reporting_pods for core in cores]

    now = clock.now.timestamp()
    cores[0].usage.presence.seen(["shop/bot"], "a", now)
    cores[0].usage.presence.seen(["shop/bot", "shop/web"], "b", now)
    cores[1].usage.presence.seen(["shop/bot"], "c", now)
    share()
    assert await pods() == [3, 3]
    assert await pods("shop/web") == [1, 1]
    cores[1].usage.presence.seen(["shop/bot"], "a", now)  # it moved
    share()
    assert await pods() == [3, 3]
    clock.now += dt.timedelta(seconds=presence.STALE_SECONDS + 1)  # the first replica is gone, and its pods with it
    for _ in range(2):
        now_ = int(clock.now.timestamp())
        cores[1].usage.presence.forget(clock.now.timestamp())
        cores[1].usage.presence.seen(["shop/bot"], "c", clock.now.timestamp())
        cores[1].usage.elsewhere = presence.share(pair[1].store.database, "1", cores[1].usage.presence.by_service, now_)
    assert (await pods())[1] == 1


def test_when_a_service_was_last_reported_is_known_to_all(pair: tuple[Replica, Replica]) -> None:
    first, second = pair
    core = Core(Catalogue(), {}, FakeClock(), 5.0)
    core.configure(view_of(service()))
    first.report(Counts(requests=1))
    core.merged((), second.store.follow())
    assert core.usage.last_reports == {"shop/bot": int(FakeClock().now.timestamp())}
