"""Budgets: who is refused, by which words, and when they open again."""

import datetime as dt
from typing import Any

import pytest

from llmwarden.contracts.ledger import BudgetConfig, BudgetUpdate, Config, LeaseGrant, ServiceConfig
from llmwarden.proxy.money.gate import Allowed, Bound, Gate, NeedsPrice, Outcome, Short
from llmwarden.proxy.money.refusals import Denied, amount

PICO = 10**12
NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC).timestamp()
RESETS = dt.datetime(2026, 11, 21, 15, tzinfo=dt.UTC)
KEY = "LLMService/shop/bot/daily"
TEAM = "LLMBudget/shop/support"


def budget(**fields: Any) -> BudgetConfig:
    values: dict[str, Any] = {
        "unit": "USD",
        "limit": 25 * PICO,
        "spent": 0,
        "state": "Open",
        "action": "Block",
        "window_start": RESETS - dt.timedelta(days=1),
        "resets_at": RESETS,
    }
    return BudgetConfig(**{**values, **fields})


def gate(**budgets: BudgetConfig) -> tuple[Gate, ServiceConfig]:
    keys = {"own": KEY, "team": TEAM}
    service = ServiceConfig("Active", "openai", 100.0, tuple(keys[name] for name in budgets), "p")
    made = Gate()
    made.configure(Config(1, "g", 5.0, {"bot": service}, {keys[name]: item for name, item in budgets.items()}))
    return made, service


def check(made: Gate, service: ServiceConfig | None, **more: Any) -> Outcome:
    given: dict[str, Any] = {"priced": lambda _: True, "price_asked": False, "now": NOW, **more}
    return made.check(service, "shop/bot", given.pop("model", "m"), **given)


def test_without_configuration_or_budgets_everything_is_allowed() -> None:
    assert check(Gate(), None) == Allowed()
    assert check(*gate()) == Allowed()
    made, service = gate(own=budget(spent=99 * PICO))
    assert check(made, ServiceConfig("Released", budgets=service.budgets)) == Allowed()


def test_own_use_that_is_not_acknowledged_counts() -> None:
    made, service = gate(own=budget(spent=20 * PICO))
    made.charge(service, 4 * PICO, 10)
    assert check(made, service) == Allowed()
    made.charge(service, 1 * PICO, 10)
    denied = check(made, service)
    assert isinstance(denied, Denied)
    assert (denied.budget, denied.code, denied.retry_after) == (KEY, "insufficient_quota", None)
    assert (
        "budget 'daily' of shop/bot is used up: $25.00 of $25.00; it resets at 2026-11-21T15:00:00Z" in denied.message
    )
    told = made.unacknowledged()
    made.charge(service, PICO, 0)  # while the report is on its way
    made.acknowledge(told, {KEY: BudgetUpdate(10 * PICO, "Open", RESETS)})
    assert made.unacknowledged() == {KEY: PICO}
    assert check(made, service) == Allowed()


def test_the_ledgers_word_exceeded_is_enough() -> None:
    assert isinstance(check(*gate(own=budget(state="Exceeded"))), Denied)
    assert check(*gate(own=budget(state="Exceeded", action="Alert"))) == Allowed()


def test_tokens_are_counted_in_tokens() -> None:
    made, service = gate(own=budget(unit="tokens", limit=100))
    made.charge(service, 99 * PICO, 99)
    assert check(made, service) == Allowed()
    made.charge(service, 0, 1)
    denied = check(made, service)
    assert isinstance(denied, Denied)
    assert "100 tokens of 100 tokens" in denied.message


def test_throttle_may_be_tried_again_within_a_minute() -> None:
    made, service = gate(own=budget(action="Throttle", spent=25 * PICO))
    denied = check(made, service)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.retry_after) == ("rate_limit_exceeded", 60)
    assert check(made, service, now=RESETS.timestamp() - 7.5).retry_after == 7  # type: ignore[union-attr]


def test_fallback_until_the_ceiling() -> None:
    fallback = {"action": "Fallback", "fallback_model": "small", "ceiling": 44 * PICO}
    assert check(*gate(own=budget(spent=24 * PICO, **fallback))) == Allowed()
    assert check(*gate(own=budget(spent=25 * PICO, **fallback))) == Allowed("small", KEY)
    assert check(*gate(own=budget(spent=25 * PICO, **fallback)), model="small") == Allowed()
    denied = check(*gate(own=budget(spent=44 * PICO, **fallback)))
    assert isinstance(denied, Denied)
    assert "$44.00 of $44.00" in denied.message


