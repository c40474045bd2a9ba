import datetime as dt
from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args

import pytest

from llmwarden import status as statuses
from llmwarden.api.v1alpha1.llmservice import BudgetStatus, EnforcementCheckType, InjectionStatus, LLMServiceStatus
from llmwarden.contracts.ledger import GpuUsage, Tokens, UsageTotals
from llmwarden.domain import budgets, conditions
from llmwarden.domain.windows import Window
from llmwarden.injection.selection import Finding
from llmwarden.snapshot import Capabilities, EngineIdentity, Figures, Outcome, Problem, Snapshot, Source
from tests.unit.status.helpers import DAILY, FIGURES, NOW, budget, pod, service, snapshot, usage

ACTIVE = InjectionStatus()
DOWN = Source(asked=True, fresh=False, reason="PrometheusUnavailable", message="Prometheus did not answer.")


def build(given: Snapshot, outcome: Outcome | None = None, now: dt.datetime = NOW) -> LLMServiceStatus:
    return statuses.build(given, outcome or Outcome(), ACTIVE, now)


def verdict(status: LLMServiceStatus, kind: str) -> tuple[str, str]:
    found = conditions.find(status.conditions, kind)
    assert found is not None
    assert found.observed_generation == 3
    return found.status, found.reason


def test_all_is_well() -> None:
    status = build(snapshot())
    assert {item.type for item in status.conditions} == {
        "Ready",
        "Instrumented",
        "MetricsFresh",
        "AlertsReady",
        "DashboardReady",
        "ScrapeSelected",
        "RulesSelected",
        "RouteMatched",
        "DashboardSelected",
        "WithinBudget",
        "MeetsObjectives",
        "RetentionTooShort",
        "CostKnown",
        "Observed",
    }
    assert verdict(status, "Ready") == ("True", "AsSpecified")
    assert verdict(status, "Observed") == ("True", "Watching")
    assert status.observed_generation == 3
    assert status.summary is not None
    assert status.summary.dump() == {
        "pods": "1/1",
        "ttftP95": "460ms",
        "p95": "2.3s",
        "errors": "1.2%",
        "costPerRequest": "$0.01",
        "spent": "$1.23",
        "budget": "40% (daily)",
        "tokens": "15k",
        "throughput": "12 tok/s",
    }


def test_a_watch_that_fails_is_named_and_keeps_nobody_from_being_ready() -> None:
    fault = "pods.v1: GET /api/v1/pods: forbidden"
    status = build(snapshot(unwatched=(fault,)))
    assert verdict(status, "Observed") == ("False", "WatchFailing")
    assert verdict(status, "Ready") == ("True", "ReadyWithGaps")
    ready = conditions.find(status.conditions, "Ready")
    assert ready is not None
    assert fault in ready.message


def test_the_same_facts_give_the_same_status_later() -> None:
    first = build(snapshot())
    again = build(snapshot(first.dump()), now=NOW + dt.timedelta(minutes=5))
    assert again.dump() == first.dump()


def test_noise_is_no_difference() -> None:
    noisy = Figures(**{**_fields(FIGURES), "requests_per_second": 0.5004, "error_ratio": 0.01231})
    assert build(snapshot(figures=noisy)).dump() == build(snapshot()).dump()


def _fields(figures: Figures) -> dict[str, Any]:
    return {name: getattr(figures, name) for name in Figures.__slots__}


def test_unknown_is_not_zero() -> None:
    before = build(snapshot())
    later = Source(asked=True, fresh=False, reason="LedgerUnavailable", message="The ledger did not answer.")
    after = build(
        snapshot(before.dump(), prometheus=DOWN, figures=Figures(), ledger=later, usage=None, budgets={}),
        now=NOW + dt.timedelta(minutes=10),
    )
    assert after.latency == before.latency
    assert after.usage == before.usage
    assert after.budgets == before.budgets
    assert after.as_of == NOW  # the time of the figures, not of the look
    assert verdict(after, "MetricsFresh") == ("False", "PrometheusUnavailable")
    assert verdict(after, "WithinBudget") == ("True", "Open")


def test_a_blank_ledger_does_not_clear_an_overspend() -> None:
    over = build(snapshot(budgets={DAILY: budget(30, state="Exceeded")}))
    assert verdict(over, "WithinBudget") == ("False", "Exceeded")
    blank = build(snapshot(over.dump(), ledger=Source(asked=True, reason="LedgerUnavailable"), usage=None, budgets={}))
    assert verdict(blank, "WithinBudget") == ("False", "Exceeded")


