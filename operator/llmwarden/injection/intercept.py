"""How the calls of a pod come to the proxy: variables for `Env`, a port's name for `Port`. Edits a pod's own containers.

The functions here change the pod that they are given (`sidecar.inject` gives them a copy) and are idempotent: they know
their own work again by `previous`, the routes of a proxy that is in the pod already.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.api.v1alpha1.common import SecretKeyRef
from llmwarden.contracts.sidecar import Mode
from llmwarden.domain import upstream as upstreams
from llmwarden.injection import aws
from llmwarden.injection.loopback import LOOPBACK, bypass_proxies
from llmwarden.injection.sdk import AWS_BEARER, AWS_ENDPOINT, CLIENTS, DUMMY_KEY, BaseUrl, Clients, split_base_url
from llmwarden.injection.selection import Finding
from llmwarden.injection.variables import Container, entry_of, put, readable
from llmwarden.settings import Settings

_PORT_NAME_LENGTH: Final = 15  # of a container port's name: IANA_SVC_NAME
_HANDLERS: Final = ("httpGet", "tcpSocket")


@dataclass(frozen=True, slots=True)
class Route:
    """One service's way through the proxy.

    `resolves_to`: the full name of the Service that `upstream` must stand for where there is no TLS to check its name; None where there is.
    """

    service: LLMService
    mode: Mode
    host: str
    port: int
    upstream: str
    resolves_to: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What an earlier injection decided for a service."""

    mode: Mode
    port: int
    upstream: str


class Ports:
    """Hands out port numbers that nothing in the pod uses."""

    def __init__(self, used: Iterable[int]) -> None:
        self._used = set(used)

    def take(self, base: int, wanted: int | None = None) -> int:
        """Give `wanted` where it is given and free, else the first free number from `base` on."""
        number = wanted if wanted is not None and wanted not in self._used else base
        while number in self._used:
            number += 1
        self._used.add(number)
        return number


def app_containers(pod: Mapping[str, Any]) -> list[Container]:
    """Give all of a pod's containers but ours: the ordinary ones first, then the init containers."""
    spec = pod.get("spec") or {}
    every = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    return [container for container in every if container.get("name") != names.PROXY_CONTAINER]


def used_ports(containers: Iterable[Container]) -> set[int]:
    """Give every port number that these containers declare."""
    return {port["containerPort"] for container in containers for port in container.get("ports") or []}


def services_upstream(service: LLMService, settings: Settings) -> str | Finding:
    """Give where an `Env` service's calls go by its own spec, or why that cannot be said.

    The string is empty where it is the application's to say: neither `backend.url` nor a default of the type.
    """
    backend = service.spec.backend
    if backend.url is None:
        return upstreams.default_url(backend.type) or ""
    problem = upstreams.check_url(backend.url, backend.type, settings.allowed_hosts, settings.cluster_domain)
    if problem:
        return Finding(service.metadata.name, "UpstreamNotAllowed", problem, "edit backend.url", blocking=True)
    return backend.url.rstrip("/")


# Env ----------------------------------------------------------------------------------------------------------------


