"""Builds images from Dockerfiles: with Docker where its daemon answers, else with buildah over a base of our own making.

Every result is an archive (`docker load`, `ctr images import`) in the cache, named after the content it was made from:
unchanged sources cost nothing but the reading of them.
"""

import configparser
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.locks import locked
from cluster.shell import run, succeeds
from image import packages, store

BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates", "tzdata")
# With what compiles the proxy's hot modules (image/compile.py): for a stage of the build, never below an image.
COMPILER_PACKAGES = (*BASE_PACKAGES, "gcc", "libc6-dev", "python3-dev")
BASE_IMAGE = "localhost/llmwarden-base"
_BASE_FORMAT = "base-1"
_TRIM = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True)
class Definition:
    """What an image is made from. `sources` are all files and folders of `context` that its Dockerfile copies.

    `compiles`: it has a stage that needs a C compiler, `FROM ${BUILDER}`.
    """

    tag: str
    dockerfile: Path
    context: Path
    sources: tuple[Path, ...]
    compiles: bool = False


PRODUCT = Definition(
    tag="llmwarden:dev",
    dockerfile=store.ROOT / "Dockerfile",
    context=store.ROOT,
    sources=(
        store.ROOT / "requirements.lock",
        store.ROOT / "requirements-bedrock.lock",
        store.ROOT / "requirements-compile.lock",
        store.ROOT / "image/compile.py",
        store.ROOT / "operator/llmwarden",
        store.ROOT / ".dockerignore",
    ),
    compiles=True,
)


def has_docker() -> bool:
    """Whether Docker's daemon answers."""
    return succeeds(["docker", "version", "--format", "{{.Server.Version}}"])


def base(wanted: tuple[str, ...] = BASE_PACKAGES) -> Path:
    """Tar of a Debian (or Ubuntu) base system with these packages, made by mmdebstrap; needs root once."""
    suite = packages.BASE_SUITES[packages.family()]
    key = store.digest(_BASE_FORMAT, suite, *wanted, *_TRIM)

    def make(target: Path) -> None:
        if os.geteuid() != 0:
            message = "An image without Docker needs root: run this with sudo, or start Docker."
            raise ClusterError(message)
        program = store.need("mmdebstrap", "mmdebstrap")
        store.say(f"making a base system, {suite} with {wanted[-1]} (about 45 s, once)")
        started = time.monotonic()
        trim = [f"--dpkgopt=path-exclude={pattern}" for pattern in _TRIM]
        command = [
            program, "--quiet", "--variant=essential", "--format=tar", f"--include={','.join(wanted)}", *trim,
            '--aptopt=Acquire::Languages "none"', '--aptopt=Apt::Install-Recommends "false"',
            "--customize-hook=rm -rf $1/var/cache/apt $1/var/lib/apt/lists $1/var/log/*",
            suite, str(target), *packages.sources(suite),
        ]  # fmt: skip
        run(command, timeout=900)
        store.say(f"base system made in {time.monotonic() - started:.0f} s")

    return store.once(store.cache() / "images" / f"base-{key}.tar", make)


def build(definition: Definition) -> Path:
    """Return an archive of the image, building it when its content is new.

    Raises ClusterError when neither Docker nor buildah can do it; the text says what helps.
    """
    if has_docker():
        return _archive(definition, "docker", "", lambda target: _with_docker(definition, target))
    bases = {"BASE": base()} | ({"BUILDER": base(COMPILER_PACKAGES)} if definition.compiles else {})
    bottom = " ".join(path.name for path in bases.values())
    return _archive(definition, "buildah", bottom, lambda target: _with_buildah(definition, bases, target))


