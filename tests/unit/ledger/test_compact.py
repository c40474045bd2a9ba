"""Old detail goes, sums stay: exactly, also when late reports come after."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from llmwarden.contracts import ledger as wire
from llmwarden.domain.cost import Rates
from llmwarden.ledger.store import Issued, PriceRecord, Store, counts
from llmwarden.ledger.store.compact import BUCKETS_SECONDS, DAY, FORGET_SECONDS
from llmwarden.ledger.store.counts import Counts
from tests.unit.ledger.objects import BUCKET
from tests.unit.ledger.test_merge import report, row

KEEP = 35 * DAY


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = Store(database)
    price = Rates(wire.Picodollars(input=1, output=1, cached_input=1, cache_write=1))
    opened.record_prices([PriceRecord(Issued("openai", "m", "p"), price)], 1)
    yield opened
    opened.close()


def compact(store: Store, now: int) -> int:
    steps = 0
    while any(store.compact(now, KEEP)):
        steps += 1
    return steps


def total(store: Store) -> Counts:
    found = counts.ZERO
    for delta in store.sums():
        found = counts.add(found, delta.counts)
    return found


def size(store: Store, table: str) -> int:
    with store.database.reader.connect() as connection:
        return int(connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0)  # noqa: S608 - our own names


def test_rows_of_ended_journals_go_and_the_sum_stays_also_when_their_reports_come_again(store: Store) -> None:
    sent = [
        report(row(Counts(requests=number + 1), price_id="p"), journal=f"j{number}", uid=f"u{number}", final=True)
        for number in range(5)
    ]
    store.merge([(one, BUCKET) for one in sent])
    before = total(store)
    later = BUCKET + KEEP + 2 * DAY
    assert compact(store, later) > 0
    assert size(store, "rows") == 0
    assert total(store) == before
    again = store.merge([(one, later) for one in sent])
    assert [(merged.deltas, merged.folded) for merged in again.merged] == [((), 1)] * 5
    assert total(store) == before
    assert compact(store, later) == 0


def test_a_living_journal_keeps_what_it_may_not_have_told(store: Store) -> None:
    old, young = BUCKET - 900 * 40, BUCKET
    store.merge([(report(row(Counts(requests=1), bucket=old), row(Counts(requests=2), bucket=young)), BUCKET)])
    # It was cut off for weeks; then it comes back with more in its last bucket.
    later = BUCKET + KEEP + 10 * DAY
    compact(store, later)
    assert size(store, "rows") == 1
    grown = report(row(Counts(requests=1), bucket=old), row(Counts(requests=7), bucket=young), sequence=2)
    (merged,) = store.merge([(grown, later)]).merged
    assert [delta.counts.requests for delta in merged.deltas] == [5]
    assert merged.folded == 1
    assert total(store).requests == 8


def test_old_buckets_with_a_settled_price_become_days(store: Store) -> None:
    rows = [
        row(Counts(requests=1, input=10), bucket=BUCKET - 900 * back, price_id=price_id)
        for back in range(200)
        for price_id in ("p", None)
    ]
    store.merge([(report(*rows, final=True), BUCKET)])
    before = total(store)
    assert compact(store, BUCKET + BUCKETS_SECONDS + 5 * DAY) > 0
    assert total(store) == before
    by_price = {delta.price_id: 0 for delta in store.sums()}
    for delta in store.sums():
        by_price[delta.price_id] += 1
    assert by_price[None] == 200
    assert by_price["p"] == 3


def test_journals_are_forgotten_in_the_end(store: Store) -> None:
    store.merge([(report(row(Counts(requests=1), price_id="p"), final=True), BUCKET)])
    compact(store, BUCKET + KEEP + FORGET_SECONDS + 2 * DAY)
    assert size(store, "journals") == 0
    assert total(store).requests == 1


def test_what_is_young_is_left_alone(store: Store) -> None:
    store.merge([(report(row(Counts(requests=1))), BUCKET)])
    compact(store, BUCKET + DAY)
    assert compact(store, BUCKET + DAY + 900) == 0
    assert size(store, "rows") == 1