def intercept_env(
    pod: Mapping[str, Any],
    service: LLMService,
    settings: Settings,
    *,
    ports: Ports,
    taken: dict[str, str],
    previous: Known | None,
) -> tuple[Route | None, list[Finding]]:
    """Point the SDKs in all containers to a loopback port of the proxy.

    `taken` maps variables to the service that has them; it is added to. Returns no route where nothing was changed.
    """
    name, backend = service.metadata.name, service.spec.backend
    clients = CLIENTS[backend.type]
    rival = next((taken[variable] for variable, _ in clients.base_urls if variable in taken), None)
    if rival is not None:
        variables = ", ".join(variable for variable, _ in clients.base_urls if taken.get(variable) == rival)
        message = f"LLMService {rival} has {variables} in this pod already, and clients of both services read the same variables"
        remedy = "select the pod with only one of the two services"
        return None, [Finding(name, "EnvConflict", message, remedy, blocking=True)]
    given = services_upstream(service, settings)
    if isinstance(given, Finding):
        return None, [given]

    containers = app_containers(pod)
    findings: list[Finding] = []
    upstream = given
    if backend.url is None:
        own, refused = _own_upstream(containers, clients, service, settings, previous)
        findings += refused
        upstream = own or given
        if not upstream and backend.type == "Bedrock":
            upstream = aws.upstream(containers)
    if not upstream:
        message = f"the address of the backend is unknown: {backend.type} has no default address"
        remedy = "set backend.url"
        if backend.type == "Bedrock":
            remedy += ", or AWS_REGION in the pod template"
        findings.append(Finding(name, "NoUpstream", message, remedy, blocking=True))
        return None, findings

    port = ports.take(names.ENV_PORT_BASE, previous.port if previous and previous.mode == "Env" else None)
    editor = _EnvEditor(service, clients, f"http://{LOOPBACK}:{port}", upstream)
    for container in containers:
        findings += editor.edit(container)
    if not editor.reached:
        message = "no container of the pod could be pointed at the proxy: " + "; ".join(
            finding.message for finding in findings if not finding.blocking
        )
        findings.append(Finding(name, "NoClient", message, "set backend.url", blocking=True))
        return None, findings
    taken.update({variable: name for variable, _ in clients.base_urls})
    resolves_to = None
    if not upstreams.is_encrypted(upstream):
        host = urlsplit(upstream).hostname or ""
        resolves_to = upstreams.cluster_name(host, service.metadata.namespace, settings.cluster_domain)
    return Route(service, "Env", LOOPBACK, port, upstream, resolves_to), findings


def _own_upstream(
    containers: Iterable[Container], clients: Clients, service: LLMService, settings: Settings, previous: Known | None
) -> tuple[str | None, list[Finding]]:
    """Give where the application itself sends its calls, by the first variable that says so."""
    backend, name = service.spec.backend, service.metadata.name
    upstream = previous.upstream if previous and previous.mode == "Env" else None
    for container in containers:
        for variable, _ in clients.base_urls:
            value = readable(container, variable)
            if upstream is None and value and not _is_ours(value, previous):
                split = split_base_url(variable, value)
                upstream = split.upstream if split else None
    if upstream is None or backend.credentials_secret_ref is None:
        return upstream, []
    # Where the proxy adds a key of its own, an application must not choose whom it is sent to.
    problem = upstreams.check_url(upstream, backend.type, settings.allowed_hosts, settings.cluster_domain)
    if problem is None and not upstreams.is_encrypted(upstream):
        problem = "backend.url must begin with https://: without TLS, whoever answers there reads the key"
    if problem is None:
        return upstream, []
    message = (
        f"the application's own base URL must not receive the service's key: {problem.replace('backend.url', 'it', 1)}"
    )
    return None, [Finding(name, "BaseUrlNotAllowed", message, "set backend.url, or remove the application's variable")]


def _is_ours(value: str, previous: Known | None) -> bool:
    """Whether a base URL is one that an earlier injection has set."""
    return previous is not None and value.startswith(f"http://{LOOPBACK}:{previous.port}")


