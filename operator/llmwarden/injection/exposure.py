"""How containers beside the proxy could read the key that the proxy adds: through the Secret, our volumes, its process or the node. Pure.

`ways` reads a pod once; what it returns is all that has to be kept of the pod. `findings` judges it for one service. The webhook warns by
the same functions by which the operator says whether a budget is `Enforced`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.domain import upstream
from llmwarden.injection.selection import Finding

Kind = Literal["Secret", "OurVolume", "Processes", "Node", "Network", "Egress"]
# What a pod's containers can do to each other's proxy, as reasons of findings.
REASONS: Final[Mapping[Kind, str]] = {
    "Secret": "OwnKey",
    "OurVolume": "OurVolumeMounted",
    "Processes": "ProcessesShared",
    "Node": "NodeReachable",
    "Network": "NetworkShared",
    "Egress": "EgressOfApplication",
}
KEPT: Final = "ways"  # of a stripped pod: its ways as lists, beside metadata, spec and status
_PROXIES: Final = frozenset({"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"})
# With any of these a container leaves its own file system or process space.
_CAPABILITIES: Final = frozenset(
    {"ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "SYS_PTRACE", "DAC_READ_SEARCH", "BPF", "PERFMON", "SYS_BOOT"}
)
# With these a container sees or redirects the packets of its pod. Container runtimes give NET_RAW to root by default.
_PACKETS: Final = frozenset({"ALL", "NET_RAW", "NET_ADMIN"})
_TLS_KEY: Final = "tls.key"


class Way(NamedTuple):
    """One way to a key. `secret` and `key` are of kind Secret only; an empty `key` is every key of the Secret. `where` is for people."""

    kind: Kind
    where: str
    secret: str = ""
    key: str = ""


def ways(pod: Mapping[str, Any]) -> tuple[Way, ...]:
    """Return every way by which a container beside the proxy could read some key, in the pod's order. Ephemeral containers count."""
    spec = pod.get("spec") or {}
    volumes = {item.get("name"): item for item in _items(spec, "volumes")}
    listed: list[Way] = []
    if spec.get("shareProcessNamespace"):
        listed.append(Way("Processes", "the pod sets shareProcessNamespace"))
    if spec.get("hostPID"):
        listed.append(Way("Processes", "the pod sets hostPID"))
    for container in _beside(spec):
        listed += _of_container(container, volumes)
        if _sees_packets(container, spec.get("securityContext") or {}):
            listed.append(Way("Network", f"container {container.get('name')}"))
    proxy = next((item for item in _items(spec, "initContainers") if item.get("name") == names.PROXY_CONTAINER), {})
    copied = sorted({str(item.get("name")) for item in _items(proxy, "env")} & _SPELLED)
    if copied:
        listed.append(Way("Egress", ", ".join(copied)))
    return tuple(dict.fromkeys(listed))


def kept(pod: Mapping[str, Any]) -> tuple[Way, ...]:
    """Return the ways of a pod as the operator keeps it: those that were read when it arrived."""
    return tuple(Way(*way) for way in pod.get(KEPT) or ())


def findings(service: LLMService, found: Iterable[Way]) -> tuple[Finding, ...]:
    """Say which of a pod's ways lead to the key of this service; empty where its proxy adds no key."""
    keys = secret_keys(service)
    if not keys:
        return ()
    url = service.spec.backend.url
    plain = url is not None and not upstream.is_encrypted(url)

    def leads(way: Way) -> bool:
        match way.kind:
            case "Secret":
                return any(_same(way, *place) for place in keys)
            case "Network":
                return plain
            case "Egress":
                return not plain  # without TLS the proxy takes no such way
            case _:
                return True

    return tuple(_finding(service.metadata.name, way) for way in found if leads(way))


def secret_keys(service: LLMService) -> tuple[tuple[str, str], ...]:
    """Return the Secrets and keys that only the proxy of a service is to have: its API key, and the key of its client certificate."""
    backend = service.spec.backend
    if upstream.interception(service) != "Env":
        return ()  # in front of a pod's own port the proxy adds nothing
    places: list[tuple[str, str]] = []
    if backend.credentials_secret_ref is not None:
        places.append((backend.credentials_secret_ref.name, backend.credentials_secret_ref.key))
    if backend.client_certificate_secret_ref is not None:
        places.append((backend.client_certificate_secret_ref.name, _TLS_KEY))
    return tuple(places)


def unmount_ours(pod: Mapping[str, Any]) -> list[str]:
    """Take the proxy's own volumes away from all other containers; returns those containers' names.

    Without injection such a pod would not start: the volumes are made by injection. Nobody but the proxy has a use for them.
    """
    taken: list[str] = []
    for container in _beside(pod.get("spec") or {}):
        for field in ("volumeMounts", "volumeDevices"):
            mounts = container.get(field)
            if mounts and any(item.get("name") in names.VOLUMES for item in mounts):
                container[field] = [item for item in mounts if item.get("name") not in names.VOLUMES]
                taken.append(str(container.get("name")))
    return taken


