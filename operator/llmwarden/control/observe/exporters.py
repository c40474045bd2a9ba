"""What the choice of a GPU exporter is made of: nodes with GPUs, NVIDIA's runtime class, the exporters that there are and our own's pods.

Nothing waits for them for long: an installation may forbid to read nodes, and then what runs goes on.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmwarden import names
from llmwarden.kube import Client, Informer
from llmwarden.manifests import gpu_choice
from llmwarden.manifests.gpu_choice import Exporter, Facts, Foreign, Node
from llmwarden.settings import Settings

Object = dict[str, Any]
SYNC_SECONDS: Final = 10.0
_ARCHITECTURE: Final = "kubernetes.io/arch"


class Exporters:
    """See the module. `on_change` is called when something of it comes, goes or changes."""

    def __init__(self, client: Client, settings: Settings, on_change: Callable[[], None]) -> None:
        def informer(api_version: str, plural: str, namespace: str | None = None, **more: Any) -> Informer:
            return Informer(client, api_version, plural, namespace, on_change=lambda *_: on_change(), **more)

        self._enabled = settings.gpu_enabled
        ours = f"{names.LABEL_NAME}={names.MANAGED_BY},{names.LABEL_COMPONENT}=gpu-exporter"
        self._nodes = informer("v1", "nodes", label_selector=f"{settings.gpu_node_label}=true", transform=_strip_node)
        self._classes = informer("node.k8s.io/v1", "runtimeclasses", transform=_strip_class)
        self._pods = informer("v1", "pods", settings.namespace, label_selector=ours, transform=_strip_pod)

    @property
    def informers(self) -> tuple[Informer, ...]:
        """All informers, for whoever runs them."""
        return (self._nodes, self._classes, self._pods) if self._enabled else ()

    async def synced(self) -> None:
        """Wait until they are read, but not for long."""
        if not self._enabled:
            return
        waits = [asyncio.ensure_future(informer.synced.wait()) for informer in self.informers]
        await asyncio.wait(waits, timeout=SYNC_SECONDS)
        for wait in waits:
            wait.cancel()

    def facts(self, daemon_sets: Mapping[tuple[str, str], Object], own: tuple[str, str]) -> Facts:
        """Put them together with the DaemonSets that are kept (`stripping.strip_exporter`), of which `own` is ours."""
        ours = daemon_sets.get(own)
        all_read = all(informer.synced.is_set() for informer in self.informers)
        pods = (gpu_choice.pod_of(item) for item in self._pods.items.values())
        foreign = [
            Foreign(*key, item["selector"], item["port"]) for key, item in daemon_sets.items() if "selector" in item
        ]
        return Facts(
            nodes=tuple(Node(**item["node"]) for item in self._nodes.items.values()) if all_read else None,
            pods=tuple(pod for pod in pods if pod is not None) if all_read else None,
            runtime_class=bool(self._classes.items),
            foreign=tuple(sorted(foreign, key=lambda item: (item.namespace, item.name))),
            running=_running(ours),
            unfit=gpu_choice.unfit_of(ours),
        )


def _running(daemon_set: Mapping[str, Any] | None) -> Exporter | None:
    if daemon_set is None:
        return None
    [container, *_] = daemon_set["spec"]["template"]["spec"]["containers"]
    return "NVML" if "gpu-exporter" in (container.get("args") or ()) else "DCGM"


def _strip_node(item: Object) -> Object:
    name, labels = item["metadata"]["name"], item["metadata"].get("labels") or {}
    refuses = labels.get(gpu_choice.NODE_DEPLOY) == "false"
    node = {"name": name, "architecture": labels.get(_ARCHITECTURE, ""), "refuses": refuses}
    return {"metadata": {"name": name}, "node": node}


def _strip_class(item: Object) -> Object | None:
    name = item["metadata"]["name"]
    return {"metadata": {"name": name}} if name == gpu_choice.RUNTIME_CLASS else None


def _strip_pod(item: Object) -> Object:
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    kept = ("name", "namespace", "creationTimestamp", "deletionTimestamp")
    return {
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {
            **({"nodeName": spec["nodeName"]} if spec.get("nodeName") else {}),
            "containers": [{"image": container.get("image", "")} for container in spec.get("containers") or ()],
        },
        "status": {key: status[key] for key in ("message", "conditions", "containerStatuses") if key in status},
    }
