"""What an on-call engineer gets: pages by the real Prometheus, Alertmanager and Prometheus Operator, and panels and rules that have data."""

from collections.abc import Iterator
from typing import Any

import pytest

from demo import steps
from demo.kube import Kube
from llmwarden import names
from llmwarden.manifests.manifest import dashboard_uid
from llmwarden.manifests.routes import SILENCED_BY_BUDGET
from llmwarden.names import RECORD_SPEND_SAME_HOUR
from tests.e2e import everything, paging
from tests.e2e.queries import Prometheus, of_anyone, panels, prometheus, rules, selectors, without_offset
from tests.e2e.support import GRAFANA, RUNBOOKS

BLOCKED, WARNED, BURNS = "LLMBudgetExceeded", "LLMBudgetWarning", "LLMErrorBudgetBurn"
BOARD = "llmwarden-dashboard-"
REFUSED = (f"shop/{BOARD}trial", f"{paging.NAMESPACE}/{BOARD}{paging.SERVICE}")
BOARDS = (
    *REFUSED,
    f"shop/{BOARD}support-bot",
    f"models/{BOARD}chat",
    f"{everything.NAMESPACE}/{BOARD}{everything.SERVICE}",
    f"{steps.SYSTEM}/{names.DASHBOARD_OVERVIEW}",
)
# Evaluated once a minute, of an hour's rate, after twenty calls.
SLOWEST = f'llmservice:cost_usd_per_request:rate1h{{namespace="{paging.NAMESPACE}"}} or llmservice:model_tokens:share1h{{namespace="{everything.NAMESPACE}"}}'
# What takes longer than this cluster lives: days before today; an hour of GPUs that is over.
YESTERDAY = f"{RECORD_SPEND_SAME_HOUR}{{"
# Recorded where something is wrong, which the alert of the same name says.
WRONG = (
    names.RECORD_BURN,
    names.RECORD_BURNING,
    names.RECORD_GPU_MEMORY,
    names.RECORD_GPU_XID,
    names.RECORD_GPU_HOT,
)
# What is there only where a pod lies to the ledger; tests/ledger looks for these series, by the same constants, after forged reports.
LIES = (names.METRIC_LEDGER_QUARANTINED, names.METRIC_LEDGER_QUARANTINED_REQUESTS, names.METRIC_LEASE_UNUSED)
CLOSED_HOURS = (names.METRIC_GPU_COST, names.METRIC_GPU_TOKENS, names.METRIC_GPU_UNPRICED)
LINKS = {
    "Runbook": f"{RUNBOOKS}/{BLOCKED}.md",
    "Dashboard": f"{GRAFANA}/d/{dashboard_uid(paging.NAMESPACE, paging.SERVICE)}",
}


@pytest.fixture(scope="module")
def pager(main_job: Kube) -> Kube:
    """Return the cluster once the budget's page has come."""
    paging.wait_for(main_job, "a page", lambda: paging.events(main_job, BLOCKED))
    return main_job


def test_a_spent_budget_pages(pager: Kube) -> None:
    event, *more = paging.events(pager, BLOCKED)
    assert event["event_action"] == "trigger"
    assert event["dedup_key"]
    # An Alertmanager that was started anew (test_faults) tells again: of the same incident.
    assert {item["dedup_key"] for item in more} <= {event["dedup_key"]}
    payload = event["payload"]
    assert payload["summary"].startswith(f"LLMService {paging.NAMESPACE}/{paging.SERVICE}: budget {paging.BUDGET}")
    assert "%" in payload["summary"], "the figure is in it"
    assert payload["severity"] == "critical"
    assert payload["source"] == f"{paging.NAMESPACE}/{paging.SERVICE}"
    assert (payload["group"], payload["component"]) == (paging.NAMESPACE, paging.SERVICE)
    assert "Calls are refused." in payload["custom_details"]["description"]
    assert {link["text"]: link["href"] for link in event["links"]} == LINKS
    assert event["client_url"] == LINKS["Dashboard"]


def test_a_chat_and_a_webhook_are_told_the_same(pager: Kube) -> None:
    def told() -> list[dict[str, Any]]:
        came = pager.read(steps.MONITORING, "alert-sink", "http", "/messages")
        return [item for item in came if BLOCKED in item["attachments"][0]["title"]]

    (message, *_) = paging.wait_for(pager, "a message", told, 30)
    assert message["channel"] == "#llm"
    assert message["attachments"][0]["title"] == f"[FIRING] {BLOCKED} {paging.NAMESPACE}/{paging.SERVICE}"
    assert LINKS["Runbook"] in message["attachments"][0]["text"]
    receiver = f"{paging.NAMESPACE}/llmwarden-route-{paging.SERVICE}/people"
    hooked = [item for item in steps.alerts(pager) if item["receiver"] == receiver]
    assert {item["labels"]["alertname"] for item in hooked} >= {BLOCKED}, hooked


