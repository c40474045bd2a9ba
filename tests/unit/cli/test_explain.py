"""The checklist, from statuses as the operator writes them, and what is said where there is none to show."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from llmwarden import status as statuses
from llmwarden.api.v1alpha1.llmservice import InjectionStatus
from llmwarden.cli import explain, main
from llmwarden.injection.pods import PodView
from llmwarden.injection.selection import Finding
from llmwarden.snapshot import Engine, EngineIdentity, Figures, Outcome, Snapshot
from tests.unit.status.helpers import FIGURES, NOW, pod, service_json, snapshot

PORT = {
    "backend": {"type": "VLLM"},
    "workload": {
        "selector": {"matchLabels": {"app": "bot"}},
        "interception": {"type": "Port", "port": {"name": "http"}},
    },
}
SELECTED: dict[Any, Any] = dict.fromkeys(
    ("ScrapeSelected", "RulesSelected", "RouteMatched", "DashboardSelected"), ("True", "Selected", "It is selected.")
)
NO_LABEL = (
    "Prometheus monitoring/k8s does not select PrometheusRule shop/llmwarden-alerts-bot: its ruleSelector wants the label release=kps: "
    "put it into the chart's prometheus.ruleLabels."
)


def recorded(given: Snapshot, **spec: Any) -> dict[str, Any]:
    """A service as the API server would return it: the status is the operator's own."""
    status = statuses.build(given, Outcome(), InjectionStatus(), NOW).dump()
    return json.loads(json.dumps(service_json(status, **spec)))  # type: ignore[no-any-return]


def link(chain: list[explain.Link], name: str) -> explain.Link:
    return next(item for item in chain if item.name == name)


def test_all_is_well() -> None:
    chain = explain.links(recorded(snapshot(selected=SELECTED)))
    assert explain.is_whole(chain)
    assert {item.state for item in chain} <= {"ok", "note"}
    assert [item.name for item in chain] == [
        *("Operator", "Spec", "Pods selected", "Pods metered", "Scraped", "Metrics", "Rules", "Rules evaluated"),
        *("Alerts routed", "Dashboard", "Dashboard shown", "Prices", "Budgets", "Enforcement", "Objectives"),
    ]
    assert (
        link(chain, "Budgets")
        .details[0]
        .startswith("LLMService daily: 40 % of 25.00 USD (Open, Block, until 2026-11-22")
    )
    assert explain.summary(chain) == "All checks passed."


def test_a_watch_that_fails_comes_first() -> None:
    chain = explain.links(recorded(snapshot(selected=SELECTED, unwatched=("pods.v1: forbidden",))))
    assert [item.name for item in chain[:3]] == ["Operator", "Watches", "Spec"]
    assert "pods.v1: forbidden" in link(chain, "Watches").text
    assert explain.summary(chain) == "To do: Watches."


def test_a_missing_label_is_shown_with_its_place() -> None:
    chosen = {**SELECTED, "RulesSelected": ("False", "NotSelected", NO_LABEL)}
    chain = explain.links(recorded(snapshot(selected=chosen)))
    assert not explain.is_whole(chain)
    assert link(chain, "Rules evaluated") == explain.Link("Rules evaluated", "todo", NO_LABEL)
    assert explain.summary(chain) == "To do: Rules evaluated."
    text = io.StringIO()
    Console(file=text, width=240).print(explain.table(chain))
    line = next(line for line in text.getvalue().splitlines() if "Rules evaluated" in line)
    assert line.startswith("✗")
    assert "prometheus.ruleLabels" in line


def test_pods_that_are_not_metered_are_named_with_their_remedy() -> None:
    lacking = tuple(
        PodView(
            name=f"bot-{number}",
            uid=f"u{number}",
            state="Unmetered",
            reason="OlderThanService",
            message="it started before",
            remedy="restart it",
            created=NOW,
            since=NOW,
            ready=True,
        )
        for number in range(8)
    )
    chain = explain.links(recorded(snapshot(pods=(pod("bot-9"), *lacking))))
    found = link(chain, "Pods metered")
    assert found.state == "todo"
    assert found.text.startswith("8 of 9 pods are not measured")
    assert found.details[0] == "bot-0: OlderThanService; restart it"
    assert found.details[-1] == "and 3 more"
    assert link(chain, "Enforcement").state == "note"


def test_a_selector_that_matches_nothing() -> None:
    chain = explain.links(recorded(snapshot(pods=())))
    assert link(chain, "Pods selected").state == "todo"
    assert "kubectl get pods -n shop --show-labels" in link(chain, "Pods selected").text
    assert all(item.name != "Pods metered" for item in chain)


