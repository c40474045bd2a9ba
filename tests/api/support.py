"""A real control plane for tests: etcd, kube-apiserver, kube-controller-manager; no root, no nodes.

Other test modules write `from tests.api.support import ControlPlane` for the type and take the fixture `control_plane`.
"""

import base64
import json
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster import Cluster
from cluster.builds import ready
from cluster.lifecycle import kubectl

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "crds"
SAMPLES = ROOT / "manifests" / "samples"
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


def obstacle() -> str:
    """Say why no control plane can run here; "" when it can."""
    if os.environ.get("KUBEBUILDER_ASSETS") or ready("kube") or shutil.which("go") or os.geteuid() == 0:
        return ""
    return "no Go to build a Kubernetes with: install it (sudo apt-get install golang), or set KUBEBUILDER_ASSETS"


@dataclass(frozen=True)
class Run:
    """What a command said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane. Paths of `http` are the API server's (`/api/v1/...`); the identity is the administrator's."""

    cluster: Cluster
    http: httpx.Client = field(repr=False)

    @classmethod
    def of(cls, cluster: Cluster) -> "ControlPlane":
        """Connect to a cluster that is up."""
        config = json.loads(cluster.kubeconfig.read_text())
        server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=base64.b64decode(server["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:  # ssl reads client certificates from files only
            pair.write(base64.b64decode(user["client-certificate-data"]) + b"\n")
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
        http = httpx.Client(base_url=server["server"], verify=context, timeout=30, trust_env=False)
        return cls(cluster, http)

    @property
    def kubeconfig(self) -> Path:
        """Its administrator's kubeconfig."""
        return self.cluster.kubeconfig

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Return kubectl's stdout; raises ClusterError with its stderr when it fails."""
        return self.cluster.kubectl(*arguments, given=given, timeout=120)

    def run_kubectl(self, *arguments: str, given: str | None = None) -> Run:
        """Return what kubectl said, whether it failed or not."""
        done = subprocess.run(
            [kubectl(), *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=self.cluster.environment(),
        )
        return Run(done.returncode, done.stdout, done.stderr)

    def apply_crds(self) -> None:
        """Apply crds/ and return when the API server serves them."""
        self.kubectl("apply", "--server-side", "-f", str(CRDS))
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(CRDS))

    def audit_mark(self) -> int:
        """Return where the audit log ends now, for `audit`."""
        return self.cluster.audit_log.stat().st_size if self.cluster.audit_log.exists() else 0

    def audit(self, since: int = 0, *, verbs: Iterable[str] = (), user: str = "") -> list[dict[str, Any]]:
        """Return the audit events after a mark: finished requests, of these verbs and this user name where given.

        The log is written before a request is answered: what has been answered is in it.
        """
        wanted = frozenset(verbs)
        with self.cluster.audit_log.open("rb") as file:
            file.seek(since)
            lines = file.read().split(b"\n")[:-1]
        events = [json.loads(line) for line in lines if line]
        return [
            event
            for event in events
            if event["stage"] in {"ResponseComplete", "Panic"}
            and (not wanted or event["verb"] in wanted)
            and (not user or event["user"]["username"] == user)
        ]

    def writes(self, since: int, user: str = "") -> list[str]:
        """Return the writes after a mark, as `verb path`, readable in a failed assertion."""
        return [f"{event['verb']} {event['requestURI']}" for event in self.audit(since, verbs=WRITES, user=user)]


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the YAML documents of a file."""
    return [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with changes merged in, as a JSON merge patch does: None removes."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
