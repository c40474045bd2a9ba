"""The parts of the local cluster that need no cluster."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cluster import addons, builds, cleanup, images, machine, processes, target
from cluster.control_plane import free_port
from cluster.errors import ClusterError
from cluster.lifecycle import Cluster
from cluster.network import write_resolver
from cluster.paths import SOURCES, State
from cluster.progress import Progress, duration
from cluster.shell import run


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LLMWARDEN_CACHE", str(tmp_path / "cache"))
    return State.of("unit")


def test_it_runs_before_any_environment_exists(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-S", "-m", "cluster", "--help"],
        cwd=root,
        env=bare,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "load-image" in done.stdout


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "..", "-a", "a" * 33, "a b"])
def test_a_name_that_could_leave_the_state_folder_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot name a cluster"):
        State.of(name)


def test_a_daemon_is_found_as_soon_as_it_is_started(state: State) -> None:
    # Without a wait for it, about every second one is not.
    for number in range(20):
        daemon = processes.start(state, f"quick-{number}", [sys.executable, "-c", "import time; time.sleep(60)"])
        found = processes.living(state)
        daemon.kill()
        daemon.wait()
        assert found == {f"quick-{number}": daemon.pid}


def test_a_process_is_found_by_its_mark_and_only_ours_is_killed(state: State) -> None:
    other = State(state.name, state.root.with_name("unit-other"))
    ours = processes.start(state, "sleeper", ["sleep", "60"])
    theirs = processes.start(other, "sleeper", ["sleep", "60"])
    try:
        assert processes.living(state) == {"sleeper": ours.pid}
        processes.kill(state)
        assert processes.find(state) == []
        assert theirs.poll() is None
    finally:
        theirs.kill()
        theirs.wait()
        ours.wait()


def test_a_child_that_outlives_its_component_does_not_stand_for_it(state: State) -> None:
    component = processes.start(state, "containerd", ["sh", "-c", "sleep 60 & wait"])
    while len(processes.find(state)) < 2:
        assert component.poll() is None
    component.kill()
    component.wait()
    assert processes.living(state) == {}
    assert [each.component for each in processes.find(state)] == ["containerd"]
    processes.kill(state)
    assert processes.find(state) == []


def test_the_log_of_a_crash_shows_the_reason_and_not_the_stack(state: State) -> None:
    state.logs.mkdir(parents=True)
    (state.logs / "kubelet.log").write_text("starting\npanic: no\n\ngoroutine 1 [running]:\nmain.main()\n")
    assert "panic: no" in processes.tail(state, "kubelet")
    assert "main.main" not in processes.tail(state, "kubelet")


def test_down_of_nothing_does_nothing(state: State) -> None:
    Cluster("unit", "control-plane").down()
    assert machine.residue(state) == []


def test_status_of_nothing_says_what_to_type(state: State) -> None:
    with pytest.raises(ClusterError, match=f"python3 -m cluster up --name {state.name}"):
        Cluster("unit").status()


def test_a_cut_off_start_is_taken_down(state: State) -> None:
    (state.root / "pki").mkdir(parents=True)
    assert cleanup.anything_left(state)
    cleanup.everything(state)
    assert not state.root.exists()


def test_an_image_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"static")
    first = images.from_program(program, "llmwarden.local/x:1", tmp_path / "1.tar").read_bytes()
    os.utime(program, (1, 1))
    assert images.from_program(program, "llmwarden.local/x:1", tmp_path / "2.tar").read_bytes() == first
    with tarfile.open(tmp_path / "1.tar") as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest
        assert json.load(manifest)[0]["RepoTags"] == ["llmwarden.local/x:1"]


def test_every_build_has_its_sources_and_a_key_that_follows_them() -> None:
    folders = {name: builds.folder(name) for name in builds.BUILDS}
    assert len(set(folders.values())) == len(folders)
    with pytest.raises(ClusterError, match="there are"):
        builds.folder("nonsense")


def test_the_versions_of_the_build_agree() -> None:
    module = (SOURCES / "go.mod").read_text()
    assert f"k8s.io/kubernetes {builds.KUBERNETES}" in module
    assert f"k8s.io/client-go => k8s.io/client-go {builds.KUBERNETES.replace('v1', 'v0', 1)}" in module


def test_foreign_netfilter_rules_are_left_alone() -> None:
    assert machine.is_ours("iptables nat :KUBE-SEP-A3CVLOOL67EEFGII -")
    assert machine.is_ours("iptables filter -A FORWARD -j KUBE-FORWARD")
    assert machine.is_ours(
        "iptables filter -A FORWARD -s 10.244.0.0/24 -m comment --comment llmwarden-cluster -j ACCEPT"
    )
    assert not machine.is_ours("iptables filter -A FORWARD -j DOCKER-USER")
    assert not machine.is_ours("iptables nat :LIBVIRT_PRT -")


def test_the_time_left_follows_the_pace() -> None:
    progress = Progress("x", total=120, prior=1.0, done=20, started=100.0)
    assert progress.left(now=120.0) == pytest.approx(100.0)
    assert (duration(42.4), duration(125)) == ("42 s", "2 min 05 s")


def test_a_loopback_name_server_is_not_given_to_pods(state: State) -> None:
    state.root.mkdir(parents=True)
    lines = write_resolver(state).read_text().split()
    assert not any(line.startswith("127.") for line in lines)


def test_dns_asks_upstream_only_where_there_is_one() -> None:
    def corefile(*, upstream: bool) -> str:
        found = [
            each["data"]["Corefile"] for each in addons.manifests(upstream=upstream) if each["kind"] == "ConfigMap"
        ]
        return str(found[0])

    assert "forward ." in corefile(upstream=True)
    assert "forward" not in corefile(upstream=False)


def test_a_free_port_is_no_node_port_and_not_ephemeral() -> None:
    assert 20000 <= free_port() < 30000


def test_the_target_is_chosen_by_one_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CLUSTER", raising=False)
    assert target.chosen() == target.Local()
    monkeypatch.setenv("CLUSTER", "kind")
    assert target.chosen() == target.Kind()
    monkeypatch.setenv("CLUSTER", "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="Set KUBECONFIG"):
        target.chosen().kubeconfig()
    with pytest.raises(ClusterError, match="registry"):
        target.chosen().load_images([tmp_path / "image.tar"])
    monkeypatch.setenv("CLUSTER", "minikube")
    with pytest.raises(ClusterError, match="local, kind or kubeconfig"):
        target.chosen()


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ClusterError, match="no-such-program is not on this machine"):
        run(["no-such-program"])