def test_the_strictest_budget_wins() -> None:
    own = budget(action="Fallback", fallback_model="small", spent=30 * PICO)
    denied = check(*gate(own=own, team=budget(spent=25 * PICO)))
    assert isinstance(denied, Denied)
    assert denied.budget == TEAM
    assert "LLMBudget shop/support (used by shop/bot)" in denied.message


def test_an_unknown_price_is_asked_for_once_and_then_refused() -> None:
    strict = budget(on_unknown_price="Deny")
    assert check(*gate(own=strict), priced=lambda _: None) == NeedsPrice("m")
    denied = check(*gate(own=strict), priced=lambda _: False)
    assert isinstance(denied, Denied)
    assert denied.code == "unknown_price"
    assert check(*gate(own=strict), priced=lambda _: None, price_asked=True) == Allowed()  # onLedgerLoss: Allow
    lost = {"on_unknown_price": "Deny", "on_ledger_loss": "Deny"}
    untold = check(*gate(own=budget(**lost)), priced=lambda _: None, price_asked=True)
    assert isinstance(untold, Denied)
    assert (untold.code, untold.retry_after) == ("ledger_unavailable", 2)  # nobody said that it has no price
    assert check(*gate(own=budget(**lost)), priced=lambda _: False).code == "unknown_price"  # type: ignore[union-attr]
    assert isinstance(check(*gate(own=strict), model=""), Denied)  # a request that cannot be read
    assert check(*gate(own=budget(on_unknown_price="Deny", unit="tokens")), priced=lambda _: False) == Allowed()
    assert check(*gate(own=budget()), priced=lambda _: False) == Allowed()


def test_the_fallbacks_price_is_the_one_that_counts() -> None:
    own = budget(action="Fallback", fallback_model="small", spent=30 * PICO, on_unknown_price="Deny")
    assert check(*gate(own=own), priced={"m": True}.get) == NeedsPrice("small")
    assert check(*gate(own=own), priced={"m": False, "small": True}.get) == Allowed("small", KEY)


def test_a_lost_ledger_refuses_after_three_intervals_where_it_is_asked_to() -> None:
    made, service = gate(own=budget(on_ledger_loss="Deny"))
    made.failing_since = NOW - 15
    assert check(made, service) == Allowed()
    made.failing_since = NOW - 16
    denied = check(made, service)
    assert isinstance(denied, Denied)
    assert denied.code == "ledger_unavailable"
    made.failing_since = 0.0
    assert check(made, service) == Allowed()
    made, service = gate(own=budget(on_ledger_loss="Allow"))
    made.failing_since = NOW - 9999
    assert check(made, service) == Allowed()


def test_a_window_that_ended_opens_when_the_ledger_says_nothing_for_a_while() -> None:
    made, service = gate(own=budget(spent=25 * PICO, state="Exceeded"))
    end = RESETS.timestamp()
    assert made.next_reset(end - 5) == 5
    assert made.next_reset(end + 1) == 0
    assert isinstance(check(made, service, now=end + 9), Denied)  # a rolling window goes on
    assert check(made, service, now=end + 10) == Allowed()
    made.charge(service, 25 * PICO, 0)
    assert isinstance(check(made, service, now=end + 11), Denied)  # what is used since then counts
    assert made.next_reset(end + 11) is None


def test_a_new_configuration_keeps_what_is_not_acknowledged() -> None:
    made, service = gate(own=budget(spent=20 * PICO))
    made.charge(service, 5 * PICO, 0)
    made.configure(Config(1, "h", 5.0, {"bot": service}, {KEY: budget(spent=20 * PICO)}))
    assert isinstance(check(made, service), Denied)


