"""Self-hosted tokens from the open hour to its true-up: gated at the last rate, then rated by what their GPUs cost."""

import asyncio
import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwarden.contracts import ledger as wire
from llmwarden.domain import gpuhours
from llmwarden.ledger import history
from llmwarden.ledger.core import Core
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.store import Batch, Delta, HeldSum, Merged
from llmwarden.ledger.store.counts import Counts
from tests.unit.ledger.objects import FakeClock, budget, model_price, service, view_of

HOUR = gpuhours.WINDOW_SECONDS
START = int(dt.datetime(2026, 11, 20, 10, tzinfo=dt.UTC).timestamp())  # of a window
HOUR_MS = 3_600_000
DOLLAR = 10**12
PRODUCT = "NVIDIA-L4"


def at(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(START + seconds, dt.UTC)


def gpu_price(*entries: tuple[str, str], product: str = PRODUCT, name: str = "l4") -> dict[str, Any]:
    return {
        "apiVersion": "llmwarden.io/v1alpha1",
        "kind": "ModelPrice",
        "metadata": {"name": name},
        "spec": {
            "gpu": {"product": product},
            "prices": [{"from": start, "perGPUHour": each} for start, each in entries],
        },
    }


OLD = "2026-01-01T00:00:00Z"
CHAT = service("chat", kind="VLLM", budgets=(budget(amount="100.00"),))


def made(clock: FakeClock, *items: dict[str, Any]) -> Core:
    core = Core(Catalogue(), {}, clock, 5.0)
    core.configure(view_of(CHAT, *items))
    return core


def hold(core: Core, window: int, *, gpus: int = 1, pods: int = 1, product: str = PRODUCT, rate: int = 0) -> None:
    """Pods that held GPUs all of an hour."""
    core.hold(
        [
            HeldSum("shop/chat", product, rate, START + window * HOUR + bucket, 900_000 * gpus * pods, 900_000 * pods)
            for bucket in range(0, HOUR, 900)
        ],
        {},
    )


def use(core: Core, seconds: int, counts: Counts, *, model: str = "llama", price_id: str | None = None) -> None:
    """A call that ends so many seconds after `START`, as the store has merged it."""
    bucket = (START + seconds) // 900 * 900
    report = wire.Report(contract=1, journal="j", sequence=1, pod=wire.PodRef("shop", "chat-0", "u"), rows=())
    delta = Delta("shop/chat", "vllm", model, price_id, bucket, counts)
    core.merged([(report, START)], Batch((Merged((delta,)),)))


def usage(core: Core) -> wire.ServiceUsage:
    return asyncio.run(core.usage.usage()).services["shop/chat"]


def spent(core: Core) -> int:
    return core.history.aggregate.total("shop/chat").picodollars


HALF_BUSY = Counts(input=1_000_000, output=500_000, requests=9, busy_ms=HOUR_MS // 2, prefill_ms=10, decode_ms=30)


def test_the_first_hour_is_gated_by_the_stated_rate_and_trued_up_at_its_close() -> None:
    clock = FakeClock(at(60))
    core = made(clock, gpu_price((OLD, "3.60")))
    assert core.history.provisional_price("shop/chat", "llama") is None  # nobody has said which GPUs it has
    generation = core.configuration.generation("shop")
    hold(core, 0)
    assert core.configuration.generation("shop") != generation  # proxies ask again
    first = core.history.provisional_price("shop/chat", "llama")
    assert first == gpuhours.price(1_000_000, 1_000_000)  # $3.60 by 3.6 million tokens
    use(core, 100, HALF_BUSY)
    assert spent(core) == 1_500_000 * 1_000_000
    clock.now = at(HOUR + gpuhours.GRACE_SECONDS - 1)
    core.tick()
    assert spent(core) == 1_500_000 * 1_000_000
    clock.now = at(HOUR + gpuhours.GRACE_SECONDS)
    core.tick()
    # $3.60, half of it used: a quarter of that for a million tokens of input, the rest for half a million of output.
    assert core.history.provisional_price("shop/chat", "llama") == gpuhours.price(450_000, 2_700_000)
    assert spent(core) == 18 * DOLLAR // 10
    gpu = usage(core).gpu
    assert gpu is not None
    assert (gpu.picodollars, gpu.idle, gpu.milliseconds) == (36 * DOLLAR // 10, 18 * DOLLAR // 10, HOUR_MS)
    assert (gpu.input_picodollars, gpu.output_picodollars, gpu.tokens) == (450_000, 2_700_000, 1_500_000)
    assert core.standings.by_key["LLMService/shop/chat/daily"].spent == spent(core)
    assert core.history.rerated == {}  # a true-up is no re-rating
    # The next hour is gated by that, and trued up by its own.
    use(core, HOUR + 200, Counts(input=10, output=10))
    assert spent(core) == 18 * DOLLAR // 10 + 10 * 450_000 + 10 * 2_700_000


def test_what_comes_late_is_shared_again() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock, gpu_price((OLD, "3.60")))
    hold(core, 0)
    use(core, 100, HALF_BUSY)
    core.tick()
    assert spent(core) == 18 * DOLLAR // 10
    use(core, 200, HALF_BUSY)  # a proxy that was cut off: now all the hour was busy
    core.tick()
    assert spent(core) == 36 * DOLLAR // 10
    hold(core, 0, gpus=2)  # the operator was away: there were two GPUs
    assert spent(core) == 72 * DOLLAR // 10


def test_a_rate_that_comes_later_rates_history_and_says_so() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock)
    hold(core, 0)
    use(core, 100, HALF_BUSY)
    core.tick()
    before = usage(core)
    assert before.uncosted_models == ("llama",)
    assert before.gpu is not None
    assert (before.gpu.products, before.gpu.unpriced_milliseconds) == ((PRODUCT,), HOUR_MS)
    assert core.history.provisional_price("shop/chat", "llama") is None
    core.configure(view_of(CHAT, gpu_price((OLD, "3.60"))))
    assert spent(core) == 18 * DOLLAR // 10
    assert core.history.rerated["shop/chat"].tokens == 1_500_000
    after = usage(core)
    assert after.uncosted_models == ()
    assert after.gpu is not None
    assert after.gpu.products == ()


def test_a_price_of_the_models_own_tokens_wins() -> None:
    clock = FakeClock(at(HOUR + 200))
    own = model_price("own", ["llama"], (OLD, "1.00", "1.00"), provider="VLLM")
    core = made(clock, gpu_price((OLD, "3.60")), own)
    hold(core, 0)
    use(core, 100, HALF_BUSY)
    use(core, 100, Counts(input=500_000), model="adapter")
    core.tick()
    assert core.history.provisional_price("shop/chat", "llama") is None
    gpu = usage(core).gpu
    assert gpu is not None
    adapter = gpu.picodollars - gpu.idle - gpu.covered
    assert gpu.covered > 0
    assert adapter > 0
    assert spent(core) == 1_500_000 * 1_000_000 + adapter


def test_opencosts_rate_counts_where_no_model_price_says() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock)
    hold(core, 0, rate=2 * DOLLAR)
    core.tick()
    gpu = usage(core).gpu
    assert gpu is not None
    assert (gpu.picodollars, gpu.products) == (2 * DOLLAR, ())
    core.configure(view_of(CHAT, gpu_price((OLD, "3.60"))))
    gpu = usage(core).gpu
    assert gpu is not None
    assert gpu.picodollars == 36 * DOLLAR // 10


