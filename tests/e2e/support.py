"""What the end-to-end tests apply: a stage of their own (a namespace), an engine simulator, an application that calls it.

The workloads are the demo's images, so that nothing is built twice: an engine simulator that says that it is one, and an application
with the real `openai` client that measures for itself.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster import target
from cluster.lifecycle import DEFAULT_NAME, Cluster
from demo import images, steps
from demo.kube import Kube, condition
from llmwarden import names

WORKLOADS = "llmwarden-demo:dev"
RESTRICTED = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
}
CONTAINER = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
SECONDS = 120.0
# What the addresses in a page begin with. All tiers on one cluster have the same settings: others would replace our pods.
RUNBOOKS = "https://runbooks.example.com/llm"
GRAFANA = "https://grafana.example.com"
SETTINGS = {"LLMWARDEN_RUNBOOK_BASE_URL": RUNBOOKS, "LLMWARDEN_GRAFANA_URL": GRAFANA}


def deployment(
    namespace: str,
    name: str,
    *,
    program: str = "engine.py",
    env: Mapping[str, str] | None = None,
    container: Mapping[str, Any] | None = None,
    pod: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    image: str = WORKLOADS,
) -> dict[str, Any]:
    """Return a Deployment of one pod, labelled `app: NAME`; the container `app` runs a program of the demo's image."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": dict(annotations or {})},
                "spec": {
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 2,
                    **RESTRICTED,
                    "containers": [
                        {
                            "name": "app",
                            "image": image,
                            "imagePullPolicy": "IfNotPresent",
                            "args": [program],
                            "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
                            "securityContext": CONTAINER,
                            "resources": {"requests": {"cpu": "10m", "memory": "48Mi"}},
                            **(container or {}),
                        }
                    ],
                    **(pod or {}),
                },
            },
        },
    }


def service(namespace: str, name: str, target: str | int) -> dict[str, Any]:
    """Return a Service on port 80 before the pods of `app: NAME`."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": target}]},
    }


def llm(namespace: str, name: str, spec: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return an LLMService."""
    return {
        "apiVersion": "llmwarden.io/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels or {})},
        "spec": dict(spec),
    }


def port_spec(app: str, port: str = "http") -> dict[str, Any]:
    """Return the spec of a service before an engine's named port."""
    return {
        "backend": {"type": "VLLM"},
        "workload": {
            "selector": {"matchLabels": {"app": app}},
            "interception": {"type": "Port", "port": {"name": port}},
        },
    }


def env_spec(app: str, url: str, **more: Any) -> dict[str, Any]:
    """Return the spec of a service of an application that calls an OpenAI-shaped backend."""
    return {"backend": {"type": "OpenAI", "url": url}, "workload": {"selector": {"matchLabels": {"app": app}}}, **more}


def proxy_of(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return the injected container of a pod, `{}` when there is none."""
    found: list[dict[str, Any]] = [
        item for item in pod["spec"].get("initContainers", []) if item["name"] == "llmwarden-proxy"
    ]
    return found[0] if found else {}


@dataclass(frozen=True)
class Stage:
    """A namespace of a test's own on the cluster where LLM Warden runs."""

    kube: Kube
    namespace: str

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Apply documents."""
        self.kube.apply(*documents)

    def llm(self, name: str) -> dict[str, Any]:
        """Return an LLMService of this namespace."""
        return self.kube.get("llmservice", name, self.namespace)

    def wait_condition(
        self, name: str, kind: str, status: str, *, reason: str = "", text: str = "", seconds: float = SECONDS
    ) -> dict[str, Any]:
        """Wait until a condition of an LLMService has this status (and reason, and words in its message), at its generation."""

        def check() -> str:
            found = self.llm(name)
            present = condition(found, kind)
            if present.get("observedGeneration") != found.get("metadata", {}).get("generation"):
                return f"{kind} is {json.dumps(present)}: not of this generation"
            fits = (
                present.get("status") == status
                and reason in ("", present.get("reason"))
                and text in present.get("message", "")
            )
            return "" if fits else f"{kind} is {json.dumps(present)}"

        self.kube.wait(f"{kind}={status} {reason} {text}", check, seconds, lambda: self.kube.trouble(self.namespace))
        return condition(self.llm(name), kind)

    def wait_injecting(self) -> None:
        """Wait until the webhook is asked for pods of this namespace."""

        def check() -> str:
            found = self.kube.get("mutatingwebhookconfiguration", names.WEBHOOK_CONFIGURATION)
            return (
                "" if self.namespace in json.dumps(found) else "the webhook configuration does not name the namespace"
            )

        self.kube.wait("injection in the namespace", check, SECONDS)

    def rollout(self, name: str, seconds: float = SECONDS) -> dict[str, Any]:
        """Wait until a Deployment's pod is ready; returns the pod."""
        self.kube.wait_rolled_out("deployment", name, self.namespace, seconds)
        return self.kube.pods(self.namespace, f"app={name}")[0]

    def figures(self, app: str) -> dict[str, Any]:
        """Return what an application measured itself."""
        pod = self.kube.pods(self.namespace, f"app={app}")[0]["metadata"]["name"]
        found: dict[str, Any] = self.kube.read_pod(self.namespace, pod, 8080, "/figures")
        return found


@contextmanager
def warden(engine: str = "simulator") -> Iterator[tuple[Kube, images.Images]]:
    """Yield the chosen cluster with monitoring and LLM Warden in it, and the demo's images.

    One that was running before is used and left running (`python -m tests.run` has one for all tiers); one that is made here is taken down,
    unless `E2E_KEEP=1`.
    """
    chosen = target.chosen(os.environ.get("LLMWARDEN_CLUSTER") or DEFAULT_NAME)
    ours = isinstance(chosen, target.Local) and not Cluster(chosen.name).healthy()
    try:
        kube, made = steps.cluster_with_images(chosen, engine)
        steps.install_monitoring(kube, made)
        steps.install_warden(kube, {**steps.SETTINGS, **SETTINGS})
        steps.wait_warden(kube)
        yield kube, made
    finally:
        if ours and not os.environ.get("E2E_KEEP"):
            chosen.down()


@contextmanager
def stage(kube: Kube, name: str, labels: Mapping[str, str] | None = None) -> Iterator[Stage]:
    """Make a namespace for a test and delete it afterwards, without waiting."""
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})
    try:
        yield Stage(kube, name)
    finally:
        kube.run("delete", "namespace", name, "--wait=false", "--ignore-not-found")