def test_a_configuration_from_before_the_last_report_does_not_take_back_what_it_told() -> None:
    made, service = gate(own=budget(spent=20 * PICO))
    made.charge(service, 5 * PICO, 10)
    answered = dt.datetime(2026, 11, 20, 12, 0, 5, tzinfo=dt.UTC)
    made.acknowledge(made.unacknowledged(), {KEY: BudgetUpdate(25 * PICO, "Exceeded", RESETS)}, answered)

    def configured(seconds: int, spent: int, limit: int) -> Outcome:
        at = answered + dt.timedelta(seconds=seconds)
        made.configure(Config(1, "h", 5.0, {"bot": service}, {KEY: budget(spent=spent, limit=limit)}, now=at))
        return check(made, service)

    # On its way while the report was answered: its figures are older, its limit is news all the same.
    assert isinstance(configured(-2, 20 * PICO, 25 * PICO), Denied)
    assert isinstance(configured(-1, 20 * PICO, 24 * PICO), Denied)
    assert configured(1, 25 * PICO, 40 * PICO) == Allowed()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (25 * PICO, "$25.00"),
        (PICO // 10, "$0.10"),
        (1_234_567, "$0.000001"),
        (0, "$0.00"),
        (36_123_456 * 10**6, "$36.123456"),
    ],
)
def test_amounts_for_people(value: int, text: str) -> None:
    assert amount(value, "USD") == text


# Leases.


def leased(**fields: Any) -> BudgetConfig:
    return budget(leased=True, unit="tokens", limit=1000, **fields)


def want(made: Gate, service: ServiceConfig, tokens: int, **more: Any) -> Outcome:
    return check(made, service, bound=lambda _: Bound(0, tokens), **more)


def grant(made: Gate, amount: int, key: str = KEY, now: float = NOW, **more: Any) -> None:
    made.granted((LeaseGrant(key, amount, **more),), now)


def test_a_call_is_admitted_from_the_lease_and_gives_back_what_it_did_not_use() -> None:
    made, service = gate(own=leased())
    assert want(made, service, 100) == Short(((KEY, 100),))
    grant(made, 150)
    first = want(made, service, 100)
    assert isinstance(first, Allowed)
    assert want(made, service, 51) == Short(((KEY, 51),))
    made.charge(service, 0, 30, first.reservations)  # 120 are left
    second = want(made, service, 120)
    assert isinstance(second, Allowed)
    assert want(made, service, 1) == Short(((KEY, 1),))
    assert made.leases(NOW)[0].balance == 120


def test_all_budgets_are_reserved_or_none_and_a_call_larger_than_a_limit_is_refused_at_once() -> None:
    made, service = gate(own=leased(), team=leased())
    grant(made, 500)
    short = want(made, service, 100)
    assert isinstance(short, Short)
    assert short == Short(((KEY, 100), (TEAM, 100)))
    made.waits(short)
    own, team = made.leases(NOW)
    assert own.balance >= 100  # what the call needs of one is not given back while it waits for the other
    assert (own.needed, team.needed) == (0, 100)
    grant(made, 100, TEAM)
    made.waited(short)
    assert isinstance(want(made, service, 100), Allowed)
    denied = want(made, service, 1001)
    assert isinstance(denied, Denied)
    assert denied.retry_after is None
    assert "this call may cost up to 1001 tokens; 1000 tokens of 1000 tokens is not spent" in denied.message


def test_a_call_that_says_nothing_reserves_a_cap_of_at_most_a_fiftieth_of_the_limit() -> None:
    made, service = gate(own=leased())
    grant(made, 20)
    allowed = check(made, service, bound=lambda _: Bound(0, 10**6, capped=True))
    assert isinstance(allowed, Allowed)
    assert [amount for _, amount in allowed.reservations] == [20]
    denied = check(made, service, bound=lambda _: Bound(None, 0, unbounded="images"))
    assert isinstance(denied, Denied)
    assert (denied.code, denied.retry_after) == ("unbounded_request", None)


def test_what_waits_is_asked_for_and_a_no_is_believed_for_a_second() -> None:
    made, service = gate(own=leased())
    short = want(made, service, 100)
    assert isinstance(short, Short)
    made.waits(short)
    assert made.has_business()
    [use] = made.leases(NOW)
    assert (use.balance, use.needed) == (0, 100)
    assert use.wanted >= 100
    grant(made, 0, retry_seconds=0.25)  # others hold some: ask again
    assert want(made, service, 100) == short
    grant(made, 0)
    assert isinstance(want(made, service, 100), Denied)
    assert want(made, service, 99) == Short(((KEY, 99),))  # a smaller one may fit
    assert want(made, service, 100, now=NOW + 1.1) == short
    assert isinstance(want(made, service, 100, now=NOW + 1.1, last=True), Denied)