def test_what_cannot_be_seen_is_nothing_to_do() -> None:
    chain = explain.links(recorded(snapshot()))
    assert link(chain, "Rules evaluated").state == "unknown"
    assert explain.is_whole(chain)
    assert explain.summary(chain) == "All checks passed. 3 of 15 cannot be checked."


@pytest.mark.parametrize(
    ("engine", "state", "says"),
    [
        (EngineIdentity("vLLM", "0.11.0"), "ok", "vLLM 0.11.0."),
        (EngineIdentity("Ollama", "", "It has no metrics of its own."), "note", "It has no metrics of its own."),
        (None, "unknown", "No pod answered"),
    ],
)
def test_an_engine_is_recognised(engine: EngineIdentity | None, state: str, says: str) -> None:
    found = link(explain.links(recorded(snapshot(spec=PORT, engine=engine), **PORT)), "Engine")
    assert found.state == state
    assert says in found.text


def test_calls_around_the_proxy() -> None:
    figures = Figures(**{**{name: getattr(FIGURES, name) for name in Figures.__slots__}, "coverage": 0.7})
    found = link(explain.links(recorded(snapshot(spec=PORT, figures=figures), **PORT)), "Calls measured")
    assert found.state == "todo"
    assert "70 %" in found.text


def test_objectives_show_the_error_budget_that_is_left() -> None:
    item = recorded(snapshot())
    item["status"]["objectives"] = [
        {"name": "fast", "state": "Missed", "measured": "98.1", "target": "99", "errorBudgetLeftPercent": -90}
    ]
    found = link(explain.links(item), "Objectives")
    assert found.details == ("fast: Missed, 98.1 measured, 99 wanted, -90 % of the error budget left",)


def test_an_engine_elsewhere_is_told_by_what_prometheus_has_of_it() -> None:
    spec = {
        "scrape": {"targets": ["vllm.shared.svc:8000"]},
        "backend": {"type": "VLLM", "url": "http://vllm.shared.svc:8000"},
    }
    spec["workload"] = {"selector": {"matchLabels": {"app": "bot"}}, "interception": {"type": "Env"}}
    told = Figures(**{**{name: getattr(FIGURES, name) for name in Figures.__slots__}, "engine": Engine(running=2.0)})
    for figures, state in ((FIGURES, "unknown"), (told, "ok")):
        found = link(explain.links(recorded(snapshot(spec=spec, figures=figures), **spec)), "Engine")
        assert found.state == state


def test_a_memory_that_is_too_short_is_to_do_though_its_condition_is_true() -> None:
    objective = {"name": "up", "availability": {}, "targetPercent": "99", "window": "28d"}
    for kept, state in ((15, "todo"), (30, "ok")):
        given = snapshot(spec={"objectives": [objective]}, retention=kept * 86400)
        found = link(explain.links(recorded(given, objectives=[objective])), "History kept")
        assert found.state == state
        assert f"Prometheus keeps data for {kept}d" in found.text


def test_before_the_operator_has_spoken_and_after_an_edit_that_it_has_not_seen() -> None:
    [only] = explain.links(service_json())
    assert (only.name, only.state) == ("Operator", "todo")
    item = recorded(snapshot(selected=SELECTED))
    item["metadata"]["generation"] = 4
    assert link(explain.links(item), "Operator").state == "todo"


def test_a_status_of_an_older_operator() -> None:
    item = recorded(snapshot())
    item["status"]["conditions"] = [entry for entry in item["status"]["conditions"] if "Selected" not in entry["type"]]
    found = link(explain.links(item), "Scraped")
    assert found.state == "unknown"
    assert "older" in found.text


# The command, against an API server's recorded answers -----------------------------------------------------------------

HERE = "/apis/llmwarden.io/v1alpha1/namespaces/shop/llmservices"


class Recorded(BaseHTTPRequestHandler):
    """Answers a path with what was recorded of a real API server; there is no cluster in this tier."""

    answers: dict[str, tuple[int, dict[str, Any]]]

    def do_GET(self) -> None:
        code, answer = self.answers.get(self.path.partition("?")[0], (404, {"message": "404 page not found"}))
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def failure(code: int, reason: str, message: str, name: str = "") -> tuple[int, dict[str, Any]]:
    details = {"group": "llmwarden.io", "kind": "llmservices", **({"name": name} if name else {})}
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason}
    return code, {**status, "details": details, "code": code}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Path, dict[str, tuple[int, dict[str, Any]]]]]:
    answers: dict[str, tuple[int, dict[str, Any]]] = {}
    handler = type("Handler", (Recorded,), {"answers": answers})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        path = tmp_path / "kubeconfig"
        path.write_text(kubeconfig(server.server_port))
        yield path, answers
        server.shutdown()
        thread.join()


