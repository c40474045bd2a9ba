"""What the node changes on the machine, written down beforehand, put back afterwards, and listed at any time.

Ownership is never guessed: the node's link carries the state folder as its alias, its control groups and its CNI
network carry the cluster's name, its netfilter rules a comment or Kubernetes' own chain names (and `up` refuses a
machine that already has those).
"""

import contextlib
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from cluster import counters
from cluster.errors import ClusterError
from cluster.paths import State, there
from cluster.processes import find
from cluster.shell import run

LINK = "llmwarden0"
RULE_COMMENT = "llmwarden-cluster"
NETWORK_PREFIX = "llmwarden-"

# kubelet, kube-proxy and the CNI plugins set these.
_SETTINGS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/bridge/bridge-nf-call-iptables",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Made by kubelet, containerd, runc, CNI or iptables wherever they are told to live; removed if they were not there and
# are empty again.
_FOLDERS = (
    "/run/containerd/s",
    "/run/containerd",
    "/run/netns",
    "/run/llmwarden",
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
    "/etc/cni/net.d",
    "/etc/cni",
    "/opt/containerd",
    "/opt/cni",
    "/usr/libexec/kubernetes",
)

# Where kubelet listens for device plugins: a constant in its source, whatever its root folder is.
_DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
_CNI_RESULTS = Path("/var/lib/cni/results")


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    point: str
    kind: str


def mounts() -> list[Mount]:
    """Return what is mounted, in the order of mounting."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), fields[4])
        found.append(Mount(point, fields[fields.index("-") + 1]))
    return found


def mounts_under(*folders: Path) -> list[str]:
    """Return the mount points at or below the folders, innermost first."""
    prefixes = [f"{folder}/" for folder in folders]
    points = [mount.point for mount in mounts() if any(f"{mount.point}/".startswith(prefix) for prefix in prefixes)]
    return points[::-1]


def control_groups(state: State) -> list[Path]:
    """Return the cluster's control group under every hierarchy (version 1 has one per controller), made or not."""
    roots = {mount.point for mount in mounts() if mount.kind in {"cgroup", "cgroup2"}}
    return sorted(Path(root) / f"llmwarden-{state.name}" for root in roots)


def link_owner() -> str | None:
    """Return the state folder of the cluster that holds this machine's one node, None if there is none."""
    # Not from /sys, which shows the network namespace in which it was mounted.
    if LINK not in _links():
        return None
    shown = json.loads(run(["ip", "-json", "link", "show", "dev", LINK]))
    return str(shown[0].get("ifalias", ""))


def _links() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def owns_node(state: State) -> bool:
    """Return whether this cluster has changed the machine for a node, and no other has since."""
    owner = link_owner()
    return owner == str(state.root) or (owner is None and state.machine.exists())


def netfilter_lines() -> list[str]:
    """Return all rules and chains, without counters and without the chains that every table has."""
    lines = []
    for program in ("iptables-save", "ip6tables-save"):
        table = ""
        with contextlib.suppress(ClusterError):
            for line in run([program]).splitlines():
                if line.startswith("*"):
                    table = line[1:]
                elif line.startswith((":", "-")) and not re.match(r":[A-Z]+ (ACCEPT|DROP)", line):
                    rule = re.sub(r" ?\[\d+:\d+\]", "", line)
                    lines.append(f"{program.removesuffix('-save')} {table} {rule}")
    return lines


def is_ours(rule: str) -> bool:
    """Return whether a line of `netfilter_lines` is of the node's making."""
    return bool(re.search(r"[ :](KUBE|CNI)-", rule)) or RULE_COMMENT in rule


def nft_tables() -> list[str]:
    """Return nftables' tables, such as `ip nat`."""
    try:
        return [line.removeprefix("table ") for line in run(["nft", "list", "tables"]).splitlines()]
    except ClusterError:
        return []


def _setting(name: str) -> str | None:
    try:
        return (Path("/proc/sys") / name).read_text().strip()
    except OSError:
        return None


def write_down(state: State) -> None:
    """Write down what `put_back` shall restore."""
    before = {
        "settings": {name: value for name in _SETTINGS if (value := _setting(name)) is not None},
        "tables": nft_tables(),
        "counters": counters.names(),
        "folders": [folder for folder in _FOLDERS if Path(folder).is_dir()],
    }
    state.machine.write_text(json.dumps(before))