def test_a_blocked_budget_silences_the_errors_that_it_makes(pager: Kube) -> None:
    def inhibited() -> list[dict[str, Any]]:
        return [item for item in paging.alerts(pager) if item["labels"]["alertname"] == BURNS]

    def silenced() -> list[dict[str, Any]]:
        found = inhibited()
        kept_back = all(item["status"]["state"] == "suppressed" and item["status"]["inhibitedBy"] for item in found)
        return found if kept_back else []

    def pages() -> dict[str, int]:
        return {
            name: sum(item["event_action"] == "trigger" for item in paging.events(pager, name))
            for name in SILENCED_BY_BUDGET
        }

    # It fires: Prometheus has sent it. It is the Alertmanager that keeps it back, once the budget's own alert has come: on a slow machine
    # that may be after the first page.
    first = {item["fingerprint"]: item["updatedAt"] for item in paging.wait_for(pager, "the silence", silenced)}
    before = pages()

    def sent_again() -> list[dict[str, Any]]:
        found = inhibited()
        return found if all(item["updatedAt"] != first.get(item["fingerprint"]) for item in found) else []

    found = paging.wait_for(pager, "the error-rate alerts once more", sent_again)
    assert all(item["status"]["state"] == "suppressed" and item["status"]["inhibitedBy"] for item in found), found
    assert pages() == before
    # The last test here sees what comes of that: it takes Alertmanager's group_interval, a minute.
    pager.apply(paging.service(limit=paging.ENOUGH))


@pytest.fixture(scope="module")
def asked(main_job: Kube) -> Iterator[Prometheus]:
    """Yield the cluster's Prometheus, once rules that are evaluated once a minute have seen what was scraped before."""
    with prometheus(main_job) as found:
        ratio = f'{names.RECORD_RATIO}{{namespace="{everything.NAMESPACE}"}}'
        main_job.wait("the slowest rules", lambda: "" if found.has(SLOWEST) else "not evaluated yet", 150)
        main_job.wait("shares over weeks", lambda: "" if found.has(ratio) else "not evaluated yet", 300)
        yield found


def test_every_query_of_every_panel_returns_data(main_job: Kube, asked: Prometheus) -> None:
    found = {name: asks for name, asks in panels(main_job).items() if name.partition(":")[0] in BOARDS}
    assert {name.partition(":")[0] for name in found} == set(BOARDS)
    # Of a service whose every call is refused there is no quantile: of nothing it is NaN.
    empty = [
        (name, query)
        for name, asks in found.items()
        for query in asks
        if not any(metric in query for metric in CLOSED_HOURS)
        and not asked.has(query, nan=name.partition(":")[0] in REFUSED)
    ]
    assert not empty


def test_every_recording_rule_records(main_job: Kube, asked: Prometheus) -> None:
    """Of each rule, by what it records and of whom its service makes that: in at least one service a series comes of it."""
    seen: dict[str, bool] = {}
    for key, rule in rules(main_job):
        if "record" not in rule or rule["record"] in WRONG:
            continue
        namespace, _, service = key.partition("/")
        whose = {"namespace": namespace, "llmservice": service} if key else {}
        labels = {**whose, **rule.get("labels", {})}
        matchers = ",".join(f'{name}="{value}"' for name, value in labels.items())
        series = f"{rule['record']}{{{matchers}}}"
        what = of_anyone(series)
        # What is compared with earlier days has none to compare with yet: is there something to compare?
        seen[what] = seen.get(what, False) or asked.has(series) or asked.has(without_offset(rule["expr"]))
    assert seen
    assert not [what for what, there in seen.items() if not there]


def test_every_series_that_an_alert_names_is_there(main_job: Kube, asked: Prometheus) -> None:
    """A metric or label that nobody has would make an alert that never fires, and no error."""
    named = {
        (name, selector)
        for _, rule in rules(main_job)
        if (name := rule.get("alert") or rule["record"]) == rule.get("alert") or name in WRONG
        for selector in selectors(rule["expr"])
        if not selector.startswith(tuple(f"{record}{{" for record in WRONG))
    }
    assert named

    def lacking() -> str:
        there: dict[str, bool] = {}
        for _, selector in named:
            what = of_anyone(selector)
            there[what] = there.get(what, False) or asked.has(selector)
        missing = {what for what, found in there.items() if not found and not asked.ever(what)}
        left = sorted(
            f"{alert}: {selector}"
            for alert, selector in named
            if of_anyone(selector) in missing and not selector.startswith((YESTERDAY, *LIES))
        )
        return f"nobody has {left}" if left else ""

    # What is recorded over days is recorded every four minutes.
    main_job.wait("every series that an alert names", lacking, 420)


def test_an_incident_is_resolved_under_its_own_key_when_the_budget_opens(pager: Kube) -> None:
    def told(action: str) -> dict[str, str]:
        """Of the alert that is over at once: one that a budget is at its end goes on for the minutes in which its errors still show."""
        came = paging.events(pager, WARNED)
        return {item["payload"]["summary"]: item["dedup_key"] for item in came if item["event_action"] == action}

    resolved = paging.wait_for(pager, "the incident's end", lambda: told("resolve"))
    assert set(resolved.values()) == set(told("trigger").values())
