"""What is kept of an object that is watched, and which of its changes are worth waking for. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from llmwarden import names
from llmwarden.domain import gpus
from llmwarden.injection import exposure, selection
from llmwarden.injection.sdk import CLIENTS
from llmwarden.kube import diff

Object = dict[str, Any]
_VARIABLES: Final = frozenset(
    variable for clients in CLIENTS.values() for variable in (*(name for name, _ in clients.base_urls), *clients.keys)
)


def strip_pod(pod: Object) -> Object:
    """Keep of a pod what decides whether it is metered, and which GPUs it holds."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    kept = (
        names.ANNOTATION_SERVICES,
        names.ANNOTATION_FINDINGS,
        names.ANNOTATION_INJECT,
        "kubernetes.io/config.mirror",
    )
    stripped: Object = {
        "metadata": {
            **{
                key: metadata[key]
                for key in ("name", "namespace", "uid", "labels", "creationTimestamp", "deletionTimestamp")
                if key in metadata
            },
            "annotations": {key: annotations[key] for key in kept if key in annotations},
            "ownerReferences": [item for item in metadata.get("ownerReferences") or [] if item.get("controller")],
        },
        "spec": {
            **{key: spec[key] for key in ("hostNetwork", "os", "nodeSelector", "nodeName") if key in spec},
            # Of the affinity this is all that is asked later.
            **({"os": {"name": "windows"}} if selection.needs_windows(spec) else {}),
            "containers": [_strip_container(item) for item in spec.get("containers") or []],
            "initContainers": [_strip_container(item) for item in spec.get("initContainers") or []],
            # An application's volume with one of our names is why a pod is left alone.
            "volumes": [
                {"name": item["name"]} for item in spec.get("volumes") or [] if item.get("name") in names.VOLUMES
            ],
        },
        "status": {
            "phase": status.get("phase"),
            "conditions": [
                item for item in status.get("conditions") or [] if item.get("type") in {"Ready", "PodScheduled"}
            ],
            **{
                key: [_strip_status(item) for item in status[key]]
                for key in ("containerStatuses", "initContainerStatuses")
                if key in status
            },
            **({"podIP": status["podIP"]} if "podIP" in status else {}),
        },
    }
    ways = exposure.ways(pod)
    if ways:
        stripped[exposure.KEPT] = [list(way) for way in ways]
    return stripped


def _strip_container(container: Mapping[str, Any]) -> Object:
    if container.get("name") == names.PROXY_CONTAINER:
        return {"name": container["name"], "image": container.get("image", ""), "ports": container.get("ports") or []}
    kept: Object = {key: container[key] for key in ("name", "image", "ports") if key in container}
    variables = [item for item in container.get("env") or [] if item.get("name") in _VARIABLES]
    if variables:
        kept["env"] = variables
    if container.get("envFrom"):
        kept["envFrom"] = [{}]
    return kept | gpus.essence(container)


def _strip_status(item: Mapping[str, Any]) -> Object:
    return {key: item[key] for key in ("name", "state", "lastState", "started", "restartCount") if key in item}


def strip_service(item: Object) -> Object:
    """Keep of a Service whom it selects, the numbers and names that it targets, and of a headless one its ports, which callers use as they are."""
    spec = item.get("spec") or {}
    ports = spec.get("ports") or []
    targets = [port.get("targetPort", port.get("port")) for port in ports]
    headless = spec.get("clusterIP") == "None"
    name, namespace = item["metadata"]["name"], item["metadata"].get("namespace", "")
    return {
        "metadata": {"name": name, "namespace": namespace},
        "selector": spec.get("selector") or {},
        "numbers": [target for target in targets if isinstance(target, int)],
        "targets": [target for target in targets if isinstance(target, str)],
        "headless": [port["port"] for port in ports if "port" in port] if headless else [],
        **({"outside": outside} if (outside := _outside(spec)) else {}),
    }


def _outside(spec: Mapping[str, Any]) -> str:
    """Why a Service may lead out of the cluster; empty where it selects pods."""
    if spec.get("type") == "ExternalName":
        return "of type ExternalName"
    return "" if spec.get("selector") else "without a selector"


def strip_exporter(item: Object) -> Object | None:
    """Keep our own DaemonSets, and of others only those that run a dcgm-exporter."""
    if (item["metadata"].get("labels") or {}).get(names.LABEL_MANAGED_BY) == names.MANAGED_BY:
        return diff.content(item)
    spec = item.get("spec", {})
    for container in spec.get("template", {}).get("spec", {}).get("containers") or []:
        if "dcgm-exporter" in container.get("image", ""):
            ports = container.get("ports") or [{"name": "metrics"}]
            return {
                "kind": "DaemonSet",
                "metadata": {key: item["metadata"].get(key) for key in ("name", "namespace")} | {"labels": {}},
                "selector": spec.get("selector", {}).get("matchLabels") or {},
                "port": ports[0].get("name") or ports[0]["containerPort"],
            }
    return None


def strip_endpoints(item: Object) -> Object:
    """Keep of an EndpointSlice whether some endpoint is ready."""
    ready = any((endpoint.get("conditions") or {}).get("ready", True) for endpoint in item.get("endpoints") or [])
    return {"metadata": {"name": item["metadata"]["name"]}, "ready": ready}
