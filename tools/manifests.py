"""Make what follows from the chart: `python -m tools.manifests [--check]`.

Sources: `crds/` (made from the pydantic models) and `charts/llmwarden`. Products, all committed: the chart's own copy of the
CRDs, since a chart can only hold files of its own folder, and `manifests/install.yaml` for those who do not use helm.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster import builds

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "llmwarden"
CRDS = ROOT / "crds"
CHART_CRDS = CHART / "files" / "crds"
INSTALL = ROOT / "manifests" / "install.yaml"
NAMESPACE = "llmwarden-system"
KUBE_VERSION = "1.35.4"  # what `helm template` takes the cluster to be

HEADER = """\
# LLM Warden without helm, for Kubernetes 1.30 or later: kubectl apply --server-side -f install.yaml
# Rendered from charts/llmwarden with its default values by `python -m tools.manifests`; do not edit.
apiVersion: v1
kind: Namespace
metadata:
  name: llmwarden-system
  labels:
    app.kubernetes.io/name: llmwarden
    pod-security.kubernetes.io/audit: restricted
    pod-security.kubernetes.io/warn: restricted
"""


class MissingHelmError(Exception):
    """There is no helm here; the text says how to get one."""


def helm() -> str:
    """Return the path of helm: `HELM`, the one of the local cluster's cache, or the one on PATH."""
    chosen = os.environ.get("HELM", "")
    if chosen:
        return chosen
    built = _built()
    found = str(built) if built else shutil.which("helm")
    if not found:
        message = "no helm here: python -m cluster build helm"
        raise MissingHelmError(message)
    return found


def _built() -> Path | None:
    """Return the helm that `python -m cluster build helm` left in the cache, if it did."""
    path = builds.program("helm")
    return path if path.exists() else None


def render(
    values: Sequence[Path] = (),
    *,
    namespace: str = NAMESPACE,
    settings: Sequence[str] = (),
    kube_version: str = KUBE_VERSION,
) -> str:
    """Render the chart; raises MissingHelmError, or CalledProcessError with helm's own words in `stderr`."""
    command = [helm(), "template", "llmwarden", str(CHART), "--namespace", namespace, "--kube-version", kube_version]
    for path in values:
        command += ["--values", str(path)]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout  # noqa: S603 - helm


def products() -> dict[Path, str]:
    """Return every product's path and right text. The chart's CRDs must be in place before install.yaml is rendered."""
    texts = {CHART_CRDS / source.name: source.read_text() for source in sorted(CRDS.glob("*.yaml"))}
    if all(path.exists() and path.read_text() == text for path, text in texts.items()):
        texts[INSTALL] = HEADER + render()
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the products, or with `--check` say which are out of date."""
    parser = argparse.ArgumentParser(prog="python -m tools.manifests")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when something is out of date")
    options = parser.parse_args(arguments)
    stale: list[Path] = []
    for _ in range(2):  # the second time with the CRDs in place
        texts = products()
        stale += [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
        stale += [path for path in sorted(CHART_CRDS.glob("*.yaml")) if path not in texts]
        if options.check:
            break
        for path in stale:
            if path in texts:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(texts[path])
            else:
                path.unlink(missing_ok=True)
    for path in dict.fromkeys(stale):
        sys.stdout.write(
            f"{path.relative_to(ROOT)} {'is out of date: make generate' if options.check else 'written'}\n"
        )
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
