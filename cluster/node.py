"""The node: containerd, kubelet, kube-proxy, scheduler and storage beside the control plane, as root."""

import json
from pathlib import Path
from typing import Any

from cluster import addons, builds, control_plane, images, machine, network, processes
from cluster.control_plane import ControlPlane, Programs, free_port, wait
from cluster.kubeapi import Api, ApiError
from cluster.paths import State
from cluster.progress import say
from cluster.shell import succeeds

COMPONENTS = ("containerd", "kube-scheduler", "kubelet", "kube-proxy", "provisioner")
NODE = "llmwarden-node"

_SECONDS = 180.0


def start(state: State, found: Programs) -> str:
    """Start everything and return the API server's URL when the node takes pods and answers DNS."""
    network.claim(state)
    state.run.mkdir(parents=True, mode=0o700)
    resolver = network.write_resolver(state)
    _start_containerd(state, network.write_cni(state))
    plane = control_plane.start(state, found, network.ADDRESS, node=True)
    _start_scheduler(state, plane)
    _start_proxy(state, plane)
    wait("containerd", state, ("containerd",), lambda: _containerd_ready(state), _SECONDS)
    _load_images(state)
    _start_kubelet(state, plane, resolver)
    for manifest in addons.manifests(upstream=bool(resolver.read_text())):
        plane.api.apply(manifest)
    _start_provisioner(state, plane)
    control_plane.finish(state, plane)
    say("waiting for the node and its DNS")
    wait("the node's readiness", state, ("kubelet",), lambda: _quietly(ready, plane.api), _SECONDS)
    wait("the cluster's DNS", state, COMPONENTS, lambda: _quietly(_dns_ready, plane.api), _SECONDS)
    return plane.api.server


def _quietly(check: Any, api: Api) -> bool:
    try:
        return bool(check(api))
    except (ApiError, OSError):
        return False


def ready(api: Api) -> bool:
    """Return whether the node says that it is ready."""
    status = api.call("GET", f"/api/v1/nodes/{NODE}")["status"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", []))


def _dns_ready(api: Api) -> bool:
    status = api.call("GET", "/apis/apps/v1/namespaces/kube-system/deployments/coredns")["status"]
    return bool(status.get("readyReplicas", 0))


def _start_containerd(state: State, cni: Path) -> None:
    # Debian's containerd may be 1.6 or 1.7: version 2 is the configuration that both read.
    config = f"""\
version = 2
root = "{state.root}/containerd"
state = "{state.run}/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{state.run}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{state.root}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
# Some machines withhold CAP_SYS_RESOURCE, and then no container could lower its score.
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{network.PLUGINS}"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
# Its default, /run/containerd/runc, is not ours to clean.
Root = "{state.run}/runc"
"""
    path = state.root / "containerd.toml"
    path.write_text(config)
    processes.start(state, "containerd", ["containerd", "--config", path])


def _containerd_ready(state: State) -> bool:
    return succeeds(["ctr", "--address", state.run / "containerd.sock", "--connect-timeout", "2s", "version"])


def _load_images(state: State) -> None:
    for name, image in (("pause", images.PAUSE), ("coredns", images.COREDNS)):
        archive = images.from_program(builds.program(name), image, state.root / f"{name}.tar")
        images.load(state, [archive])
        archive.unlink()


def _start_scheduler(state: State, plane: ControlPlane) -> None:
    config = plane.account(state, "scheduler", "/CN=system:kube-scheduler")
    processes.start(
        state,
        "kube-scheduler",
        [
            builds.program("kube", "kube-scheduler"),
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--cert-dir={state.root / 'scheduler'}",
            "--leader-elect=false",
            "--profiling=false",
        ],
    )


def _start_proxy(state: State, plane: ControlPlane) -> None:
    config = plane.account(state, "proxy", "/CN=system:kube-proxy")
    processes.start(
        state,
        "kube-proxy",
        [
            builds.program("kube", "kube-proxy"),
            f"--kubeconfig={config}",
            f"--hostname-override={NODE}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={network.SUBNET}",
            # The machine's own limits stay as they are.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            # Nothing of the cluster listens to the outside.
            f"--nodeport-addresses=127.0.0.0/8,{network.ADDRESS}/32",
            f"--healthz-bind-address=127.0.0.1:{free_port()}",
            f"--metrics-bind-address=127.0.0.1:{free_port()}",
            # The default, a second, is what each new Service would cost every test.
            "--iptables-min-sync-period=100ms",
        ],
    )


def _make_groups(state: State) -> None:
    for group in machine.control_groups(state):
        control = group.parent / "cgroup.subtree_control"
        if control.exists():
            # Version 2: kubelet wants these in its group, and the root hands down only what it is told to.
            available = (group.parent / "cgroup.controllers").read_text().split()
            for controller in {"cpu", "cpuset", "hugetlb", "memory", "pids"} & set(available):
                control.write_text(f"+{controller}")
        group.mkdir(exist_ok=True)


def _start_kubelet(state: State, plane: ControlPlane, resolver: Path) -> None:
    _make_groups(state)
    config = plane.account(state, "kubelet", f"/O=system:nodes/CN=system:node:{NODE}")
    serving = plane.authority.issue("kubelet-server", f"/O=system:nodes/CN={NODE}", (NODE, network.ADDRESS))
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.ADDRESS,
        "port": free_port(network.ADDRESS),
        "readOnlyPort": 0,
        "healthzPort": 0,
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(plane.authority.pair.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [network.DNS_ADDRESS],
        "clusterDomain": network.DOMAIN,
        "resolvConf": str(resolver),
        "containerRuntimeEndpoint": f"unix://{state.run}/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/llmwarden-{state.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "maxPods": 220,
        # A changed ConfigMap reaches a pod's files at the pod's next sync: a minute is long for a person who waits for an alert rule.
        "syncFrequency": "10s",
        # Images come from archives, never from a registry: one that was collected as garbage would be lost.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMaximumGCAge": "0s",
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        # Without them no chain of kubelet's is made; nothing of this cluster needs one.
        "makeIPTablesUtilChains": False,
        "podLogsDir": str(state.root / "pod-logs"),
        "volumePluginDir": str(state.root / "kubelet-plugins"),
        "containerLogMaxSize": "50Mi",
    }
    path = state.root / "kubelet.json"
    path.write_text(json.dumps(settings, indent=1))
    processes.start(
        state,
        "kubelet",
        [
            builds.program("kube", "kubelet"),
            f"--config={path}",
            f"--kubeconfig={config}",
            f"--root-dir={state.root / 'kubelet'}",
            f"--cert-dir={state.root / 'kubelet-pki'}",
            f"--hostname-override={NODE}",
            f"--node-ip={network.ADDRESS}",
        ],
    )


def _start_provisioner(state: State, plane: ControlPlane) -> None:
    config = plane.account(state, "provisioner", f"/CN={addons.PROVISIONER_USER}")
    volumes = state.root / "volumes"
    # Pods of any user look into their volume, so the way there must be open; the state folder above is not listable.
    volumes.mkdir(mode=0o755)
    processes.start(
        state,
        "provisioner",
        [
            builds.program("provisioner"),
            f"--kubeconfig={config}",
            f"--root={volumes}",
            f"--name={addons.PROVISIONER}",
        ],
    )
