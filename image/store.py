"""The part of the cache that holds images: content-keyed names, steps done at most once, missing programs."""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster import paths
from cluster.errors import ClusterError
from cluster.locks import locked
from cluster.shell import run

ROOT = Path(__file__).resolve().parent.parent


def cache() -> Path:
    """Folder of everything that is made once and kept; deleting it is safe while nothing of ours runs."""
    return paths.cache_root()


def say(message: str) -> None:
    """Print one line of progress at once, on standard error: standard output is for results."""
    print(f"image: {message}", file=sys.stderr, flush=True)


def digest(*parts: str | Path) -> str:
    """Short SHA-256 over texts, and over names and contents of files and folders, in the order given."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for file in [part] if part.is_file() else sorted(part.rglob("*")):
                if "__pycache__" not in file.parts and file.is_file():
                    _add(total, str(file.relative_to(part.parent)).encode())
                    _add(total, file.read_bytes())
        else:
            _add(total, part.encode())
    return total.hexdigest()[:20]


def _add(total: "hashlib._Hash", data: bytes) -> None:
    # Length first, so that no two different sequences run into the same bytes.
    total.update(b"%d:" % len(data))
    total.update(data)


def once(target: Path, make: Callable[[Path], None]) -> Path:
    """Return `target`, made by `make(temporary)` when it is not there; nobody ever sees a half-made one.

    `make` is handed a path that does not exist, beside `target`, and leaves a file or a folder there.
    """
    if target.exists():
        return target
    with locked(cache() / "locks" / f"{target.name}.lock", target.name):
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        remove(temporary)
        try:
            make(temporary)
            temporary.rename(target)
        finally:
            remove(temporary)
    return target


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def keep_newest(folder: Path, pattern: str, count: int) -> None:
    """Remove all but the `count` newest paths in `folder` that match `pattern`: archives are large."""
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[count:]:
        remove(path)


def need(program: str, package: str) -> str:
    """Path of `program`; installs the distribution's `package` when it is missing and we may.

    Raises ClusterError with the command that helps when we may not.
    """
    found = shutil.which(program)
    if found:
        return found
    help_text = f"{program} is missing; install it with: sudo apt-get install {package}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(help_text)
    with locked(cache() / "locks" / "apt.lock", "the distribution's packages"):
        if not shutil.which(program):
            started = time.monotonic()
            say(f"installing {package} from the distribution's packages")
            env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            # Waits for another apt instead of failing at its lock.
            apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300"]
            install = [*apt, "install", "-y", "-qq", "--no-install-recommends", package]
            try:
                run(install, environment=env)
            except ClusterError:
                # The package lists of a fresh machine are empty or old.
                run([*apt, "update", "-qq"], environment=env)
                run(install, environment=env)
            say(f"{package} installed in {time.monotonic() - started:.0f} s")
    found = shutil.which(program)
    if not found:
        raise ClusterError(help_text)
    return found
