"""The operator as a process of its own, with the chart's least rights, on a real API server; and what it is given to do."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from llmwarden import names
from tests.api.support import ROOT, SAMPLES, ControlPlane, documents
from tests.ports import free_port

NAMESPACE = names.DEFAULT_NAMESPACE
USER = f"system:serviceaccount:{NAMESPACE}:{names.OPERATOR}"
INSTALL = ROOT / "manifests" / "install.yaml"
RIGHTS = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
RIGHTS |= {"MutatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
HOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
LLM = "/apis/llmwarden.io/v1alpha1/namespaces/{}/llmservices"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MONITORING = {"podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule", "prometheuses": "Prometheus"}
ALL_OF_CHAT = {"llmwarden-engine-chat", "llmwarden-alerts-chat", "llmwarden-dashboard-chat"}


def until(holds: Callable[[], Any], what: str, seconds: float = 40.0) -> Any:
    """Return what `holds` returns once it is true."""
    end = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)


def wait_for_namespace(plane: ControlPlane) -> None:
    """Wait until ours is there to stay, or absent: another module's may be on its way out."""
    path = f"/api/v1/namespaces/{NAMESPACE}"
    until(lambda: "deletionTimestamp" not in plane.http.get(path).json().get("metadata", {}), "the namespace is free")


class Operator:
    """The operator's process."""

    def __init__(self, kubeconfig: Path, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.log = log
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "LLMWARDEN_METRICS_PORT": str(self.port),
            "LLMWARDEN_STATUS_SECONDS": "1",
            "LLMWARDEN_RESYNC_SECONDS": "1.5",
            "LLMWARDEN_INJECTION_STUCK_SECONDS": "5",
            "PYTHONPATH": str(ROOT / "operator"),
            **settings,
        }
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llmwarden", "operator"], env=environment, stdout=file, stderr=file
            )
        until(lambda: self.answers("/readyz"), f"the operator is ready ({log})")

    def answers(self, path: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False).status_code == 200
        return False

    def metric(self, start: str) -> float:
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start))

    def rounds(self, count: int) -> None:
        """Wait until every key was reconciled so many times more, by ticks and resyncs."""
        done = 'llmwarden_operator_reconcile_total{kind="Cluster"'
        before = self.metric(done)
        until(lambda: self.metric(done) >= before + count, "the operator goes on reconciling")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


def sample(name: str, namespace: str) -> dict[str, Any]:
    every = [item for path in sorted(SAMPLES.glob("*.yaml")) for item in documents(path)]
    item = next(item for item in every if item["kind"] == "LLMService" and item["metadata"]["name"] == name)
    item["metadata"]["namespace"] = namespace
    item["spec"].pop("gpu", None)
    return item


def make(plane: ControlPlane, item: dict[str, Any]) -> dict[str, Any]:
    answer = plane.http.post(LLM.format(item["metadata"]["namespace"]), json=item)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def condition(plane: ControlPlane, namespace: str, name: str, kind: str) -> tuple[str, str]:
    status = plane.http.get(f"{LLM.format(namespace)}/{name}").json().get("status") or {}
    found = next((item for item in status.get("conditions") or [] if item["type"] == kind), None)
    return (found["status"], found["reason"]) if found else ("", "")


def children(plane: ControlPlane, namespace: str) -> set[str]:
    found = set()
    for path in (
        "/api/v1/namespaces/{}/configmaps",
        *(f"/apis/monitoring.coreos.com/v1/namespaces/{{}}/{kind}" for kind in MONITORING),
    ):
        answer = plane.http.get(
            path.format(namespace), params={"labelSelector": f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"}
        )
        if answer.status_code == 200:
            found |= {item["metadata"]["name"] for item in answer.json()["items"]}
    return found


def settled(plane: ControlPlane, operator: Operator, namespace: str, name: str) -> None:
    until(lambda: condition(plane, namespace, name, "Ready")[0], "the service has a status")
    operator.rounds(2)


def about(writes: list[str], namespace: str) -> list[str]:
    return [write for write in writes if f"/namespaces/{namespace}/" in write]