def test_a_restart_says_nothing_new() -> None:
    before = build(snapshot())
    restarted = snapshot(before.dump(), prometheus=Source(), figures=Figures(), ledger=Source(), usage=None, budgets={})
    assert build(restarted).dump() == before.dump()


def test_nothing_matches_the_selector() -> None:
    status = build(snapshot(pods=()))
    assert verdict(status, "Instrumented") == ("False", "NoPods")
    assert verdict(status, "Ready") == ("False", "NotInstrumented")


def test_an_unmeasured_pod_is_named_with_reason_and_remedy() -> None:
    lacking = pod("bot-2", "Unmetered", reason="HostNetwork", message="it uses the node's network", remedy="remove it")
    status = build(snapshot(pods=(pod(), lacking)))
    assert verdict(status, "Instrumented") == ("False", "HostNetwork")
    found = conditions.find(status.conditions, "Instrumented")
    assert found is not None
    assert "1 of 2 pods" in found.message
    assert "remove it" in found.message
    assert status.workload is not None
    assert (status.workload.metered, status.workload.selected) == (1, 2)
    assert status.workload.unmetered[0].remedy == "remove it"


def test_several_reasons_are_all_told() -> None:
    pods = (pod("a", "Unmetered", reason="OptedOut"), pod("b", "Unmetered", reason="HostNetwork"))
    status = build(snapshot(pods=pods))
    assert verdict(status, "Instrumented") == ("False", "PodsNotMetered")


def test_what_is_optional_keeps_nobody_from_being_ready() -> None:
    status = build(snapshot(capabilities=Capabilities()))
    assert verdict(status, "AlertsReady") == ("False", "NotInstalled")
    assert verdict(status, "Ready") == ("True", "ReadyWithGaps")


def test_a_child_that_cannot_be_applied_is_told() -> None:
    status = build(snapshot(), Outcome({"PrometheusRule": "denied by policy"}))
    assert verdict(status, "AlertsReady") == ("False", "ApplyFailed")
    assert verdict(status, "Ready") == ("False", "NotAlertsReady")


def test_a_spec_that_cannot_work_is_told() -> None:
    status = build(snapshot(problems=(Problem("UpstreamNotAllowed", "backend.url names evil.example."),)))
    assert verdict(status, "Ready") == ("False", "UpstreamNotAllowed")


def test_a_prometheus_that_does_not_scrape_us_is_told_apart_from_one_that_is_down() -> None:
    assert verdict(build(snapshot(figures=Figures())), "MetricsFresh") == ("False", "NotScraped")


def test_an_unknown_price_is_never_nothing() -> None:
    totals = UsageTotals(requests=3, tokens=Tokens(input=10, output=5), picodollars=0, uncosted_tokens=15)
    status = build(snapshot(usage=usage(last24h=totals, uncosted_models=("weird",))))
    assert status.usage is not None
    assert status.usage.cost is None
    assert verdict(status, "CostKnown") == ("False", "PriceUnknown")


def test_objectives_are_judged_by_what_was_recorded() -> None:
    spec = {
        "objectives": [
            {
                "name": "first-token",
                "latency": {"indicator": "TimeToFirstToken", "threshold": "1s"},
                "targetPercent": "99",
                "window": "28d",
            }
        ]
    }
    for share, expected in (("0.995", ("True", "Met")), ("0.98", ("False", "Missed"))):
        figures = Figures(**{**_fields(FIGURES), "good": {"first-token": Decimal(share)}})
        assert verdict(build(snapshot(spec=spec, figures=figures)), "MeetsObjectives") == expected
    assert verdict(build(snapshot(spec=spec)), "MeetsObjectives") == ("Unknown", "NotMeasured")


ENGINE: dict[str, Any] = {
    "backend": {"type": "VLLM"},
    "workload": {"selector": {"matchLabels": {"app": "bot"}}, "interception": {"port": {"name": "http"}}},
    "objectives": [
        {"name": "queue", "queueTime": {"threshold": "700ms"}, "targetPercent": "99", "window": "28d"},
        {"name": "up", "availability": {}, "targetPercent": "99.9", "window": "7d"},
    ],
}


