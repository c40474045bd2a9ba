"""Injection, decided once: pod in, pod out. Pure and idempotent; never raises for what a person wrote.

The webhook turns the difference into a JSON patch; the operator asks the same functions to explain a pod.
"""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.contracts import sidecar
from llmwarden.domain import budgets, durations, indicators, upstream
from llmwarden.domain.budgets import Budget
from llmwarden.errors import InvalidSpecError
from llmwarden.injection import aws, exposure
from llmwarden.injection.egress import Egress, copies, egress
from llmwarden.injection.fitting import JOURNAL_SIZE, fit
from llmwarden.injection.intercept import (
    Known,
    Ports,
    Route,
    app_containers,
    intercept_env,
    intercept_port,
    renamed_port,
    services_upstream,
    used_ports,
)
from llmwarden.injection.limits import NONE, Limits
from llmwarden.injection.selection import Finding, is_injected, select
from llmwarden.settings import Settings

__all__ = ["Injection", "decide", "inject", "is_injected", "renamed_port", "services_upstream"]

REFUSING: Final = (
    "LimitRange",
    "ResourceQuota",
    "PodResources",
)  # reasons that only the webhook knows, at a pod's creation
USER: Final = 65532  # the image's own user ("nonroot" of the distroless images)
START_SECONDS: Final = 120  # how long the proxy may take to listen before the kubelet restarts it
_CERTIFICATE, _CERTIFICATE_KEY = "tls.crt", "tls.key"  # in a Secret of type kubernetes.io/tls

SharedBudgets = Callable[[LLMService], Iterable[Budget]]
"""The LLMBudgets and ClusterLLMBudgets that hold for a service."""


def _no_budgets(_: LLMService) -> Iterable[Budget]:
    return ()


@dataclass(frozen=True, slots=True)
class Injection:
    """`pod` is what was given where `services` is empty, perhaps with an annotation; `findings` of all services that select the pod."""

    pod: dict[str, Any]
    services: tuple[str, ...]
    findings: tuple[Finding, ...]


def decide(
    pod: dict[str, Any],
    services: Iterable[LLMService],
    settings: Settings,
    *,
    namespace: str,
    namespace_labels: Mapping[str, str],
    ca_pem: str,
    limits: Limits = NONE,
    shared: SharedBudgets = _no_budgets,
) -> Injection:
    """Select the services of a pod in `namespace`, whose LimitRanges and ResourceQuotas are `limits`, and inject their proxy.

    `shared`: see `inject`.
    """
    selection = select(pod, namespace, namespace_labels, services, settings.namespace)
    return inject(pod, selection.injected, settings, ca_pem, selection.findings, limits=limits, shared=shared)


