"""Takes a cluster away, in whatever state it is: whole, half started, killed, or forgotten over a reboot.

Nothing is asked to end in good order. etcd's data goes with the cluster, so the shortest way is also the surest.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from cluster import machine, processes
from cluster.errors import ClusterError
from cluster.network import SUBNET
from cluster.paths import State, there
from cluster.progress import say
from cluster.shell import run, succeeds

_PATIENCE = 10.0  # seconds for the kernel to let go of what was killed


def anything_left(state: State) -> bool:
    """Return whether there is anything to take away."""
    if state.root.exists() or there(state.run) or processes.find(state):
        return True
    return any(group.exists() for group in machine.control_groups(state)) or machine.link_owner() == str(state.root)


def everything(state: State) -> None:
    """Remove processes, containers, mounts, links, rules, control groups and files, in that order.

    Raises ClusterError if something withstands; what came after it is then untouched and `down` can be repeated.
    """
    if not anything_left(state):
        return
    owns_node = machine.owns_node(state)
    if (owns_node or state.machine.exists()) and os.geteuid() != 0:
        message = f"{state.name} has a node, which only root can take down: sudo python3 -m cluster down"
        raise ClusterError(message)
    say(f"taking {state.name} down")
    processes.kill(state)
    if os.geteuid() == 0:
        # Nobody else can have had a node, or look where one leaves things.
        _take_node_away(state, owns_node=owns_node)
    if state.root.exists():
        # Last, since it holds what `down` needs to know if it is cut off and repeated.
        _remove_tree(state.root)
    for folder in (state.root.parent, state.root.parent.parent):
        _remove_if_empty(folder)


def _take_node_away(state: State, *, owns_node: bool) -> None:
    _end_containers(state)
    namespaces = [*_network_namespaces(state), *(_abandoned_namespaces() if owns_node else ())]
    sockets = list(_shim_sockets(state))
    _unmount(machine.mounts_under(state.root, state.run))
    _remove_namespaces(namespaces)
    _remove_files(state, sockets)
    if owns_node:
        _remove_netfilter()
        if machine.link_owner() == str(state.root):
            run(["ip", "link", "delete", machine.LINK])
    if state.run.exists():
        _remove_tree(state.run)
        _remove_if_empty(state.run.parent)
    if owns_node:
        machine.put_back(state)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_tree(folder: Path) -> None:
    if left := machine.mounts_under(folder):
        # Never delete through a mount: behind it may be files of somebody else.
        message = f"{', '.join(left)} would not be unmounted; {folder} stays. See what uses it: fuser -vm {left[0]}"
        raise ClusterError(message)
    shutil.rmtree(folder)


def _end_containers(state: State) -> None:
    """Kill every process in the cluster's control groups, then remove the groups."""
    groups = [group for group in machine.control_groups(state) if group.exists()]
    needle = f":/llmwarden-{state.name}/"

    def ours(pid: int) -> bool:
        try:
            return needle in Path(f"/proc/{pid}/cgroup").read_text().replace("\n", "/\n")
        except (FileNotFoundError, ProcessLookupError):
            return False

    deadline = time.monotonic() + _PATIENCE
    while members := {pid for group in groups for pid in _members(group)}:
        for pid in members:
            processes.kill_if(pid, ours)
        if time.monotonic() > deadline:
            message = f"The processes {sorted(members)} in {groups[0]} do not end."
            raise ClusterError(message)
        time.sleep(0.02)
    for group in groups:
        _remove_group(group, deadline)


def _members(group: Path) -> Iterator[int]:
    for folder, _, _ in os.walk(group):
        # A group may vanish while it is read, and a version 2 group of threads refuses to be.
        with contextlib.suppress(OSError):
            for word in (Path(folder) / "cgroup.procs").read_text().split():
                if word != "0":  # a process of another pid namespace
                    yield int(word)


def _remove_group(group: Path, deadline: float) -> None:
    while group.exists():
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if time.monotonic() > deadline:
            message = f"The control group {group} cannot be removed: something in it still runs."
            raise ClusterError(message)
        time.sleep(0.02)


def _bundles(state: State) -> Iterator[Path]:
    yield from (state.run / "containerd/io.containerd.runtime.v2.task/k8s.io").glob("*")


def _network_namespaces(state: State) -> Iterator[str]:
    """Yield the pods' network namespaces, from containerd's bundles and from libcni's memory."""
    for bundle in _bundles(state):
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            spec = json.loads((bundle / "config.json").read_text())
            for namespace in spec.get("linux", {}).get("namespaces", []):
                yield namespace.get("path", "")
    for result in machine.cni_results(state):
        yield from machine.result_namespaces(result)


def _abandoned_namespaces() -> Iterator[str]:
    """Yield network namespaces for pods in which nothing lives and of which libcni remembers no pod.

    containerd makes one before anything that names it: killed in between, it leaves one that only this can tell. Another containerd's pods
    have their pause process in theirs.
    """
    lived_in = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            lived_in.add(link.stat().st_ino)
    remembered = set(machine.remembered_namespaces())
    for path in Path("/run/netns").glob("cni-*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino not in lived_in and path.name not in remembered:
                yield str(path)


def _remove_namespaces(paths: list[str]) -> None:
    for path in {path for path in paths if re.fullmatch(r"/(var/)?run/netns/cni-[0-9a-f-]+", path)}:
        real = Path(path).parent.resolve() / Path(path).name
        _unmount([str(real)] if os.path.ismount(real) else [])
        real.unlink(missing_ok=True)


def _shim_sockets(state: State) -> Iterator[Path]:
    for bundle in _bundles(state):
        with contextlib.suppress(FileNotFoundError):
            yield Path((bundle / "address").read_text().strip().removeprefix("unix://"))


def _remove_files(state: State, sockets: list[Path]) -> None:
    """Remove what the components keep outside of the folders that they were given."""
    for path in [*sockets, *machine.cni_results(state), *machine.stale_loopbacks()]:
        path.unlink(missing_ok=True)
    logs = Path("/var/log/containers")
    if logs.is_dir():
        for link in logs.iterdir():
            if link.is_symlink() and Path(os.readlink(link)).is_relative_to(state.root):  # noqa: PTH115 - unresolved
                link.unlink()


def _unmount(points: list[str]) -> None:
    for point in points:
        # Lazily if need be: a namespace or a volume may be busy for a moment after its user was killed.
        if not succeeds(["umount", point]):
            succeeds(["umount", "-l", point])


def _remove_netfilter() -> None:
    """Remove the node's chains and rules, and leave every other rule where it is."""
    scripts: dict[tuple[str, str], list[str]] = {}
    for line in machine.netfilter_lines():
        if machine.is_ours(line):
            program, table, rule = line.split(" ", 2)
            scripts.setdefault((program, table), []).append(rule)
    for program in ("iptables", "ip6tables"):
        text = ""
        for (owner, table), rules in scripts.items():
            if owner != program:
                continue
            chains = [rule[1:].split()[0] for rule in rules if rule.startswith(":")]
            jumps = [rule for rule in rules if rule.startswith("-A") and rule.split()[1] not in chains]
            text += f"*{table}\n"
            text += "".join(f"-D{rule[2:]}\n" for rule in jumps)
            text += "".join(f"-F {chain}\n" for chain in chains)
            text += "".join(f"-X {chain}\n" for chain in chains)
            text += "COMMIT\n"
        if text:
            run([f"{program}-restore", "--noflush", "-w", "10"], given=text)
    for program in ("-s", "-d"):
        succeeds(["conntrack", "-D", program, SUBNET])
