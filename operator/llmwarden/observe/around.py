"""What is seen around a service that keeps it from being whole: traffic past the proxy, a Secret that is missing. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.desired.sidecar import renamed_port
from llmwarden.desired.snapshot import Figures, Problem
from llmwarden.domain import selectors, upstream

Object = dict[str, Any]
COVERED: Final = 0.99  # of an engine's calls; below, some go around the proxies


def services_by_number(
    service: LLMService, selected: Iterable[Object], kube_services: Iterable[Object]
) -> tuple[Problem, ...]:
    """Find Services that send calls to the application's port by number: those go around the proxy."""
    interception = service.spec.workload.interception
    if upstream.interception(service) != "Port" or not interception or not interception.port:
        return ()
    wanted = {interception.port.name, renamed_port(interception.port.name)}
    found = []
    for kube_service in kube_services:
        selector = kube_service["selector"]
        for pod in selected:
            labels = pod["metadata"].get("labels") or {}
            if not selector or any(labels.get(key) != value for key, value in selector.items()):
                continue
            numbers = port_numbers(pod, wanted)
            if numbers & set(kube_service["numbers"]):
                name = kube_service["metadata"]["name"]
                found.append(
                    Problem(
                        "ServiceTargetsNumber",
                        f"Service {name} targets port {', '.join(map(str, sorted(numbers)))} by number: calls through it go around "
                        f"the proxy; set its targetPort to the name {interception.port.name}.",
                    )
                )
                break
    return tuple(found)


def credentials(service: LLMService, figures: Figures) -> tuple[Problem, ...]:
    """Find that the proxies cannot read the service's Secret."""
    secret = service.spec.backend.credentials_secret_ref
    if secret is None or not figures.credential_errors:
        return ()
    text = (
        f"The proxy cannot read key {secret.key} of Secret {secret.name}, so calls go out with the application's own key: "
        "create the Secret, or correct backend.credentialsSecretRef."
    )
    return (Problem("SecretMissing", text),)


def coverage_lacking(figures: Figures) -> tuple[Problem, ...]:
    """Find that the engine counted calls that no proxy saw."""
    if figures.coverage is None or figures.coverage >= COVERED:
        return ()
    text = (
        f"In the last hour the engine counted more calls than its proxies saw ({figures.coverage * 100:.0f} %): the others go around them, "
        "unmeasured and outside every budget. Let Services target the port by its name, and callers use a Service, not pods' addresses."
    )
    return (Problem("TrafficAroundProxy", text),)


def ready(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod is ready."""
    return any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"]["conditions"])


def selects(service: LLMService, pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod is of a service's workload."""
    return selectors.matches(service.spec.workload.selector, pod["metadata"].get("labels") or {})


def port_numbers(pod: Mapping[str, Any], wanted: set[str]) -> set[int]:
    """Return the numbers of the application's own ports with these names."""
    return {
        port["containerPort"]
        for container in (*pod["spec"].get("containers", ()), *pod["spec"].get("initContainers", ()))
        if container.get("name") != names.PROXY_CONTAINER
        for port in container.get("ports") or ()
        if port.get("name") in wanted
    }