def inject(
    pod: dict[str, Any],
    services: Iterable[LLMService],
    settings: Settings,
    ca_pem: str,
    findings: Iterable[Finding] = (),
    *,
    limits: Limits = NONE,
    shared: SharedBudgets = _no_budgets,
) -> Injection:
    """Give the pod with the proxy for `services`. The pod that was given is not changed.

    `ca_pem` verifies the ledger. `findings` are those made before; they go onto the pod with the new ones. `shared` gives the budgets that
    hold for a service beside its own: what of them matters without a ledger goes into the proxy's contract.
    """
    ordered = sorted(services, key=lambda service: service.metadata.name)
    noticed = list(findings)
    if not ordered:
        return Injection(pod, (), tuple(noticed))
    previous_routes = _previous(pod)
    changed = copy.deepcopy(pod)
    ports = Ports(used_ports(app_containers(changed)))
    variables: dict[str, str] = {}
    port_names: dict[str, str] = {}
    routes: list[Route] = []
    admin = ports.take(names.ADMIN_PORT)
    for service in ordered:
        previous = previous_routes.get(service.metadata.name)
        if upstream.interception(service) == "Env":
            route, new = intercept_env(changed, service, settings, ports=ports, taken=variables, previous=previous)
        else:
            route, new = intercept_port(changed, service, ports=ports, taken=port_names, previous=previous)
        noticed += new
        if route is not None:
            routes.append(route)
    if not routes:
        return Injection(pod, (), tuple(noticed))
    served = tuple(route.service.metadata.name for route in routes)
    fitted = fit(changed, settings, limits)
    if fitted.refused is not None:
        return _refused(pod, served, noticed, *fitted.refused)
    noticed += [_narrow(name, *note) for name in served for note in fitted.notes]
    spec = changed["spec"]
    init = [item for item in spec.get("initContainers") or [] if item.get("name") != names.PROXY_CONTAINER]
    # First in the list: the application's own init containers may call, too.
    keyed = [route.service for route in routes if exposure.secret_keys(route.service)]
    noticed += _unmounted(changed, keyed or [routes[0].service])
    out = Egress()
    if any(route.mode == "Env" for route in routes):
        out = egress(app_containers(changed), beside_a_key=bool(keyed))
    noticed += [_distrusted(service, out.refused) for service in keyed if out.refused]
    contract = _contract(routes, admin, settings, ca_pem, out, shared)
    container = _container(routes, port_names, contract, fitted.resources, settings, out=out)
    noticed += _sign(container, routes, app_containers(changed))
    container["env"] += _stability(app_containers(changed))
    spec["initContainers"] = [container, *init]
    theirs = [item for item in spec.get("volumes") or [] if item.get("name") not in names.VOLUMES]
    spec["volumes"] = [*theirs, *_volumes(routes)]
    exposed = exposure.ways(changed)
    noticed += [finding for service in keyed for finding in exposure.findings(service, exposed)]
    metadata = changed.setdefault("metadata", {})
    metadata.setdefault("labels", {})[names.LABEL_PROXY] = "true"
    annotations = metadata.setdefault("annotations", {})
    annotations[names.ANNOTATION_SERVICES] = ",".join(served)
    if noticed:
        annotations[names.ANNOTATION_FINDINGS] = _json([finding.dump() for finding in noticed])
    else:
        annotations.pop(names.ANNOTATION_FINDINGS, None)
    return Injection(changed, served, tuple(noticed))


def _refused(pod: dict[str, Any], served: Iterable[str], noticed: list[Finding], by: str, why: str) -> Injection:
    """Leave a pod alone that would be refused with the proxy. Only the annotation is added: what a namespace has left is known now alone."""
    noticed += [
        Finding(
            name,
            by.partition(" ")[0] if by.startswith(REFUSING[:2]) else "PodResources",
            f"with the proxy the pod would be refused by {by}: {why}",
            "make room for the proxy there (docs/settings.md, proxy), and restart the pod",
            blocking=True,
        )
        for name in served
    ]
    if is_injected(pod):
        return Injection(pod, (), tuple(noticed))
    changed = copy.deepcopy(pod)
    metadata = changed.setdefault("metadata", {})
    metadata["annotations"] = {
        **(metadata.get("annotations") or {}),
        names.ANNOTATION_FINDINGS: _json([finding.dump() for finding in noticed]),
    }
    return Injection(changed, (), tuple(noticed))


def _narrow(service: str, by: str, why: str) -> Finding:
    return Finding(service, "ResourcesNarrow", f"{by}: {why}", "allow more there if calls become slow")


def _unmounted(pod: Mapping[str, Any], services: Iterable[LLMService]) -> list[Finding]:
    """Take our volumes from the application's containers, and say so."""
    taken = exposure.unmount_ours(pod)
    if not taken:
        return []
    message = f"mounts of the proxy's own volumes were removed from {', '.join(taken)}: only the proxy may have them"
    remedy = "remove these mounts from the pod template"
    return [Finding(service.metadata.name, "OurVolumeUnmounted", message, remedy) for service in services]


def _distrusted(service: LLMService, variable: str) -> Finding:
    """Say that the application's authorities were left out: with one, it could read the key on its way."""
    message = (
        f"the proxy adds the service's key, so it does not trust the authorities that the application names in {variable}; "
        "calls through a proxy that decrypts them fail"
    )
    remedy = "let the pods reach the backend without it, or build the authority into the image of LLM Warden"
    return Finding(service.metadata.name, "AuthoritiesNotCopied", message, remedy)


