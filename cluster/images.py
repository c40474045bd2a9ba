"""Images without a registry: made from a static program here, or loaded from an archive."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from cluster.errors import ClusterError
from cluster.paths import State
from cluster.shell import run

PAUSE = "llmwarden.local/pause:1"
COREDNS = "llmwarden.local/coredns:1"

_NAMESPACE = "k8s.io"  # where Kubernetes looks for its images


def from_program(program: Path, name: str, archive: Path) -> Path:
    """Write a docker archive of an image that holds one static program, `/NAME-OF-THE-PROGRAM`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        member = tarfile.TarInfo(program.name)
        member.mode, member.size = 0o755, program.stat().st_size
        with program.open("rb") as content:
            tar.addfile(member, content)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": _architecture(),
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}.tar"]}]).encode()
    files = {config_name: config, f"{digest}.tar": layer.getvalue(), "manifest.json": manifest}
    with tarfile.open(archive, "w") as tar:
        for path, content_bytes in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content_bytes)
            tar.addfile(member, io.BytesIO(content_bytes))
    return archive


def _architecture() -> str:
    machine = run(["uname", "-m"]).strip()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def load(state: State, archives: list[Path]) -> list[str]:
    """Import archives into the node's containerd; returns the images' names, in order."""
    names = []
    for archive in archives:
        if not archive.is_file():
            message = f"{archive} is not a file: give a docker or OCI archive."
            raise ClusterError(message)
        said = ctr(state, "images", "import", str(archive.resolve()), timeout=1800)
        # Each line is: unpacking, the name, the digest.
        names += [line.split()[1] for line in said.splitlines() if line.startswith("unpacking ")]
    return names


def ctr(state: State, *arguments: str, timeout: float = 60) -> str:
    """Run containerd's client against the node's own containerd."""
    return run(["ctr", "--address", state.run / "containerd.sock", "-n", _NAMESPACE, *arguments], timeout=timeout)
