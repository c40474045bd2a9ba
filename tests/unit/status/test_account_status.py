"""What a ProviderAccount's status says."""

import datetime as dt
from typing import Any

from llmwarden.api.v1alpha1 import ProviderAccount, ProviderAccountStatus, parse
from llmwarden.contracts.reconciliation import Account, Day, Fault, Side, Verdict
from llmwarden.domain.conditions import find
from llmwarden.snapshot import Source
from llmwarden.status import accounts

NOW = dt.datetime(2026, 11, 21, 9, 0, tzinfo=dt.UTC)
FRESH = Source(asked=True, fresh=True, as_of=NOW)
DOLLAR = 10**12


def item(status: ProviderAccountStatus | None = None) -> ProviderAccount:
    raw: dict[str, Any] = {
        "metadata": {"name": "main", "generation": 3},
        "spec": {"provider": "OpenAI", "adminKey": "openai"},
    }
    return parse(ProviderAccount, {**raw, **({"status": status.dump()} if status else {})})


def day(number: int, verdict: Verdict = "Agrees", billed: int = 10) -> Day:
    return Day(
        f"2026-11-{number}", Side(5_000_000, 0, billed * DOLLAR), Side(4_000_000, 0, 10 * DOLLAR), verdict, 3 * DOLLAR
    )


def build(
    found: Account | None, old: ProviderAccountStatus | None = None, ledger: Source = FRESH
) -> ProviderAccountStatus:
    return accounts.build(item(old), found, ledger, NOW)


def told(status: ProviderAccountStatus, kind: str) -> tuple[str, str, str]:
    found = find(status.conditions, kind)
    assert found is not None
    assert found.observed_generation == 3
    return found.status, found.reason, found.message


def test_days_that_agree() -> None:
    status = build(Account("OpenAI", (day(20), day(19)), read_at=NOW))
    assert told(status, "Ready") == ("True", "Read", "The provider answers.")
    state, reason, message = told(status, "CostDrift")
    assert (state, reason) == ("False", "Agrees")
    assert message.endswith("Both agree.")
    assert status.summary is not None
    assert (status.summary.day, status.summary.provider, status.summary.verdict) == ("2026-11-20", "$10.00", "Agrees")
    first = status.days[0]
    assert (first.provider_cost, first.other_cost, first.ledger_tokens) == ("10.00", "3.00", 4_000_000)


def test_drift_says_which_side_is_greater_and_on_how_many_days() -> None:
    days = (day(20, "ProviderHasMore", 25), day(19), day(18, "ProviderHasMore", 30), day(17, "Partial"))
    status = build(Account("OpenAI", days, read_at=NOW))
    state, reason, message = told(status, "CostDrift")
    assert (state, reason) == ("True", "ProviderHasMore")
    assert "$25.00 billed, $10.00 counted" in message
    assert "bypassed the proxies" in message
    assert message.endswith("So do 1 of the 2 days before.")
    assert len(status.days) == 4


def test_a_day_that_agrees_again_ends_the_drift_and_keeps_the_history() -> None:
    status = build(Account("OpenAI", (day(20), day(19, "ProviderHasMore")), read_at=NOW))
    assert told(status, "CostDrift")[0] == "False"
    assert [shown.verdict for shown in status.days] == ["Agrees", "ProviderHasMore"]


def test_a_fault_is_said_with_when_it_is_tried_again_and_the_last_days_stay() -> None:
    fault = Fault("KeyRejected", "OpenAI (/v1/organization/costs) answered 401: Incorrect API key provided: ***")
    found = Account(
        "OpenAI", (day(19, "LedgerDearer"),), NOW - dt.timedelta(hours=5), NOW + dt.timedelta(minutes=4), fault
    )
    status = build(found)
    state, reason, message = told(status, "Ready")
    assert (state, reason) == ("False", "KeyRejected")
    assert message.endswith("The next try is at 2026-11-21T09:04Z.")
    assert status.problem == fault.message
    assert told(status, "CostDrift")[:2] == ("True", "LedgerDearer")


def test_before_the_first_answer_and_before_the_first_whole_day_nothing_is_claimed() -> None:
    status = build(Account("OpenAI"))
    assert told(status, "Ready")[:2] == ("Unknown", "NotAskedYet")
    assert told(status, "CostDrift")[:2] == ("Unknown", "NotComparedYet")
    status = build(Account("OpenAI", (day(20, "Partial"),), read_at=NOW))
    assert told(status, "CostDrift")[:2] == ("Unknown", "NotComparedYet")
    assert status.summary is None


def test_a_ledger_that_does_not_answer_changes_no_figure() -> None:
    old = build(Account("OpenAI", (day(20, "ProviderHasMore"),), read_at=NOW))
    away = Source(asked=True, fresh=False, reason="LedgerUnavailable", message="The ledger did not answer.")
    status = build(Account("OpenAI"), old, away)
    assert told(status, "Ready") == ("Unknown", "LedgerUnavailable", "The ledger did not answer.")
    assert told(status, "CostDrift")[0] == "True"
    assert status.days == old.days
    assert build(None, old, Source()) == old
