"""Quotas: what one journal and one namespace may have of their own. Whatever is reported, no token is lost and none counts twice."""

import random
import uuid
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.ledger.store import Quota, Store, counts
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.counts import Counts
from llmwarden.ledger.store.key_ids import KeyIds
from tests.unit.ledger.objects import BUCKET
from tests.unit.ledger.test_merge import anything, growth, report
from tests.unit.ledger.test_merge import row as plain_row

SMALL = Quota(journal_rows=3, journal_folded=1000, namespace_rows=10_000_000, namespace_unpriced=10_000_000)
MODELS = ("a", "b", "c")
TEAMS = ("", "red", "blue", "green")


def row(count: Counts, model: str = "a", team: str = "", bucket: int = BUCKET, price_id: str | None = "p") -> wire.Row:
    labels = wire.Labels(team=team)
    return replace(plain_row(count, model, bucket, price_id), labels=labels)


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = Store(database)
    opened.quotas.quota = SMALL
    yield opened
    opened.close()


def summed(store: Store, namespace: str = "shop") -> Counts:
    total = counts.ZERO
    for delta in store.sums():
        if delta.service.startswith(f"{namespace}/"):
            total = counts.add(total, delta.counts)
    return total


def size(store: Store, table: str) -> int:
    with store.database.reading() as connection:
        return len(connection.execute(t.METADATA.tables[table].select()).all())


def maxima(reports: Sequence[Sequence[wire.Row]]) -> Counts:
    """What must be counted: of each row the largest that was said, summed."""
    largest: dict[tuple[object, ...], Counts] = {}
    for rows in reports:
        for one in rows:
            key = (one.model, one.labels.team, one.bucket, one.price_id)
            largest[key] = counts.merge(largest.get(key, counts.ZERO), counts.whole(counts.of_row(one)))
    total = counts.ZERO
    for value in largest.values():
        total = counts.add(total, value)
    return total


rows = st.builds(
    row,
    st.one_of(growth(), anything),
    st.sampled_from(MODELS),
    st.sampled_from(TEAMS),
    st.sampled_from((BUCKET, BUCKET + 900)),
    st.sampled_from((None, "p")),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(rows, max_size=8), min_size=1, max_size=6),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_the_sum_is_that_of_each_rows_maximum_in_whatever_order_and_however_often(
    store: Store, reports: list[list[wire.Row]], room: int, chance: random.Random
) -> None:
    store.quotas.quota = replace_quota(SMALL, journal_rows=room)
    before, journal = summed(store), str(uuid.uuid4())
    delivered = [*enumerate(reports), *chance.choices([*enumerate(reports)], k=3)]
    chance.shuffle(delivered)
    told = counts.ZERO
    while delivered:  # some come together, in one transaction
        together = [delivered.pop() for _ in range(min(len(delivered), chance.randint(1, 3)))]
        batch = store.merge([(report(*sent, journal=journal, sequence=number), 1) for number, sent in together])
        for merged in batch.merged:
            for delta in merged.deltas:
                told = counts.add(told, delta.counts)
        if chance.random() < 0.3:
            store._ids = KeyIds(store.database)  # as a restart does
    assert told == maxima(reports)
    assert counts.add(before, told) == summed(store)


def replace_quota(quota: Quota, **changes: int) -> Quota:
    fields = {name: getattr(quota, name) for name in Quota.__slots__}
    return Quota(**{**fields, **changes})


def test_labels_are_folded_first_so_that_the_price_stays(store: Store) -> None:
    sent = [row(Counts(requests=1, input=10), team=f"t{number}") for number in range(10)]
    (merged,) = store.merge([(report(*sent), 1)]).merged
    assert merged.others == 7
    assert {(delta.model, delta.price_id) for delta in store.sums()} == {("a", "p")}
    assert summed(store) == Counts(requests=10, input=100)


def test_labels_that_use_up_the_room_leave_it_to_models(store: Store) -> None:
    store.merge([(report(*(row(Counts(input=1), team=f"t{number}") for number in range(20))), 1)])
    store.merge([(report(row(Counts(input=5), model="b"), sequence=2), 1)])
    assert [(delta.model, delta.price_id) for delta in store.sums() if delta.counts.input == 5] == [("b", "p")]


def test_models_beyond_the_room_count_as_one_without_a_price(store: Store) -> None:
    sent = [row(Counts(requests=1, output=7), model=f"m{number}") for number in range(100)]
    store.merge([(report(*sent), 1)])
    folded = [delta for delta in store.sums() if delta.model == names.FOLDED]
    assert [(delta.provider, delta.price_id, delta.counts.requests) for delta in folded] == [("openai", None, 94)]
    assert summed(store) == Counts(requests=100, output=700)
    # Its maker may be made up, too; then it is anybody's.
    store.merge([(report(*(replace(one, provider=one.model) for one in sent), journal="k"), 1)])
    assert {delta.provider for delta in store.sums() if delta.model == names.FOLDED} == {"openai", names.FOLDED}


