"""One cluster from `up` to `down`; the class that tests and the demo use."""

import json
import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cluster import builds, cleanup, control_plane, images, network, node, packages, processes
from cluster.errors import ClusterError
from cluster.kubeapi import ApiError
from cluster.locks import locked
from cluster.paths import State
from cluster.progress import duration, say
from cluster.shell import run

Shape = Literal["control-plane", "node"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
DEFAULT_NAME = "llmwarden"


def build(shape: Shape) -> None:
    """Get everything that the shape needs into the cache, so that `up` takes seconds."""
    if shape == "node":
        builds.build(*builds.NODE)
    # Not with the above in one call: KUBEBUILDER_ASSETS may make the build unnecessary.
    control_plane.programs()


@dataclass(frozen=True)
class Cluster:
    """A cluster by its name; being constructed starts nothing."""

    name: str = DEFAULT_NAME
    shape: Shape = "node"

    @property
    def state(self) -> State:
        """Its files."""
        return State.of(self.name)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state.kubeconfig

    @property
    def audit_log(self) -> Path:
        """The API server's audit log, complete at the moment when a request has been answered."""
        return self.state.audit_log

    def up(self) -> Path:
        """Make the cluster, or return at once if it is well. What is half dead is taken down and made anew.

        Returns the kubeconfig's path. Raises ClusterError; nothing is left behind then, nor after an interrupt.
        """
        started = time.monotonic()
        with locked(self.state.lock, f"the cluster {self.name}"):
            problem = self._problem()
            if not problem:
                self._refuse_other_shape()
                return self.kubeconfig
            if cleanup.anything_left(self.state):
                say(f"{self.name} is not well ({problem}): making it anew")
                cleanup.everything(self.state)
            self._make()
        say(f"{self.name} is up after {duration(time.monotonic() - started)}")
        return self.kubeconfig

    def _refuse_other_shape(self) -> None:
        # A node is a control plane too; the other way round somebody else's cluster would have to go.
        if self.shape == "node" and self._recorded_shape() != "node":
            message = (
                f"{self.name} is a control plane without a node. Choose another --name, "
                f"or take it down first: python3 -m cluster down --name {self.name}"
            )
            raise ClusterError(message)

    def _make(self) -> None:
        if self.shape == "node":
            network.check(self.state)
            packages.ensure_debian(packages.NODE_PACKAGES)
        else:
            packages.ensure_debian(packages.CONTROL_PLANE_PACKAGES)
        build(self.shape)
        with ExitStack() as undo:
            undo.callback(cleanup.everything, self.state)
            self.state.root.mkdir(parents=True, mode=0o700)
            found = control_plane.programs()
            if self.shape == "node":
                server = node.start(self.state, found)
            else:
                plane = control_plane.start(self.state, found, "127.0.0.1", node=False)
                control_plane.finish(self.state, plane)
                server = plane.api.server
            self.state.record.write_text(json.dumps({"shape": self.shape, "server": server}))
            undo.pop_all()

    def status(self) -> dict[str, int | None]:
        """Return each component's process id, None where it is not running; raises ClusterError if there is none."""
        shape = self._recorded_shape()
        if shape is None:
            message = f"There is no cluster named {self.name}. Make it: python3 -m cluster up --name {self.name}"
            raise ClusterError(message)
        living = processes.living(self.state)
        return {component: living.get(component) for component in _components(shape)}

    def healthy(self) -> bool:
        """Return whether every component runs, the API server is ready, and so is the node if there is one."""
        return not self._problem()

    def _recorded_shape(self) -> Shape | None:
        try:
            shape: Shape = json.loads(self.state.record.read_text())["shape"]
        except FileNotFoundError:
            return None
        return shape

    def _problem(self) -> str:
        """Return what is not well, or nothing."""
        shape = self._recorded_shape()
        if shape is None:
            return "its start was cut off, or it never was"
        dead = [component for component, pid in self.status().items() if pid is None]
        if dead:
            return f"{', '.join(dead)} died"
        api = control_plane.client(self.state)
        if not api.ready():
            return "its API server is not ready"
        try:
            return "" if shape == "control-plane" or node.ready(api) else "its node is not ready"
        except (ApiError, OSError):
            return "its API server does not answer"

    def kubectl(self, *arguments: str, given: str | None = None, timeout: float = 600) -> str:
        """Return kubectl's stdout; raises ClusterError with its stderr. `given` is its stdin, for `-f -`."""
        return run([kubectl(), *arguments], given=given, environment=self.environment(), timeout=timeout)

    def environment(self) -> dict[str, str]:
        """Return this program's environment with KUBECONFIG set, for other programs; kubectl's cache goes with us."""
        cache = self.state.root / "kubectl-cache"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(cache)}

    def load_image(self, *archives: Path | str) -> list[str]:
        """Import docker or OCI archives into the node; returns the names under which pods can use them."""
        if self._recorded_shape() != "node":
            message = f"{self.name} has no node to load images into. Make one: python3 -m cluster up --name {self.name}"
            raise ClusterError(message)
        return images.load(self.state, [Path(archive) for archive in archives])

    def down(self) -> None:
        """Remove all of it, in whatever state it is. Does nothing where there is nothing."""
        with locked(self.state.lock, f"the cluster {self.name}"):
            cleanup.everything(self.state)


def _components(shape: Shape) -> tuple[str, ...]:
    return control_plane.COMPONENTS if shape == "control-plane" else control_plane.COMPONENTS + node.COMPONENTS


def kubectl() -> Path:
    """Return kubectl: of KUBEBUILDER_ASSETS or built by us, else the machine's own, else ours after building it."""
    given = Path(os.environ.get("KUBEBUILDER_ASSETS", "/nonexistent")) / "kubectl"
    if os.access(given, os.X_OK):
        return given
    own = shutil.which("kubectl")
    if builds.ready("kube") or not own:
        builds.build("kube")
        return builds.program("kube", "kubectl")
    return Path(own)