def test_a_dated_rate_changes_in_the_middle_of_an_hour() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock, gpu_price((OLD, "4.00"), ("2026-11-20T10:30:00Z", "2.00")))
    hold(core, 0)
    core.tick()
    gpu = usage(core).gpu
    assert gpu is not None
    assert gpu.picodollars == 3 * DOLLAR


def test_of_two_prices_of_one_gpu_the_first_by_name_says() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock, gpu_price((OLD, "9.00"), name="b"), gpu_price((OLD, "4.00"), name="a"))
    assert core.history.catalogue.contested == 1
    hold(core, 0)
    core.tick()
    gpu = usage(core).gpu
    assert gpu is not None
    assert gpu.picodollars == 4 * DOLLAR


def test_a_ledger_that_slept_over_closes_makes_them_good() -> None:
    clock = FakeClock(at(60))
    core = made(clock, gpu_price((OLD, "3.60")))
    for window in range(3):
        hold(core, window)
        use(core, window * HOUR + 100, HALF_BUSY)
    core.tick()
    clock.now = at(3 * HOUR + 200)
    core.tick()
    assert spent(core) == 3 * 18 * DOLLAR // 10


def test_a_clock_that_jumps_changes_no_sum_for_good() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock, gpu_price((OLD, "3.60")))
    hold(core, 0)
    use(core, 100, HALF_BUSY)
    core.tick()
    for jump in (-HOUR, 5 * HOUR, HOUR + 300):
        clock.now = at(jump)
        core.tick()
    assert spent(core) == 18 * DOLLAR // 10


