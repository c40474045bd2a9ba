"""Merging by maximum: duplicates, reordering and losses never change the sum."""

import random
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from llmwarden.contracts import ledger as wire
from llmwarden.domain.cost import Rates
from llmwarden.errors import UnavailableError
from llmwarden.ledger.store import Issued, Lending, PriceRecord, Remembered, SchemaError, Store, counts
from llmwarden.ledger.store.counts import Counts
from tests.unit.ledger.objects import BUCKET, granting

small = st.integers(0, 1000)
ISSUED = Issued("openai", "m", "p")


@st.composite
def growth(draw: st.DrawFn) -> Counts:
    """What one call adds: parts within their whole."""
    cached, written, plain = draw(small), draw(small), draw(small)
    reasoning, visible = draw(small), draw(small)
    return Counts(
        requests=draw(st.integers(0, 3)),
        errors=draw(st.integers(0, 1)),
        estimated=draw(st.integers(0, 1)),
        input=cached + written + plain,
        cached_input=cached,
        cache_write=written,
        output=reasoning + visible,
        reasoning=reasoning,
    )


anything = st.builds(Counts, *([small] * len(counts.FIELDS)))


def row(count: Counts, model: str = "m", bucket: int = BUCKET, price_id: str | None = None) -> wire.Row:
    return wire.Row(
        service="bot",
        provider="openai",
        model=model,
        price_id=price_id,
        bucket=bucket,
        requests=count.requests,
        errors=count.errors,
        estimated=count.estimated,
        tokens=count.tokens,
    )


def report(*rows: wire.Row, journal: str = "j", sequence: int = 1, uid: str = "u", final: bool = False) -> wire.Report:
    return wire.Report(
        contract=1,
        journal=journal,
        sequence=sequence,
        pod=wire.PodRef("shop", "bot-0", uid),
        rows=rows,
        final=final,
    )


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = Store(database)
    yield opened
    opened.close()


