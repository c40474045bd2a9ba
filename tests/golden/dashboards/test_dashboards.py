"""What holds of every dashboard: Grafana's own types read it, every panel explains itself, every query parses."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from image import packages
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.domain import objectives
from llmwarden.manifests.builder import build, build_cluster
from llmwarden.manifests.dashboards import overview, service
from llmwarden.manifests.dashboards.panels import to_json
from llmwarden.manifests.params import ClusterParams, Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.grafana import asked

SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"
DEPRECATED = {"graph", "singlestat", "table-old", "piechart-old", "grafana-worldmap-panel", "heatmap-old"}
NAMES = ("support-bot", "chat", "chat-gpu", "tgi", "llama", "triton", "kinds", "overview")

SHARE = {"targetPercent": "99", "window": "28d"}
OBJECTIVES = [
    {"name": "fast", "latency": {"indicator": "RequestDuration", "threshold": "10s"}, **SHARE},
    {"name": "right", "errors": {}, **SHARE},
    {"name": "up", "availability": {}, **SHARE},
    {"name": "room", "contextUse": {"thresholdPercent": 80}, **SHARE},
    {"name": "queue", "queueTime": {"threshold": "500ms"}, **SHARE},
    {"name": "cache", "kvCache": {"thresholdPercent": 90}, **SHARE},
]


def params(name: str, settings: Settings | None = None, capabilities: Capabilities | None = None) -> Params:
    if name in {"support-bot", "chat"}:
        items = [item for path in SAMPLES.glob("*.yaml") for item in yaml.safe_load_all(path.read_text()) if item]
        item = next(item for item in items if item["kind"] == "LLMService" and item["metadata"]["name"] == name)
    else:
        kinds = {"kinds": "VLLM", "chat-gpu": "VLLM", "tgi": "TGI", "llama": "LlamaCpp", "triton": "TensorRTLLM"}
        spec: dict[str, Any] = {
            "backend": {"type": kinds[name]},
            "workload": {"selector": {"matchLabels": {"app": name}}, "interception": {"port": {"name": "http"}}},
            "gpu": {"exporter": "Auto"},
        }
        if name == "kinds":
            spec["objectives"] = OBJECTIVES
        item = {"metadata": {"name": name, "namespace": "models"}, "spec": spec}
    item["metadata"] |= {"uid": "u", "generation": 1}
    made = parse(LLMService, item)
    return Params(made, settings or Settings(), capabilities or Capabilities(), objectives.of_service(made))


def model(name: str) -> dict[str, Any]:
    built = overview.build() if name == "overview" else service.build(params(name))
    found: dict[str, Any] = json.loads(to_json(built))
    return found


def panels(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in found["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("name", NAMES)
def test_grafanas_own_types_read_it(name: str) -> None:
    found = model(name)
    again = json.loads(json.dumps(Dashboard.from_json(found), cls=JSONEncoder))
    # They add what Grafana assumes, and lose nothing that we say.
    assert not lost(found, again)
    assert not {panel["type"] for panel in found["panels"]} & DEPRECATED
    variables = {item["name"]: item for item in found["templating"]["list"]}
    assert variables["ds"]["type"] == "datasource"
    assert variables["ds"]["query"] == "prometheus"


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_explains_itself(name: str) -> None:
    found = model(name)
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids)), "two panels with one id"
    titles = [panel["title"] for panel in panels(found)]
    assert len(titles) == len(set(titles)), "two panels with one title"
    for panel in panels(found):
        assert panel["description"].endswith("."), panel["title"]
        # A number as it is needs no unit.
        assert "fieldConfig" not in panel or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"uid": "$ds"}
        assert panel["targets"], panel["title"]
        letters = [target.get("refId", "A") for target in panel["targets"]]
        assert len(letters) == len(set(letters)), panel["title"]
    boxes = [panel["gridPos"] for panel in found["panels"]]
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            apart = (
                one["x"] + one["w"] <= other["x"]
                or other["x"] + other["w"] <= one["x"]
                or one["y"] + one["h"] <= other["y"]
                or other["y"] + other["h"] <= one["y"]
            )
            assert apart, (one, other)


@pytest.mark.parametrize("name", NAMES)
def test_every_query_parses(name: str, tmp_path: Path) -> None:
    queries = [query.expr for query in asked(model(name), "5m", namespace=".*")]
    assert queries
    assert not [query for query in queries if "$" in query], "a variable that is none"
    rules = [{"record": f"query:{index}", "expr": query} for index, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run(
        [packages.promtool_path(), "check", "rules", "--lint=none", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_service_does_not_have_has_no_row() -> None:
    def rows(name: str) -> list[str]:
        return [panel["title"] for panel in model(name)["panels"] if panel["type"] == "row"]

    assert rows("support-bot") == ["Health", "Slow because of what", "Errors", "Tokens and cost", "The proxy itself"]
    assert rows("chat-gpu") == [
        "Health",
        "Slow because of what",
        "Engine (VLLM)",
        "GPUs",
        "Errors",
        "Tokens and cost",
        "The proxy itself",
    ]
    assert "KV cache (share)" in {query.title for query in asked(model("chat"), "5m")}
    assert "KV cache (share)" not in {query.title for query in asked(model("tgi"), "5m")}
    # Calls are gated by GPU-hours where the model runs in the service's own pods.
    assert "GPU cost per hour, used and idle" in {panel["title"] for panel in panels(model("chat"))}
    assert "GPU cost per hour, used and idle" not in {panel["title"] for panel in panels(model("support-bot"))}


def test_heatmaps_show_single_calls_traces() -> None:
    for name in NAMES:
        heatmaps = [panel for panel in panels(model(name)) if panel["type"] == "heatmap"]
        assert bool(heatmaps) == (name != "overview")
        # An exemplar is of a histogram's own buckets: a recorded series has none.
        assert all(
            target["exemplar"] and "_bucket{" in target["expr"] for panel in heatmaps for target in panel["targets"]
        )


def test_delivered_as_the_settings_say() -> None:
    def kinds(settings: Settings, capabilities: Capabilities) -> dict[str, dict[str, Any]]:
        found = build(params("chat", settings, capabilities))
        found += build_cluster(ClusterParams((), settings, capabilities))
        return {item["metadata"]["name"]: item for item in found if "dashboard" in item["metadata"]["name"]}

    plain = kinds(Settings(), Capabilities(grafana_dashboards=True))
    assert {item["kind"] for item in plain.values()} == {"ConfigMap"}
    assert set(plain) == {"llmwarden-dashboard-chat", "llmwarden-dashboard-overview"}
    assert all(item["metadata"]["annotations"]["grafana_folder"] == "LLM Warden" for item in plain.values())
    by_operator = kinds(Settings(grafana_delivery="GrafanaDashboard"), Capabilities(grafana_dashboards=True))
    assert {item["kind"] for item in by_operator.values()} == {"GrafanaDashboard"}
    for item in by_operator.values():
        assert item["spec"]["folder"] == "LLM Warden"
        assert item["spec"]["instanceSelector"] == {"matchLabels": {"dashboards": "grafana"}}
        assert json.loads(item["spec"]["json"])["uid"].startswith("llmwarden-")
    # The Grafana Operator is not there (yet): nothing is written, nothing fails.
    assert kinds(Settings(grafana_delivery="GrafanaDashboard"), Capabilities()) == {}


def test_objectives_burn_in_one_panel_and_availability_has_its_figure() -> None:
    found = {panel["title"]: panel for panel in panels(model("kinds"))}
    [burning] = found["Burn rate of error budgets"]["targets"]
    assert burning["legendFormat"] == "{{objective}}"
    assert "window=`56m`" in burning["expr"], "what a page looks at, of 28 days"
    assert "objective=~`up`" in found["Available, 24 hours"]["targets"][0]["expr"]
    assert "Available, 24 hours" not in {panel["title"] for panel in panels(model("chat"))}
    assert "llmservice:context_used_ratio:p95_5m" in json.dumps(found["Now"])


def lost(of: Any, there: Any, path: str = "") -> list[str]:
    """What is not there of a document, by path."""
    if isinstance(of, dict):
        missing = [f"{path}/{key}" for key in of if key not in there]
        return missing + [item for key in of if key in there for item in lost(of[key], there[key], f"{path}/{key}")]
    if isinstance(of, list):
        if len(of) != len(there):
            return [path]
        return [item for index, one in enumerate(of) for item in lost(one, there[index], f"{path}/{index}")]
    return [] if of == there else [f"{path}: {of!r} is {there!r}"]
