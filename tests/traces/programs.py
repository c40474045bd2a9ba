"""What the traces tier runs: a Collector and Jaeger built from their Go modules, and a Python environment with Phoenix and the SDKs.

`python -m tests.traces.programs` makes all of it, once, into the cache. The lock is written by `uv pip compile --no-config --universal --python-version 3.11
--generate-hashes --no-emit-index-url --no-header tests/traces/requirements.in -o tests/traces/requirements.lock`.
"""

import os
import shutil
import sys
import time
from pathlib import Path

from cluster import builds, paths
from cluster.errors import ClusterError
from cluster.shell import run
from image import store

LOCK = Path(__file__).resolve().parent / "requirements.lock"


def collector() -> Path:
    """Return the Collector's program, building it when it is not in the cache."""
    return builds.build("collector")[0]


def jaeger() -> Path:
    """Return Jaeger's program, likewise."""
    return builds.build("jaeger")[0]


def environment() -> Path:
    """Return the folder with Phoenix and the SDKs, installing them when they are not in the cache."""

    def make(target: Path) -> None:
        store.say("installing Phoenix and the SDKs that instrument applications")
        started = time.monotonic()
        command = [
            _uv(), "pip", "install", "--quiet", "--no-config", "--python", sys.executable, "--target", str(target),
            "--only-binary", ":all:", "--require-hashes", "--no-deps", "-r", str(LOCK),
        ]  # fmt: skip
        run(command, timeout=900)
        store.say(f"installed in {time.monotonic() - started:.0f} s")

    version = ".".join(map(str, sys.version_info[:2]))
    folder = store.cache() / "engines"
    made = store.once(folder / f"traces-{store.digest(version, LOCK)}", make)
    store.keep_newest(folder, "traces-*", 2)
    return made


def python() -> tuple[str, dict[str, str]]:
    """Return the interpreter and the variables that make it see that environment, and nothing of ours."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PHOENIX_", "PYTHON"))}
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return str(base), {**kept, "PYTHONPATH": str(environment()), "PYTHONUNBUFFERED": "1"}


def _uv() -> str:
    # Where tools/bootstrap.sh puts it when the machine has none.
    own = shutil.which("uv") or str(paths.cache_root() / "uv/bin/uv")
    if not os.access(own, os.X_OK):
        message = "uv is missing: run ./tools/bootstrap.sh"
        raise ClusterError(message)
    return own


def main() -> None:
    """Make everything, what is dearest first."""
    collector()
    jaeger()
    environment()


if __name__ == "__main__":
    main()
