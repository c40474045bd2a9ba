"""Writes image archives in Docker's format (`docker load`, `ctr images import`) with nothing but Python.

For programs that are ready-made files: several images may stand on the same layers, which are stored once.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Image:
    """One image of an archive: what it is called and how it starts. `user` is `uid:gid`."""

    tag: str
    entrypoint: tuple[str, ...]
    user: str = "65532:65532"
    environment: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "amd64"


def layer(target: Path, files: Mapping[str, Path]) -> Path:
    """Write a layer with `files` (path in the image -> file or folder here), owned by root, the same for the same input."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as out:
        for inside, source in sorted(files.items()):
            paths = [source] if source.is_file() else [source, *sorted(source.rglob("*"))]
            for path in paths:
                name = inside.lstrip("/") if path == source else f"{inside.strip('/')}/{path.relative_to(source)}"
                info = out.gettarinfo(path, name)
                info.uid = info.gid = 0
                info.uname = info.gname = "root"
                info.mtime = 0
                if info.isreg():
                    with path.open("rb") as handle:
                        out.addfile(info, handle)
                else:
                    out.addfile(info)
    return target


def write(target: Path, layers: Sequence[Path], images: Sequence[Image]) -> Path:
    """Write an archive of `images`, all of which stand on `layers` (uncompressed tars, lowest first)."""
    digests = [_sha256(path) for path in layers]
    manifest = []
    with tarfile.open(target, "w") as out:
        for path, sum_ in zip(layers, digests, strict=True):
            out.add(path, f"{sum_}.tar")
        for image in images:
            environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **image.environment}
            config = {
                "architecture": image.architecture,
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": {
                    "Entrypoint": list(image.entrypoint),
                    "User": image.user,
                    "WorkingDir": "/",
                    "Env": [f"{name}={value}" for name, value in environment.items()],
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sum_}" for sum_ in digests]},
                "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "llmwarden"} for _ in digests],
            }
            name = _add(out, json.dumps(config, sort_keys=True).encode())
            manifest.append({"Config": name, "RepoTags": [image.tag], "Layers": [f"{sum_}.tar" for sum_ in digests]})
        _add(out, json.dumps(manifest).encode(), "manifest.json")
    return target


def _add(out: tarfile.TarFile, data: bytes, name: str = "") -> str:
    info = tarfile.TarInfo(name or f"{hashlib.sha256(data).hexdigest()}.json")
    info.size = len(data)
    out.addfile(info, io.BytesIO(data))
    return info.name


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()