def test_a_row_stays_where_it_is_when_there_is_room_again(store: Store) -> None:
    sent = [row(Counts(input=10), model=f"m{number}") for number in range(20)]
    store.merge([(report(*sent), 1)])
    store.quotas.quota = Quota()
    grown = [row(Counts(input=15), model=f"m{number}") for number in range(20)]
    (merged,) = store.merge([(report(*grown, sequence=2), 1)]).merged
    assert summed(store) == Counts(input=300)
    assert merged.others == 14
    store.quotas.quota = replace_quota(SMALL, journal_rows=0)
    store.merge([(report(*grown, sequence=3), 1)])
    assert summed(store) == Counts(input=300)


def test_a_namespace_that_is_full_folds_and_others_do_not(store: Store) -> None:
    store.quotas.quota = replace_quota(SMALL, journal_rows=1000, namespace_rows=17 * 5)
    sent = [row(Counts(input=1), model=f"m{number}") for number in range(50)]
    for journal in ("a", "b"):
        store.merge([(report(*sent, journal=journal), 1)])
    web = report(*sent[:4], journal="w", uid="w")
    store.merge([(replace(web, pod=wire.PodRef("web", "bot-0", "w")), 1)])
    assert summed(store) == Counts(input=100)
    assert len([delta for delta in store.sums() if delta.service == "shop/bot"]) < 10
    assert {delta.model for delta in store.sums() if delta.service == "web/bot"} == {"m0", "m1", "m2", "m3"}
    assert store.quotas.share("shop") > 0.9
    assert store.quotas.share("web") < store.quotas.share("shop")


def test_rows_without_a_price_have_a_quota_of_their_own(store: Store) -> None:
    store.quotas.quota = replace_quota(SMALL, journal_rows=1000, namespace_unpriced=5)
    sent = [row(Counts(input=1), model=f"m{number}", price_id=None) for number in range(50)]
    priced = [row(Counts(input=1), model=f"n{number}") for number in range(50)]
    store.merge([(report(*sent, *priced), 1)])
    found = list(store.sums())
    assert len([delta for delta in found if delta.price_id is None]) == 6
    assert len([delta for delta in found if delta.price_id is not None]) == 50
    assert summed(store) == Counts(input=100)


def test_what_is_not_remembered_is_counted_in_full_and_never_lost(store: Store) -> None:
    store.quotas.quota = replace_quota(SMALL, journal_rows=1, journal_folded=5)
    sent = [row(Counts(input=10), model=f"m{number}") for number in range(20)]
    (merged,) = store.merge([(report(*sent, sequence=5), 1)]).merged
    assert summed(store) == Counts(input=200)
    assert merged.unremembered == 20 - 2 - 5
    assert size(store, "folded") == 5
    # The very same report, or an older one, changes nothing. A newer one counts what is not remembered again: more, never less.
    store.merge([(report(*sent, sequence=5), 1), (report(*sent, sequence=4), 1)])
    assert summed(store) == Counts(input=200)
    store.merge([(report(*sent, sequence=6), 1)])
    assert summed(store) == Counts(input=200 + 130)


def test_a_hostile_journal_takes_a_bounded_number_of_rows(store: Store) -> None:
    store.quotas.quota = Quota(10, 50, 1000, 100)
    for number in range(30):
        sent = [row(Counts(input=1), model=f"m{number}-{one}", team=str(one)) for one in range(100)]
        store.merge([(report(*sent, sequence=number), 1)])
    assert summed(store) == Counts(input=3000)
    assert size(store, "rows") <= 2 * 10 + 1
    assert size(store, "spend") <= 2 * 10 + 1
    assert size(store, "keys") <= 2 * 10 + 1
    assert size(store, "folded") == 50


def test_sizes_survive_a_restart_and_shrink_with_what_is_dropped(database: str) -> None:
    store = Store(database)
    store.quotas.quota = SMALL
    sent = [row(Counts(input=1), model=f"m{number}") for number in range(20)]
    store.merge([(report(*sent, final=True), BUCKET)])
    used = store.quotas.used["shop"]
    store.close()
    store = Store(database)
    store.quotas.quota = SMALL
    assert store.quotas.used["shop"] == used > 0
    assert size(store, "folded") == 14
    while any(store.compact(BUCKET + 3 * 86_400, 35 * 86_400)):
        pass
    assert size(store, "folded") == 0
    while any(store.compact(BUCKET + 40 * 86_400, 35 * 86_400)):
        pass
    assert store.quotas.used["shop"] == 0
    assert summed(store) == Counts(input=20)
    store.close()


def test_the_log_of_changes_is_bounded_by_its_rows_as_well(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmwarden.ledger.store.store.MOST_LOGGED", 100)
    monkeypatch.setattr("llmwarden.ledger.store.store._PRUNE_EVERY", 4)
    store.quotas.quota = Quota()
    for number in range(40):
        sent = [row(Counts(input=number + 1), model=f"m{one}") for one in range(30)]
        store.merge([(report(*sent, sequence=number), 1)])
    assert size(store, "log") <= 30 * 8
