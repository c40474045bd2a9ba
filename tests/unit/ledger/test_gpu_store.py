"""GPUs that pods held, on real databases: reports that repeat, go backwards, or come after a gap."""

import random

import pytest

from llmwarden.domain.spans import Span, merge
from llmwarden.ledger.store import HeldSum, PodKey, PodSpan, Store
from tests.unit.ledger.objects import BUCKET

MS = BUCKET * 1000
RESOURCE = "nvidia.com/gpu"
KEY = PodKey("shop", "chat", "uid-1", RESOURCE)


def told(
    since: int, until: int, *, ended: bool = False, key: PodKey = KEY, rate: int = 0, product: str = "NVIDIA-L4"
) -> PodSpan:
    return PodSpan(key, "chat-0", product, 2, serves=True, span=Span(MS + since, MS + until, ended), rate=rate)


def sums(store: Store) -> dict[int, tuple[int, int]]:
    found, _ = store.held(-1, 0)
    return {one.bucket - BUCKET: (one.gpu_ms, one.pod_ms) for one in found if one.gpu_ms}


def test_a_span_grows_by_what_is_new_only(database: str) -> None:
    store = Store(database)
    for _ in range(3):
        store.hold([told(0, 1000)])
        store.hold([told(0, 500)])  # late
    assert sums(store) == {0: (2000, 1000)}
    # The operator was away for half an hour: the gap is no gap.
    store.hold([told(0, 1_800_500)])
    assert sums(store) == {0: (1_800_000, 900_000), 900: (1_800_000, 900_000), 1800: (1000, 500)}
    store.hold([told(0, 1_800_100, ended=True), told(0, 1_900_000)])
    assert sums(store)[1800] == (200, 100)
    store.close()


def test_replicas_read_what_changed_since(database: str) -> None:
    store = Store(database)
    store.hold([told(0, 1000)])
    found, number = store.held(-1, 0)
    assert found == [HeldSum("shop/chat", "NVIDIA-L4", 0, BUCKET, 2000, 1000)]
    assert store.held(number, 0) == ([], number)
    store.hold([told(0, 1000)])
    assert store.held(number, 0)[0] == []
    store.hold([told(0, 2000)])
    found, later = store.held(number, 0)
    assert found == [HeldSum("shop/chat", "NVIDIA-L4", 0, BUCKET, 4000, 2000)]
    assert later > number
    assert store.held(-1, BUCKET + 900)[0] == []
    store.close()


def test_a_restart_changes_nothing(database: str) -> None:
    store = Store(database)
    store.hold([told(0, 1000)])
    store.close()
    store = Store(database)
    store.hold([told(0, 1000)])
    assert sums(store) == {0: (2000, 1000)}
    store.close()


def test_opencosts_rates_are_kept_apart_and_one_moment_without_it_makes_no_hour_unknown(database: str) -> None:
    store = Store(database)
    store.hold([told(0, 500)])  # before it was asked for the first time
    store.hold([told(0, 1000, rate=5)])
    store.hold([told(0, 1500, rate=7)])
    store.hold([told(0, 1600)])  # Prometheus does not answer
    found, _ = store.held(-1, 0)
    assert {(one.rate, one.gpu_ms) for one in found if one.gpu_ms} == {(5, 2000), (7, 1200)}
    store.close()


def test_a_pod_that_vanished_is_lost_once_and_found_again(database: str) -> None:
    store = Store(database)
    other = PodKey("shop", "chat", "uid-2", RESOURCE)
    store.hold([told(0, 1000), told(0, 1000, ended=True, key=other)])
    assert store.lose(MS + 1000) == []
    assert [lost.key for lost in store.lose(MS + 1001)] == [KEY]
    assert store.lose(MS + 1001) == []
    assert store.lost(MS) == {"shop/chat": 1}
    store.hold([told(0, 5000)])
    assert store.lost(MS) == {}
    assert sums(store)[0][0] == 2 * 1000 + 2 * 5000
    store.close()


def test_pods_of_long_ago_are_forgotten_but_not_their_time(database: str) -> None:
    store = Store(database)
    store.hold([told(0, 1000)])
    store.compact(BUCKET + 200 * 86_400, 86_400)
    assert store.lose(MS + 10**9) == []
    assert sums(store) == {0: (2000, 1000)}
    store.close()


def test_labels_that_come_late_correct_what_a_pod_held_and_that_go_change_nothing(database: str) -> None:
    store = Store(database)
    store.hold([told(0, 1_000_000, product=RESOURCE)])
    store.hold([told(0, 1_500_000)])
    store.hold([told(0, 1_800_000, product=RESOURCE)])  # the node is gone, and its labels with it
    found, _ = store.held(-1, 0)
    assert {(one.product, one.bucket - BUCKET, one.gpu_ms) for one in found if one.gpu_ms} == {
        ("NVIDIA-L4", 0, 1_800_000),
        ("NVIDIA-L4", 900, 1_800_000),
    }
    store.close()


@pytest.mark.parametrize("seed", range(4))
def test_reports_in_any_order_with_labels_and_rates_that_come_and_go_sum_to_the_spans(database: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable, no secret
    tellings: list[tuple[str, int, Span]] = []
    for number in range(4):
        gpus, start = chance.randint(1, 8), chance.randint(0, 3000) * 1000
        end = start + chance.randint(1, 9000) * 1000
        tellings += [(f"u{number}", gpus, Span(start, chance.randint(start, end))) for _ in range(8)]
        tellings += [(f"u{number}", gpus, Span(start, chance.randint(start, end), ended=True))][: chance.randint(0, 1)]
    tellings += chance.sample(tellings, len(tellings) // 2)
    chance.shuffle(tellings)
    store = Store(database)
    known: dict[str, tuple[int, Span]] = {}
    while tellings:
        size = chance.randint(1, 5)
        batch, tellings = tellings[:size], tellings[size:]
        store.hold(
            [
                PodSpan(
                    PodKey("shop", "chat", uid, RESOURCE), uid, chance.choice(["NVIDIA-L4", RESOURCE]), gpus, serves=True,
                    span=span, rate=chance.choice([0, 7]),
                )
                for uid, gpus, span in batch
            ]
        )  # fmt: skip
        for uid, gpus, span in batch:
            known[uid] = (gpus, merge(known[uid][1], span) if uid in known else span)
    found, _ = store.held(-1, 0)
    assert sum(one.gpu_ms for one in found) == sum(gpus * (span.until - span.since) for gpus, span in known.values())
    assert sum(one.pod_ms for one in found) == sum(span.until - span.since for _, span in known.values())
    assert min(one.gpu_ms for one in found) >= 0
    store.close()
