"""What a pod's own containers know of the way out, which the proxy must know, too, once their calls are its calls: HTTP proxies and authorities."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmwarden import names
from llmwarden.injection.variables import hidden, readable, references, refers, rename

Container = Mapping[str, Any]

_PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_AROUND: Final = "NO_PROXY"
_WANTED: Final = tuple(spelled for name in (*_PROXIES, _AROUND) for spelled in (name, name.lower()))
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
    so authorities are then left out. The HTTP proxy alone sees only TLS. What `envFrom` may bring is left out as well: nobody can tell by
    the pod whether it names an HTTP proxy at all, and every such pod would have to be called one whose key goes through the application's.
    """
    containers = list(containers)
    mount, ca_file, variable = next(
        (authorities for item in containers if (authorities := _authorities(item))), (None, "", "")
    )
    if beside_a_key:
        mount, ca_file = None, ""
    return Egress(
        refused=variable if beside_a_key else "",
        env=next((entries for item in containers if (entries := _proxies(item, guesses=not beside_a_key))), ()),
        mounts=(mount,) if mount else (),
        ca_file=ca_file,
    )


def _proxies(container: Container, *, guesses: bool = True) -> tuple[dict[str, Any], ...]:
    """The variables that name a proxy, and those that say around which hosts; in the container's order, as references need it.

    What they refer to comes along under a name of ours: nothing else of the application's is to mean anything to the proxy. What envFrom
    may bring comes first, as the container's own entries count more; without `guesses` it is left out.
    """
    env = container.get("env") or []
    entries: list[dict[str, Any]] = [
        {"name": name, "valueFrom": source}
        for name in (_WANTED if guesses else ())
        for source in hidden(container, name)
    ]
    kept: set[str] = set()  # names of which an entry came along, under a name of ours or its own
    hopeless: set[str] = set()  # names of which an entry means nothing elsewhere
    for place in _needed(env):
        entry, name = env[place], env[place]["name"]
        wanted = references(entry.get("value") or "")
        behind = [
            {"name": _kept(other), "valueFrom": source}
            for other in wanted
            if other not in kept and other not in _WANTED
            for source in hidden(container, other)
        ]
        reached = kept | {other for other in wanted if next(hidden(container, other), None) is not None}
        if not hopeless.isdisjoint(wanted) or not reached.issuperset(wanted) or not (wanted or copies(entry)):
            hopeless.add(name)
            continue
        kept.update((name, *wanted))
        entries += behind
        if wanted:
            renamed = {other: _kept(other) for other in wanted}
            entries.append({"name": _kept(name), "value": rename(entry["value"], renamed)})
        else:
            entries.append({**entry, "name": _kept(name)})
    if not any(entry["name"].upper() in _PROXIES for entry in entries):
        return ()
    return tuple(copy.deepcopy(entries))


def _kept(name: str) -> str:
    """Give the name that a variable of the application's has in the proxy."""
    return name if name in _WANTED or name.startswith(names.KEPT_PREFIX) else f"{names.KEPT_PREFIX}{name}"


def _needed(env: Sequence[Mapping[str, Any]]) -> list[int]:
    """Give the places of the entries that are wanted, and of all that these refer to, in their order."""
    places: set[int] = set()
    asked: set[str] = set()  # references at later places, which earlier entries of the name answer
    for place in range(len(env) - 1, -1, -1):
        name = env[place].get("name")
        if name in _WANTED or name in asked:
            places.add(place)
            asked.update(references(env[place].get("value") or ""))
    return sorted(places)


def copies(entry: Mapping[str, Any]) -> bool:
    """Whether an entry means the same in another container of the pod."""
    value = entry.get("value") or ""
    if refers(value):
        return False  # it is made of variables that the proxy does not have
    return bool(value) or "resourceFieldRef" not in (entry.get("valueFrom") or {"resourceFieldRef": None})


def _authorities(container: Container) -> tuple[dict[str, Any], str, str] | None:
    """The mount that holds a bundle, under a directory of the proxy's own, the bundle's path there, and the variable that names it.

    A bundle that lies in the container's image cannot be brought along.
    """
    for variable in _BUNDLES:
        path = readable(container, variable) or ""
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
