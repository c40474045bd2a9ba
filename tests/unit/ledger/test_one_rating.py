"""Status, budgets, `/v1/spend` and `kubectl llm cost` say the same of any usage: what an independent sum in whole picodollars says.

Everything is real but HTTP: reports are merged by the store, counted by `Core`, read back by the query behind `/v1/spend`.
"""

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmwarden.cli import cost
from llmwarden.contracts import ledger as wire
from llmwarden.contracts.correction import Correction, Order
from llmwarden.contracts.spend import By, Spend
from llmwarden.domain import money
from llmwarden.domain.cost import Rates
from llmwarden.domain.plausible import Pace
from llmwarden.ledger.core import Core
from llmwarden.ledger.http import correction_api
from llmwarden.ledger.rating import spend
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.store import Issued, PriceRecord, Store, queries
from llmwarden.ledger.store.corrections import Selection
from llmwarden.status import figures
from tests.unit.ledger.objects import NOW, FakeClock, budget, model_price, service, shared, view_of

AT = int(NOW.timestamp())
MIDNIGHT = AT // 86_400 * 86_400
START = AT // 900 * 900 - 20 * 3600
SERVICE = "shop/bot"
KEY = "LLMService/shop/bot/daily"
EVERYBODY = "ClusterLLMBudget/everybody"

LONG = 200_000  # input tokens from which on the price that was handed out is another
HANDED_OUT: Final = Rates(
    wire.Picodollars(input=700, output=2100, cached_input=70, cache_write=700),
    (
        wire.PriceVariant(0, "batch", wire.Picodollars(input=350, output=1050, cached_input=35, cache_write=350)),
        wire.PriceVariant(LONG, "", wire.Picodollars(input=1400, output=4200, cached_input=140, cache_write=1400)),
    ),
)
# A model of the tables whose price changes in the middle of an hour.
CHANGES = AT // 3600 * 3600 - 3 * 3600 + 900
EARLIER, LATER, NEW = (150_000, 600_000), (100_000, 400_000), (40_000, 80_000)


@dataclass(frozen=True)
class Used:
    """One row of a report."""

    bucket: int
    model: str
    price_id: str | None
    tier: str
    tokens: wire.Tokens
    context: int = 0
    requests: int = 1

    def row(self) -> wire.Row:
        return wire.Row(
            service="bot", provider="openai", model=self.model, price_id=self.price_id, bucket=self.bucket, requests=self.requests,
            errors=0, tokens=self.tokens, tier=self.tier, context=self.context,
        )  # fmt: skip

    def spent(self, *, repriced: bool) -> tuple[int, int, int]:
        """Picodollars, uncosted tokens, and what those cost at most: by hand, from the constants above."""
        tokens = self.tokens
        plain, cached, out = tokens.input - tokens.cached_input, tokens.cached_input, tokens.output
        every = tokens.input + tokens.output
        if self.model == "zz-own" and self.price_id == "p" and self.tier in {"", "batch"}:
            price = plain * 700 + cached * 70 + out * 2100
            return (price // 2 if self.tier == "batch" else price * 2 if self.context else price), 0, 0
        if self.model == "zz-own":  # an id that was never handed out for it, none, or a tier without a price
            most = (plain * 700 + cached * 70 + out * 2100) * 2 if self.price_id == "p" else 0
            return 0, every, most
        if self.model == "zz-table" or (repriced and self.model == "zz-new"):
            took, gave = NEW if self.model == "zz-new" else LATER if self.bucket >= CHANGES else EARLIER
            whole = (plain + cached) * took + out * gave
            return (whole, 0, 0) if self.tier == "" else (0, every, whole)
        return 0, every, 0


buckets = st.integers(0, 20 * 4).map(lambda number: START + number * 900)
tokens = st.builds(
    lambda cached, more, out: wire.Tokens(input=cached + more, cached_input=cached, output=out),
    st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6),
)  # fmt: skip
used = st.builds(
    Used,
    buckets,
    st.sampled_from(["zz-own", "zz-table", "zz-new", "zz-unknown"]),
    st.sampled_from([None, "p", "never-handed-out"]),
    st.sampled_from(["", "batch", "flex"]),
    tokens,
    st.sampled_from([0, LONG]),
    st.integers(1, 5),
)


