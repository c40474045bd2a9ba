"""The operator in two thousand namespaces with a service each (`LLMWARDEN_TEST_NAMESPACES`): what one namespace gets, each gets.

Watches must not multiply with namespaces, or some would be without one. All waits are for events of the API server, however long a busy machine
takes; `PATIENCE` only ends what would never come.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.operator.watches import RULES, SERVICES, Watch
from llmwarden import names
from tests.api.conftest import blank, control_plane, crds, kubeconfig, monitoring, start
from tests.api.operating import LLM, USER, Operator, make, sample, until
from tests.api.support import ControlPlane

__all__ = ["blank", "control_plane", "crds", "kubeconfig", "monitoring", "start"]

NAMESPACES = int(os.environ.get("LLMWARDEN_TEST_NAMESPACES", "2000"))
PATIENCE = 120.0 + NAMESPACES * 1.0
PRODUCTION = {"LLMWARDEN_STATUS_SECONDS": "30", "LLMWARDEN_RESYNC_SECONDS": "300"}
MERGE = {"Content-Type": "application/merge-patch+json"}
NAME = "chat"


class Cluster:
    """What watches show of services and their rules, by namespace."""

    def __init__(self, plane: ControlPlane) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.rules: dict[str, int] = {}  # generations
        self.done: set[str] = set()  # namespaces whose service has all it should have
        self._changed = threading.Condition()
        self._watches = [
            Watch(plane, SERVICES, self._service),
            Watch(plane, RULES, self._rule, metadata=True, labelSelector=names.LABEL_SERVICE),
        ]

    def _service(self, _kind: str, item: dict[str, Any]) -> None:
        with self._changed:
            self.services[item["metadata"]["namespace"]] = item
            self._look(item["metadata"]["namespace"])

    def _rule(self, _kind: str, item: dict[str, Any]) -> None:
        with self._changed:
            self.rules[item["metadata"]["namespace"]] = item["metadata"]["generation"]
            self._look(item["metadata"]["namespace"])

    def status(self, namespace: str) -> dict[str, Any]:
        found: dict[str, Any] = self.services.get(namespace, {}).get("status") or {}
        return found

    def _look(self, namespace: str) -> None:
        conditions = {item["type"]: item["status"] for item in self.status(namespace).get("conditions") or []}
        if conditions.get("AlertsReady") == conditions.get("DashboardReady") == "True" and namespace in self.rules:
            self.done.add(namespace)
        self._changed.notify_all()

    def wait(self, holds: Callable[[], bool], what: Callable[[], str], seconds: float = PATIENCE) -> None:
        with self._changed:
            came = self._changed.wait_for(lambda: holds() or any(watch.failed for watch in self._watches), seconds)
        assert [watch.failed for watch in self._watches if watch.failed] == []
        assert came, what()

    def stop(self) -> None:
        for watch in self._watches:
            watch.stop()


@pytest.fixture
def spaces(blank: ControlPlane) -> list[str]:
    """Return the names of new namespaces. The cluster goes with the session: deleting thousands is nobody's need."""
    found = [f"many-{number:04d}" for number in range(NAMESPACES)]

    def one(name: str) -> None:
        blank.http.post("/api/v1/namespaces", json={"metadata": {"name": name}}).raise_for_status()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, found))
    return found


def edit(plane: ControlPlane, cluster: Cluster, namespace: str, percent: str) -> None:
    """Edit a service's objective; returns when its rules and its status have followed."""
    before = cluster.rules[namespace]
    wanted = cluster.services[namespace]["spec"]["objectives"]
    wanted = [{**wanted[0], "targetPercent": percent}, *wanted[1:]]
    answer = plane.http.patch(f"{LLM.format(namespace)}/{NAME}", json={"spec": {"objectives": wanted}}, headers=MERGE)
    generation = answer.raise_for_status().json()["metadata"]["generation"]
    cluster.wait(
        lambda: cluster.rules[namespace] > before and cluster.status(namespace).get("observedGeneration") == generation,
        lambda: f"the edit in {namespace} was not followed: {cluster.status(namespace)}",
        120,
    )


def pod(plane: ControlPlane, namespace: str, labels: dict[str, str]) -> None:
    container = {"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": 8000}]}
    # The controller manager may not have made the service account of so new a namespace yet.
    spec = {"containers": [container], "serviceAccountName": NAME, "automountServiceAccountToken": False}
    path = f"/api/v1/namespaces/{namespace}"
    plane.http.post(f"{path}/serviceaccounts", json={"metadata": {"name": NAME}}).raise_for_status()
    item = {"metadata": {"name": "of-it", "labels": labels}, "spec": spec}
    plane.http.post(f"{path}/pods", json=item).raise_for_status()


def test_every_one_of_thousands_of_namespaces_is_looked_after(
    crds: ControlPlane,
    spaces: list[str],
    monitoring: Callable[[], None],
    start: Callable[..., Operator],
    tmp_path: Path,
) -> None:
    monitoring()
    operator = start(**PRODUCTION)
    cluster = Cluster(crds)
    try:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda namespace: make(crds, sample(NAME, namespace)), spaces))
        labels = made[0]["spec"]["workload"]["selector"]["matchLabels"]

        cluster.wait(
            lambda: len(cluster.done) == len(spaces),
            lambda: f"services lack something: {sorted(set(spaces) - cluster.done)[:5]}",
        )

        edit(crds, cluster, spaces[-1], "98.5")

        # In any namespace: the first, the last, one between.
        chosen = (spaces[0], spaces[len(spaces) // 2], spaces[-1])
        for namespace in chosen:
            pod(crds, namespace, labels)
        for namespace in chosen:
            cluster.wait(
                lambda namespace=namespace: cluster.status(namespace).get("workload", {}).get("selected") == 1,  # type: ignore[misc]
                lambda namespace=namespace: f"the pod in {namespace} is not counted: {cluster.status(namespace)}",  # type: ignore[misc]
                120,
            )

        assert operator.stop() == 0
        mark = crds.audit_mark()
        operator = start(**PRODUCTION)  # returns when it is ready, within a pod's usual patience
        rounds = 'llmwarden_operator_reconcile_total{kind="LLMService",result="success"}'
        until(lambda: operator.metric(rounds) >= len(spaces), "every service is looked at after the restart", PATIENCE)
        assert crds.writes(mark, USER) == []
        edit(crds, cluster, spaces[0], "97.5")
        assert "this is a bug" not in (tmp_path / "operator.log").read_text()
    finally:
        cluster.stop()
