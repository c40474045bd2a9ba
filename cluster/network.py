"""The node's address and the pods' network.

The node has an address of its own on a link of its own: pods, the API server and the kubelet agree on it whatever the
machine's networks are, and nothing listens to the outside. Pods are attached point to point (CNI's `ptp`) rather than
to a bridge: then every packet between pods is routed, so Services work whether or not the kernel filters bridges.
"""

import json
import os
from pathlib import Path

from cluster import machine
from cluster.errors import ClusterError
from cluster.locks import locked
from cluster.paths import State, cache_root
from cluster.shell import run

SUBNET = "10.244.0.0/24"
SERVICE_RANGE = "10.96.0.0/16"
ADDRESS = "10.244.0.1"
DNS_ADDRESS = "10.96.0.10"
DOMAIN = "cluster.local"
PLUGINS = Path("/usr/lib/cni")

# A socket's path may have 107 bytes, and kubelet puts one at ROOT/kubelet/pod-resources/0123456789.
_LONGEST_ROOT = 107 - 33


def check(state: State) -> None:
    """Raise ClusterError if a node is impossible here: said before anything is downloaded or built."""
    if os.geteuid() != 0:
        message = (
            "A node needs root: sudo python3 -m cluster up. Without root there is: "
            "python3 -m cluster up --shape control-plane"
        )
        raise ClusterError(message)
    if len(str(state.root)) > _LONGEST_ROOT:
        message = f"{state.root} is too long a path for kubelet's sockets: set XDG_STATE_HOME to a shorter folder."
        raise ClusterError(message)
    if owner := machine.link_owner():
        name = Path(owner).name
        message = f"The cluster {name} ({owner}) holds this machine's node. Take it down first: python3 -m cluster down --name {name}"
        raise ClusterError(message)


def claim(state: State) -> None:
    """Make this cluster the machine's one node; raises ClusterError if it has one."""
    with locked(cache_root() / "locks" / "node.lock", "the machine"):
        check(state)
        if any(" KUBE-" in line or ":KUBE-" in line for line in machine.netfilter_lines()):
            message = (
                "This machine already runs a Kubernetes node or kept its netfilter rules (chains KUBE-*). "
                "Use that one with CLUSTER=kubeconfig, or remove the rules: kube-proxy --cleanup"
            )
            raise ClusterError(message)
        machine.write_down(state)
        # A bridge without ports: the kind of link that every kernel with containers has.
        run(["ip", "link", "add", machine.LINK, "type", "bridge"])
        run(["ip", "link", "set", machine.LINK, "alias", str(state.root), "up"])
        run(["ip", "address", "add", f"{ADDRESS}/32", "dev", machine.LINK])
        # No packet takes it, but without a route (say, offline) the kernel refuses before kube-proxy's rules are asked.
        run(["ip", "route", "add", SERVICE_RANGE, "dev", machine.LINK])
    _forward()


def _forward() -> None:
    """Let pods out under the machine's address, also where another program's policy is to drop what is forwarded."""
    for file in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        path = Path("/proc/sys") / file
        if path.exists() and path.read_text().strip() != "1":
            path.write_text("1")
    comment = f"-m comment --comment {machine.RULE_COMMENT}"
    rules = (
        "*filter\n"
        f"-I FORWARD -s {SUBNET} {comment} -j ACCEPT\n"
        f"-I FORWARD -d {SUBNET} {comment} -j ACCEPT\n"
        "COMMIT\n*nat\n"
        f"-A POSTROUTING -s {SUBNET} ! -d {SUBNET} {comment} -j MASQUERADE\n"
        "COMMIT\n"
    )
    run(["iptables-restore", "--noflush", "-w", "10"], given=rules)


def write_cni(state: State) -> Path:
    """Write the pods' network configuration; returns its folder."""
    folder = state.root / "cni" / "net.d"
    folder.mkdir(parents=True)
    configuration = {
        "cniVersion": "0.4.0",
        "name": f"{machine.NETWORK_PREFIX}{state.name}",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(state.root / "cni" / "addresses"),
                    "ranges": [[{"subnet": SUBNET, "gateway": ADDRESS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }
    (folder / "10-llmwarden.conflist").write_text(json.dumps(configuration, indent=1))
    return folder


def write_resolver(state: State) -> Path:
    """Write the resolv.conf from which pods and the cluster's DNS get the machine's name servers.

    A name server on loopback would be the pod's own loopback; where systemd-resolved is one, its upstreams are used.
    """
    servers: list[str] = []
    for source in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if servers or not source.exists():
            continue
        words = [line.split() for line in source.read_text().splitlines()]
        found = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
        servers = [server for server in found if not server.startswith("127.") and server != "::1"]
    path = state.root / "resolv.conf"
    path.write_text("".join(f"nameserver {server}\n" for server in servers))
    return path
