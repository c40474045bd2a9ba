"""The main job: from `kubectl apply` alone a service is measured, priced and held to its budget, and says so."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from demo.kube import Kube, condition
from tests.e2e.support import proxy_of

CONDITIONS = {
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
    "CostKnown",
}
SERVICES = (("shop", "support-bot"), ("shop", "trial"), ("models", "chat"))


def llm(kube: Kube, namespace: str, name: str) -> dict[str, Any]:
    """Return an LLMService."""
    return kube.get("llmservice", name, namespace)


def prometheus(kube: Kube, query: str) -> list[dict[str, Any]]:
    """Ask the cluster's own Prometheus."""
    answer = kube.read("monitoring", "prometheus-operated", "web", f"/api/v1/query?query={quote(query)}")
    assert answer["status"] == "success"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


@pytest.mark.parametrize(("namespace", "name"), SERVICES)
def test_every_condition_is_there_and_of_this_generation(main_job: Kube, namespace: str, name: str) -> None:
    found = llm(main_job, namespace, name)
    present = {item["type"]: item for item in found["status"]["conditions"]}
    assert set(present) >= CONDITIONS
    generations = {kind: item.get("observedGeneration") for kind, item in present.items()}
    assert set(generations.values()) == {found["metadata"]["generation"]}, generations
    assert present["Instrumented"]["status"] == "True", present["Instrumented"]
    assert present["AlertsReady"]["status"] == "True", present["AlertsReady"]
    assert present["MetricsFresh"]["status"] == "True", present["MetricsFresh"]
    # The demo's Prometheus selects everything: what the selectors promise, its series show.
    for kind in ("ScrapeSelected", "RulesSelected"):
        assert (present[kind]["status"], present[kind]["reason"]) == ("True", "Selected"), present[kind]


@pytest.mark.parametrize(("namespace", "name"), SERVICES)
def test_the_printed_columns_hold_figures(main_job: Kube, namespace: str, name: str) -> None:
    lines = main_job.run("-n", namespace, "get", "llm", name, "-o", "wide").splitlines()
    assert lines[0].split() == [
        "NAME", "READY", "BACKEND", "PODS", "TTFT-P95", "P95", "ERRORS", "$/REQ", "SPENT", "BUDGET", "TOKENS",
        "THROUGHPUT", "EXHAUSTED", "AGE",
    ] or lines[0].split()[:10] == [
        "NAME", "READY", "BACKEND", "PODS", "TTFT-P95", "P95", "ERRORS", "$/REQ", "SPENT", "BUDGET",
    ]  # fmt: skip
    summary = llm(main_job, namespace, name)["status"]["summary"]
    # Nothing of `trial` has been served since its budget ran out: how fast it would be is unknown now.
    latency = () if name == "trial" else ("ttftP95", "p95")
    for column in ("pods", "errors", "costPerRequest", "spent", "budget", *latency):
        assert summary.get(column), f"{column} is empty: {summary}"


def test_what_the_status_says_is_what_a_client_measured(main_job: Kube) -> None:
    """Tokens and cost of the ledger against the application's own count, latency against its own clock: within 5 %."""
    kube = main_job
    pod = kube.pods("models", "app=vllm-chat")[0]
    assert proxy_of(pod)

    def agrees() -> str:
        caller = kube.pods("callers", "app=chat-caller")[0]["metadata"]["name"]
        own = kube.read_pod("callers", caller, 8080, "/figures?seconds=300")
        status = llm(kube, "models", "chat")["status"]
        tokens = status["usage"]["tokens"]
        pairs = {
            "output tokens": (own["tokens"]["output"], tokens["output"]),
            "input tokens": (own["tokens"]["input"], tokens["input"]),
        }
        off = {what: pair for what, pair in pairs.items() if abs(pair[0] - pair[1]) > 0.05 * max(pair)}
        return json.dumps(off) if off else ""

    # The status is at most a minute behind: the longer it has counted, the less that is.
    kube.wait("client and status agree within 5 %", agrees, 600)


def test_the_budget_ran_out_the_client_was_told_and_the_alert_fired(main_job: Kube) -> None:
    kube = main_job
    caller = kube.pods("shop", "app=trial")[0]["metadata"]["name"]
    own = kube.read_pod("shop", caller, 8080, "/figures")
    assert own["requests"].get("429", 0) > 0
    assert "insufficient_quota" in own["refusal"]
    assert "small" in own["refusal"]
    found = llm(kube, "shop", "trial")
    assert condition(found, "WithinBudget")["status"] == "False"
    budget = next(item for item in found["status"]["budgets"] if item["name"] == "small")
    assert budget["state"] == "Exceeded"
    alerts = prometheus(
        kube, 'ALERTS{alertname="LLMBudgetExceeded",alertstate="firing",namespace="shop",llmservice="trial"}'
    )
    assert alerts, "the alert is not firing in Prometheus"


def test_every_proxy_is_scraped_and_the_engine_too(main_job: Kube) -> None:
    kube = main_job
    metered = {
        item["metric"]["llmservice"] for item in prometheus(kube, "sum by (llmservice) (llmwarden_requests_total)")
    }
    assert metered >= {"support-bot", "trial", "chat"}
    assert prometheus(kube, 'vllm:generation_tokens_total{namespace="models"}'), "the engine is not scraped"
    down = prometheus(kube, 'up{job=~".*llmwarden.*",namespace=~"shop|models|llmwarden-system"} == 0')
    assert not down, down


def test_enforcement_is_real_where_the_proxy_alone_holds_the_key(main_job: Kube) -> None:
    """The key stays with the proxy, and enforcement is real where it does."""
    found = llm(main_job, "shop", "trial")
    assert found["status"]["enforcement"] == "Enforced"
