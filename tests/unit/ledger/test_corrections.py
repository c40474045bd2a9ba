"""Quarantine and corrections in the store: what is counted where, whatever the order of reports, on both databases."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmwarden.contracts import ledger as wire
from llmwarden.domain.plausible import CATCH_UP_SECONDS, Pace
from llmwarden.errors import ConflictError
from llmwarden.ledger.store import Batch, Delta, Store, counts
from llmwarden.ledger.store.corrections import Fraction, Selection
from llmwarden.ledger.store.counts import ZERO, Counts
from llmwarden.ledger.store.model import QUARANTINED, QUARANTINED_WRITTEN_OFF, WRITTEN_OFF
from llmwarden.names import BUCKET_SECONDS
from tests import postgresql
from tests.unit.ledger.objects import BUCKET

NOW = BUCKET + 600
PACE = Pace(tokens=1000, requests=100)
FORGED = 2**40
ALL = Selection("shop", "bot", BUCKET - 10 * 86_400, BUCKET + 86_400)


class Taking:
    """A decider that takes a fixed share."""

    def __init__(self, numerator: int = 1, denominator: int = 1) -> None:
        self.share = Fraction(numerator, denominator)
        self.moved: list[Delta] = []

    def fraction(self, _: Any) -> Fraction:
        return self.share

    def answer(self, moved: Any) -> str:
        self.moved = list(moved)
        return "{}"


class Books:
    """A store, with its sums by mark as a ledger has them in memory."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = Store(url, PACE)
        self.store.births.update({f"uid-{number}": NOW - 60 for number in range(4)})
        self.sums: dict[str, Counts] = {}

    def take(self, batch: Batch) -> Batch:
        for delta in (*batch.foreign, *(delta for merged in batch.merged for delta in merged.deltas)):
            self.sums[delta.mark] = counts.add(self.sums.get(delta.mark, ZERO), delta.counts)
        return batch

    def report(self, *rows: wire.Row, pod: int = 0, journal: str = "j", sequence: int = 1, now: int = NOW) -> Batch:
        ref = wire.PodRef("shop", f"bot-{pod}", f"uid-{pod}")
        sent = wire.Report(contract=1, journal=journal, sequence=sequence, pod=ref, rows=rows)
        return self.take(self.store.merge([(sent, now)]))

    def correct(
        self, order_id: str, of: Selection = ALL, *, release: bool = False, share: Taking | None = None, **more: Any
    ) -> bool:
        batch, _, repeated = self.store.correct(
            order_id, more.pop("request", order_id), of, NOW, release=release, decider=lambda batch: (self.take(batch), share or Taking())[1], **more
        )  # fmt: skip
        self.take(batch)
        return repeated

    def check(self) -> dict[str, Counts]:
        """The sums, once they agree with the database, and with what it has by journal."""
        stored: dict[str, Counts] = {}
        for delta in self.store.sums():
            stored[delta.mark] = counts.add(stored.get(delta.mark, ZERO), delta.counts)
        assert {mark: one for mark, one in stored.items() if one != ZERO} == self.marks()
        by_pod: dict[str, Counts] = {}
        with self.store.database.reading() as connection:
            names = ", ".join(f"sum({name})" for name in counts.FIELDS)
            for mark, *values in connection.exec_driver_sql(
                f"SELECT mark, {names} FROM rows JOIN keys ON keys.id = rows.key_id GROUP BY mark"  # noqa: S608 - our names
            ):
                by_pod[mark] = Counts(*map(int, values))
        assert {mark: one for mark, one in by_pod.items() if one != ZERO} == self.marks()
        return self.marks()

    def marks(self) -> dict[str, Counts]:
        return {mark: one for mark, one in self.sums.items() if one != ZERO}


@pytest.fixture
def books(database: str) -> Iterator[Books]:
    made = Books(database)
    yield made
    made.store.close()


def row(count: Counts, bucket: int = BUCKET, model: str = "m") -> wire.Row:
    return wire.Row(
        service="bot", provider="openai", model=model, price_id=None, bucket=bucket, requests=count.requests, errors=count.errors,
        tokens=count.tokens, estimated=count.estimated, busy_ms=count.busy_ms, prefill_ms=count.prefill_ms, decode_ms=count.decode_ms,
    )  # fmt: skip


