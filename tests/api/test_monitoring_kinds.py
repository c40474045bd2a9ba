"""What we build, against the Prometheus Operator's real custom resource definitions in a real API server: every field is known and valid."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from demo import images
from llmwarden.desired.builder import build
from tests.api.operating import until
from tests.api.support import ControlPlane
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
    names = [f"{plural}.monitoring.coreos.com" for plural in plurals]
    for plural in plurals:
        file = str(folder / f"monitoring.coreos.com_{plural}.yaml")
        crds.kubectl("apply", "--server-side", "--force-conflicts", "-f", file)
    for name in names:
        crds.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=60s")
    yield crds
    for name in names:
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


def test_what_it_does_not_know_would_be_refused(real: ControlPlane, namespace: str) -> None:
    [made] = [item for item in build(params("targets")) if item["kind"] == "ScrapeConfig"]
    assert "unknown field" in tried(real, {**made, "spec": {**made["spec"], "nonsense": 1}}, namespace)
    assert "Unsupported value" in tried(real, {**made, "spec": {**made["spec"], "scheme": "https"}}, namespace)
