"""What the operator makes of the shared examples: exact text for review, and what must hold of every rule and dashboard."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from image import packages
from llmwarden import names
from llmwarden.api.collector import Collector
from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, LLMService, parse
from llmwarden.domain import budgets, objectives
from llmwarden.manifests.builder import build, build_cluster
from llmwarden.manifests.gpu_choice import Choice, Foreign, Unfit, unfit_of
from llmwarden.manifests.params import ClusterParams, Owner, Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities

HERE = Path(__file__).parent
SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"
ALL = Capabilities(pod_monitors=True, rules=True, alertmanager_configs=True)


def samples() -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(SAMPLES.glob("*.yaml")):
        for item in yaml.safe_load_all(path.read_text()):
            if item:
                item["metadata"] |= {"uid": "00000000-0000-4000-8000-000000000000", "generation": 1}
                found[f"{item['kind']}/{item['metadata']['name']}"] = item
    return found


def params(name: str, capabilities: Capabilities = ALL) -> Params:
    objects = samples()
    service = parse(LLMService, objects[f"LLMService/{name}"])
    held = budgets.of_service(service)
    if name == "support-bot":
        held += (
            budgets.of_namespace(parse(LLMBudget, objects["LLMBudget/support"])),
            budgets.of_cluster(parse(ClusterLLMBudget, objects["ClusterLLMBudget/retail"])),
        )
    return Params(service, Settings(), capabilities, objectives.of_service(service), held)


def cluster_params(capabilities: Capabilities = ALL, **changes: Any) -> ClusterParams:
    services = tuple(parse(LLMService, samples()[f"LLMService/{name}"]) for name in ("chat", "support-bot"))
    values = {
        "services": services,
        "namespaces": tuple(sorted({item.metadata.namespace for item in services})),
        "settings": Settings(),
        "capabilities": capabilities,
        "ca_bundle": "PEM",
        "gpu": Choice("NVML"),
    }
    return ClusterParams(**{**values, **changes})


def text(manifests: list[dict[str, Any]]) -> str:
    return yaml.safe_dump_all(json.loads(json.dumps(manifests)), sort_keys=False, width=160)


@pytest.mark.parametrize("name", ["chat", "support-bot"])
def test_a_service_gets_these_objects(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(HERE / "expected" / f"{name}.yaml", text(build(params(name))))


def test_the_cluster_gets_these_objects_once(golden: Callable[[Path, str], None]) -> None:
    golden(HERE / "expected" / "cluster.yaml", text(build_cluster(cluster_params())))


def test_dcgm_is_run_when_a_service_asks_for_it(golden: Callable[[Path, str], None]) -> None:
    manifests = build_cluster(cluster_params(gpu=Choice("DCGM")))
    mine = [item for item in manifests if item["metadata"]["name"] == names.GPU_EXPORTER]
    golden(HERE / "expected" / "dcgm.yaml", text([item for item in mine if item["kind"] != "ServiceAccount"]))


COLLECTOR = Collector.model_validate(
    {
        "enabled": True,
        "sampling": {"percent": 5},
        "exporters": [
            {
                "name": "tempo",
                "endpoint": "tempo.observability.svc:4317",
                "ca": {"name": "tempo-ca", "key": "ca.crt"},
                "headers": [{"name": "X-Scope-OrgID", "value": "a$b"}],
            },
            {
                "name": "langfuse",
                "protocol": "HTTP",
                "endpoint": "https://cloud.langfuse.com/api/public/otel",
                "headers": [
                    {"name": "Authorization", "prefix": "Basic ", "secret": {"name": "langfuse", "key": "basic"}},
                ],
            },
        ],
    }
)


def test_the_collector_is_made_for_what_the_services_want(golden: Callable[[Path, str], None]) -> None:
    chat, bot = samples()["LLMService/chat"], samples()["LLMService/support-bot"]
    chat["spec"]["tracing"] = {"keep": {"slowerThan": "2s", "dearerThan": "1", "percent": 50}}
    bot["spec"]["tracing"] = {"keep": {"slowerThan": "2s"}, "browserOrigins": ["https://shop.example.com"]}
    services = tuple(parse(LLMService, item) for item in (bot, chat))
    manifests = build_cluster(cluster_params(services=services, settings=Settings(collector=COLLECTOR)))
    ours = [item for item in manifests if item["metadata"]["name"] == names.COLLECTOR]
    golden(HERE / "expected" / "collector.yaml", text(ours))
    configuration = yaml.safe_load(next(item for item in ours if item["kind"] == "ConfigMap")["data"]["collector.yaml"])
    golden(
        HERE / "expected" / "collector-configuration.yaml", yaml.safe_dump(configuration, sort_keys=False, width=160)
    )


def test_the_collectors_pod_goes_with_its_configuration_and_no_secret_is_in_that() -> None:
    def made(collector: Collector) -> tuple[str, str]:
        manifests = build_cluster(cluster_params(settings=Settings(collector=collector)))
        kinds = {item["kind"]: item for item in manifests if item["metadata"]["name"] == names.COLLECTOR}
        template = kinds["Deployment"]["spec"]["template"]
        return template["metadata"]["annotations"][names.ANNOTATION_CONFIGURATION], yaml.safe_dump(kinds["ConfigMap"])

    (before, first), (again, _) = made(COLLECTOR), made(COLLECTOR)
    after, _ = made(COLLECTOR.replace(content="Keep"))
    assert before == again != after
    assert "Basic ${env:EXPORTER_1_HEADER_0}" in first


def test_a_port_that_is_closed_gets_a_policy_and_is_scraped_through_the_proxy(
    golden: Callable[[Path, str], None],
) -> None:
    chat = samples()["LLMService/chat"]
    chat["spec"]["workload"]["interception"]["networkPolicy"] = {"openPorts": [9000]}
    made = build(Params(parse(LLMService, chat), Settings(), ALL))
    golden(
        HERE / "expected" / "closed-port.yaml",
        text([item for item in made if item["kind"] in {"NetworkPolicy", "PodMonitor"}]),
    )


def test_labels_by_which_a_stack_selects_are_put_on() -> None:
    settings = Settings(rule_labels={"release": "stack"}, monitor_labels={"release": "stack"})
    base = params("chat")
    made = build(Params(base.service, settings, ALL, base.objectives, base.budgets))
    labelled = {item["kind"] for item in made if item["metadata"]["labels"].get("release") == "stack"}
    assert labelled == {"PodMonitor", "PrometheusRule"}


@pytest.mark.parametrize("name", ["chat", "support-bot", "all"])
def test_promtool_accepts_every_rule(name: str, tmp_path: Path) -> None:
    try:
        promtool = packages.promtool_path()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no promtool: {error}")
    made = build(params(name)) if name != "all" else build_cluster(cluster_params())
    rule = next(item for item in made if item["kind"] == "PrometheusRule")
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    done = subprocess.run(
        [promtool, "check", "rules", "--lint-fatal", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(len(group['rules']) for group in rule['spec']['groups'])} rules found" in done.stdout


def test_without_the_prometheus_operator_only_what_needs_none_is_built() -> None:
    none = Capabilities()
    assert [item["kind"] for item in build(params("chat", none))] == ["ConfigMap"]
    assert [item["kind"] for item in build_cluster(cluster_params(none))] == [
        "MutatingWebhookConfiguration",
        "ConfigMap",
        "ServiceAccount",
        "DaemonSet",
    ]


def test_somebody_elses_dcgm_exporter_is_scraped_and_not_doubled() -> None:
    foreign = Foreign("gpu-operator", "nvidia-dcgm-exporter", {"app": "nvidia-dcgm-exporter"}, "metrics")
    manifests = build_cluster(cluster_params(gpu=Choice(foreign=foreign)))
    kinds = [item["kind"] for item in manifests]
    assert "DaemonSet" not in kinds
    assert "ServiceAccount" not in kinds
    monitor = next(item for item in manifests if item["metadata"]["name"] == names.GPU_EXPORTER)
    assert monitor["metadata"]["namespace"] == names.DEFAULT_NAMESPACE
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["gpu-operator"]}
    assert monitor["spec"]["selector"] == {"matchLabels": {"app": "nvidia-dcgm-exporter"}}


def test_what_is_known_of_nvidias_exporter_is_written_on_ours() -> None:
    unfit = Unfit("nvcr.io/x:1", "2026-11-21T12:00:00Z", "ImagePullBackOff")
    manifests = build_cluster(cluster_params(gpu=Choice("NVML", unfit=unfit, runtime_class="nvidia")))
    ours = next(item for item in manifests if item["kind"] == "DaemonSet")
    assert unfit_of(ours) == unfit
    assert ours["spec"]["template"]["spec"]["runtimeClassName"] == "nvidia"


def test_without_a_service_or_a_ca_the_webhook_configuration_is_as_the_chart_makes_it() -> None:
    for changes in ({"services": (), "namespaces": ()}, {"ca_bundle": ""}):
        every = build_cluster(cluster_params(**changes))
        (made,) = [item for item in every if item["kind"] == "MutatingWebhookConfiguration"]
        assert "webhooks" not in made


def test_the_webhook_configuration_has_no_field_of_the_chart_s_and_the_secret_path() -> None:
    every = build_cluster(cluster_params(webhook_path="/mutate-pod/secret"))
    (made,) = [item for item in every if item["kind"] == "MutatingWebhookConfiguration"]
    assert made["metadata"].keys() == {"name", "annotations"}
    assert made["webhooks"][0]["clientConfig"]["service"]["path"] == "/mutate-pod/secret"


def test_what_is_in_our_namespace_goes_with_the_release() -> None:
    owner = Owner(names.SETTINGS, "uid-1")
    for item in build_cluster(cluster_params(owner=owner)):
        owners = item["metadata"].get("ownerReferences", [])
        assert [one["uid"] for one in owners] == (["uid-1"] if "namespace" in item["metadata"] else [])


def test_the_hash_follows_the_content_alone() -> None:
    def hashes(items: list[dict[str, Any]]) -> list[str]:
        return [item["metadata"]["annotations"][names.ANNOTATION_SPEC_HASH] for item in items]

    assert hashes(build(params("chat"))) == hashes(build(params("chat")))
    base = params("chat")
    other = build(Params(base.service, Settings(scrape_interval="30s"), ALL, base.objectives, base.budgets))
    changed = [one != two for one, two in zip(hashes(build(base)), hashes(other), strict=True)]
    assert changed == [True, False, False]  # the PodMonitor alone has the interval


def test_no_monitor_is_without_limits() -> None:
    """What one target can bring into Prometheus is bounded, in whatever file the monitor is."""
    folder = Path(__file__).parent / "expected"
    kinds: set[str] = set()
    for item in (item for path in sorted(folder.glob("*.yaml")) for item in yaml.safe_load_all(path.read_text())):
        if item and item.get("kind") in {"PodMonitor", "ServiceMonitor", "ScrapeConfig"}:
            kinds.add(item["kind"])
            bounds = {"sampleLimit", "labelLimit", "labelNameLengthLimit", "labelValueLengthLimit"}
            bounds |= set() if item["kind"] == "ScrapeConfig" else {"bodySizeLimit"}
            assert bounds <= set(item["spec"]), item["metadata"]["name"]
    assert kinds == {"PodMonitor", "ServiceMonitor", "ScrapeConfig"}