def test_an_objective_off_the_engines_bounds_is_refused_with_the_nearest() -> None:
    figures = Figures(**{**_fields(FIGURES), "good": {"up": Decimal(1)}})
    status = build(snapshot(spec=ENGINE, figures=figures, engine=EngineIdentity("VLLM", queue_bounds=(0.5, 0.8))))
    assert verdict(status, "MeetsObjectives") == ("Unknown", "ThresholdNotABound")
    found = conditions.find(status.conditions, "MeetsObjectives")
    assert found is not None
    assert found.message.endswith("Set the threshold to 500ms or 800ms.")
    assert [(item.name, item.state) for item in status.objectives] == [("queue", "Unknown"), ("up", "Met")]
    # An engine elsewhere is not asked itself; what Prometheus scraped of it tells its bounds.
    scraped = Figures(**{**_fields(figures), "queue_bounds": (0.5, 0.7)})
    assert verdict(build(snapshot(spec=ENGINE, figures=scraped)), "MeetsObjectives") == ("Unknown", "NotMeasured")
    scraped = Figures(**{**_fields(figures), "queue_bounds": (0.5, 0.8)})
    assert verdict(build(snapshot(spec=ENGINE, figures=scraped)), "MeetsObjectives") == (
        "Unknown",
        "ThresholdNotABound",
    )
    lacking = {**ENGINE, "backend": {"type": "LlamaCpp"}}
    assert verdict(build(snapshot(spec=lacking, figures=figures)), "MeetsObjectives") == (
        "Unknown",
        "EngineLacksSeries",
    )


def test_a_window_longer_than_prometheus_remembers_is_said_with_the_figure() -> None:
    status = build(snapshot(spec=ENGINE, retention=15 * 86400))
    assert verdict(status, "RetentionTooShort") == ("True", "WindowLongerThanRetention")
    found = conditions.find(status.conditions, "RetentionTooShort")
    assert found is not None
    assert found.message.startswith("Prometheus keeps data for 15d, which is shorter than the window of queue (28d): ")
    ready = conditions.find(status.conditions, "Ready")
    assert ready is not None
    assert ready.reason == "ReadyWithGaps"
    assert found.message in ready.message
    assert verdict(build(snapshot(spec=ENGINE, retention=28 * 86400)), "RetentionTooShort") == ("False", "LongEnough")
    assert verdict(build(snapshot(spec=ENGINE)), "RetentionTooShort") == ("Unknown", "NotKnown")
    assert verdict(build(snapshot(retention=3600)), "RetentionTooShort") == ("False", "NothingLooksBack")


