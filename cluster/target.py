"""Which cluster the demo and the tests use: ours, kind's, or whatever a kubeconfig leads to (the variable CLUSTER)."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster.errors import ClusterError
from cluster.lifecycle import DEFAULT_NAME, Cluster
from cluster.shell import run

_KIND_CONFIG = Path(__file__).resolve().parents[1] / "kind-config.yaml"


class Target(Protocol):
    """What the demo and the tests need of a cluster."""

    @property
    def name(self) -> str:
        """How to speak of it."""

    def up(self) -> Path:
        """Make it if it is ours to make; returns the kubeconfig's path."""

    def kubeconfig(self) -> Path:
        """Return the path of its kubeconfig."""

    def environment(self) -> dict[str, str]:
        """Return the variables with which kubectl and its like reach it."""

    def load_images(self, archives: Sequence[Path]) -> list[str]:
        """Make archived images usable by pods; returns their names where they are known."""

    def down(self) -> None:
        """Remove it if it was ours to make."""


@dataclass(frozen=True)
class Local:
    """The cluster of this folder."""

    name: str = DEFAULT_NAME

    def up(self) -> Path:
        """Make it."""
        return Cluster(self.name).up()

    def kubeconfig(self) -> Path:
        """Return the path of its kubeconfig; raises ClusterError where there is no cluster."""
        Cluster(self.name).status()
        return Cluster(self.name).kubeconfig

    def environment(self) -> dict[str, str]:
        """Return the variables with which kubectl reaches it."""
        self.kubeconfig()
        return Cluster(self.name).environment()

    def load_images(self, archives: Sequence[Path]) -> list[str]:
        """Import into the node's containerd."""
        return Cluster(self.name).load_image(*archives)

    def down(self) -> None:
        """Remove it."""
        Cluster(self.name).down()


@dataclass(frozen=True)
class Kind:
    """A kind cluster, for machines with Docker."""

    name: str = DEFAULT_NAME

    def _kind(self, *arguments: str) -> str:
        if not shutil.which("kind"):
            message = "CLUSTER=kind needs the program kind (and Docker); without them leave CLUSTER unset."
            raise ClusterError(message)
        return run(["kind", *arguments], timeout=1800)

    def up(self) -> Path:
        """Create it from kind-config.yaml unless it is there."""
        if self.name not in self._kind("get", "clusters").split():
            self._kind("create", "cluster", "--name", self.name, "--config", str(_KIND_CONFIG), "--wait", "180s")
        return self.kubeconfig()

    def kubeconfig(self) -> Path:
        """Write kind's kubeconfig to a file of its own: the person's ~/.kube/config stays as it is."""
        path = Path(tempfile.gettempdir()) / f"llmwarden-kind-{self.name}-{os.getuid()}.kubeconfig"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(self._kind("get", "kubeconfig", "--name", self.name))
        return path

    def environment(self) -> dict[str, str]:
        """Return the variables with which kubectl reaches it."""
        return {"KUBECONFIG": str(self.kubeconfig())}

    def load_images(self, archives: Sequence[Path]) -> list[str]:
        """Use kind's own loading."""
        for archive in archives:
            self._kind("load", "image-archive", str(archive), "--name", self.name)
        return []

    def down(self) -> None:
        """Delete it."""
        self._kind("delete", "cluster", "--name", self.name)


@dataclass(frozen=True)
class External:
    """Somebody's cluster, reached by KUBECONFIG: used, never made or removed."""

    name: str = "the cluster of KUBECONFIG"

    def up(self) -> Path:
        """Only find it."""
        return self.kubeconfig()

    def kubeconfig(self) -> Path:
        """Return KUBECONFIG's (or kubectl's default) file."""
        path = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube/config")
        if not path.is_file():
            message = f"CLUSTER=kubeconfig, but {path} is no file. Set KUBECONFIG to one kubeconfig file."
            raise ClusterError(message)
        return path

    def environment(self) -> dict[str, str]:
        """Return the variables with which kubectl reaches it."""
        return {"KUBECONFIG": str(self.kubeconfig())}

    def load_images(self, archives: Sequence[Path]) -> list[str]:
        """Nothing here can: raises ClusterError that says what to do."""
        message = (
            f"Push {', '.join(str(each) for each in archives)} to a registry that this cluster's nodes can pull from."
        )
        raise ClusterError(message)

    def down(self) -> None:
        """Leave it alone."""


def chosen(name: str = DEFAULT_NAME) -> Target:
    """Return the target that CLUSTER names: local (default), kind or kubeconfig."""
    match os.environ.get("CLUSTER", "local"):
        case "local" | "":
            return Local(name)
        case "kind":
            return Kind(name)
        case "kubeconfig":
            return External()
        case other:
            message = f"CLUSTER={other} is not known: local, kind or kubeconfig."
            raise ClusterError(message)
