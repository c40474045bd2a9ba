"""The images that the demo and the end-to-end tests need, and what they are called on each kind of cluster.

Without Docker the monitoring programs are Debian's packages and our Go builds, put over our base system. On a cluster that can pull,
the upstream projects' own images are used; this file is the only place that names them.
"""

import json
import os
import platform
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cluster import builds
from cluster.errors import ClusterError
from cluster.packages import ensure_go
from cluster.paths import SOURCES
from cluster.shell import run
from image import archive, build, packages, store

HERE = Path(__file__).resolve().parent
PROMETHEUS_OPERATOR = "v0.85.0"

WORKLOADS = build.Definition(
    tag="llmwarden-demo:dev",
    dockerfile=HERE / "workloads/Dockerfile",
    context=HERE / "workloads",
    sources=tuple(HERE / "workloads" / name for name in ("requirements.lock", "engine.py", "client.py", "sink.py")),
)

# What a cluster that reaches public registries uses.
PUBLIC: Mapping[str, str] = {
    "demo/prometheus-operator": f"quay.io/prometheus-operator/prometheus-operator:{PROMETHEUS_OPERATOR}",
    "demo/prometheus-config-reloader": f"quay.io/prometheus-operator/prometheus-config-reloader:{PROMETHEUS_OPERATOR}",
    "demo/prometheus": "prom/prometheus:v3.5.0",
    "demo/prometheus-version": "v3.5.0",
    "demo/alertmanager": "prom/alertmanager:v0.28.1",
    "demo/alertmanager-version": "v0.28.1",
}
_LOCAL = {
    "demo/prometheus-operator": "llmwarden.local/prometheus-operator:demo",
    "demo/prometheus-config-reloader": "llmwarden.local/prometheus-config-reloader:demo",
    "demo/prometheus": "llmwarden.local/prometheus:demo",
    "demo/alertmanager": "llmwarden.local/alertmanager:demo",
}


def loaded() -> bool:
    """Whether somebody says that a cluster of somebody's has the images already (`DEMO_IMAGES=loaded`)."""
    return "loaded" in os.environ.get("DEMO_IMAGES", "").split(",")


def offline() -> bool:
    """Whether that cluster reaches no registry, so that it must have the monitoring programs' images too (`DEMO_IMAGES=offline,loaded`)."""
    return "offline" in os.environ.get("DEMO_IMAGES", "").split(",")


@dataclass(frozen=True)
class Images:
    """Archives to load, and the names by which manifests then find them (manifest name -> image or version)."""

    archives: tuple[Path, ...]
    names: Mapping[str, str]


def make(*, local: bool) -> Images:
    """Build what is new of all images; `local` is for a cluster that can pull nothing, as our own.

    The two builds from Dockerfiles run beside the Go builds: the first wait for the network, the second for the processor.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        ours = pool.submit(lambda: (build.build(build.PRODUCT), build.build(WORKLOADS)))
        others = pool.submit(_after_kubernetes) if local else None
        names = {"demo/workloads": WORKLOADS.tag, **PUBLIC}
        archives = list(ours.result())
        if others:
            archives.append(others.result())
            names |= _LOCAL | _versions()
    return Images(tuple(archives), names)


def _after_kubernetes() -> Path:
    # Kubernetes first: the cluster waits for it, and the Prometheus Operator then finds half of its packages compiled.
    builds.build("kube")
    return monitoring()


def monitoring() -> Path:
    """Archive of Prometheus, Alertmanager, the Prometheus Operator and its reloader, over the same base system."""
    operator, reloader = builds.build("prometheus-operator", "prometheus-config-reloader")
    binaries = packages.monitoring() / "usr/bin"
    programs = {
        "prometheus": binaries / "prometheus",
        "alertmanager": binaries / "prometheus-alertmanager",
        "prometheus-operator": operator,
        "prometheus-config-reloader": reloader,
    }
    bottom = build.base()
    key = store.digest("monitoring-3", bottom.name, *(str(path.resolve()) for path in programs.values()))

    def write(target: Path) -> None:
        store.say("building the images of the monitoring programs")
        files = {f"usr/bin/{name}": path for name, path in programs.items()}
        # Alertmanager refuses to start without its default templates.
        files["usr/share/prometheus"] = binaries.parent / "share/prometheus"
        upper = archive.layer(target.with_suffix(".layer"), files)
        try:
            images = [
                archive.Image(_LOCAL[f"demo/{name}"], (f"/usr/bin/{name}",), architecture=_architecture())
                for name in programs
            ]
            archive.write(target, [bottom, upper], images)
        finally:
            store.remove(upper)

    folder = store.cache() / "images"
    target = store.once(folder / f"monitoring-{key}.tar", write)
    store.keep_newest(folder, "monitoring-*.tar", 2)
    return target


def _architecture() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _versions() -> dict[str, str]:
    """Versions of the packages' programs: the Prometheus Operator writes configuration to suit them."""
    folder = packages.monitoring() / "usr/bin"
    found = {}
    for name, program in (("prometheus", "prometheus"), ("alertmanager", "prometheus-alertmanager")):
        match = re.search(r"version (\d+\.\d+\.\d+)", run([folder / program, "--version"]))
        if not match:
            message = f"{folder / program} does not print its version."
            raise ClusterError(message)
        found[f"demo/{name}-version"] = f"v{match[1]}"
    return found


def operator_crds() -> Path:
    """Folder of the Prometheus Operator's custom resource definitions, in the Go module that its program is built from."""
    said = run(
        [ensure_go(), "mod", "download", "-json", "github.com/prometheus-operator/prometheus-operator"],
        folder=SOURCES / "monitoring",
        environment={**os.environ, "GOFLAGS": "-mod=mod", "GOWORK": "off"},
    )
    return Path(json.loads(said)["Dir"]) / "example/prometheus-operator-crd"
