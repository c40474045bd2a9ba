import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, LLMService, parse
from llmwarden.domain import budgets
from llmwarden.errors import InvalidSpecError

NOW = dt.datetime(2026, 11, 21, 10, tzinfo=dt.UTC)


def service(*policies: dict[str, Any], labels: dict[str, str] | None = None) -> LLMService:
    return parse(
        LLMService,
        {
            "metadata": {"name": "bot", "namespace": "shop", "labels": labels or {}},
            "spec": {
                "backend": {"type": "OpenAI"},
                "workload": {"selector": {"matchLabels": {"app": "bot"}}},
                "budgets": list(policies),
            },
        },
    )


def policy(**changes: Any) -> dict[str, Any]:
    return {"name": "daily", "limit": {"amount": "25.00"}, "window": {"calendar": "Day"}, **changes}


def test_a_services_budget_has_its_key_unit_and_defaults() -> None:
    (budget,) = budgets.of_service(service(policy(warnAtPercent=[80, 50])))
    assert budget.key == "LLMService/shop/bot/daily"
    assert (budget.unit, budget.limit) == ("USD", 25 * 10**12)
    assert budget.warn_at == (50, 80)
    assert (budget.action, budget.on_unknown_price, budget.on_ledger_loss) == ("Alert", "Allow", "Allow")


def test_an_unknown_price_is_denied_under_block_unless_the_spec_allows_it() -> None:
    block = {"onExceeded": {"action": "Block"}}
    own, allowed = budgets.of_service(service(policy(**block), policy(**block, name="b", onUnknownPrice="Allow")))
    assert (own.on_unknown_price, allowed.on_unknown_price) == ("Deny", "Allow")


def test_fallback_has_its_model_and_ceiling() -> None:
    exceeded = {"action": "Fallback", "model": "small", "ceiling": {"amount": "30"}}
    (budget,) = budgets.of_service(service(policy(onExceeded=exceeded)))
    assert (budget.fallback_model, budget.ceiling) == ("small", 30 * 10**12)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"limit": {}}, r"limit needs exactly one of amount \(US dollars\) and tokens"),
        ({"limit": {"amount": "1", "tokens": 1}}, r"limit needs exactly one of amount \(US dollars\) and tokens"),
        ({"limit": {"amount": "0.00"}}, "limit must be above zero"),
        ({"limit": {"tokens": 0}}, "limit must be above zero"),
        ({"limit": {"amount": "-1"}}, "is not an amount in US dollars"),
        ({"window": {"calendar": "Day", "timeZone": "Mars"}}, "window.timeZone 'Mars' is not known"),
        ({"onExceeded": {"action": "Fallback"}}, "model is required"),
        (
            {"onExceeded": {"action": "Fallback", "model": "m", "ceiling": {"amount": "25"}}},
            "ceiling must be above limit and in the same unit: raise the ceiling, or remove it",
        ),
        ({"onExceeded": {"action": "Fallback", "model": "m", "ceiling": {"tokens": 10**14}}}, "in the same unit"),
    ],
)
def test_a_budget_that_can_never_work_is_a_sentence_with_its_key(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidSpecError, match=rf"budget LLMService/shop/bot/daily: .*{sentence}"):
        budgets.of_service(service(policy(**changes)))


def test_shared_budgets_hold_for_what_they_select() -> None:
    spec = {"selector": {"matchLabels": {"team": "a"}}, "limit": {"tokens": 5}, "window": {"rolling": "24h"}}
    shared = parse(LLMBudget, {"metadata": {"name": "team", "namespace": "shop"}, "spec": spec})
    elsewhere = parse(LLMBudget, {"metadata": {"name": "team", "namespace": "bank"}, "spec": spec})
    assert budgets.of_namespace(shared).key == "LLMBudget/shop/team"
    assert budgets.of_namespace(shared).unit == "tokens"
    assert budgets.namespace_applies(shared, service(labels={"team": "a"}))
    assert not budgets.namespace_applies(shared, service(labels={"team": "b"}))
    assert not budgets.namespace_applies(elsewhere, service(labels={"team": "a"}))
    spec = {
        "namespaceSelector": {"matchLabels": {"cc": "retail"}},
        "limit": {"amount": "5"},
        "window": {"calendar": "Month"},
    }
    cluster = parse(ClusterLLMBudget, {"metadata": {"name": "retail"}, "spec": spec})
    assert budgets.of_cluster(cluster).key == "ClusterLLMBudget/retail"
    assert budgets.cluster_applies(cluster, {"cc": "retail"})
    assert not budgets.cluster_applies(cluster, {})


@pytest.mark.parametrize(
    "key",
    [budgets.service_key("shop", "bot", "daily"), budgets.namespace_key("shop", "team"), budgets.cluster_key("retail")],
)
def test_keys_split_into_what_they_were_made_of(key: str) -> None:
    scope, namespace, name_of_service, name = budgets.split_key(key)
    assert "/".join(part for part in (scope, namespace, name_of_service, name) if part) == key


@pytest.mark.parametrize("key", ["", "LLMService/a/b", "Nonsense/a"])
def test_what_is_no_key_is_an_error(key: str) -> None:
    with pytest.raises(ValueError, match="is not a budget's key"):
        budgets.split_key(key)


@pytest.mark.parametrize(
    ("spent", "state"),
    [(0, "Open"), (499, "Open"), (500, "Warned"), (999, "Warned"), (1000, "Exceeded"), (2000, "Exceeded")],
)
def test_state_follows_from_what_is_spent(spent: int, state: str) -> None:
    assert budgets.state(1000, spent, (50, 80)) == state


@given(st.integers(min_value=1, max_value=10**21), st.integers(min_value=0, max_value=10**22))
def test_a_hundred_percent_means_that_nothing_is_left(limit: int, spent: int) -> None:
    assert (budgets.used_percent(limit, spent) >= 100) == (budgets.state(limit, spent) == "Exceeded")


def forecast(**changes: Any) -> dt.datetime | None:
    given = {"limit": 1000, "spent": 400, "recent": 100, "recent_seconds": 3600, "now": NOW, "ends": None, **changes}
    return budgets.forecast_exhausted_at(**given)


def test_a_forecast_goes_on_at_the_recent_rate() -> None:
    assert forecast() == NOW + dt.timedelta(hours=6)
    assert forecast(ends=NOW + dt.timedelta(hours=7)) == NOW + dt.timedelta(hours=6)
    assert forecast(spent=999, recent=7) == NOW + dt.timedelta(seconds=515)  # 514.3, rounded up


@pytest.mark.parametrize(
    "changes", [{"recent": 0}, {"ends": NOW + dt.timedelta(hours=6)}, {"limit": 10**9}, {"recent_seconds": 0}]
)
def test_no_forecast_where_it_will_not_run_out_in_the_window(changes: dict[str, Any]) -> None:
    assert forecast(**changes) is None


def test_what_is_used_up_is_used_up_now() -> None:
    assert forecast(spent=1000, recent=0) == NOW


def test_decimals_of_a_status_are_exact() -> None:
    assert budgets.decimal("USD", 12_300_000_000_001) == "12.300000000001"
    assert budgets.decimal("tokens", 5_000_000) == "5000000"