def kubeconfig(port: int) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        }
    )


def test_the_command_s_exit_status_says_whether_there_is_something_to_do(
    cluster: tuple[Path, dict[str, tuple[int, dict[str, Any]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, answers = cluster
    answers[f"{HERE}/bot"] = (200, recorded(snapshot(selected=SELECTED)))
    assert main.main(["explain", "bot", "--kubeconfig", str(path)]) == 0
    assert "All checks passed." in capsys.readouterr().out
    answers[f"{HERE}/bot"] = (200, recorded(snapshot(selected={"RulesSelected": ("False", "NotSelected", NO_LABEL)})))
    assert main.main(["explain", "bot", "-n", "shop", "-o", "json", "--kubeconfig", str(path)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["service"] == "shop/bot"
    assert found["ok"] is False
    assert {"name": "Rules evaluated", "state": "todo", "text": NO_LABEL, "details": []} in found["links"]


def test_a_name_that_does_not_exist(
    cluster: tuple[Path, dict[str, tuple[int, dict[str, Any]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, answers = cluster
    answers[f"{HERE}/bto"] = failure(404, "NotFound", 'llmservices.llmwarden.io "bto" not found', "bto")
    answers[HERE] = (200, {"kind": "LLMServiceList", "metadata": {}, "items": [service_json()]})
    assert main.main(["explain", "bto", "--kubeconfig", str(path)]) == 1
    assert capsys.readouterr().err == "kubectl llm: there is no LLMService bto in namespace shop; there are bot\n"
    answers[HERE] = (200, {"kind": "LLMServiceList", "metadata": {}, "items": []})
    assert main.main(["explain", "bto", "--kubeconfig", str(path)]) == 1
    assert "nor any other; name another namespace with -n" in capsys.readouterr().err
    answers[HERE] = failure(403, "Forbidden", "no")
    assert main.main(["explain", "bto", "--kubeconfig", str(path)]) == 1
    assert capsys.readouterr().err.endswith("in namespace shop; name another with -n\n")


def test_no_right_no_installation_and_no_cluster(
    cluster: tuple[Path, dict[str, tuple[int, dict[str, Any]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, answers = cluster
    assert main.main(["explain", "bot", "--kubeconfig", str(path)]) == 1
    assert "LLM Warden is not installed here, or this is the wrong context" in capsys.readouterr().err
    answers[f"{HERE}/bot"] = failure(403, "Forbidden", 'User "ann" cannot get resource "llmservices"', "bot")
    assert main.main(["explain", "bot", "--kubeconfig", str(path)]) == 1
    said = capsys.readouterr().err
    assert "ClusterRole llmwarden-view" in said
    assert 'User "ann" cannot get' in said
    path.write_text(kubeconfig(1))
    assert main.main(["explain", "bot", "--kubeconfig", str(path)]) == 1
    assert "the API server did not answer" in capsys.readouterr().err
    assert main.main(["explain", "bot", "--kubeconfig", str(path.parent / "none")]) == 1
    assert "no connection to Kubernetes" in capsys.readouterr().err


def test_gpus_are_a_link_where_they_are_asked_for() -> None:
    spec = {**PORT, "gpu": {"exporter": "Auto"}}
    text = "No node has the label nvidia.com/gpu.present=true."
    chain = explain.links(recorded(snapshot(spec=spec, gpu=("False", "NoGPUNode", text)), **spec))
    assert link(chain, "GPUs") == explain.Link("GPUs", "todo", text)
    without = {**PORT, "gpu": {"exporter": "None"}}
    assert "GPUs" not in {item.name for item in explain.links(recorded(snapshot(spec=without), **without))}


def test_what_makes_enforcement_advisory_is_shown() -> None:
    keyed = {"backend": {"type": "OpenAI", "credentialsSecretRef": {"name": "s", "key": "k"}}}
    exposed = (Finding("bot", "OwnKey", "envFrom of container app gives it the key"),)
    advisory = link(explain.links(recorded(snapshot(spec=keyed, pods=(pod(exposed=exposed),)))), "Enforcement")
    assert advisory.state == "note"
    assert "No other container gets the key: no. bot-1: envFrom of container app gives it the key" in advisory.details
    assert "The proxy has the key: yes." in advisory.details
    enforced = link(explain.links(recorded(snapshot(spec=keyed))), "Enforcement")
    assert enforced.state == "ok"
    assert "editor of the namespace" in enforced.text
    assert any(line.startswith("What cannot be measured is refused: not checked.") for line in enforced.details)