@pytest.mark.parametrize("field", counts.FIELDS)
def test_every_kind_of_counter_is_held_to_the_pace(books: Books, field: str) -> None:
    books.report(row(Counts(requests=3, input=100)), row(Counts(**{field: FORGED}), model="forged"))
    marks = books.check()
    assert marks[""] == Counts(requests=3, input=100)
    assert getattr(marks[QUARANTINED], field) == FORGED


def test_rows_that_add_up_are_implausible_together_but_one_absurd_row_takes_no_others_with_it(books: Books) -> None:
    # 60 s old, with 30 s of burst: 90,000 tokens at most.
    books.report(*(row(Counts(input=50_000), model=f"m{number}") for number in range(2)))
    assert books.check() == {QUARANTINED: Counts(input=100_000)}
    books.report(row(Counts(input=80_000), model="honest"), row(Counts(input=90_001), model="absurd"), sequence=2)
    assert books.check()[""] == Counts(input=80_000)


def test_many_journals_of_one_pod_have_one_allowance(books: Books) -> None:
    for number in range(10):
        books.report(row(Counts(input=30_000)), journal=f"j{number}")
    assert books.check() == {"": Counts(input=90_000), QUARANTINED: Counts(input=210_000)}
    # Another pod has its own.
    books.report(row(Counts(input=30_000)), pod=1)
    assert books.check()[""] == Counts(input=120_000)


def test_the_allowance_grows_with_time_and_survives_a_restart(books: Books) -> None:
    books.report(row(Counts(input=90_000)))
    books.report(row(Counts(input=90_001)), sequence=2)
    assert books.check() == {"": Counts(input=90_000), QUARANTINED: Counts(input=1)}
    births = books.store.births
    books.store.close()
    books.store = Store(books.url, PACE)
    books.store.births.update(births)
    books.report(row(Counts(input=90_002)), sequence=3)
    assert books.check()[QUARANTINED] == Counts(input=2)
    books.report(row(Counts(input=95_002)), sequence=4, now=NOW + 5)
    assert books.check() == {"": Counts(input=95_000), QUARANTINED: Counts(input=2)}


def test_an_outage_is_caught_up_with_but_not_a_month(books: Books) -> None:
    books.store.births["uid-0"] = NOW - 30 * 86_400
    hours = CATCH_UP_SECONDS // 3600
    told = [row(Counts(input=3_600_000), bucket=BUCKET - (number + 1) * 3600) for number in range(hours)]
    books.report(*told)
    assert books.check() == {"": Counts(input=hours * 3_600_000)}
    books.report(row(Counts(input=3_600_000), bucket=BUCKET - 20 * 86_400), sequence=2)
    assert books.check()[QUARANTINED] == Counts(input=3_600_000)


