"""What we build, against the Prometheus Operator's real custom resource definitions in a real API server: every field is known and valid."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo import images
from llmwarden import names
from llmwarden.manifests.alerts import shared_rules
from llmwarden.manifests.builder import build
from llmwarden.manifests.params import ClusterParams
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.api.operating import LLM, Operator, condition, make, sample, until
from tests.api.support import ControlPlane
from tests.golden.operator import test_sizes
from tests.golden.operator.test_engine_scraping import WAYS, params

PLURALS = {
    "PodMonitor": "v1/{}/podmonitors",
    "ServiceMonitor": "v1/{}/servicemonitors",
    "ScrapeConfig": "v1alpha1/{}/scrapeconfigs",
    "PrometheusRule": "v1/{}/prometheusrules",
}


@pytest.fixture(scope="module")
def real(crds: ControlPlane) -> Iterator[ControlPlane]:
    """Yield the control plane with the real kinds; they are taken away again: other modules bring stand-ins."""
    folder = images.operator_crds()
    plurals = [path.rpartition("/")[2] for path in PLURALS.values()]
    crds_there = [f"{plural}.monitoring.coreos.com" for plural in plurals]
    for plural in plurals:
        file = str(folder / f"monitoring.coreos.com_{plural}.yaml")
        crds.kubectl("apply", "--server-side", "--force-conflicts", "-f", file)
    for name in crds_there:
        crds.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=60s")
    yield crds
    for name in crds_there:
        crds.kubectl("delete", "crd", name, "--wait=true", "--timeout=60s")


def tried(plane: ControlPlane, item: dict[str, Any], namespace: str) -> str:
    """Return why the API server would refuse it; empty where it would not."""
    version, _, plural = PLURALS[item["kind"]].split("/")
    item = json.loads(json.dumps(item))
    item["metadata"] |= {"namespace": namespace, "ownerReferences": []}
    path = f"/apis/monitoring.coreos.com/{version}/namespaces/{namespace}/{plural}"
    answer = plane.http.post(path, json=item, params={"dryRun": "All", "fieldValidation": "Strict"})
    return "" if answer.status_code == 201 else answer.text


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_scrape_an_engine_is_taken(real: ControlPlane, namespace: str, way: str) -> None:
    made = [item for item in build(params(way)) if item["kind"] in PLURALS]
    assert len(made) == 2
    for item in made:
        until(lambda item=item: "could not find" not in tried(real, item, namespace), "the kinds are served")  # type: ignore[misc]
        assert tried(real, item, namespace) == ""


def test_the_rules_for_all_services_are_taken(real: ControlPlane, namespace: str) -> None:
    made = shared_rules.rules(ClusterParams((), Settings(), Capabilities(rules=True)))
    assert made is not None
    assert tried(real, made, namespace) == ""


@pytest.mark.parametrize("backend", ["OpenAI", "VLLM"])
def test_what_is_stored_for_a_service_is_small(real: ControlPlane, namespace: str, backend: str) -> None:
    for item in build(test_sizes.typical(backend)):
        if item["kind"] not in test_sizes.ADDED:
            continue
        item["metadata"]["namespace"] = namespace
        group, plural = (
            ("/apis/monitoring.coreos.com/v1", "prometheusrules")
            if item["kind"] == "PrometheusRule"
            else ("/api/v1", "configmaps")
        )
        answer = real.http.patch(
            f"{group}/namespaces/{namespace}/{plural}/{item['metadata']['name']}",
            content=json.dumps(item),
            params={"dryRun": "All", "fieldManager": names.FIELD_MANAGER},
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        answer.raise_for_status()
        stored = answer.json()
        assert stored["metadata"]["managedFields"]
        added = test_sizes.weight(stored) - test_sizes.weight(item)
        assert added <= test_sizes.ADDED[item["kind"]]
        assert test_sizes.weight(stored) <= test_sizes.LIMIT


def test_what_it_does_not_know_would_be_refused(real: ControlPlane, namespace: str) -> None:
    [made] = [item for item in build(params("targets")) if item["kind"] == "ScrapeConfig"]
    assert "unknown field" in tried(real, {**made, "spec": {**made["spec"], "nonsense": 1}}, namespace)
    assert "Unsupported value" in tried(real, {**made, "spec": {**made["spec"], "scheme": "https"}}, namespace)


def elsewhere(namespace: str, **scrape: Any) -> dict[str, Any]:
    item = sample("chat", namespace)
    item["spec"]["workload"]["interception"] = {"type": "Env"}
    item["spec"]["backend"]["url"] = "http://vllm.shared.svc:8000"
    item["spec"]["scrape"] = scrape
    return item


@pytest.mark.usefixtures("alone")
def test_the_operator_writes_them_with_the_charts_rights_and_follows_the_spec(
    real: ControlPlane, namespace: str, start: Callable[[], Operator]
) -> None:
    def there(kind: str) -> bool:
        version, _, plural = PLURALS[kind].split("/")
        path = f"/apis/monitoring.coreos.com/{version}/namespaces/{namespace}/{plural}/llmwarden-engine-chat"
        return real.http.get(path).status_code == 200

    start()
    make(real, elsewhere(namespace, targets=["vllm.shared.svc:8000"]))
    until(lambda: there("ScrapeConfig"), "the ScrapeConfig is written", 60)
    merge = {"Content-Type": "application/merge-patch+json"}
    path = f"{LLM.format(namespace)}/chat"
    service = {"selector": {"matchLabels": {"app": "vllm"}}, "port": "http"}
    change = {"spec": {"scrape": {"targets": None, "service": service}}}
    real.http.patch(path, json=change, headers=merge).raise_for_status()
    until(lambda: there("ServiceMonitor") and not there("ScrapeConfig"), "one takes the other's place", 60)
    refused_target = {"spec": {"scrape": {"service": None, "targets": ["169.254.169.254:80"]}}}
    real.http.patch(path, json=refused_target, headers=merge).raise_for_status()
    refused = ("False", "TargetNotAllowed")
    until(lambda: condition(real, namespace, "chat", "Ready") == refused, "the address is refused", 60)
    until(lambda: not there("ServiceMonitor") and not there("ScrapeConfig"), "and not scraped")
