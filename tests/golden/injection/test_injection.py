"""Injection as a whole: `CASE.input.yaml` holds LLMServices, perhaps a Namespace, and a Pod; `CASE.expected.yaml` what becomes of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.injection.sidecar import Injection, decide
from llmwarden.settings import Settings

HERE = Path(__file__).parent
CASES = sorted(path.name.removesuffix(".input.yaml") for path in HERE.glob("*.input.yaml"))
SETTINGS = Settings(image="llmwarden:test", otlp_endpoint="http://collector.observability.svc:4318")


def read(case: str) -> tuple[dict[str, Any], list[LLMService], str, dict[str, str]]:
    """The pod, the services, the pod's namespace and its labels."""
    documents = list(yaml.safe_load_all((HERE / f"{case}.input.yaml").read_text()))
    pod = next(item for item in documents if item["kind"] == "Pod")
    services = [parse(LLMService, item) for item in documents if item["kind"] == "LLMService"]
    labels: dict[str, str] = {}
    labels.update(*(item["metadata"]["labels"] for item in documents if item["kind"] == "Namespace"))
    namespace = "shop" if case == "unselected" else services[0].metadata.namespace
    return pod, services, namespace, labels


def run(pod: dict[str, Any], services: list[LLMService], namespace: str, labels: dict[str, str]) -> Injection:
    return decide(pod, services, SETTINGS, namespace=namespace, namespace_labels=labels, ca_pem="CA")


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, golden: Callable[[Path, str], None]) -> None:
    pod, services, namespace, labels = read(case)
    before = json.dumps(pod)
    injection = run(pod, services, namespace, labels)
    assert json.dumps(pod) == before  # what is given is never changed
    documents: list[Any] = [injection.pod, {"findings": [finding.dump() for finding in injection.findings]}]
    documents += [
        {"contract": json.loads(container["env"][0]["value"])}
        for container in injection.pod["spec"].get("initContainers", [])
        if container["name"] == names.PROXY_CONTAINER
    ]
    text = "---\n".join(yaml.safe_dump(item, sort_keys=False, width=140, allow_unicode=True) for item in documents)
    golden(HERE / f"{case}.expected.yaml", text)


@pytest.mark.parametrize("case", CASES)
def test_injecting_twice_changes_nothing_more(case: str) -> None:
    pod, services, namespace, labels = read(case)
    once = run(pod, services, namespace, labels)
    twice = run(once.pod, services, namespace, labels)
    first, second = (
        dict(once.pod["metadata"].get("annotations", {})),
        dict(twice.pod["metadata"].get("annotations", {})),
    )
    # What was noticed may read differently once the pod is changed; what was done may not.
    first.pop(names.ANNOTATION_FINDINGS, None)
    second.pop(names.ANNOTATION_FINDINGS, None)
    assert first == second
    assert twice.pod["spec"] == once.pod["spec"]
    assert twice.services == once.services


def test_the_platforms_caps_reach_the_proxy() -> None:
    pod, services, namespace, labels = read("env-deployment-pod")
    settings = replace(SETTINGS, unbounded_output_tokens=0)
    injection = decide(pod, services, settings, namespace=namespace, namespace_labels=labels, ca_pem="CA")
    (contract,) = (
        json.loads(container["env"][0]["value"])
        for container in injection.pod["spec"]["initContainers"]
        if container["name"] == names.PROXY_CONTAINER
    )
    assert contract["limits"] == {"unboundedInputTokens": 131_072, "unboundedOutputTokens": 0}