def _finding(service: str, way: Way) -> Finding:
    reason = REASONS[way.kind]
    match way.kind:
        case "Secret":
            text = f"{way.where} gives the application the key of Secret {way.secret}, so it could call the backend without the proxy"
            return Finding(service, reason, text, f"remove Secret {way.secret} from the application's container")
        case "OurVolume":
            text = f"{way.where}, which holds what only the proxy may have"
            return Finding(service, reason, text, "remove that mount from the pod template")
        case "Processes":
            text = f"{way.where}, so the application could read the key from the proxy's process"
            return Finding(service, reason, text, "remove that field from the pod template")
        case "Node":
            text = f"{way.where}, and through the node it could read the key"
            return Finding(service, reason, text, "remove that from the pod template")
        case "Network":
            text = f"backend.url is plain HTTP, and {way.where} can read the packets of its pod, the key among them"
            remedy = (
                "write https://, or drop all capabilities of that container (securityContext.capabilities.drop: [ALL])"
            )
            return Finding(service, reason, text, remedy)
        case "Egress":
            text = f"the proxy's calls go through an HTTP proxy that the application chose ({way.where})"
            return Finding(service, reason, text, "let the pods reach the backend without it")


def _same(way: Way, secret: str, key: str) -> bool:
    return way.secret == secret and way.key in {"", key}


def _of_container(container: Mapping[str, Any], volumes: Mapping[Any, Mapping[str, Any]]) -> Iterator[Way]:
    label = f"container {container.get('name')}"
    for entry in _items(container, "env"):
        reference = (entry.get("valueFrom") or {}).get("secretKeyRef") or {}
        if reference.get("name"):
            where = f"variable {entry.get('name')} of {label}"
            yield Way("Secret", where, reference["name"], reference.get("key") or "")
    for source in _items(container, "envFrom"):
        if (source.get("secretRef") or {}).get("name"):
            yield Way("Secret", f"envFrom of {label}", source["secretRef"]["name"])
    for mount in (*_items(container, "volumeMounts"), *_items(container, "volumeDevices")):
        yield from _mounted(label, str(mount.get("name")), volumes.get(mount.get("name")) or {})
    context = container.get("securityContext") or {}
    if context.get("privileged"):
        yield Way("Node", f"{label} is privileged")
    for capability in sorted(_capabilities((context.get("capabilities") or {}).get("add")) & _CAPABILITIES):
        yield Way("Node", f"{label} has the capability {capability}")
    if container.get("targetContainerName") == names.PROXY_CONTAINER:
        yield Way("Processes", f"the ephemeral {label} shares the proxy's processes")


def _mounted(label: str, name: str, volume: Mapping[str, Any]) -> Iterator[Way]:
    if name in names.VOLUMES:
        yield Way("OurVolume", f"{label} mounts the volume {name}")
        return
    for secret, key in _secrets(volume):
        yield Way("Secret", f"volume {name} of {label}", secret, key)
    path = (volume.get("hostPath") or {}).get("path")
    if path is not None:
        yield Way("Node", f"{label} mounts {path} of the node")


def _sees_packets(container: Mapping[str, Any], of_pod: Mapping[str, Any]) -> bool:
    """Whether a container could read or redirect what the pod sends: it runs as root, could become root, or asks for the capability.

    Root needs no capability for it: all containers of a pod share /etc/hosts.
    """
    context = {**of_pod, **(container.get("securityContext") or {})}
    if context.get("privileged") or _capabilities((context.get("capabilities") or {}).get("add")) & _PACKETS:
        return True
    user = context.get("runAsUser")
    plain_user = user != 0 and (context.get("runAsNonRoot") is True or bool(user))
    return not (plain_user and context.get("allowPrivilegeEscalation") is False)


def _capabilities(listed: Iterable[Any] | None) -> set[str]:
    return {str(item).upper().removeprefix("CAP_") for item in listed or []}


def _secrets(volume: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The Secrets in a volume, each with its key, or with "" for all keys."""
    sources = [volume.get("secret") or {}]
    sources += [item.get("secret") or {} for item in _items(volume.get("projected") or {}, "sources")]
    for source in sources:
        name = source.get("secretName") or source.get("name")
        if not name:
            continue
        keys = [str(item.get("key") or "") for item in _items(source, "items")]
        for key in keys or [""]:
            yield str(name), key


def _beside(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All containers but the proxy's own, which is an init container."""
    init = [item for item in _items(spec, "initContainers") if item.get("name") != names.PROXY_CONTAINER]
    return [*_items(spec, "containers"), *init, *_items(spec, "ephemeralContainers")]


def _items(value: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    return [item for item in value.get(field) or [] if isinstance(item, dict)]


_SPELLED: Final = frozenset(spelled for name in _PROXIES for spelled in (name, name.lower()))
