"""Builds the cluster's own programs from Go modules, once, into the cache.

One program holds all of Kubernetes' binaries, and one module pins what the programs share: on two cores the compile
is minutes, and it is paid once. cgo is off: the result is static (so it can be a container image by itself), and no C
compiler is needed. A build's key is a hash of all that goes into it, so a changed source is a new folder in the cache.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.locks import locked
from cluster.packages import ensure_go
from cluster.paths import SOURCES, cache_root
from cluster.progress import Progress, say
from cluster.shell import run

KUBERNETES = "v1.35.4"

# Without a version the server reports one that clients cannot parse. The same flags for every program: the linker's
# flags belong to the key of a main package only, but one recipe is one thing less to get wrong.
_LDFLAGS = " ".join(
    [
        "-s -w",
        f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}",
        f"-X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}",
    ]
)


@dataclass(frozen=True)
class Build:
    """A program: the folder of its Go module under cluster/build, the package in it, and the names it goes by."""

    package: str
    module: str = "."
    names: tuple[str, ...] = ()
    ldflags: str = _LDFLAGS
    tags: str = ""


BUILDS = {
    "kube": Build(
        "./kube",
        names=("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"),
    ),
    "coredns": Build("./coredns"),
    "pause": Build("./pause"),
    "provisioner": Build("./provisioner"),
    "helm": Build("helm.sh/helm/v3/cmd/helm", module="helm"),
    "prometheus-operator": Build(
        "github.com/prometheus-operator/prometheus-operator/cmd/operator", module="monitoring"
    ),
    "prometheus-config-reloader": Build(
        "github.com/prometheus-operator/prometheus-operator/cmd/prometheus-config-reloader", module="monitoring"
    ),
    "collector": Build("./collector", module="traces"),
    "jaeger": Build("github.com/jaegertracing/jaeger/cmd/all-in-one", module="traces"),
}
CONTROL_PLANE = ("kube",)
NODE = ("kube", "pause", "coredns", "provisioner")


def _key(name: str, build: Build) -> str:
    """Return the hash of what the program is made from. The toolchain's version is not in it: any new enough will do."""
    module = SOURCES / build.module
    digest = hashlib.sha256(f"{build}".encode())
    sources = [module / "go.mod", module / "go.sum"]
    if build.package.startswith("./"):
        sources += sorted((module / build.package).glob("**/*.go"))
    for source in sources:
        try:
            digest.update(f"{source.relative_to(module)}\0".encode() + source.read_bytes() + b"\0")
        except FileNotFoundError as error:
            message = f"{name} cannot be built: {source} is missing."
            raise ClusterError(message) from error
    return digest.hexdigest()[:16]


def folder(name: str) -> Path:
    """Return the folder of the built program (which need not exist yet)."""
    try:
        build = BUILDS[name]
    except KeyError as error:
        message = f"There is no {name!r} to build; there are {', '.join(sorted(BUILDS))}."
        raise ClusterError(message) from error
    return cache_root() / "bin" / f"{name}-{_key(name, build)}"


def program(name: str, called: str | None = None) -> Path:
    """Return the path of a built program, under one of its other names if asked."""
    return folder(name) / (called or name)


def ready(*names: str) -> bool:
    """Return whether all of them are in the cache."""
    return all(folder(name).exists() for name in names)


def build(*names: str) -> list[Path]:
    """Build what is not in the cache yet and return the programs' paths."""
    for name in names:
        if ready(name):
            continue
        # One build at a time on a machine: two would compile the same packages twice and take longer than in turn.
        with locked(cache_root() / "locks" / "build.lock", f"the build of {name}"):
            if not ready(name):
                _build(name, folder(name))
    return [program(name) for name in names]


def _environment(go: Path) -> dict[str, str]:
    return {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false",
        "GOWORK": "off",
        "PATH": f"{go.parent}:{os.environ.get('PATH', '')}",
    }


def _build(name: str, into: Path) -> None:
    recipe = BUILDS[name]
    go = ensure_go()
    environment = _environment(go)
    module = SOURCES / recipe.module
    flags = ["-trimpath", "-ldflags", recipe.ldflags, *(["-tags", recipe.tags] if recipe.tags else [])]
    say(f"building {name}: fetching its sources")
    stale = run(
        [go, "list", "-deps", *flags, "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", recipe.package],
        environment=environment,
        folder=module,
        timeout=1800,
    ).split()
    progress = Progress(f"building {name}", _weight(stale), prior=_SECONDS_PER_WEIGHT)
    say(f"building {name}: {len(stale)} Go packages, about {progress.left(progress.started):.0f} s")
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=f".{name}-") as scratch:
        target = Path(scratch) / into.name
        target.mkdir()
        _compile(
            [str(go), "build", "-v", *flags, "-o", str(target / name), recipe.package], environment, module, progress
        )
        for alias in recipe.names:
            (target / alias).symlink_to(name)
        target.rename(into)
    progress.finish()
    _drop_older(name, into)


# Packages differ widely; what they have in common is that their size goes with the depth of the tree they are in.
# Measured on two cores: 2,650 packages of Kubernetes take 440 s, and its last link 25 s.
_SECONDS_PER_WEIGHT = 0.17
_LINK_WEIGHT = 60


def _weight(stale: list[str]) -> int:
    return len(stale) + _LINK_WEIGHT


def _compile(command: list[str], environment: dict[str, str], module: Path, progress: Progress) -> None:
    """Run `go build -v`, which prints each package as it begins, and count."""
    said: list[str] = []
    with (
        subprocess.Popen(
            command,
            env=environment,
            cwd=module,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as compiler,
        ExitStack() as interrupted,
    ):
        # go, and the compilers that it started.
        interrupted.callback(os.killpg, compiler.pid, signal.SIGKILL)
        for line in compiler.stderr or ():
            word = line.strip()
            said.append(word)
            progress.step("linking" if progress.done >= progress.total - _LINK_WEIGHT - 1 else word)
        interrupted.pop_all()
    if compiler.returncode:
        errors = [line for line, seen in Counter(said).items() if seen and (" " in line or ":" in line)]
        message = f"`{' '.join(command)}` failed: " + "\n".join(errors[-20:])
        raise ClusterError(message)


def _drop_older(name: str, newest: Path) -> None:
    """Keep the two newest builds of a program: a running cluster may still use the one before."""
    builds = [each for each in newest.parent.glob(f"{name}-*") if each != newest]
    builds.sort(key=lambda each: each.stat().st_mtime)
    for old in builds[:-1]:
        shutil.rmtree(old, ignore_errors=True)
