"""The node shape, in network and mount namespaces of its own, so that it can run beside the cluster of the other tests.

What it proves: pods, Services, DNS, volumes and logs work; a Ctrl-C in the middle of `up`, and `down` after everything
was killed, leave the machine exactly as it was.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster import builds, images, processes
from cluster.paths import State

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or os.environ.get("CLUSTER", "local") != "local", reason="our own node needs root"
)


@dataclass(frozen=True)
class Machine:
    """Namespaces that look like a machine on which nothing has run yet."""

    holder: int
    state: State

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self.holder}", "--net", "--mount", f"--wd={ROOT}", *words]

    def cluster(self, command: str, *words: str) -> list[str]:
        return self.command(sys.executable, "-m", "cluster", command, "--name", self.state.name, *words)

    def run(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kubectl(self, *words: str) -> str:
        return self.run(self.cluster("kubectl", "--", *words))

    def snapshot(self) -> dict[str, list[str]]:
        code = "import json; from cluster import machine; print(json.dumps(machine.snapshot()))"
        seen: dict[str, list[str]] = json.loads(self.run(self.command(sys.executable, "-c", code)))
        return seen


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    name = f"test-{secrets.token_hex(3)}"
    builds.build(*builds.NODE)
    home = tempfile.mkdtemp(prefix="node-")  # short: sockets lie below it
    monkeypatch.setenv("XDG_STATE_HOME", home)
    # Of its own, and empty: where a node leaves things, and where another node may keep some.
    folders = "/run /var/lib /var/log /usr/libexec"
    script = f"ip link set lo up && for f in {folders}; do mount -t tmpfs tmpfs $f || exit; done; echo ok; exec cat"
    with subprocess.Popen(
        ["unshare", "--net", "--mount", "--propagation=private", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == b"ok\n"
        made = Machine(holder.pid, State.of(name))
        try:
            yield made
        finally:
            subprocess.run(made.cluster("down"), check=False, capture_output=True)
            holder.stdin.close()
            Path(home).rmdir()  # nothing may be left in it


def changed(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return by kind what has come (+) and what has gone (-).

    Another node's mounts, which the machine began with, go from it as well when that node ends a pod and removes its folders.
    """
    found = {}
    for kind, was in before.items():
        if kind == "mounts":
            was = [each for each in was if each in after[kind]]  # noqa: PLW2901 - see above
        signs = [f"+{each}" for each in after[kind] if each not in was] + [
            f"-{each}" for each in was if each not in after[kind]
        ]
        if signs or after[kind] != was:
            found[kind] = signs or after[kind]
    return found


def test_the_node_works_and_goes_without_a_trace(machine: Machine, tmp_path: Path) -> None:
    before = machine.snapshot()

    # Ctrl-C while pods are being started.
    with subprocess.Popen(machine.cluster("up"), stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr
        while sum(each.component == "containerd" for each in processes.find(machine.state)) < 2:  # it and a shim
            assert up.poll() is None
            time.sleep(0.02)
        up.send_signal(signal.SIGINT)
        assert "undoing" in up.stderr.read()
    assert up.returncode == 130
    assert machine.run(machine.cluster("residue")) == "nothing\n"
    assert changed(before, machine.snapshot()) == {}

    assert str(machine.state.kubeconfig) in machine.run(machine.cluster("up"))
    # Of what a daemon starts (kube-proxy its iptables), some are gone a moment later.
    programs = {(each.component, each.pid) for each in processes.find(machine.state) if each.leader}
    machine.run(machine.cluster("up"))
    gone = programs - {(each.component, each.pid) for each in processes.find(machine.state)}
    # None was begun again.
    assert not gone, {component: processes.tail(machine.state, component) for component, _ in gone}
    _use(machine, tmp_path)

    # Everything dies at once, as in a crash; containers go on running without anybody to watch them.
    for daemon in processes.find(machine.state):
        os.kill(daemon.pid, signal.SIGKILL)
    machine.run(machine.cluster("down"))
    assert machine.run(machine.cluster("residue")) == "nothing\n"
    assert changed(before, machine.snapshot()) == {}
    assert not machine.state.root.exists()


def _use(machine: Machine, tmp_path: Path) -> None:
    """Serve DNS's own health page through a Service, with a volume, from a loaded image."""
    archive = images.from_program(builds.program("coredns"), "llmwarden.local/probe:1", tmp_path / "probe.tar")
    assert machine.run(machine.cluster("load-image", str(archive))) == "llmwarden.local/probe:1\n"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "labels": {"app": "probe"}},
        "spec": {
            "containers": [
                {
                    "name": "probe",
                    "image": "llmwarden.local/probe:1",
                    "args": ["-conf", "/config/Corefile"],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "volumeMounts": [
                        {"name": "config", "mountPath": "/config"},
                        {"name": "data", "mountPath": "/data"},
                    ],
                }
            ],
            "volumes": [
                {"name": "config", "configMap": {"name": "probe"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            ],
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "probe"},
        "spec": {"selector": {"app": "probe"}, "ports": [{"port": 80, "targetPort": "http"}]},
    }
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "probe"},
        "data": {"Corefile": ".:1053 {\n health\n}\n"},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    path = tmp_path / "probe.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [config, claim, service, pod]}))
    machine.kubectl("apply", "-f", str(path))
    machine.kubectl("wait", "--for=condition=Ready", "pod/probe", "--timeout=60s")
    assert "CoreDNS" in machine.kubectl("logs", "probe")
    assert "CoreDNS" in machine.kubectl("exec", "probe", "--", "/coredns", "-version")
    address = machine.kubectl("get", "service", "probe", "-o", "jsonpath={.spec.clusterIP}")
    # From the machine, as the API server calls a webhook.
    code = (
        "import urllib.request, sys; "
        "print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=10).read().decode())"
    )
    assert machine.run(machine.command(sys.executable, "-c", code, f"http://{address}/health")) == "OK\n"
    resolve = (
        "import socket, struct, sys; name = b''.join(bytes([len(p)]) + p.encode() for p in sys.argv[1].split('.')); "
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10); "
        "s.sendto(struct.pack('!6H', 1, 256, 1, 0, 0, 0) + name + b'\\0' + struct.pack('!2H', 1, 1), ('10.96.0.10', 53)); "
        "print(socket.inet_ntoa(s.recv(512)[-4:]))"
    )
    domain = "probe.default.svc.cluster.local"
    assert machine.run(machine.command(sys.executable, "-c", resolve, domain)) == f"{address}\n"