@given(st.lists(anything, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_merge_does_not_depend_on_order_or_repetition_even_of_contradicting_reports(
    reports: list[Counts], chance: random.Random
) -> None:
    def result(order: list[Counts]) -> Counts:
        merged = counts.ZERO
        for one in order:
            merged = counts.merge(merged, one)
        return merged

    shuffled = reports + chance.choices(reports, k=4)
    chance.shuffle(shuffled)
    expected = result(reports)
    assert result(shuffled) == expected
    assert expected.cached_input + expected.cache_write <= expected.input
    assert expected.reasoning <= expected.output


@given(anything, anything)
def test_growth_is_the_difference_to_the_maximum(known: Counts, reported: Counts) -> None:
    known, reported = counts.whole(known), counts.whole(reported)
    grown = counts.grow(known, reported)
    assert grown.new == counts.merge(known, reported)
    assert counts.add(known, grown.delta) == grown.new
    assert grown.backwards is any(new < old for new, old in zip(astuple(reported), astuple(known), strict=True))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(growth(), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_any_delivery_that_has_the_last_report_sums_to_what_was_used(
    store: Store, calls: list[Counts], chance: random.Random
) -> None:
    journal = str(uuid.uuid4())  # the store is one for all examples
    total = counts.ZERO
    snapshots: list[Counts] = []
    for call in calls:
        total = counts.add(total, call)
        snapshots.append(total)
    # Lost: some of the others. Duplicated and reordered: all of the rest.
    delivered = [one for one in snapshots[:-1] if chance.random() < 0.7] * 2 + [snapshots[-1]]
    chance.shuffle(delivered)
    added = counts.ZERO
    for number, snapshot in enumerate(delivered):
        for merged in store.merge([(report(row(snapshot), journal=journal, sequence=number), 1)]).merged:
            for delta in merged.deltas:
                added = counts.add(added, delta.counts)
    assert added == total


def test_deltas_are_what_the_database_sums_to(store: Store) -> None:
    first, second = Counts(requests=1, input=10), Counts(requests=2, input=15, output=4)
    store.merge([(report(row(first), journal="a"), 1), (report(row(second), journal="b"), 2)])
    store.merge([(report(row(second), journal="a", sequence=2), 3)])
    (found,) = store.sums()
    assert found.service == "shop/bot"
    assert found.price_id is None
    assert found.counts == counts.add(second, second)
    assert store.last_reports() == {"shop/bot": 3}


def test_a_total_that_goes_backwards_changes_nothing_and_is_counted(store: Store) -> None:
    store.merge([(report(row(Counts(requests=5, input=50))), 1)])
    (merged,) = store.merge([(report(row(Counts(requests=4, input=40)), sequence=2), 2)]).merged
    assert merged.deltas == ()
    assert merged.backwards == 1


def test_two_pods_with_one_journal_name_do_not_mix(store: Store) -> None:
    store.merge([(report(row(Counts(requests=5)), uid="one"), 1), (report(row(Counts(requests=3)), uid="two"), 1)])
    assert [delta.counts.requests for delta in store.sums()] == [8]


def test_one_key_twice_in_a_report_counts_once(store: Store) -> None:
    (merged,) = store.merge([(report(row(Counts(requests=2)), row(Counts(requests=3))), 1)]).merged
    assert [delta.counts.requests for delta in merged.deltas] == [3]


def test_many_buckets_in_one_report(store: Store) -> None:
    rows = [row(Counts(requests=1), bucket=BUCKET - 900 * back) for back in range(1200)]
    assert len(store.merge([(report(*rows), 1)]).merged[0].deltas) == 1200
    assert store.merge([(report(*rows, sequence=2), 2)]).merged[0].deltas == ()


@pytest.mark.parametrize("reports", [1, 200])
def test_a_batch_takes_the_same_statements_however_many_reports_it_has(store: Store, reports: int) -> None:
    def batch(sequence: int) -> list[tuple[wire.Report, int]]:
        return [
            (
                msgspec.structs.replace(
                    report(
                        *(row(Counts(requests=sequence), model=f"m{model}") for model in range(3)),
                        journal=f"j{number}",
                        sequence=sequence,
                    ),
                    leases=(wire.LeaseUse("b", 5, 10),),
                ),
                sequence,
            )
            for number in range(reports)
        ]

    lending = Lending(["b"], lambda ground: {("b", merged.journal_id): 1 for merged in ground.merged})
    store.merge(batch(1), lending)  # journals and keys are new
    statements: list[str] = []
    sa.event.listen(store.database.writer, "before_cursor_execute", lambda *told: statements.append(told[2]))
    assert sum(len(merged.deltas) for merged in store.merge(batch(2), lending).merged) == 3 * reports
    # The number, what is known, what is out, and all that is written: one statement on PostgreSQL, one for each table on SQLite.
    expected = 4 if store.database.postgresql else 10
    assert len(statements) == expected, statements
    # Each was granted 1 by each batch; the 5 that it claims to have were granted by nobody.
    assert [holding.outstanding for holding in store.lease_state()] == [2] * reports


def test_what_is_written_comes_back_as_it_was(store: Store) -> None:
    """It goes to the database as JSON: nothing may be lost on the way there."""
    odd = 'a "b" \\ \n \t \u2028 {é} 🦊 $1 %s :x ?'
    largest = Counts(requests=2**40, input=2**61 - 1, output=2**53 + 1)
    sent = report(msgspec.structs.replace(row(largest, model=odd), labels=wire.Labels(team=odd)), journal=odd, uid=odd)
    sent = msgspec.structs.replace(sent, pod=wire.PodRef("shop", odd, odd), leases=(wire.LeaseUse(odd, 2**62 - 1),))
    store.merge([(sent, 1)], granting(odd, 2**62 - 1))
    (merged,) = store.merge([(sent, 1)]).merged
    assert merged.deltas == ()
    (found,) = store.sums()
    assert (found.model, found.counts) == (odd, largest)
    (holding,) = store.lease_state()
    assert (holding.budget, holding.outstanding, holding.pod_uid) == (odd, 2**62 - 1, odd)


def test_what_was_written_is_there_after_reopening(database: str) -> None:
    path = database
    price = wire.Picodollars(input=150_000, output=600_000, cached_input=75_000, cache_write=150_000)
    first = Store(path)
    first.merge([(report(row(Counts(requests=1, input=7), price_id="p")), 1)])
    first.record_prices([PriceRecord(ISSUED, Rates(price))], 1)
    first.remember({"shop/bot": Remembered({"team": "support"}, "openai")})
    first.close()
    second = Store(path)
    assert [delta.counts.input for delta in second.sums()] == [7]
    assert second.prices() == {ISSUED: Rates(price)}
    assert second.remembered() == {"shop/bot": Remembered({"team": "support"}, "openai")}
    second.close()


def test_a_price_that_was_recorded_stays_as_it_is(store: Store) -> None:
    old = wire.Picodollars(input=1, output=1, cached_input=1, cache_write=1)
    store.record_prices([PriceRecord(ISSUED, Rates(old))], 1)
    store.record_prices(
        [PriceRecord(ISSUED, Rates(wire.Picodollars(input=2, output=2, cached_input=2, cache_write=2)))], 2
    )
    assert store.prices() == {ISSUED: Rates(old)}


def test_one_price_is_remembered_for_each_model_that_it_was_handed_out_for(store: Store) -> None:
    price = wire.Picodollars(input=1, output=1, cached_input=1, cache_write=1)
    dated = ISSUED._replace(model="m-2026-01-01")
    store.record_prices([PriceRecord(ISSUED, Rates(price)), PriceRecord(dated, Rates(price))], 1)
    assert store.prices() == {ISSUED: Rates(price), dated: Rates(price)}


def test_a_newer_schema_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    Store(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaError, match=r"schema 9999, this ledger knows up to [0-9]{4}: run the newer version"):
        Store(str(path))


def test_two_ledgers_cannot_have_one_file(tmp_path: Path) -> None:
    first = Store(str(tmp_path / "ledger.sqlite3"))
    with pytest.raises(UnavailableError, match="another ledger has it open"):
        Store(str(tmp_path / "ledger.sqlite3"))
    first.close()


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be opened"):
        Store(str(tmp_path / "file" / "ledger.sqlite3"))