def test_what_lies_idle_is_returned_after_two_quiet_reports_and_at_once_when_recalled() -> None:
    made, service = gate(own=leased(spent=600))
    grant(made, 200)
    allowed = want(made, service, 100)
    assert isinstance(allowed, Allowed)
    made.charge(service, 0, 50, allowed.reservations)
    assert made.leases(NOW)[0].balance == 150
    for later in (5, 10, 15):
        [use] = made.leases(NOW + later)
    assert use.balance == 0
    assert not made.has_business()
    grant(made, 200, recall=True)
    assert isinstance(want(made, service, 80), Allowed)
    assert made.leases(NOW + 16)[0].balance == 80


def test_a_lease_of_a_budget_that_is_gone_or_not_leased_any_more_is_returned() -> None:
    made, service = gate(own=leased(), team=leased())
    grant(made, 300)
    grant(made, 300, TEAM)
    made.configure(Config(1, "h", 5.0, {"bot": service}, {KEY: budget(unit="tokens", limit=1000)}))
    assert {use.budget: use.balance for use in made.leases(NOW)} == {KEY: 0, TEAM: 0}
    assert made.leases(NOW) == ()


def test_the_last_report_returns_everything() -> None:
    made, _ = gate(own=leased())
    grant(made, 300)
    assert [(use.balance, use.wanted) for use in made.leases(NOW, final=True)] == [(0, 0)]


def test_calls_that_ran_over_their_bound_are_said_and_the_others_stay_covered() -> None:
    made, service = gate(own=leased())
    grant(made, 200)
    over, other = want(made, service, 100), want(made, service, 100)
    assert isinstance(over, Allowed)
    assert isinstance(other, Allowed)
    made.charge(service, 0, 150, over.reservations)
    assert want(made, service, 1) == Short(((KEY, 1),))
    assert made.leases(NOW)[0].balance == 100


def test_without_the_ledger_a_lease_serves_to_its_end_and_then_the_budget_decides() -> None:
    for loss in ("Deny", "Allow"):
        made, service = gate(own=leased(on_ledger_loss=loss))
        grant(made, 100)
        made.failing_since = NOW - 60
        first = want(made, service, 60)
        assert isinstance(first, Allowed)
        second = want(made, service, 60)
        if loss == "Allow":
            assert isinstance(second, Allowed)
            assert [amount for _, amount in second.reservations] == [40]
        else:
            assert isinstance(second, Denied)
            assert second.code == "ledger_unavailable"
        made.failing_since = NOW - 1  # perhaps only a blip: the call waits
        assert want(made, service, 600) == Short(((KEY, 600),))


def test_throttle_holds_spending_to_the_line_from_its_knee_to_the_limit_at_the_windows_end() -> None:
    made, service = gate(own=budget(unit="tokens", limit=1000, action="Throttle", warn_at_percent=(50, 60, 100)))
    begun = RESETS.timestamp() - 1000
    made.charge(service, 0, 600)
    assert check(made, service, now=begun) == Allowed()  # the line begins here: 600 now, 1000 in 1000 s
    made.charge(service, 0, 40)
    denied = check(made, service, now=begun + 50)  # 620 are allowed by now
    assert isinstance(denied, Denied)
    assert (denied.code, denied.retry_after) == ("rate_limit_exceeded", 50)
    assert check(made, service, now=begun + 100) == Allowed()
    made.charge(service, 0, 100)
    denied = check(made, service, now=begun + 100)
    assert isinstance(denied, Denied)
    assert denied.retry_after == 60  # 250 s in fact, but no SDK sleeps so long
    made.charge(service, 0, 300)
    assert isinstance(check(made, service, now=begun + 990), Denied)  # above the limit until the window ends


def test_a_fallback_is_held_to_its_ceiling_by_its_lease() -> None:
    made, service = gate(
        own=leased(action="Fallback", fallback_model="small", ceiling=1500, spent=1000, state="Exceeded")
    )
    asked: list[str] = []

    def bound(model: str) -> Bound:
        asked.append(model)
        return Bound(0, 200)

    assert check(made, service, bound=bound) == Short(((KEY, 200),))
    grant(made, 200)
    allowed = check(made, service, bound=bound)
    assert isinstance(allowed, Allowed)
    assert (allowed.fallback, allowed.budget) == ("small", KEY)
    assert asked == ["small", "small"]  # what it may cost by the model that answers
    made.charge(service, 0, 200, allowed.reservations)
    denied = check(made, service, bound=lambda _: Bound(0, 1600))
    assert isinstance(denied, Denied)
    assert "300 tokens of 1500 tokens is not spent" in denied.message