def test_a_quiet_night_keeps_the_last_rate() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock, gpu_price((OLD, "3.60")))
    hold(core, 0)
    use(core, 100, HALF_BUSY)
    core.tick()
    rate = core.history.provisional_price("shop/chat", "llama")
    for window in range(1, 12):
        hold(core, window)
    clock.now = at(12 * HOUR + 200)
    core.tick()
    assert core.history.provisional_price("shop/chat", "llama") == rate
    gpu = usage(core).gpu
    assert gpu is not None
    assert gpu.idle == 18 * DOLLAR // 10 + 11 * 36 * DOLLAR // 10


def test_an_edited_rate_shares_all_its_hours_again_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(at(3 * HOUR + 200))
    core = made(clock, gpu_price((OLD, "3.60")), gpu_price((OLD, "9.00"), product="other", name="other"))
    for window in range(3):
        hold(core, window)
    core.tick()
    shared: list[gpuhours.Share] = []
    share = gpuhours.share

    def counted(held: list[gpuhours.GpuTime], pod_ms: int, work: gpuhours.Work) -> gpuhours.Share:
        shared.append(share(held, pod_ms, work))
        return shared[-1]

    monkeypatch.setattr(gpuhours, "share", counted)
    core.configure(view_of(CHAT, gpu_price((OLD, "3.60")), gpu_price((OLD, "8.00"), product="other", name="other")))
    assert shared == []
    core.configure(view_of(CHAT, gpu_price((OLD, "7.20"))))
    assert len(shared) == 3
    gpu = usage(core).gpu
    assert gpu is not None
    assert gpu.picodollars == 3 * 72 * DOLLAR // 10


def test_many_hours_are_shared_again_in_steps_the_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_AT_ONCE", 2)
    clock = FakeClock(at(5 * HOUR + 200))
    core = made(clock)
    for window in range(5):
        hold(core, window)
        use(core, window * HOUR + 100, HALF_BUSY)
    for _ in range(3):
        core._trued_up(core.history.true_up(2))
    core.configure(view_of(CHAT, gpu_price((OLD, "3.60"))))
    assert usage(core).last24h.uncosted_tokens == 3 * 1_500_000
    assert core.history.gpu.share("shop/chat", START + 4 * HOUR) != core.history.gpu.share("shop/chat", START)
    core._trued_up(core.history.true_up(2))
    core._trued_up(core.history.true_up(2))
    assert spent(core) == 5 * 18 * DOLLAR // 10
    assert core.history.rerated["shop/chat"].tokens == 5 * 1_500_000
    assert core.history.rerated_picodollars == spent(core)


