"""Finds problems around a service: traffic that bypasses the proxy, a Secret that is missing. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.domain import engine_objectives, selectors, upstream
from llmwarden.domain.objectives import Objective
from llmwarden.injection import exposure
from llmwarden.injection.sidecar import renamed_port
from llmwarden.snapshot import COVERED, Figures, Problem

Object = dict[str, Any]


def past_the_proxy(
    service: LLMService, figures: Figures, selected: Iterable[Object], kube_services: Iterable[Object]
) -> tuple[Problem, ...]:
    """Find what leads calls around the proxy: by the Services that are there, and by the engine's own count, which proves it."""
    interception = service.spec.workload.interception
    if upstream.interception(service) != "Port" or not interception or not interception.port:
        return ()
    chosen, services = list(selected), list(kube_services)
    direct = tuple(_by_number(interception.port.name, chosen, services))
    if figures.coverage is None or figures.coverage >= COVERED:
        return tuple(Problem("ServiceTargetsNumber", text) for text in direct)
    ways = (*direct, *_headless(interception.port.name, chosen, services))
    none = "No Service of this namespace is the cause: callers use pods' addresses, or another way (an InferencePool, a port-forward)."
    remedy = (
        "The NetworkPolicy has no effect: the cluster's network plugin does not enforce it."
        if interception.network_policy is not None
        else "Set workload.interception.networkPolicy to block all of them."
    )
    text = f"In the last hour the proxies saw {figures.coverage * 100:.0f} % of the calls that the engine counted. The others bypass the proxies: they are not measured, and no budget applies to them. {' '.join(ways) or none} {remedy}"
    return (Problem("TrafficAroundProxy", text),)


def _by_number(name: str, selected: Iterable[Object], kube_services: Iterable[Object]) -> Iterator[str]:
    """Say which Services send calls to the engine's own port."""
    own = renamed_port(name)
    for kube_service in kube_services:
        numbers = _behind(kube_service, selected, {name, own})
        by = sorted(numbers & set(kube_service["numbers"]))
        if by:
            what = f"port {', '.join(map(str, by))} by number"
        elif numbers and own in kube_service["targets"]:
            what = f"the engine's own port by the name {own}"
        else:
            continue
        yield (
            f"Service {kube_service['metadata']['name']} targets {what}: calls through it bypass the proxy. Set its targetPort to the name {name}."
        )


def _headless(name: str, selected: Iterable[Object], kube_services: Iterable[Object]) -> Iterator[str]:
    """Say which Services' names lead to pods' addresses, where the engine's own port answers at the port that callers use."""
    for item in kube_services:
        if _behind(item, selected, {name, renamed_port(name)}) & set(item["headless"]):
            yield (
                f"Service {item['metadata']['name']} is headless: its name resolves to pods' addresses, where callers reach the engine's own port. Give callers an ordinary Service."
            )


def _behind(kube_service: Object, selected: Iterable[Object], wanted: set[str]) -> set[int]:
    """Return the engine's port numbers in the service's pods that a Service selects."""
    selector = kube_service["selector"]
    numbers: set[int] = set()
    for pod in selected:
        labels = pod["metadata"].get("labels") or {}
        if selector and all(labels.get(key) == value for key, value in selector.items()):
            numbers |= port_numbers(pod, wanted)
    return numbers


def unmeasurable(wanted: Iterable[Objective], service: LLMService, bounds: tuple[float, ...]) -> tuple[Problem, ...]:
    """Find objectives that the engine's own metrics cannot tell, or not at their threshold. `bounds`: `snapshot.queue_bounds`."""
    refused = engine_objectives.refusals(wanted, upstream.scraped_engine(service), bounds)
    return tuple(Problem(item.reason, item.message) for item in refused)


def credentials(service: LLMService, figures: Figures) -> tuple[Problem, ...]:
    """Find that the proxies cannot read the service's Secret."""
    secret = service.spec.backend.credentials_secret_ref
    if secret is None or not figures.credential_errors:
        return ()
    text = f"The proxy cannot read key {secret.key} of Secret {secret.name}, so calls are sent with the application's own key. Create the Secret, or correct backend.credentialsSecretRef."
    return (Problem("SecretMissing", text),)


def not_in_cluster(service: LLMService, kube_services: Iterable[Object], cluster_domain: str) -> tuple[Problem, ...]:
    """Find that a key goes without TLS to a Service that leads out of the cluster. `kube_services` are those of the service's namespace."""
    url, namespace = service.spec.backend.url, service.metadata.namespace
    if url is None or upstream.is_encrypted(url) or not exposure.secret_keys(service):
        return ()
    called = upstream.cluster_name(urlsplit(url).hostname or "", namespace, cluster_domain)
    for item in kube_services:
        name = item["metadata"]["name"]
        if "outside" in item and called == upstream.cluster_name(name, namespace, cluster_domain):
            text = f"backend.url sends the key without TLS to Service {name}, which is {item['outside']} and may lead out of the cluster. Write https://, or name a Service that selects pods."
            return (Problem(names.REASON_NOT_IN_CLUSTER, text),)
    return ()


def ready(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod is ready."""
    return any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"]["conditions"])


def selects(service: LLMService, pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod is of a service's workload."""
    return selectors.matches(service.spec.workload.selector, pod["metadata"].get("labels") or {})


def port_numbers(pod: Mapping[str, Any], wanted: set[str], *, of_proxy: bool = False) -> set[int]:
    """Return the numbers of the application's own ports with these names; or of the proxy's, where the pod has one."""
    every = (*pod["spec"].get("containers", ()), *pod["spec"].get("initContainers", ()))
    injected = any(container.get("name") == names.PROXY_CONTAINER for container in every)
    return {
        port["containerPort"]
        for container in every
        if (container.get("name") == names.PROXY_CONTAINER) == (of_proxy and injected)
        for port in container.get("ports") or ()
        if port.get("name") in wanted
    }