snapshots = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.sampled_from([0, 10, 1000, 40_000, 100_000, FORGED])),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=snapshots, again=st.randoms(use_true_random=False))
def test_duplicates_and_reordering_count_nothing_twice(books: Books, sent: list[Any], again: Any) -> None:
    books.sums = {}
    with books.store.database.writer.begin() as connection:
        for table in ("rows", "spend", "log", "leases", "meters", "journals"):
            connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 - ours
    order = [*sent, *sent]
    again.shuffle(order)
    for number, (journal, bucket, tokens) in enumerate(order):
        count = Counts(input=tokens, cached_input=tokens // 4)
        books.report(row(count, bucket=BUCKET - bucket * BUCKET_SECONDS), journal=f"j{journal}", sequence=number)
    marks = books.check()
    most: dict[tuple[int, int], int] = {}
    for journal, bucket, tokens in sent:
        most[journal, bucket] = max(most.get((journal, bucket), 0), tokens)
    assert sum(one.input for one in marks.values()) == sum(most.values())
    assert marks.get("", ZERO).input <= 90_000


def test_a_release_makes_it_ordinary_once_and_reports_go_on_where_they_were(books: Books) -> None:
    books.report(row(Counts(requests=1, input=FORGED)))
    assert not books.correct("one", release=True)
    assert books.check() == {"": Counts(requests=1, input=FORGED)}
    assert books.correct("one", release=True)
    books.report(row(Counts(requests=1, input=FORGED)), sequence=2)
    books.report(row(Counts(requests=2, input=FORGED + 10)), sequence=3)
    assert books.check() == {"": Counts(requests=2, input=FORGED + 10)}


def test_a_write_off_takes_off_what_is_there_once_and_no_more(books: Books) -> None:
    books.report(row(Counts(requests=5, input=1000)), row(Counts(requests=1, output=FORGED), model="forged"))
    books.correct("off-1")
    marks = books.check()
    assert marks == {
        "": Counts(requests=5, input=1000), WRITTEN_OFF: Counts(requests=-5, input=-1000),
        QUARANTINED: Counts(requests=1, output=FORGED), QUARANTINED_WRITTEN_OFF: Counts(requests=-1, output=-FORGED),
    }  # fmt: skip
    assert books.correct("off-1")
    empty = Taking()
    assert not books.correct("off-2", share=empty)
    assert empty.moved == []
    assert books.check() == marks
    with pytest.raises(ConflictError):
        books.correct("off-1", request="another")
    # What is used afterwards counts.
    books.report(row(Counts(requests=6, input=1010)), sequence=2)
    assert books.check()[""] == Counts(requests=6, input=1010)
    # A release takes the write-off along.
    books.correct("free", release=True)
    assert books.check() == {
        "": Counts(requests=7, input=1010, output=FORGED), WRITTEN_OFF: Counts(requests=-6, input=-1000, output=-FORGED),
    }  # fmt: skip


def test_one_pod_one_model_or_only_what_is_quarantined(books: Books) -> None:
    books.report(row(Counts(input=10)), row(Counts(input=20), model="n"))
    books.report(row(Counts(input=30)), row(Counts(input=FORGED), model="n"), pod=1)
    books.correct("quarantined", ALL._replace(quarantined_only=True))
    assert books.check()[QUARANTINED_WRITTEN_OFF] == Counts(input=-FORGED)
    assert WRITTEN_OFF not in books.check()
    books.correct("pod-1", ALL._replace(pod="bot-1"))
    assert books.check()[WRITTEN_OFF] == Counts(input=-30)
    books.correct("model-n", ALL._replace(model="n"))
    assert books.check()[WRITTEN_OFF] == Counts(input=-50)
    books.correct("elsewhere", ALL._replace(service="other"))
    books.correct("before", ALL._replace(end=BUCKET))
    assert books.check()[WRITTEN_OFF] == Counts(input=-50)


def test_what_is_folded_is_written_off_in_the_sums(books: Books) -> None:
    books.report(row(Counts(input=100)))
    with books.store.database.writer.begin() as connection:
        connection.exec_driver_sql("DELETE FROM rows")
    books.correct("off", share=Taking(1, 4))
    assert books.marks() == {"": Counts(input=100), WRITTEN_OFF: Counts(input=-25)}


def test_a_dry_run_changes_nothing(books: Books) -> None:
    books.report(row(Counts(input=100)))
    share = Taking()
    assert not books.correct("off", share=share, dry_run=True)
    assert [one.counts for one in share.moved] == [Counts(input=100)]
    assert books.check() == {"": Counts(input=100)}
    books.correct("off")
    assert books.check()[WRITTEN_OFF] == Counts(input=-100)


kinds = st.builds(
    lambda plain, cached, written, hour, heard, out, thought, spoken: Counts(
        input=plain + cached + written + hour + heard, cached_input=cached, cache_write=written + hour, cache_write_1h=hour, input_audio=heard,
        output=out + thought + spoken, reasoning=thought, output_audio=spoken, requests=plain % 7,
    ),
    *(st.integers(0, 2**40) for _ in range(8)),
)  # fmt: skip


@given(kinds, st.integers(0, 10**15), st.integers(1, 10**15))
def test_what_is_left_of_a_write_off_is_whole(whole: Counts, numerator: int, denominator: int) -> None:
    taken = counts.portion(whole, min(numerator, denominator), denominator)
    for part in (taken, counts.less(whole, taken)):
        assert counts.negative(part) is None
        assert counts.whole(part) == part
    if numerator >= denominator:
        assert taken == whole


def test_two_replicas_agree() -> None:
    database = postgresql.shared().database()
    first, second = Books(database), Books(database)
    try:
        first.report(row(Counts(input=60_000)))
        second.report(row(Counts(input=60_000)), journal="k")
        assert second.check() == {"": Counts(input=60_000), QUARANTINED: Counts(input=60_000)}
        first.correct("free", release=True)
        second.correct("off", share=Taking(1, 2))
        first.take(first.store.follow())
        assert first.check() == second.check() == {"": Counts(input=120_000), WRITTEN_OFF: Counts(input=-60_000)}
    finally:
        first.store.close()
        second.store.close()