def put_back(state: State) -> None:
    """Restore the kernel's settings; remove folders, counters and tables that were not there before and are empty."""
    try:
        before = json.loads(state.machine.read_text())
    except FileNotFoundError:
        return
    for name, value in before["settings"].items():
        if _setting(name) != value:
            with contextlib.suppress(OSError):
                (Path("/proc/sys") / name).write_text(value)
    _remove_folders(before["folders"])
    for name in set(counters.names()) - set(before["counters"]):
        counters.delete(name)
    for table in nft_tables():
        if table not in before["tables"] and _table_is_empty(table):
            run(["nft", "delete", "table", *table.split()])


def _remove_folders(keep: list[str]) -> None:
    if str(_DEVICE_PLUGINS) not in keep:
        for file in ("kubelet.sock", "kubelet_internal_checkpoint"):
            (_DEVICE_PLUGINS / file).unlink(missing_ok=True)
    for folder in _FOLDERS:
        if folder not in keep:
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _table_is_empty(table: str) -> bool:
    content = json.loads(run(["nft", "-j", "list", "table", *table.split()]))["nftables"]
    chains = [each["chain"] for each in content if "chain" in each]
    return not any("rule" in each for each in content) and all("hook" in chain for chain in chains)


def residue(state: State) -> list[str]:
    """Return everything of the cluster that is on the machine, one line each; empty when it is down."""
    left = [f"process {daemon.pid} {daemon.component}" for daemon in find(state)]
    left += [f"mount {point}" for point in mounts_under(state.root, state.run)]
    left += [f"control group {group}" for group in control_groups(state) if group.exists()]
    left += [f"folder {folder}" for folder in (state.root, state.run) if there(folder)]
    owner = link_owner()
    if owner == str(state.root):
        left.append(f"network device {LINK}")
    if owner in {None, str(state.root)}:
        left += [f"netfilter {line}" for line in netfilter_lines() if is_ours(line)]
        left += [f"CNI result {path}" for path in cni_results(state)]
    if owns_node(state):
        left += [f"counter {name}" for name in counters.names()]
    return left


def cni_results(state: State) -> list[Path]:
    """Return libcni's memory of the cluster's pods: its folder cannot be chosen."""
    return sorted(_CNI_RESULTS.glob(f"{NETWORK_PREFIX}{state.name}-*")) if there(_CNI_RESULTS) else []


def stale_loopbacks() -> list[Path]:
    """Return what libcni remembers of the loopbacks of network namespaces that are gone, whoever's they were."""
    stale = []
    for path in _CNI_RESULTS.glob("cni-loopback-*-lo"):
        namespaces = result_namespaces(path)
        if namespaces and not any(Path(each).exists() for each in namespaces):
            stale.append(path)
    return stale


def remembered_namespaces() -> list[str]:
    """Return the names of the network namespaces that libcni remembers a pod's network in, whoever's it is."""
    networks = [path for path in _CNI_RESULTS.glob("*") if not path.name.startswith("cni-loopback-")]
    return [Path(each).name for result in networks for each in result_namespaces(result)]


def result_namespaces(result: Path) -> list[str]:
    """Return the network namespaces that a file of libcni's memory speaks of."""
    try:
        interfaces = json.loads(result.read_text()).get("result", {}).get("interfaces", [])
    except (OSError, json.JSONDecodeError):
        return []
    return [each["sandbox"] for each in interfaces if each.get("sandbox")]


def snapshot() -> dict[str, list[str]]:
    """Return what a test compares before `up` and after `down`, beside `residue`."""
    return {
        "mounts": sorted(mount.point for mount in mounts()),
        "links": _links(),
        "namespaces": sorted(str(path) for path in Path("/run/netns").glob("*")),
        "netfilter": sorted(netfilter_lines()),
        "tables": sorted(nft_tables()),
        "counters": counters.names(),
        "settings": [f"{name}={_setting(name)}" for name in _SETTINGS],
        "folders": [folder for folder in _FOLDERS if Path(folder).is_dir()],
    }