def _previous(pod: Mapping[str, Any]) -> dict[str, Known]:
    """Read the routes of a proxy that is there already (another webhook may have called for a second look)."""
    for container in (pod.get("spec") or {}).get("initContainers") or []:
        if container.get("name") != names.PROXY_CONTAINER:
            continue
        for entry in container.get("env") or []:
            if entry.get("name") == names.PROXY_ENV:
                try:
                    written = sidecar.decode((entry.get("value") or "").replace("$$", "$"))
                except (msgspec.MsgspecError, ValueError, RecursionError):
                    return {}  # not our work: it is replaced as a whole
                return {route.service: Known(route.mode, route.listen.port, route.upstream) for route in written.routes}
    return {}


def _container(
    routes: Iterable[Route],
    port_names: Mapping[str, str],
    contract: sidecar.Settings,
    resources: Mapping[str, Any],
    settings: Settings,
    *,
    out: Egress,
) -> dict[str, Any]:
    routes = list(routes)
    admin = contract.admin_port
    names_of = {service: port for port, service in port_names.items()}
    ports = [{"name": names.ADMIN_PORT_NAME, "containerPort": admin, "protocol": "TCP"}]
    ports += [
        {"name": names_of[route.service.metadata.name], "containerPort": route.port, "protocol": "TCP"}
        for route in routes
        if route.mode == "Port"
    ]
    mounts = [
        {"name": names.VOLUME_TOKEN, "mountPath": names.TOKEN_DIR, "readOnly": True},
        {"name": names.VOLUME_JOURNAL, "mountPath": names.JOURNAL_DIR},
    ]
    if any(_has_key(route) or _has_certificate(route) for route in routes):
        mounts.append({"name": names.VOLUME_CREDENTIALS, "mountPath": names.CREDENTIALS_DIR, "readOnly": True})
    mounts += out.mounts
    return {
        "name": names.PROXY_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": ["proxy"],
        "restartPolicy": "Always",  # what makes an init container a native sidecar
        "env": [
            # "$$" is Kubernetes' way to write "$": nothing in here is to be expanded.
            {"name": names.PROXY_ENV, "value": _json(sidecar.document(contract)).replace("$", "$$")},
            _field("LLMWARDEN_POD_NAMESPACE", "metadata.namespace"),
            _field("LLMWARDEN_POD_NAME", "metadata.name"),
            _field("LLMWARDEN_POD_UID", "metadata.uid"),
            _field("LLMWARDEN_NODE_NAME", "spec.nodeName"),
            *out.env,
        ],
        "ports": ports,
        "resources": resources,
        "startupProbe": {
            "httpGet": {"path": "/startupz", "port": admin, "scheme": "HTTP"},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": START_SECONDS,
        },
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",  # the operator can say why it did not start
        "volumeMounts": mounts,
    }


def _sign(container: dict[str, Any], routes: Iterable[Route], apps: Iterable[dict[str, Any]]) -> tuple[Finding, ...]:
    """Give the proxy's container the application's AWS credentials, where it signs calls with them."""
    signed = [route for route in routes if route.service.spec.backend.type == "Bedrock" and not _has_key(route)]
    if not signed:
        return ()
    copied = aws.credentials(signed[0].service.metadata.name, apps)
    container["env"] += copied.env
    paths = {mount["mountPath"] for mount in container["volumeMounts"]}
    container["volumeMounts"] += [mount for mount in copied.mounts if mount["mountPath"] not in paths]
    return copied.findings