class _EnvEditor:
    """Sets one service's variables in one container after another."""

    def __init__(self, service: LLMService, clients: Clients, base: str, upstream: str) -> None:
        self._service = service
        self._name = service.metadata.name
        self._clients = clients
        self._base = base
        self._upstream = upstream
        self.reached = False  # whether some container's clients go to the proxy

    def edit(self, container: Container) -> list[Finding]:
        """Point a container's clients to the proxy, or leave it wholly as it is and say why."""
        if self._service.spec.backend.type == "Ollama" and _is_ollama_server(container):
            return []
        own_urls = self._own(container)
        if isinstance(own_urls, Finding):
            return [own_urls]
        # Where the application says one variable without the version, it means the other without it as well.
        sibling = next(iter(own_urls.values()), None)
        bearer = self._bearer(container)
        for variable, version in self._clients.base_urls:
            if variable == AWS_ENDPOINT and bearer:
                continue
            own = own_urls.get(variable, sibling)
            value = self._base + (own.version if own else version)
            # What refers to the variable may go on right behind it.
            slash = str((entry_of(container, variable) or {}).get("value") or "").endswith("/")
            put(container, variable, f"{value}/" if slash else value)
        bypass_proxies(container)
        self.reached = True
        findings = [*bearer, *self._hidden(container)]
        if self._service.spec.backend.credentials_secret_ref is not None:
            findings += self._replace_key(container)
        return findings

    def _bearer(self, container: Container) -> list[Finding]:
        """Leave AWS' SDKs alone where they have a bearer key: they would refuse to send it to the proxy, and the application would fail."""
        if self._service.spec.backend.type != "Bedrock" or entry_of(container, AWS_BEARER) is None:
            return []
        message = f"container {container.get('name')} has {AWS_BEARER}, which AWS SDKs send over HTTPS only, so their calls are not measured"
        return [
            Finding(
                self._name, "BearerNeedsHttps", message, "give the application a role or keys instead of a bearer key"
            )
        ]

    def _own(self, container: Container) -> dict[str, BaseUrl] | Finding:
        """Give the base URLs that a container sets itself, or why they cannot be replaced."""
        wins = self._service.spec.backend.url is not None
        label = f"container {container.get('name')}"
        urls: dict[str, BaseUrl] = {}
        for variable, version in self._clients.base_urls:
            entry = entry_of(container, variable)
            if entry is None or (not entry.get("value") and "valueFrom" not in entry):
                continue
            value = readable(container, variable) or ""
            if value.startswith(self._base) and value[len(self._base) :][:1] in {"", "/"}:
                urls[variable] = BaseUrl(self._upstream, value.removeprefix(self._base).rstrip("/"))
                continue
            if not value:
                if not wins:
                    message = f"{label} takes {variable} from elsewhere, so we cannot see where its calls go, and they are not measured"
                    return Finding(self._name, "BaseUrlNotReadable", message, "set backend.url")
                continue
            split = split_base_url(variable, value)
            if wins:
                # backend.url says where; the application's own version stays, where it has one.
                if split is not None:
                    urls[variable] = BaseUrl(self._upstream, split.version or version)
            elif split is None or split.upstream != self._upstream:
                message = f"{label} sets {variable} to another address than this service's upstream, so its calls are not measured"
                return Finding(
                    self._name,
                    "BaseUrlDiffers",
                    message,
                    "set backend.url, or select the pod with a separate LLMService",
                )
            else:
                urls[variable] = split
        return urls

    def _hidden(self, container: Container) -> list[Finding]:
        """Warn where a base URL of the application's may have been overridden unseen."""
        if self._service.spec.backend.url is not None or not container.get("envFrom"):
            return []
        message = (
            f"container {container.get('name')} takes variables from elsewhere (envFrom); a base URL among them is overridden, "
            f"and calls go to {self._upstream}"
        )
        return [Finding(self._name, "BaseUrlMayBeHidden", message, "set backend.url")]

    def _replace_key(self, container: Container) -> list[Finding]:
        """Give the application a dummy key where it has none, or the very one that the proxy holds."""
        secret = self._service.spec.backend.credentials_secret_ref
        if secret is None or not self._clients.keys:
            return []
        entries = [(key, entry_of(container, key)) for key in self._clients.keys]
        present = [(key, entry) for key, entry in entries if entry is not None]
        if not present:
            put(container, self._clients.keys[0], DUMMY_KEY)
            return []
        findings = []
        for key, entry in present:
            # Earlier entries of the name, too: other variables may refer to them.
            env = container["env"]
            for place, item in enumerate(env):
                if item.get("name") == key and _is_key(item, secret):
                    env[place] = {"name": key, "value": DUMMY_KEY}
            if not _is_key(entry, secret) and entry.get("value") != DUMMY_KEY:
                message = f"container {container.get('name')} holds a key of its own in {key}; the proxy replaces it, but the application could also use it directly"
                findings.append(Finding(self._name, "OwnKey", message, f"remove {key} from the pod template"))
        return findings


def _is_key(entry: Mapping[str, Any], secret: SecretKeyRef) -> bool:
    reference = (entry.get("valueFrom") or {}).get("secretKeyRef") or {}
    return bool(reference.get("name") == secret.name and reference.get("key") == secret.key)


def _is_ollama_server(container: Container) -> bool:
    """Whether a container is Ollama itself: OLLAMA_HOST would move where it listens."""
    repository = str(container.get("image", "")).partition("@")[0].rpartition("/")[2].partition(":")[0]
    return repository == "ollama"


# Port ---------------------------------------------------------------------------------------------------------------