def test_a_child_that_has_no_condition_of_its_own_is_named_where_it_cannot_be_written() -> None:
    given = snapshot()
    status = build(given, Outcome({"NetworkPolicy": "It is forbidden."}))
    ready = conditions.find(status.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("True", "ReadyWithGaps")
    assert "The NetworkPolicy could not be written: It is forbidden." in ready.message


KEYED: dict[str, Any] = {"backend": {"type": "OpenAI", "credentialsSecretRef": {"name": "s", "key": "k"}}}


def fails(status: LLMServiceStatus) -> set[str]:
    return {check.check for check in status.enforcement_checks if check.state == "Fails"}


@pytest.mark.parametrize(
    ("spec", "pods", "failing"),
    [
        ({}, (pod(),), "KeyInProxy"),
        (KEYED, (pod(), pod("bot-2", notes=(Finding("bot", "OwnKey", "it has one"),))), "KeyOnlyInProxy"),
        (KEYED, (pod(exposed=(Finding("bot", "OwnKey", "it mounts it"),)),), "KeyOnlyInProxy"),
        (KEYED, (pod(exposed=(Finding("bot", "OurVolumeMounted", "it"),)),), "VolumesApart"),
        (KEYED, (pod(exposed=(Finding("bot", "ProcessesShared", "it"),)),), "ProcessesApart"),
        (KEYED, (pod(exposed=(Finding("bot", "NodeReachable", "it"),)),), "NodeApart"),
        (KEYED, (pod(exposed=(Finding("bot", "NetworkShared", "it"),)),), "Encrypted"),
        (KEYED, (pod(exposed=(Finding("bot", "EgressOfApplication", "it"),)),), "WayOutApart"),
        (KEYED, (pod(state="Unmetered", reason="OptedOut"),), "PodsMetered"),
    ],
)
def test_enforcement_is_real_only_where_it_cannot_be_walked_around(
    spec: dict[str, Any], pods: tuple[Any, ...], failing: str
) -> None:
    status = build(snapshot(spec=spec, pods=pods))
    assert status.enforcement == "Advisory"
    assert fails(status) == {failing}
    message = next(check.message for check in status.enforcement_checks if check.check == failing)
    assert message
    assert failing == "KeyInProxy" or message.startswith(pods[-1].name)


def test_enforced_says_against_whom_and_what_was_checked() -> None:
    status = build(snapshot(spec=KEYED))
    assert (status.enforcement, status.enforcement_against, fails(status)) == ("Enforced", "Application", set())
    assert {check.check for check in status.enforcement_checks} == set(get_args(EnforcementCheckType))
    unchecked = {check.check: check.message for check in status.enforcement_checks if check.state == "NotChecked"}
    assert unchecked["UnmeasuredRefused"]


def test_what_is_not_known_of_pods_is_no_proof() -> None:
    status = build(snapshot(spec=KEYED, pods=(), pods_known=False))
    assert (status.enforcement, fails(status)) == ("Advisory", {"PodsMetered"})


def test_many_pods_do_not_make_a_long_message() -> None:
    pods = tuple(pod(f"bot-{number}", exposed=(Finding("bot", "OwnKey", "it mounts it"),)) for number in range(9))
    message = next(
        check.message for check in build(snapshot(spec=KEYED, pods=pods)).enforcement_checks if check.state == "Fails"
    )
    assert message.endswith("; and 6 more")


def test_without_a_budget_that_acts_there_is_nothing_to_enforce() -> None:
    assert build(snapshot(usage=usage(budgets=()), budgets={})).enforcement == "None"


def test_only_states_are_significant() -> None:
    first = build(snapshot()).dump()
    busier = build(snapshot(usage=usage(last24h=UsageTotals(requests=101, picodollars=5)))).dump()
    assert first != busier
    assert statuses.significant(first) == statuses.significant(busier)
    over = build(snapshot(budgets={DAILY: budget(30, state="Exceeded")})).dump()
    assert statuses.significant(first) != statuses.significant(over)


def test_each_threshold_is_told_once_a_window() -> None:
    spec = {"name": "daily", "limit": {"amount": "25"}, "window": {"calendar": "Day"}, "warnAtPercent": [80, 50]}
    (daily,) = budgets.of_service(service(budgets=[spec]))

    def at(percent: int, start: dt.datetime = NOW) -> tuple[BudgetStatus, ...]:
        item = BudgetStatus(
            scope="LLMService",
            name="daily",
            unit="USD",
            limit="25.00",
            spent="0",
            remaining="0",
            used_percent=percent,
            state="Open",
            action="Block",
            window_start=start,
        )
        return (item,)

    def told(old: tuple[BudgetStatus, ...], new: tuple[BudgetStatus, ...], held: budgets.Budget = daily) -> list[int]:
        return [percent for _, percent in statuses.thresholds(old, new, (held,))]

    assert told((), at(49)) == []
    assert told(at(49), at(50)) == [50]
    assert told(at(50), at(79)) == []
    assert told(at(10), at(97)) == [50, 80]
    later = NOW + dt.timedelta(days=1)
    assert told(at(97), at(60, later)) == [50]  # a new window
    rolling = replace(daily, window=Window(rolling_seconds=86400))
    assert told(at(97), at(96, later), rolling) == []
    assert told((), at(60), replace(daily, name="another")) == []


def test_unusual_spending_is_named_and_changes_no_verdict() -> None:
    usual, unusual = build(snapshot()), build(snapshot(figures=replace(FIGURES, unusual=("LLMSpendUnusual",))))
    assert verdict(unusual, "WithinBudget") == verdict(usual, "WithinBudget")
    condition = next(item for item in unusual.conditions if item.type == "WithinBudget")
    assert condition.message.endswith(
        "close to its limit. Unusual: spending is three times as high as at this hour on earlier days (LLMSpendUnusual)."
    )
    kept = build(
        snapshot(
            unusual.dump(),
            figures=replace(FIGURES, unusual=("LLMSpendUnusual",)),
            ledger=Source(),
            usage=None,
            budgets={},
        )
    )
    assert verdict(kept, "WithinBudget") == verdict(unusual, "WithinBudget")
    assert next(item for item in kept.conditions if item.type == "WithinBudget").message == condition.message


def test_what_is_not_selected_is_said_and_noted() -> None:
    text = "Prometheus monitoring/k8s does not select it."
    status = build(snapshot(selected={"RulesSelected": ("False", "NotSelected", text)}))
    assert verdict(status, "RulesSelected") == ("False", "NotSelected")
    assert verdict(status, "Ready") == ("True", "ReadyWithGaps")
    found = conditions.find(status.conditions, "Ready")
    assert found is not None
    assert f"RulesSelected: {text}" in found.message


def test_who_selects_is_kept_while_it_is_not_known() -> None:
    assert verdict(build(snapshot()), "RulesSelected") == ("Unknown", "NotKnownYet")
    old = build(snapshot(selected={"RulesSelected": ("False", "NotSelected", "No.")}))
    assert verdict(build(snapshot(old.dump())), "RulesSelected") == ("False", "NotSelected")


def test_series_that_are_there_were_scraped_by_whomever() -> None:
    unknown: Any = {"ScrapeSelected": ("Unknown", "NoPrometheus", "Nobody.")}
    assert verdict(build(snapshot(selected=unknown)), "ScrapeSelected") == ("True", "Scraped")
    none = replace(FIGURES, scraped=False)
    assert verdict(build(snapshot(selected=unknown, figures=none)), "ScrapeSelected") == ("Unknown", "NoPrometheus")
    # An agent may scrape what no Prometheus object selects; its engine it does not by the same proof.
    refused: Any = {"ScrapeSelected": ("False", "NotSelected", "Not selected.")}
    assert verdict(build(snapshot(selected=refused)), "ScrapeSelected") == ("True", "Scraped")
    assert verdict(build(snapshot(selected=refused, figures=none)), "ScrapeSelected") == ("False", "NotSelected")
    engine: Any = {"ScrapeSelected": ("False", "EngineNotSelected", "Not selected.")}
    assert verdict(build(snapshot(selected=engine)), "ScrapeSelected") == ("False", "EngineNotSelected")


def test_a_route_that_could_not_be_applied_is_said() -> None:
    status = build(snapshot(), Outcome({"AlertmanagerConfig": "The API server refused it."}))
    assert verdict(status, "RouteMatched") == ("False", "ApplyFailed")


def test_a_dashboard_for_an_operator_that_is_not_there() -> None:
    status = build(snapshot(dashboard_kind="GrafanaDashboard"))
    assert verdict(status, "DashboardReady") == ("False", "NotInstalled")
    assert verdict(status, "Ready") == ("True", "ReadyWithGaps")


def test_gpus_are_shown_with_their_idle_part_and_the_price_of_tokens() -> None:
    hour = 3_600_000
    held = GpuUsage(
        milliseconds=25 * hour,
        picodollars=50 * 10**12,
        idle=20 * 10**12,
        tokens=40_000_000,
        input_picodollars=450_000,
        output_picodollars=2_700_000,
        lost_pods=1,
    )
    status = build(snapshot(usage=usage(gpu=held)))
    assert status.usage is not None
    assert status.usage.gpu is not None
    assert status.usage.gpu.dump() == {
        "hours": "25",
        "cost": {"amount": "50", "currency": "USD"},
        "idleCost": {"amount": "20", "currency": "USD"},
        "idlePercent": 40,
        "inputPerMillionTokens": {"amount": "0.45", "currency": "USD"},
        "outputPerMillionTokens": {"amount": "2.7", "currency": "USD"},
        "effectivePerMillionTokens": {"amount": "1.25", "currency": "USD"},
        "unpricedProducts": [],
        "vanishedPods": 1,
    }
    assert verdict(status, "CostKnown") == ("True", "Priced")


def test_gpus_without_a_rate_are_named_and_cost_nothing_known() -> None:
    held = GpuUsage(milliseconds=1_800_000, unpriced_milliseconds=1_800_000, products=("NVIDIA-L4",))
    status = build(snapshot(usage=usage(last24h=UsageTotals(), gpu=held)))
    assert status.usage is not None
    assert status.usage.gpu is not None
    assert status.usage.gpu.dump() == {"hours": "0.5", "unpricedHours": "0.5", "unpricedProducts": ["NVIDIA-L4"]}
    assert verdict(status, "CostKnown") == ("False", "GpuRateUnknown")
    assert "NVIDIA-L4" in next(item.message for item in status.conditions if item.type == "CostKnown")


def test_tokens_with_prices_of_their_own_need_no_rate_of_their_gpus() -> None:
    held = GpuUsage(milliseconds=1_800_000, unpriced_milliseconds=1_800_000, products=("NVIDIA-L4",))
    totals = UsageTotals(requests=3, tokens=Tokens(input=10, output=5), picodollars=15)
    status = build(snapshot(usage=usage(last24h=totals, gpu=held)))
    assert verdict(status, "CostKnown") == ("True", "Priced")
    assert "NVIDIA-L4 costs is not known" in next(
        item.message for item in status.conditions if item.type == "CostKnown"
    )