def _stability(apps: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The names of telemetry that the application asks OpenTelemetry for: the proxy's are to be the same. Of the first container that says."""
    entries = (entry for container in apps for entry in container.get("env") or [])
    setting = next((entry for entry in entries if entry.get("name") == names.STABILITY_ENV and copies(entry)), None)
    return [copy.deepcopy(setting)] if setting else []


def _contract(  # noqa: PLR0917 - its parts
    routes: Iterable[Route], admin: int, settings: Settings, ca_pem: str, out: Egress, shared: SharedBudgets
) -> sidecar.Settings:
    """Give what the proxy is to know."""
    return sidecar.Settings(
        names.CONTRACT,
        tuple(_route(route, shared) for route in routes),
        sidecar.Ledger(settings.ledger_url, names.TOKEN_FILE, ca_pem),
        admin_port=admin,
        otlp_endpoint=settings.otlp_endpoint or None,
        ca_file=out.ca_file or None,
        limits=sidecar.Limits(
            unbounded_input_tokens=settings.unbounded_input_tokens,
            unbounded_output_tokens=settings.unbounded_output_tokens,
        ),
    )


def _route(route: Route, shared: SharedBudgets) -> sidecar.Route:
    name = route.service.metadata.name
    context = {item.context_use.threshold_percent / 100 for item in route.service.spec.objectives if item.context_use}
    folder = f"{names.CREDENTIALS_DIR}/{name}"
    certified = _has_certificate(route)
    return sidecar.Route(
        name,
        route.mode,
        route.service.spec.backend.type,
        sidecar.Listen(route.host, route.port),
        route.upstream,
        credential_file=f"{folder}/key" if _has_key(route) else None,
        resolves_to=route.resolves_to if _has_key(route) else None,
        client_certificate_file=f"{folder}/{_CERTIFICATE}" if certified else None,
        client_key_file=f"{folder}/{_CERTIFICATE_KEY}" if certified else None,
        thresholds_seconds=_thresholds(route.service),
        context_thresholds=tuple(sorted(context)),
        budgets=_budgets(route.service, shared),
    )


def _budgets(service: LLMService, shared: SharedBudgets) -> tuple[sidecar.Budget, ...]:
    """Give what a proxy must know of budgets before the ledger has answered, by key: the same for the same cluster."""
    held = {budget.key: budget for budget in (*budgets.of_service_readable(service), *shared(service))}
    return tuple(
        sidecar.Budget(key, on_ledger_loss="Deny")
        for key, budget in sorted(held.items())
        if budgets.matters_without_ledger(budget)
    )


def _has_key(route: Route) -> bool:
    """Whether the proxy adds a key: never in front of the pod's own port, whose callers bring theirs."""
    return route.mode == "Env" and route.service.spec.backend.credentials_secret_ref is not None


def _has_certificate(route: Route) -> bool:
    """Whether the proxy shows a client certificate: a pod's own port is reached without TLS."""
    return route.mode == "Env" and route.service.spec.backend.client_certificate_secret_ref is not None


def _thresholds(service: LLMService) -> sidecar.Thresholds:
    """Give the objectives' thresholds, which become bounds of the proxy's histograms."""
    bounds: dict[str, set[float]] = {item.short: set() for item in indicators.LATENCIES}
    for objective in service.spec.objectives:
        if objective.latency is not None:
            try:
                short = indicators.BY_NAME[objective.latency.indicator].short
                bounds[short].add(durations.seconds(objective.latency.threshold))
            except InvalidSpecError:
                continue  # the operator makes it a condition; the proxy measures all the same
    return sidecar.Thresholds(**{kind: tuple(sorted(values)) for kind, values in bounds.items()})


def _volumes(routes: Iterable[Route]) -> list[dict[str, Any]]:
    token = {"audience": names.TOKEN_AUDIENCE, "expirationSeconds": names.TOKEN_SECONDS, "path": "token"}
    volumes: list[dict[str, Any]] = [
        {"name": names.VOLUME_TOKEN, "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": names.VOLUME_JOURNAL, "emptyDir": {"sizeLimit": JOURNAL_SIZE}},
    ]
    sources = []
    for route in routes:
        secret = route.service.spec.backend.credentials_secret_ref
        if _has_key(route) and secret is not None:
            item = {"key": secret.key, "path": f"{route.service.metadata.name}/key"}
            # Optional: a Secret that is missing must not keep the pod from starting.
            sources.append({"secret": {"name": secret.name, "items": [item], "optional": True}})
        certificate = route.service.spec.backend.client_certificate_secret_ref
        if _has_certificate(route) and certificate is not None:
            folder = route.service.metadata.name
            items = [{"key": key, "path": f"{folder}/{key}"} for key in (_CERTIFICATE, _CERTIFICATE_KEY)]
            sources.append({"secret": {"name": certificate.name, "items": items, "optional": True}})
    if sources:
        volumes.append({"name": names.VOLUME_CREDENTIALS, "projected": {"sources": sources}})
    return volumes


def _field(variable: str, path: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