def test_hours_beyond_the_horizon_are_not_called_unknown() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock, gpu_price((OLD, "3.60")))
    hold(core, 0)
    use(core, 100, HALF_BUSY)
    core.tick()
    clock.now += dt.timedelta(days=101)
    core.hold([HeldSum("shop/chat", PRODUCT, 0, int(clock.now.timestamp()) // 900 * 900, 1000, 1000)], {})
    again = Core(Catalogue(), {}, clock, 5.0)
    again.hold([HeldSum("shop/chat", PRODUCT, 0, int(clock.now.timestamp()) // 900 * 900, 1000, 1000)], {})
    again.configure(view_of(CHAT, gpu_price((OLD, "3.60"))))
    again.rebuild([Delta("shop/chat", "vllm", "llama", None, START, HALF_BUSY)], {})
    assert again.history.aggregate.total("shop/chat").uncosted == 0


def test_an_hour_of_one_slow_call_is_charged_but_sets_no_rate() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock, gpu_price((OLD, "3.60")))
    hold(core, 0)
    use(core, 100, Counts(input=5, output=1, busy_ms=60_000, prefill_ms=1, decode_ms=1))
    core.tick()
    assert 0 < spent(core) <= 6 * DOLLAR // 100
    assert core.history.provisional_price("shop/chat", "llama") == gpuhours.price(1_000_000, 1_000_000)


def test_after_a_day_of_nobody_it_begins_anew() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock, gpu_price((OLD, "3.60")))
    hold(core, 0)
    use(core, 100, HALF_BUSY)
    core.tick()
    assert core.history.provisional_price("shop/chat", "llama") == gpuhours.price(450_000, 2_700_000)
    hold(core, 25)
    clock.now = at(26 * HOUR + 200)
    core.tick()
    assert core.history.provisional_price("shop/chat", "llama") == gpuhours.price(1_000_000, 1_000_000)


def test_a_restart_comes_to_the_same_sums() -> None:
    clock = FakeClock(at(HOUR + 200))
    core = made(clock, gpu_price((OLD, "3.60")))
    hold(core, 0)
    use(core, 100, HALF_BUSY)
    use(core, HOUR + 60, HALF_BUSY)
    core.tick()
    bucket = START // 900 * 900
    again = Core(Catalogue(), {}, clock, 5.0)
    again.rebuild(
        [
            Delta("shop/chat", "vllm", "llama", None, bucket, HALF_BUSY),
            Delta("shop/chat", "vllm", "llama", None, bucket + HOUR, HALF_BUSY),
        ],
        {},
    )
    hold(again, 0)
    again.configure(view_of(CHAT, gpu_price((OLD, "3.60"))))
    again.tick()
    assert spent(again) == spent(core)
    assert usage(again).gpu == usage(core).gpu


calls = st.lists(
    st.tuples(
        st.integers(0, 2 * HOUR - 1),
        st.builds(
            Counts,
            input=st.integers(0, 10**6),
            output=st.integers(0, 10**6),
            busy_ms=st.integers(0, 10**6),
            prefill_ms=st.integers(0, 10**6),
            decode_ms=st.integers(0, 10**6),
        ),
        st.sampled_from(["llama", "adapter"]),
    ),
    max_size=15,
)
holdings = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from([PRODUCT, "NVIDIA-A100"]), st.integers(0, 8), st.integers(0, 900_000)),
    max_size=10,
)
ticks = st.lists(st.integers(0, 4 * HOUR), max_size=4)


@settings(max_examples=80, deadline=None)
@given(calls, holdings, ticks, st.randoms(use_true_random=False))
def test_all_that_was_charged_and_idle_is_what_the_gpus_cost(
    made_calls: list[tuple[int, Counts, str]],
    held: list[tuple[int, str, int, int]],
    times: list[int],
    shuffle: Any,
) -> None:
    """In whatever order reports, GPU time and closes come: tokens at their rates and idle are the cost, to the picodollar."""
    clock = FakeClock(at(0))
    core = made(clock, gpu_price((OLD, "0.71")), gpu_price((OLD, "2.333333"), product="NVIDIA-A100", name="a100"))
    sums: dict[tuple[str, int], HeldSum] = {}
    steps: list[tuple[str, Any]] = [("call", call) for call in made_calls]
    steps += [("hold", one) for one in held] + [("tick", seconds) for seconds in times]
    shuffle.shuffle(steps)
    for kind, step in steps:
        if kind == "call":
            use(core, step[0], step[1], model=step[2])
        elif kind == "hold":
            place, product, gpus, pod_ms = step
            bucket = START + place * 900
            sums[product, bucket] = HeldSum("shop/chat", product, 0, bucket, gpus * pod_ms, pod_ms)
            core.hold([sums[product, bucket]], {})
        else:
            clock.now = at(step)
            core.tick()
    clock.now = at(2 * HOUR + 200)
    core.tick()
    gpu = usage(core).gpu
    if gpu is None:
        return
    rates = {PRODUCT: 71 * DOLLAR // 100, "NVIDIA-A100": 2_333_333 * 10**6}
    cost = sum(
        sum(one.gpu_ms * rates[one.product] for one in sums.values() if gpuhours.window_of(one.bucket) == window)
        // HOUR_MS
        for window in (START, START + HOUR)
    )
    assert gpu.picodollars == cost
    closed = sum(
        core.history.aggregate.since("shop/chat", bound).picodollars
        - core.history.aggregate.since("shop/chat", bound + HOUR).picodollars
        for bound in (START, START + HOUR)
        if core.history.gpu.share("shop/chat", bound)
    )
    assert closed + gpu.idle + gpu.covered == cost
