"""Budgets' states, the generation that wakes proxies, and what the operator reads."""

import asyncio
import datetime as dt

import pytest

from llmwarden.contracts import ledger as wire
from llmwarden.domain.cost import Rates
from llmwarden.ledger.budgets.leases import Asked
from llmwarden.ledger.core import Core
from llmwarden.ledger.store import Batch, Delta, Held, Issued
from llmwarden.ledger.store.counts import Counts
from tests.unit.ledger.objects import BUCKET, NOW, FakeClock, budget, model_price, service, shared, spend, view_of

DOLLAR = 10**12
DAILY = "LLMService/shop/bot/daily"


def test_a_budget_goes_from_open_to_warned_to_exceeded(core: Core) -> None:
    core.configure(view_of(service(budgets=(budget(),))))
    states = []
    for amount in (DOLLAR // 4, DOLLAR // 4, DOLLAR // 2):
        states.append(core.standings.by_key[DAILY].state)
        spend(core, "bot", amount)
    assert [*states, core.standings.by_key[DAILY].state] == ["Open", "Open", "Warned", "Exceeded"]
    assert core.standings.by_key[DAILY].spent == DOLLAR


def test_the_generation_changes_with_a_state_not_with_a_dollar(core: Core) -> None:
    core.configure(view_of(service(budgets=(budget(),))))
    first = core.configuration.generation("shop")
    spend(core, "bot", DOLLAR // 10)
    assert core.configuration.generation("shop") == first
    spend(core, "bot", DOLLAR)
    assert core.configuration.generation("shop") != first


def test_another_namespace_is_left_asleep(core: Core) -> None:
    core.configure(view_of(service(budgets=(budget(),)), service(namespace="models"), namespaces={}))
    first = core.configuration.generation("models")
    spend(core, "bot", 2 * DOLLAR)
    assert core.configuration.generation("models") == first


def test_a_shared_budget_exceeded_by_one_service_moves_the_others_namespace(core: Core) -> None:
    core.configure(
        view_of(
            service(),
            service(namespace="web"),
            shared("ClusterLLMBudget", "retail", {"cost-center": "retail"}, amount="1.00"),
            namespaces={"shop": {"cost-center": "retail"}, "web": {"cost-center": "retail"}},
        )
    )
    first = core.configuration.generation("web")
    spend(core, "bot", DOLLAR)
    assert core.configuration.generation("web") != first
    assert core.configuration.config("web", ["bot"]).budgets["ClusterLLMBudget/retail"].state == "Exceeded"


@pytest.mark.parametrize(
    "changed",
    [
        view_of(service(budgets=(budget(amount="2.00"),))),
        view_of(service(budgets=(budget(action="Alert"),))),
        view_of(service(kind="Anthropic", budgets=(budget(),))),
        view_of(service(budgets=(budget(),)), shared("LLMBudget", "all", {}, namespace="shop")),
        view_of(service(budgets=(budget(),)), service("other")),
        view_of(service(budgets=(budget(),)), model_price("p", ["gpt-4o"], ("2026-01-01T00:00:00Z", "1", "1"))),
        view_of(),
    ],
    ids=["limit", "action", "backend", "shared budget", "other service", "price", "deleted"],
)
def test_the_generation_changes_with_what_the_cluster_says(core: Core, changed: object) -> None:
    core.configure(view_of(service(budgets=(budget(),))))
    first = core.configuration.generation("shop")
    core.configure(view_of(service(budgets=(budget(),))))
    assert core.configuration.generation("shop") == first
    core.configure(changed)  # type: ignore[arg-type]  # the parameters are views
    assert core.configuration.generation("shop") != first


def test_a_new_window_opens_the_budget_and_wakes_the_proxies(core: Core, clock: FakeClock) -> None:
    core.configure(view_of(service(budgets=(budget(),))))
    spend(core, "bot", DOLLAR)
    first = core.configuration.generation("shop")
    clock.now = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    core.tick()
    assert core.standings.by_key[DAILY].state == "Open"
    assert core.standings.by_key[DAILY].spent == 0
    assert core.configuration.generation("shop") != first
    assert core.configuration.config("shop", ["bot"]).budgets[DAILY].window_start == clock.now


def test_a_clock_that_jumps_back_takes_the_earlier_window(core: Core, clock: FakeClock) -> None:
    core.configure(view_of(service(budgets=(budget(),))))
    clock.now = NOW - dt.timedelta(days=1)
    core.tick()
    span = core.standings.by_key[DAILY].span
    assert span.start <= clock.now < span.end


def test_a_rolling_window_lets_old_buckets_go(core: Core, clock: FakeClock) -> None:
    core.configure(view_of(service(budgets=(budget(window={"rolling": "1h"}),))))
    spend(core, "bot", DOLLAR)
    assert core.standings.by_key[DAILY].state == "Exceeded"
    clock.now = NOW + dt.timedelta(minutes=45)
    core.tick()
    assert core.standings.by_key[DAILY].state == "Exceeded"
    clock.now = NOW + dt.timedelta(minutes=61)
    core.tick()
    assert core.standings.by_key[DAILY].state == "Open"


def test_a_bucket_ahead_of_the_clock_counts_now(core: Core) -> None:
    core.configure(view_of(service(budgets=(budget(window={"calendar": "Hour"}),))))
    spend(core, "bot", DOLLAR, bucket=BUCKET + 3600)
    assert core.standings.by_key[DAILY].state == "Exceeded"


def test_which_budgets_apply(core: Core) -> None:
    core.configure(
        view_of(
            service(labels={"team": "support"}, budgets=(budget(),)),
            service("other", labels={"team": "sales"}),
            shared("LLMBudget", "support", {"team": "support"}, namespace="shop"),
            shared("LLMBudget", "support", {"team": "support"}, namespace="elsewhere"),
            shared("ClusterLLMBudget", "retail", {"cost-center": "retail"}),
            shared("ClusterLLMBudget", "banking", {"cost-center": "banking"}),
            namespaces={"shop": {"cost-center": "retail"}},
        )
    )
    assert core.view.services["shop/bot"].budgets == (DAILY, "LLMBudget/shop/support", "ClusterLLMBudget/retail")
    assert core.view.services["shop/other"].budgets == ("ClusterLLMBudget/retail",)


def test_a_service_that_is_gone_still_counts_in_the_shared_budget(core: Core) -> None:
    team = shared("LLMBudget", "support", {"team": "support"}, namespace="shop")
    labels = {"team": "support"}
    core.configure(view_of(service(labels=labels), team))
    spend(core, "bot", DOLLAR)
    core.configure(view_of(service("again", labels=labels), team, departed={"shop/bot": labels}))
    assert core.standings.by_key["LLMBudget/shop/support"].spent == DOLLAR
    gone = core.configuration.config("shop", ["bot", "again"]).services["bot"]
    assert (gone.state, gone.departed, gone.budgets) == ("Active", True, ("LLMBudget/shop/support",))


def test_a_bad_zone_leaves_out_one_budget_and_says_so(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    bad = budget("lunar", window={"calendar": "Day", "timeZone": "Moon/Tranquility"})
    core.configure(view_of(service(budgets=(bad, budget())), service("other", budgets=(budget(),))))
    assert core.view.services["shop/bot"].budgets == (DAILY,)
    assert core.view.services["shop/other"].budgets == ("LLMService/shop/other/daily",)
    assert "Moon/Tranquility" in core.view.invalid["LLMService/shop/bot"]
    assert "Moon/Tranquility" in caplog.text


def test_a_service_of_a_newer_schema_is_not_released(core: Core) -> None:
    strange = service()
    strange["spec"]["workload"] = "all of it"
    core.configure(view_of(strange))
    config = core.configuration.config("shop", ["bot"]).services["bot"]
    assert (config.state, config.provider) == ("Active", "openai")


def test_deleting_and_recreating_a_service_refills_nothing(core: Core) -> None:
    core.configure(view_of(service(budgets=(budget(),))))
    spend(core, "bot", DOLLAR)
    core.configure(view_of())
    core.configure(view_of(service(budgets=(budget(),))))
    assert core.standings.by_key[DAILY].state == "Exceeded"


def test_prices_that_arrive_rate_what_was_uncosted(core: Core) -> None:
    core.configure(view_of(service(kind="VLLM", budgets=(budget(),))))
    assert core.history.price("shop/bot", "llama") == (None, None)
    priced = model_price("own", ["llama"], ("2026-01-01T00:00:00Z", "1", "1"), provider="VLLM")
    core.configure(view_of(service(kind="VLLM", budgets=(budget(),)), priced))
    found, _ = core.history.price("shop/bot", "llama")
    assert found is not None
    assert found.price.input == 10**6


def test_what_is_not_on_the_disk_yet_is_worth_what_it_will_count(core: Core) -> None:
    """Grants are decided on it, in the transaction that brings it: neither more nor less than is counted afterwards."""
    hourly = budget("hourly", window={"calendar": "Hour"})
    core.configure(
        view_of(
            service(budgets=(budget(), hourly, budget("tokens", limit={"tokens": 10**9}))),
            service("other"),
            shared("ClusterLLMBudget", "all", {}),
        )
    )
    core.history.prices[Issued("openai", "tiered", "p")] = Rates(
        wire.Picodollars(input=2, output=3, cached_input=1, cache_write=2),
        (wire.PriceVariant(0, "flex", wire.Picodollars(input=1, output=1, cached_input=1, cache_write=1)),),
    )
    count = Counts(requests=1, input=10**6, output=10**5)
    deltas = [
        Delta("shop/bot", "openai", "gpt-4o-mini", None, BUCKET, count),  # rated by what is known now
        Delta("shop/bot", "openai", "gpt-4o-mini", None, BUCKET - 7200, count),  # today's, but of an earlier hour
        Delta("shop/bot", "openai", "gpt-4o-mini", None, BUCKET - 2 * 86400, count),
        Delta("shop/bot", "openai", "tiered", "p", BUCKET, count, tier="flex"),
        # A tier without a price: held for the dearest, as the first of its key is from then on.
        Delta("shop/bot", "openai", "tiered", "p", BUCKET, count, tier="priority"),
        Delta("shop/bot", "openai", "tiered", None, BUCKET, count, tier="priority"),
        Delta("shop/bot", "openai", "nobody-knows", None, BUCKET, count),
        Delta("shop/other", "openai", "gpt-4o", None, BUCKET, count),
        Delta("shop/gone", "openai", "gpt-4o", None, BUCKET, count),
    ]
    for told in (deltas, deltas[::-1], deltas[:3]):  # also where some of it is counted already
        before = {key: standing.spent for key, standing in core.standings.by_key.items()}
        pending = core.standings.pending(told)
        assert {key: standing.spent for key, standing in core.standings.by_key.items()} == before
        core.merged((), Batch((), tuple(told)))
        after = {key: standing.spent for key, standing in core.standings.by_key.items()}
        assert {key: after[key] - before[key] for key in after} == {key: pending.get(key, 0) for key in after}
        assert len({*pending.values()}) == len(pending) == 4


def test_nothing_is_granted_of_a_budget_of_which_it_is_not_known_what_is_out(core: Core) -> None:
    """An edit may make a budget leased while the transaction, which asked about others, is under way."""
    core.configure(view_of(service(budgets=(budget(),))))
    asked = [Asked(1, wire.LeaseUse(DAILY, 0, 100))]
    assert core.standings.desk.decide(asked, {}, {}) == {}
    assert core.standings.desk.decide(asked, {DAILY: Held()}, {DAILY: DOLLAR - 60})[DAILY, 1].granted == 30
    assert core.standings.desk.decide(asked, {DAILY: Held(60, 1)}, {DAILY: DOLLAR - 60})[DAILY, 1].granted == 0


async def test_usage_says_who_spent_what_and_when_it_ends(core: Core) -> None:
    core.configure(view_of(service(budgets=(budget(),)), service("idle")))
    spend(core, "bot", DOLLAR // 2)
    usage = await core.usage.usage()
    bot = usage.services["shop/bot"]
    assert (bot.last24h.picodollars, bot.last_hour.picodollars, bot.total.picodollars) == (DOLLAR // 2,) * 3
    assert bot.reporting_pods == 1
    assert bot.last_reported_at == NOW
    assert usage.services["shop/idle"].total.requests == 0
    daily = usage.budgets[DAILY]
    assert (daily.spent, daily.state) == (DOLLAR // 2, "Warned")
    assert [(share.service, share.spent) for share in daily.top_services] == [("shop/bot", DOLLAR // 2)]
    # Half in the last 50 minutes (three whole buckets and five minutes of this one): the rest lasts as long.
    assert daily.forecast_exhausted_at == NOW + dt.timedelta(minutes=50)


async def test_a_pod_that_is_silent_no_longer_reports(core: Core, clock: FakeClock) -> None:
    core.configure(view_of(service()))
    spend(core, "bot", 1)
    clock.now = NOW + dt.timedelta(minutes=5)
    core.tick()
    assert (await core.usage.usage()).services["shop/bot"].reporting_pods == 0
    assert not core.usage.presence.by_pod


async def test_a_change_wakes_all_who_wait_and_nothing_else_does(core: Core) -> None:
    core.configure(view_of(service(budgets=(budget(),))))
    waiting = [asyncio.create_task(core.configuration.changed("shop", 30)) for _ in range(3)]
    await asyncio.sleep(0)
    spend(core, "bot", 1)
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    spend(core, "bot", DOLLAR)
    assert await asyncio.gather(*waiting) == [True, True, True]
    assert not await core.configuration.changed("shop", 0)


async def turns() -> None:
    """Let whoever was woken come to its end."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_edit_wakes_its_own_namespace_and_looks_at_its_own_budgets_only(core: Core) -> None:
    others = [service(f"bot-{number}", "web", budgets=(budget(),)) for number in range(3)]
    core.configure(view_of(service(budgets=(budget(),)), *others, namespaces={}))
    web = asyncio.create_task(core.configuration.changed("web", 30))
    shop = asyncio.create_task(core.configuration.changed("shop", 30))
    await asyncio.sleep(0)
    generations, standings = (
        (core.configuration.generation("shop"), core.configuration.generation("web")),
        dict(core.standings.by_key),
    )
    core.configure(view_of(service(budgets=(budget(amount="2.00"),)), *others, namespaces={}))
    assert await shop
    await turns()
    assert not web.done()
    assert core.configuration.generation("shop") != generations[0]
    assert core.configuration.generation("web") == generations[1]
    assert {key for key, standing in core.standings.by_key.items() if standing is not standings[key]} == {DAILY}
    # A ModelPrice is everybody's.
    core.configure(view_of(*others, model_price("p", ["gpt-4o"], ("2026-01-01T00:00:00Z", "1", "1")), namespaces={}))
    assert await web


async def test_a_shared_budget_that_is_edited_or_joined_wakes_whoever_it_holds_for(core: Core) -> None:
    two = (service(), service(namespace="web"))
    retail = {"shop": {"cost-center": "retail"}, "web": {"cost-center": "retail"}}
    both = {"cost-center": "retail"}

    async def woken(view: object) -> set[str]:
        waiting = {name: asyncio.create_task(core.configuration.changed(name, 30)) for name in ("shop", "web")}
        await asyncio.sleep(0)
        core.configure(view)  # type: ignore[arg-type]  # a view
        await turns()
        found = {name for name, task in waiting.items() if task.done()}
        for task in waiting.values():
            task.cancel()
        return found

    core.configure(view_of(*two, shared("ClusterLLMBudget", "retail", both, amount="9.00"), namespaces=retail))
    spend(core, "bot", DOLLAR, namespace="web")
    lower = shared("ClusterLLMBudget", "retail", both, amount="2.00")
    assert await woken(view_of(*two, lower, namespaces=retail)) == {"shop", "web"}
    # One namespace leaves: the other's budget is less spent, but that alone is nothing that a proxy acts on.
    alone = {**retail, "web": {}}
    assert await woken(view_of(*two, lower, namespaces=alone)) == {"web"}
    spend(core, "bot", DOLLAR)
    # It joins again: the budget is used up, for both.
    assert await woken(view_of(*two, lower, namespaces=retail)) == {"shop", "web"}
    assert core.standings.by_key["ClusterLLMBudget/retail"].state == "Exceeded"
    assert await woken(view_of(*two, namespaces=retail)) == {"shop", "web"}