def objects(*, repriced: bool) -> list[dict[str, object]]:
    """The service, its budget, and the prices; `repriced` adds one for a model that had none."""
    changes = dt.datetime.fromtimestamp(CHANGES, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    table = model_price("table", ["zz-table"], ("2026-01-01T00:00:00Z", "0.15", "0.60"), (changes, "0.10", "0.40"))
    new = model_price("new", ["zz-new"], ("2026-01-01T00:00:00Z", "0.04", "0.08"))
    everybody = shared("ClusterLLMBudget", "everybody", {}, amount="1000")
    return [service(budgets=(budget(amount="1000"),)), everybody, table, *([new] if repriced else [])]


def asked(store: Store, core: Core, by: tuple[By, ...]) -> Spend:
    """What `/v1/spend` answers about the last 20 hours and the quarter of an hour that has begun."""
    step = 3600 if "hour" in by else 86_400 if "day" in by else 0
    span = queries.bucket_range(START, AT + 900)
    sums = queries.read(store.database, *span, step, namespaces=["shop"], service="bot", pods="pod" in by)
    return asyncio.run(spend.summarise(sums, by, span=span, rater=core.history.rater))


def compare(
    rows: Sequence[Used], store: Store, core: Core, *, repriced: bool, everywhere: Sequence[Used] | None = None
) -> None:
    """Compare everything that anybody is told with the sum by hand. `everywhere`: what shared budgets count, unless it is all."""
    every = [(one.bucket, *one.spent(repriced=repriced)) for one in rows]
    picodollars, uncosted = sum(one[1] for one in every), sum(one[2] for one in every)
    today = sum(one[1] + one[3] for one in every if one[0] >= MIDNIGHT)

    usage = asyncio.run(core.usage.usage())
    status = figures.usage(usage.services[SERVICE])
    # Unknown is not zero: where nothing has a price there is no cost.
    known = picodollars > 0 or uncosted == 0
    assert (status.cost.amount if status.cost is not None else None) == (
        money.to_decimal(picodollars) if known else None
    )
    assert status.requests == sum(one.requests for one in rows)
    assert status.uncosted_tokens == uncosted
    assert usage.services[SERVICE].last24h.picodollars == usage.services[SERVICE].total.picodollars == picodollars
    assert usage.services[SERVICE].total.uncosted_tokens == uncosted
    assert core.standings.by_key[KEY].spent == usage.budgets[KEY].spent == today
    month = sum(
        spent + most
        for spent, _, most in (one.spent(repriced=repriced) for one in (rows if everywhere is None else everywhere))
    )
    assert core.standings.by_key[EVERYBODY].spent == usage.budgets[EVERYBODY].spent == month

    bys: tuple[tuple[By, ...], ...] = (
        ("service",), ("hour",), ("day", "model"), ("kind",), ("model", "tier", "hour"), ("pod",),
    )  # fmt: skip
    for by in bys:
        said = asked(store, core, by)
        assert said.total.picodollars == sum(row.picodollars for row in said.rows) == picodollars, by
        assert said.total.uncosted_tokens == sum(row.uncosted_tokens for row in said.rows) == uncosted, by
        printed = cost.lines(said, by)
        assert sum(line.picodollars for line in printed) == picodollars, by
        assert sum(line.uncosted for line in printed) == uncosted, by


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(used, min_size=1, max_size=12), repriced=st.booleans())
@example(rows=[Used(CHANGES, "zz-table", "never-handed-out", "", wire.Tokens(input=1000))], repriced=False)
def test_everybody_is_told_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Used], *, repriced: bool
) -> None:
    rows = list({(one.bucket, one.model, one.price_id, one.tier, one.context): one for one in rows}.values())
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite3"
    store = Store(str(path))
    try:
        clock = FakeClock()
        store.record_prices([PriceRecord(Issued("openai", "zz-own", "p"), HANDED_OUT)], AT)
        core = Core(Catalogue(), store.prices(), clock, 5.0)
        core.configure(view_of(*objects(repriced=False)))
        pod = wire.PodRef("shop", "bot-0", "uid")
        # Twice: what grew, and what was only said again.
        for sequence, said in enumerate((rows[: len(rows) // 2], rows), 1):
            report = wire.Report(
                contract=1, journal="j", sequence=sequence, pod=pod, rows=tuple(one.row() for one in said)
            )
            core.merged([(report, AT)], store.merge([(report, AT)]))
        compare(rows, store, core, repriced=False)
        if repriced:
            core.configure(view_of(*objects(repriced=True)))
            compare(rows, store, core, repriced=True)
        restarted = Core(Catalogue(), store.prices(), clock, 5.0)
        restarted.rebuild(store.sums(), store.last_reports())
        restarted.configure(view_of(*objects(repriced=repriced)))
        compare(rows, store, restarted, repriced=repriced)
    finally:
        store.close()


forged = st.builds(
    lambda one, size: replace(one, tokens=wire.Tokens(input=size, cached_input=size // 3, output=size // 5)),
    used,
    st.sampled_from([2**40, 10**11, 2**37 + 1]),
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(used, max_size=8),
    more=st.lists(forged, min_size=1, max_size=3),
    action=st.sampled_from(["none", "release", "all", "quarantined", "zz-own", "some"]),
    repriced=st.booleans(),
)
def test_everybody_is_told_the_same_of_forged_usage_and_of_what_is_written_off(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Used], more: list[Used], action: str, *, repriced: bool
) -> None:
    def place(one: Used) -> tuple[object, ...]:
        return (one.bucket, one.model, one.price_id, one.tier, one.context)

    rows = list({place(one): one for one in rows}.values())
    more = [one for one in {place(one): one for one in more}.values() if place(one) not in set(map(place, rows))]
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite3"
    store = Store(str(path), Pace())
    try:
        clock = FakeClock()
        store.record_prices([PriceRecord(Issued("openai", "zz-own", "p"), HANDED_OUT)], AT)
        core = Core(Catalogue(), store.prices(), clock, 5.0)
        core.configure(view_of(*objects(repriced=False)))
        pod = wire.PodRef("shop", "bot-0", "uid")
        told = tuple(one.row() for one in (*rows, *more))
        report = wire.Report(contract=1, journal="j", sequence=1, pod=pod, rows=told)
        core.merged([(report, AT)], store.merge([(report, AT)]))
        compare([*rows, *more], store, core, repriced=False, everywhere=rows)
        if action != "none":
            correct(store, core, action)
        own, everywhere = {
            "none": ([*rows, *more], rows),
            "release": ([*rows, *more], [*rows, *more]),
            "all": ([], []),
            "quarantined": (rows, rows),
            "zz-own": ([one for one in [*rows, *more] if one.model != "zz-own"], [one for one in rows if one.model != "zz-own"]),
            "some": ([], []),
        }[action]  # fmt: skip
        if repriced:
            core.configure(view_of(*objects(repriced=True)))
        restarted = Core(Catalogue(), store.prices(), clock, 5.0)
        restarted.rebuild(store.sums(), store.last_reports())
        restarted.configure(view_of(*objects(repriced=repriced)))
        for one in (core, restarted):
            if action != "some":
                compare(own, store, one, repriced=repriced, everywhere=everywhere)
            total = asked(store, one, ("service",)).total
            usage = asyncio.run(one.usage.usage()).services[SERVICE].total
            assert usage.picodollars == total.picodollars >= 0
            assert usage.tokens == total.tokens
            assert usage.quarantined_picodollars == total.quarantined_picodollars >= 0
            assert usage.quarantined_tokens == total.quarantined_tokens >= 0
            assert usage.written_off_picodollars == total.written_off_picodollars >= 0
            assert usage.written_off_tokens == total.written_off_tokens >= 0
            assert asked(store, one, ("pod", "kind")).total == total
            shared_spent = one.standings.by_key[EVERYBODY].spent
            assert shared_spent >= usage.picodollars - usage.quarantined_picodollars
    finally:
        store.close()


def correct(store: Store, core: Core, action: str) -> None:
    """Do an order as the ledger does it."""
    now = core.clock()
    order = Order(
        contract=1, id="an-order", action="Release" if action == "release" else "WriteOff", service=SERVICE,
        start=now - dt.timedelta(days=2), end=now + dt.timedelta(days=1), reason="a test",
        picodollars=10**12 + 7 if action == "some" else None,
    )  # fmt: skip
    decider = correction_api.Decider(core, order, "llmwarden-system:somebody", now)
    selection = Selection(
        "shop", "bot", AT - 2 * 86_400, AT + 86_400, "zz-own" if action == "zz-own" else "", quarantined_only=action == "quarantined"
    )  # fmt: skip
    batch, answer, _ = store.correct(
        order.id, "", selection, AT, release=action == "release", decider=lambda _: decider
    )
    core.corrected(batch)
    done = msgspec.json.decode(answer, type=Correction)
    assert action != "some" or done.picodollars <= 10**12 + 7
    if action not in {"release", "none"}:
        total = asked(store, core, ("service",)).total
        assert (total.written_off_picodollars, total.written_off_tokens) == (
            done.picodollars, done.tokens.input + done.tokens.output,
        )  # fmt: skip


def test_the_change_of_price_is_within_an_hour() -> None:
    assert CHANGES % 3600 == 900
