"""The admission policy of the chart that keeps a key to the proxy, evaluated by a real API server."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from llmwarden import names
from llmwarden.injection.sidecar import decide
from llmwarden.settings import Settings
from tests.api.support import ControlPlane
from tests.unit.injection.test_exposure import HARMLESS, HELPER, OWN_KEY, RESTRICTED, mounting, pod, service
from tools import manifests

SETTINGS = Settings(image="llmwarden:0.1.0")
POLICY = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
NAMESPACE = "protect-keys"  # other tests on this control plane have a `shop`
SECONDS = 60  # until the API server has read a new policy
ONLY = "which only LLM Warden's proxy may have"


@pytest.fixture(scope="module")
def protected(crds: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with the policy, and a namespace of ours with a service that has a key and a certificate."""
    text = manifests.render([], settings=["admissionPolicy.protectKeys=true"], namespace="llmwarden-system")
    items = [
        item
        for item in yaml.safe_load_all(text)
        if item and item["kind"] in POLICY and item["metadata"]["name"] == "llmwarden-keys"
    ]
    assert len(items) == 2
    crds.kubectl("create", "namespace", NAMESPACE)
    backend = {
        "type": "OpenAI",
        "credentialsSecretRef": {"name": "openai", "key": "key"},
        "clientCertificateSecretRef": {"name": "mtls"},
    }
    bot = {
        "apiVersion": names.API_VERSION,
        "kind": "LLMService",
        "metadata": {"name": "bot", "namespace": NAMESPACE},
        "spec": {"backend": backend, "workload": {"selector": {"matchLabels": {"app": "bot"}}}},
    }
    keyless = {**bot, "metadata": {"name": "keyless", "namespace": NAMESPACE}}
    keyless["spec"] = {"backend": {"type": "Gemini"}, "workload": {"selector": {"matchLabels": {"app": "other"}}}}
    for item in (bot, keyless, *items):
        crds.kubectl("apply", "--server-side", "-f", "-", given=json.dumps(item))
    deadline = time.monotonic() + SECONDS
    while not said(crds, OWN_KEY[0]):
        assert time.monotonic() < deadline, "the policy has no effect"
        time.sleep(0.5)
    yield crds
    crds.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "llmwarden-keys")
    crds.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def said(plane: ControlPlane, given: dict[str, Any], namespace: str = NAMESPACE) -> str:
    """Why the API server refuses a pod; empty where it takes it."""
    metadata = {"name": f"pod-{time.monotonic_ns()}", "labels": given["metadata"]["labels"]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": given["spec"]}
    body["spec"] = {**body["spec"], "automountServiceAccountToken": False}
    answer = plane.http.post(f"/api/v1/namespaces/{namespace}/pods", params={"dryRun": "All"}, json=body)
    if answer.status_code == 201:
        return ""
    message = str(answer.json()["message"])
    assert answer.status_code == 403, message
    if "serviceaccount" in message:  # it is made a moment after the namespace
        return ""
    assert "llmwarden-keys" in message, message
    return message


@pytest.mark.parametrize("given", OWN_KEY)
def test_a_pod_that_gives_the_key_to_another_container_is_refused(
    protected: ControlPlane, given: dict[str, Any]
) -> None:
    assert ONLY in said(protected, given)
    assert ONLY in said(protected, proxied(given))


def proxied(given: dict[str, Any]) -> dict[str, Any]:
    done = decide(given, [service()], SETTINGS, namespace="shop", namespace_labels={}, ca_pem="CA")
    assert done.services == ("bot",)
    return done.pod


@pytest.mark.parametrize("given", [item for item in HARMLESS if "unused" not in json.dumps(item)])
def test_an_injected_pod_and_what_gives_no_key_pass(protected: ControlPlane, given: dict[str, Any]) -> None:
    assert said(protected, proxied(given)) == ""


@pytest.mark.parametrize(
    "given",
    [
        pod(envFrom=[{"secretRef": {"name": "mtls"}}]),
        pod(env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "mtls", "key": "tls.key"}}}]),
        mounting({"secret": {"secretName": "mtls"}}),
    ],
)
def test_the_certificate_s_key_is_one(protected: ControlPlane, given: dict[str, Any]) -> None:
    assert ONLY in said(protected, given)


@pytest.mark.parametrize("volume", sorted(names.VOLUMES))
def test_the_proxy_s_volumes_are_its_own(protected: ControlPlane, volume: str) -> None:
    made = proxied(pod())
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": volume, "mountPath": "/stolen"}]
    assert "may mount its volumes" in said(protected, made)


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "mine:1"},
        {"image": "llmwarden-of-mine:1"},
        {"command": ["sh"]},
        {"args": ["sh"]},
        {"lifecycle": {"postStart": {"exec": {"command": ["sh"]}}}},
        {"env": [{"name": "LD_PRELOAD", "value": "/x.so"}]},
        {"env": [{"name": "PYTHONPATH", "value": "/x"}]},
    ],
)
def test_a_container_that_only_has_the_proxy_s_name_gets_no_key(
    protected: ControlPlane, changes: dict[str, Any]
) -> None:
    made = proxied(pod())
    made["spec"]["initContainers"][0].update(changes)
    assert said(protected, made)


def test_an_ephemeral_container_gets_no_key(protected: ControlPlane) -> None:
    made = proxied(pod())
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "live", "labels": {"app": "bot"}}}
    body["spec"] = {**made["spec"], "automountServiceAccountToken": False}
    protected.http.post(f"/api/v1/namespaces/{NAMESPACE}/pods", json=body).raise_for_status()
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/live/ephemeralcontainers"
    base = {"name": "debug", "image": "debug:1", "securityContext": RESTRICTED}
    refused = (
        {**base, "envFrom": [{"secretRef": {"name": "openai"}}]},
        {**base, "volumeMounts": [{"name": names.VOLUME_CREDENTIALS, "mountPath": "/stolen"}]},
        {**base, "targetContainerName": names.PROXY_CONTAINER},
    )
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    for container in refused:
        patch = {"spec": {"ephemeralContainers": [container]}}
        answer = protected.http.patch(path, content=json.dumps(patch), headers=headers, params={"dryRun": "All"})
        assert answer.status_code == 403, answer.text
        assert "llmwarden-keys" in answer.text
    patch = {"spec": {"ephemeralContainers": [base]}}
    answer = protected.http.patch(path, content=json.dumps(patch), headers=headers, params={"dryRun": "All"})
    assert answer.status_code == 200, answer.text
    # A label is no new way to a key, whatever the pod has.
    label = {"metadata": {"labels": {"a": "b"}}}
    answer = protected.http.patch(path.rpartition("/")[0], content=json.dumps(label), headers=headers)
    assert answer.status_code == 200, answer.text


def test_other_namespaces_and_other_secrets_are_left_alone(protected: ControlPlane, namespace: str) -> None:
    deadline = time.monotonic() + SECONDS
    while protected.http.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/default").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    for given in (OWN_KEY[0], pod(init=[HELPER])):
        assert said(protected, given, namespace) == ""
