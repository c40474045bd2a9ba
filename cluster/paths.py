"""Where things live: a cache that outlives clusters, and one state folder per cluster that does not.

Nothing is written inside the repository: a checkout may be read-only, and two checkouts share what was built.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError

SOURCES = Path(__file__).resolve().parent / "build"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def _home(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default) / "llmwarden"


def cache_root() -> Path:
    """Return the folder of everything downloaded or built; safe to delete while no cluster runs."""
    chosen = os.environ.get("LLMWARDEN_CACHE")
    return Path(chosen).expanduser().resolve() if chosen else _home("XDG_CACHE_HOME", ".cache")


def there(path: Path) -> bool:
    """Return whether `path` exists; where we may not look there is nothing of ours."""
    try:
        return path.exists()
    except PermissionError:
        return False


def clusters_root() -> Path:
    """Return the folder that holds one folder per cluster."""
    return _home("XDG_STATE_HOME", ".local/state") / "clusters"


@dataclass(frozen=True)
class State:
    """The files of one cluster. Everything under `root` and `run` goes when the cluster goes."""

    name: str
    root: Path

    @classmethod
    def of(cls, name: str) -> "State":
        """Return the state of the cluster `name`; raises ClusterError if that cannot be a name."""
        if not _NAME.fullmatch(name):
            message = f"{name!r} cannot name a cluster: use up to 32 lower-case letters, digits and hyphens."
            raise ClusterError(message)
        return cls(name, clusters_root() / name)

    @property
    def run(self) -> Path:
        """Sockets and run-time state: short, because a socket's path may have 107 bytes only."""
        return Path("/run/llmwarden") / self.name

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.root / "pki"

    @property
    def logs(self) -> Path:
        """One file per component."""
        return self.root / "logs"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's way in."""
        return self.root / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """Every request but health checks and leases, one JSON object a line (`audit.k8s.io/v1`, level Metadata)."""
        return self.root / "audit.log"

    @property
    def record(self) -> Path:
        """What `up` chose (shape, ports), written when the cluster became ready."""
        return self.root / "cluster.json"

    @property
    def machine(self) -> Path:
        """What the machine looked like before the node touched it."""
        return self.root / "machine.json"

    @property
    def lock(self) -> Path:
        """Taken by `up` and `down`; in the cache, since it must outlive the state folder."""
        return cache_root() / "locks" / f"cluster-{self.name}.lock"
