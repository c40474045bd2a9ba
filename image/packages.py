"""Programs taken out of the distribution's packages without installing them.

Prometheus, promtool, Alertmanager and amtool come from a newer suite than the machine's: the packages are downloaded
with apt (which checks the archive's signatures) from the mirror that the machine itself uses, and unpacked.
"""

import os
import shutil
from pathlib import Path

from cluster.errors import ClusterError
from cluster.locks import locked
from cluster.shell import run
from image import store

BASE_SUITES = {"debian": "bookworm", "ubuntu": "noble"}
# Bookworm's Prometheus 2.42 is too old: a UTF-8 metric name fails a whole scrape.
TOOL_SUITES = {"debian": "trixie", "ubuntu": "resolute"}
MONITORING = ("prometheus", "promtool", "prometheus-alertmanager")
_ORIGINS = {"debian": "Debian", "ubuntu": "Ubuntu"}
_COMPONENTS = {"debian": "main", "ubuntu": "main universe"}
_KEYRINGS = {
    "debian": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "ubuntu": "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
}


def family() -> str:
    """Return `debian` or `ubuntu`; raises ClusterError on anything else."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        lines = []
    release = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    for name in [release.get("ID", ""), *release.get("ID_LIKE", "").split()]:
        if name in BASE_SUITES and shutil.which("apt-get"):
            return name
    message = "This machine is neither Debian nor Ubuntu: use Docker and CLUSTER=kind here."
    raise ClusterError(message)


def archives() -> list[tuple[str, str]]:
    """Return the distribution's archives that this machine's apt uses: (address, suite), the main one first.

    `LLMWARDEN_APT_MIRROR` overrides the main one.
    """
    override = os.environ.get("LLMWARDEN_APT_MIRROR", "")
    if override:
        return [(override, BASE_SUITES[family()])]
    command = [
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages",
        f"Origin: {_ORIGINS[family()]}",
    ]  # fmt: skip
    found = run(command).splitlines()
    if not found and os.geteuid() == 0:
        # Origins are known once the lists have been read.
        with locked(store.cache() / "locks" / "apt.lock", "the distribution's packages"):
            run(["apt-get", "update", "-qq"])
        found = run(command).splitlines()
    if not found:
        message = "apt knows no archive of this distribution: run sudo apt-get update, or set LLMWARDEN_APT_MIRROR."
        raise ClusterError(message)
    pairs = dict.fromkeys((line.split()[0], line.split()[-1]) for line in found)
    return sorted(pairs, key=lambda pair: ("-" in pair[1], pair))


def sources(suite: str) -> list[str]:
    """Return apt source lines for `suite`, its security updates included, from the machine's own archives."""
    own = archives()[0][1]
    lines = []
    for address, name in archives():
        if name in (own, f"{own}-security"):
            lines.append(f"deb {address} {name.replace(own, suite, 1)} {_COMPONENTS[family()]}")
    return lines


def unpacked(packages: tuple[str, ...], suite: str) -> Path:
    """Folder with the files of `packages` of `suite`, downloaded when it is not there yet; no root needed."""

    def make(folder: Path) -> None:
        store.say(f"downloading {', '.join(packages)} of {suite} (about 10 s)")
        work = folder / ".apt"
        (work / "state/lists/partial").mkdir(parents=True)
        (work / "cache/archives/partial").mkdir(parents=True)
        (work / "status").write_text("")
        address = archives()[0][0]
        line = f"deb [signed-by={_KEYRINGS[family()]}] {address} {suite} {_COMPONENTS[family()]}\n"
        (work / "sources").write_text(line)
        (work / "hooks").write_text("#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n")
        options = [
            f"Dir::State={work}/state",
            f"Dir::State::status={work}/status",
            f"Dir::Cache={work}/cache",
            f"Dir::Etc::SourceList={work}/sources",
            "Dir::Etc::SourceParts=/dev/null",
            "Acquire::Languages=none",
            "APT::Sandbox::User=",  # its own user could not read a folder of ours
        ]
        flags = ["-c", str(work / "hooks"), *(flag for option in options for flag in ("-o", option))]
        run(["apt-get", *flags, "update", "-qq"])
        run(["apt-get", *flags, "download", "-qq", *packages], folder=work)
        for package in sorted(work.glob("*.deb")):
            run(["dpkg", "-x", package, folder])
        shutil.rmtree(work)

    key = store.digest("unpacked-2", suite, *packages)
    return store.once(store.cache() / "packages" / f"{packages[0]}-{key}", make)


def monitoring() -> Path:
    """Folder with Prometheus, promtool, Alertmanager and amtool under `usr/bin`."""
    return unpacked(MONITORING, TOOL_SUITES[family()])


def tool(name: str) -> Path:
    """Path of `promtool` or `amtool`: the machine's own when PATH has it, else from the packages (downloaded once)."""
    own = shutil.which(name)
    path = Path(own) if own else monitoring() / "usr/bin" / name
    if not path.exists():
        message = f"The packages {', '.join(MONITORING)} hold no {name}."
        raise ClusterError(message)
    return path


def promtool_path() -> Path:
    """Path of promtool, as in `promtool check rules FILE`."""
    return tool("promtool")


def amtool_path() -> Path:
    """Path of amtool."""
    return tool("amtool")
