"""The control-plane shape: quick, several at once, recovered when killed, and gone without a trace."""

import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Cluster, ClusterError, machine, processes


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(f"test-{secrets.token_hex(4)}", "control-plane")
    yield made
    made.down()
    assert machine.residue(made.state) == []
    assert not made.state.root.exists()


def _audited(log: Path, verb: str, name: str) -> int:
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return sum(each["verb"] == verb and each.get("objectRef", {}).get("name") == name for each in events)


def test_a_control_plane_from_up_to_down(cluster: Cluster) -> None:
    cluster.up()
    programs = {(each.component, each.pid) for each in processes.find(cluster.state)}
    assert cluster.up() == cluster.kubeconfig
    assert {(each.component, each.pid) for each in processes.find(cluster.state)} == programs  # it began nothing again
    assert cluster.healthy()

    cluster.kubectl("create", "configmap", "seen", "--from-literal=a=b")
    assert _audited(cluster.audit_log, "create", "seen") == 1
    # Accounts are made, so the controller manager works; garbage is collected, which tests of ownership rely on.
    cluster.kubectl("create", "deployment", "web", "--image=x")
    while not cluster.kubectl("get", "replicasets", "-o", "name"):
        time.sleep(0.1)
    cluster.kubectl("delete", "deployment", "web")
    while cluster.kubectl("get", "replicasets", "-o", "name"):
        time.sleep(0.1)

    with pytest.raises(ClusterError, match="control plane without a node"):
        Cluster(cluster.name, "node").up()
    with pytest.raises(ClusterError, match="no node to load images"):
        cluster.load_image("x.tar")

    # Half dead: killed, not ended.
    os.kill(processes.living(cluster.state)["kube-apiserver"], signal.SIGKILL)
    while cluster.status()["kube-apiserver"]:
        time.sleep(0.05)
    assert not cluster.healthy()
    cluster.up()
    assert cluster.healthy()
    assert "seen" not in cluster.kubectl("get", "configmaps")