def _archive(definition: Definition, how: str, bottom: str, make: Callable[[Path], None]) -> Path:
    name = definition.tag.split(":")[0]
    key = store.digest(how, bottom, definition.tag, definition.dockerfile, *definition.sources)
    folder = store.cache() / "images"
    target = folder / f"{name}-{key}.tar"
    if target.exists():
        return target
    started = time.monotonic()
    store.say(f"building {definition.tag} with {how} (a minute at first, seconds after)")
    store.once(target, make)
    store.keep_newest(folder, f"{name}-*.tar", 2)
    store.say(f"{definition.tag} built in {time.monotonic() - started:.0f} s")
    return target


def _with_docker(definition: Definition, target: Path) -> None:
    run(
        ["docker", "build", "-q", "-t", definition.tag, "-f", definition.dockerfile, definition.context],
        timeout=1200,
    )
    run(["docker", "save", "-o", target, definition.tag], timeout=300)


def _with_buildah(definition: Definition, bases: Mapping[str, Path], target: Path) -> None:
    buildah = [store.need("buildah", "buildah"), *_storage()]
    # One build at a time in one store: layers are shared, and two would fight for the disk anyway.
    with locked(store.cache() / "locks" / "buildah.lock", "another image"), tempfile.TemporaryDirectory() as folder:
        stages = []
        for argument, bottom in bases.items():
            image = f"{BASE_IMAGE}:{bottom.stem}"
            stages += ["--build-arg", f"{argument}={image}"]
            if not succeeds([*buildah, "inspect", "--type=image", image]):
                container = run([*buildah, "from", "scratch"]).strip()
                run([*buildah, "add", "-q", container, bottom, "/"])
                run([*buildah, "commit", "-q", "--rm", container, image])
        before = _image_id(buildah, definition.tag)
        command = [
            *buildah, "bud", "-q", "--isolation", "chroot", "--pull-never", "--layers", *stages,
            *_registry_access(Path(folder)), "-t", definition.tag, "-f", definition.dockerfile, definition.context,
        ]  # fmt: skip
        run([str(word) for word in command], timeout=1200)
        if before and before != _image_id(buildah, definition.tag):
            # The image that lost its tag; layers that others stand on stay.
            succeeds([*buildah, "rmi", before])
        run([*buildah, "push", "-q", definition.tag, f"docker-archive:{target}:{definition.tag}"], timeout=300)


def _storage() -> list[str]:
    """Keep buildah's files in our cache, apart from whatever else this machine uses it for."""
    folder = store.cache() / "buildah"
    return ["--root", str(folder), "--runroot", "/run/llmwarden/buildah"]


def _image_id(buildah: list[str], tag: str) -> str:
    found = subprocess.run(
        [*buildah, "images", "-q", "--no-trunc", tag], capture_output=True, text=True, check=False, timeout=60
    )
    return found.stdout.split("\n")[0].strip()


def _registry_access(folder: Path) -> list[str]:
    """Mounts for the build only, none of which ends in the image: this machine's certificates and pip settings."""
    mounts = ["-v", "/etc/ssl/certs:/etc/ssl/certs:ro"]
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(["/etc/pip.conf", Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"])
    if not settings.has_section("global"):
        settings.add_section("global")
    for variable, option in (
        ("PIP_INDEX_URL", "index-url"),
        ("PIP_EXTRA_INDEX_URL", "extra-index-url"),
        ("PIP_TRUSTED_HOST", "trusted-host"),
        ("PIP_CERT", "cert"),
        ("PIP_PROXY", "proxy"),
    ):
        if os.environ.get(variable):
            settings.set("global", option, os.environ[variable])
    certificates = settings.get("global", "cert", fallback="")
    if certificates and Path(certificates).is_file() and not certificates.startswith("/etc/ssl/certs/"):
        shutil.copy(certificates, folder / "ca.pem")
        mounts += ["-v", f"{folder}/ca.pem:/etc/llmwarden-ca.pem:ro"]
        settings.set("global", "cert", "/etc/llmwarden-ca.pem")
    with (folder / "pip.conf").open("w") as handle:
        settings.write(handle)
    return [*mounts, "-v", f"{folder}/pip.conf:/etc/pip.conf:ro"]