def renamed_port(name: str) -> str:
    """Give what an intercepted container port's own name becomes: where the engine's own metrics are then found."""
    kept = _PORT_NAME_LENGTH - len(names.APP_PORT_SUFFIX)
    return name[:kept].rstrip("-") + names.APP_PORT_SUFFIX


def intercept_port(
    pod: Mapping[str, Any], service: LLMService, *, ports: Ports, taken: dict[str, str], previous: Known | None
) -> tuple[Route | None, list[Finding]]:
    """Rename the application's port, so that its name can be the proxy's. `taken` maps port names to services."""
    interception = service.spec.workload.interception
    if interception is None or interception.port is None:
        message = "Port interception needs the name of a port"
        return None, [
            Finding(service.metadata.name, "NoPort", message, "set workload.interception.port.name", blocking=True)
        ]
    name = interception.port.name
    if name in taken:
        message = f"LLMService {taken[name]} has taken the port {name} of this pod already"
        remedy = "select the pod with only one of the two services"
        return None, [Finding(service.metadata.name, "PortConflict", message, remedy, blocking=True)]
    containers = app_containers(pod)
    renamed = renamed_port(name)
    if previous and previous.mode == "Port":
        for _, port in _ports_named(containers, renamed):
            if previous.upstream == f"http://{LOOPBACK}:{port['containerPort']}":
                taken[name] = service.metadata.name
                number = ports.take(names.PORT_PORT_BASE, previous.port)
                return Route(service, "Port", "", number, previous.upstream), _host_port(service, port, name)
    place = next(iter(_ports_named(containers, name)), None)
    problem = _port_problem(containers, place, name, renamed)
    if place is None or problem:
        reason, message, remedy = problem or ("PortNotFound", f"no container port is named {name}", "")
        return None, [Finding(service.metadata.name, reason, message, remedy, blocking=True)]
    container, port = place
    port["name"] = renamed
    _renumber_handlers(container, name, port["containerPort"])
    taken[name] = service.metadata.name
    number = ports.take(names.PORT_PORT_BASE)
    route = Route(service, "Port", "", number, f"http://{LOOPBACK}:{port['containerPort']}")
    return route, _host_port(service, port, name)


def _ports_named(containers: Iterable[Container], name: str) -> list[tuple[Container, dict[str, Any]]]:
    return [
        (container, port)
        for container in containers
        for port in container.get("ports") or []
        if port.get("name") == name
    ]


def _port_problem(
    containers: Iterable[Container], place: tuple[Container, dict[str, Any]] | None, name: str, renamed: str
) -> tuple[str, str, str] | None:
    """(reason, message, remedy) where a port cannot be taken."""
    if place is None:
        unnamed = sorted(
            port["containerPort"]
            for container in containers
            for port in container.get("ports") or []
            if not port.get("name")
        )
        if unnamed:
            message = f"no container port is named {name}, but {', '.join(map(str, unnamed))} has no name"
            return (
                "PortUnnamed",
                message,
                f"give that port the name {name} in the pod template, and use the name as targetPort in Services",
            )
        return "PortNotFound", f"no container port is named {name}", "correct workload.interception.port.name"
    if place[1].get("protocol", "TCP") != "TCP":
        return "PortNotTCP", f"the port {name} is {place[1]['protocol']}", "choose a TCP port"
    if _ports_named(containers, renamed):
        return "PortNameTaken", f"the pod has a port named {renamed} already", "give that port another name"
    return None


def _host_port(service: LLMService, port: Mapping[str, Any], name: str) -> list[Finding]:
    if not port.get("hostPort"):
        return []
    message = f"calls to the node's port {port['hostPort']} bypass the proxy"
    return [Finding(service.metadata.name, "HostPort", message, f"remove hostPort from the port {name}")]


def _renumber_handlers(container: Container, name: str, number: int) -> None:
    """Let a container's probes and hooks that used the port's name use its number: the name is the proxy's now."""
    hooks = container.get("lifecycle") or {}
    users = [container.get(probe) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    users += [hooks.get("postStart"), hooks.get("preStop")]
    for user in users:
        for handler in _HANDLERS:
            action = (user or {}).get(handler)
            if action and action.get("port") == name:
                action["port"] = number
