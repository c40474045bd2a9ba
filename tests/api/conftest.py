"""Fixtures of the api tier: one control plane for the session, our CRDs in it, a namespace for each test.

`LLMWARDEN_API_CLUSTER=NAME` uses the cluster of that name, makes it where there is none, and leaves it running: for quick turns by hand.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import Cluster
from llmwarden import names
from tests.api.operating import CRD, INSTALL, MONITORING, NAMESPACE, RIGHTS, Operator, until, wait_for_namespace
from tests.api.support import ControlPlane, documents, obstacle


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """Yield a real control plane; skips with the reason where none can run, which under CI=true is a failure."""
    reason = obstacle()
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    kept = os.environ.get("LLMWARDEN_API_CLUSTER", "")
    cluster = Cluster(kept or f"api-{os.getpid()}", "control-plane")
    cluster.up()
    try:
        plane = ControlPlane.of(cluster)
        with plane.http:
            yield plane
    finally:
        if not kept:
            cluster.down()


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> ControlPlane:
    """Return the control plane with our CRDs established."""
    control_plane.apply_crds()
    return control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """Yield the name of a namespace of the test's own; it is deleted afterwards, without waiting."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    control_plane.http.post("/api/v1/namespaces", json={"metadata": {"name": name}}).raise_for_status()
    yield name
    control_plane.http.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def blank(crds: ControlPlane) -> ControlPlane:
    """Return the control plane with no custom resource of ours: those of earlier tests are prices, budgets and writes to a process."""
    kinds = ("llmservices", "llmbudgets", "clusterllmbudgets", "modelprices", "provideraccounts")
    for kind in kinds:
        scope = ("--all-namespaces",) if kind.startswith("llm") else ()
        crds.kubectl("delete", f"{kind}.llmwarden.io", "--all", *scope, "--timeout=60s")
    return crds


@pytest.fixture(scope="module")
def kubeconfig(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a kubeconfig of the operator's own service account, with the rights that the chart gives it."""
    path = f"/api/v1/namespaces/{NAMESPACE}"
    wait_for_namespace(crds)
    if crds.http.get(path).status_code == 404:
        crds.kubectl("create", "namespace", NAMESPACE)
    wanted = [item for item in documents(INSTALL) if item["kind"] in RIGHTS]
    crds.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        "-",
        given=json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted}),
    )
    file = tmp_path_factory.mktemp("operator") / "kubeconfig"
    config = json.loads(crds.kubeconfig.read_text())
    token = crds.kubectl("create", "token", names.OPERATOR, "-n", NAMESPACE, "--duration=2h").strip()
    config["users"][0]["user"] = {"token": token}
    file.write_text(json.dumps(config))
    yield file
    crds.kubectl("delete", "mutatingwebhookconfiguration", names.WEBHOOK_CONFIGURATION, "--ignore-not-found")
    crds.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", names.OPERATOR)
    crds.kubectl("delete", "clusterrole,clusterrolebinding", "-l", f"{names.LABEL_NAME}={names.MANAGED_BY}")
    crds.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def alone(blank: ControlPlane) -> None:
    """Begin without services of earlier tests: their end would be writes of the operator's, too."""


@pytest.fixture
def start(kubeconfig: Path, tmp_path: Path) -> Iterator[Callable[..., Operator]]:
    running: list[Operator] = []

    def begin(**settings: str) -> Operator:
        running.append(Operator(kubeconfig, tmp_path / "operator.log", **settings))
        return running[-1]

    yield begin
    for operator in running:
        if operator.process.poll() is None:
            operator.stop()


@pytest.fixture
def monitoring(crds: ControlPlane) -> Iterator[Callable[[], None]]:
    """Return what installs stand-ins of the Prometheus Operator's kinds; they are taken away afterwards."""

    def install() -> None:
        for plural, kind in MONITORING.items():
            schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
            crd = {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"{plural}.monitoring.coreos.com"},
                "spec": {
                    "group": "monitoring.coreos.com",
                    "scope": "Namespaced",
                    "names": {"plural": plural, "kind": kind, "singular": kind.lower(), "listKind": f"{kind}List"},
                    "versions": [version],
                },
            }
            crds.http.post(CRD, json=crd).raise_for_status()
        served = [f"/apis/monitoring.coreos.com/v1/{plural}" for plural in MONITORING]
        until(lambda: all(crds.http.get(path).status_code == 200 for path in served), "the stand-ins are served")

    yield install
    for plural in MONITORING:
        crds.http.delete(f"{CRD}/{plural}.monitoring.coreos.com")
    until(
        lambda: all(crds.http.get(f"{CRD}/{plural}.monitoring.coreos.com").status_code == 404 for plural in MONITORING),
        "the stand-ins are gone",
    )
