"""What a pod's own containers know of the way out, which the proxy must know, too, once their calls are its calls: HTTP proxies and authorities."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmwarden import names

Container = Mapping[str, Any]

_PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_AROUND: Final = "NO_PROXY"
# Where Python, OpenSSL, curl, Node and the AWS SDKs look for authorities beside or instead of the system's.
_BUNDLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
_SINGLE: Final = "bundle.pem"  # what a file that is mounted by itself is called in the proxy


@dataclass(frozen=True, slots=True)
class Egress:
    """`env` and `mounts` are for the proxy's container; `ca_file` is the bundle's path there, or empty.

    `refused` is the application's variable whose bundle was left out because of a key; empty where none was.
    """

    env: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()
    ca_file: str = ""
    refused: str = ""


def egress(containers: Iterable[Container], *, beside_a_key: bool = False) -> Egress:
    """Copy from the first container that says something, as it is after its own injection.

    `beside_a_key`: the proxy adds a key. With an authority of the application's, an HTTP proxy of the application's could read that key,
    so authorities are then left out. The HTTP proxy alone sees only TLS.
    """
    containers = list(containers)
    mount, ca_file, variable = next(
        (authorities for item in containers if (authorities := _authorities(item))), (None, "", "")
    )
    if beside_a_key:
        mount, ca_file = None, ""
    return Egress(
        refused=variable if beside_a_key else "",
        env=next((entries for item in containers if (entries := _proxies(item))), ()),
        mounts=(mount,) if mount else (),
        ca_file=ca_file,
    )


def _proxies(container: Container) -> tuple[dict[str, Any], ...]:
    """The variables that name a proxy, and those that say around which hosts; in the container's order, as references need it."""
    wanted = {spelled for name in (*_PROXIES, _AROUND) for spelled in (name, name.lower())}
    kept = {f"{names.KEPT_PREFIX}{name}" for name in wanted}
    entries = [entry for entry in container.get("env") or [] if entry.get("name") in wanted | kept and copies(entry)]
    if not any(entry["name"].upper() in _PROXIES for entry in entries):
        return ()
    return tuple(copy.deepcopy(dict(entry)) for entry in entries)


def copies(entry: Mapping[str, Any]) -> bool:
    """Whether an entry means the same in another container of the pod."""
    value = entry.get("value") or ""
    if "$(" in value.replace(f"$({names.KEPT_PREFIX}", ""):
        return False  # it is made of variables that the proxy does not have
    return bool(value) or "resourceFieldRef" not in (entry.get("valueFrom") or {"resourceFieldRef": None})


def _authorities(container: Container) -> tuple[dict[str, Any], str, str] | None:
    """The mount that holds a bundle, under a directory of the proxy's own, the bundle's path there, and the variable that names it.

    A bundle that lies in the container's image cannot be brought along.
    """
    paths = {entry["name"]: entry.get("value") or "" for entry in container.get("env") or [] if entry.get("name")}
    for variable in _BUNDLES:
        path = paths.get(variable, "")
        mounts = [item for item in container.get("volumeMounts") or [] if _holds(item, path)]
        if not mounts:
            continue
        mount = max(mounts, key=lambda item: len(item["mountPath"].rstrip("/")))
        inside = path[len(mount["mountPath"].rstrip("/")) :]
        target = names.CA_DIR if inside else f"{names.CA_DIR}/{_SINGLE}"
        copied = {"name": mount["name"], "mountPath": target, "readOnly": True}
        if mount.get("subPath"):
            copied["subPath"] = mount["subPath"]
        return copied, target + inside, variable
    return None


def _holds(mount: Mapping[str, Any], path: str) -> bool:
    at = (mount.get("mountPath") or "").rstrip("/")
    return bool(at) and "subPathExpr" not in mount and (path == at or path.startswith(at + "/"))
