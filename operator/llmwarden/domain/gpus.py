"""GPUs as Kubernetes knows them: which resources of a container are GPUs, and which product a node's labels make of one. Pure."""

from collections.abc import Mapping
from typing import Any, Final

_WHOLE: Final = frozenset({"nvidia.com/gpu", "amd.com/gpu"})
_MIG: Final = "nvidia.com/mig-"
_PREFIXES: Final = (
    _MIG,
    "nvidia.com/gpu",
    "amd.com/gpu",
    "gpu.intel.com/",
)  # nvidia.com/gpu.shared: time slices under another name

# Labels that name a node's product, by whose resource it is: GPU feature discovery's, and what GKE and AMD's labeller have instead.
_PRODUCTS: Final[Mapping[str, tuple[str, ...]]] = {
    "nvidia.com/": ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator"),
    "amd.com/": ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"),
}
LABELS: Final = tuple(label for labels in _PRODUCTS.values() for label in labels)


def limits(container: Mapping[str, Any]) -> dict[str, int]:
    """GPUs by resource that a container holds: of extended resources the limit is the request, and a whole number."""
    all_limits = (container.get("resources") or {}).get("limits") or {}
    gpu_limits = {
        name: int(text) for name, text in all_limits.items() if name.startswith(_PREFIXES) and str(text).isdigit()
    }
    return {name: count for name, count in gpu_limits.items() if count}


def essence(container: Mapping[str, Any]) -> dict[str, Any]:
    """What of a container says which GPUs it holds; nothing where it holds none."""
    gpu_limits = limits(container)
    kept: dict[str, Any] = (
        {"resources": {"limits": {name: str(count) for name, count in gpu_limits.items()}}} if gpu_limits else {}
    )
    if gpu_limits and "restartPolicy" in container:
        kept["restartPolicy"] = container["restartPolicy"]
    return kept


def product(resource: str, labels: Mapping[str, str]) -> str:
    """Return what a ModelPrice names it by: the node's product label, or the resource itself where there is none.

    A MIG instance is a product of its own, such as NVIDIA-A100-SXM4-40GB-MIG-1g.5gb, as GPU feature discovery calls it.
    """
    owner = next((prefix for prefix in _PRODUCTS if resource.startswith(prefix)), None)
    named = next((labels[label] for label in _PRODUCTS.get(owner or "", ()) if labels.get(label)), "")
    if resource.startswith(_MIG):
        own = labels.get(f"{resource}.product", "")
        return own or (f"{named}-MIG-{resource.removeprefix(_MIG)}" if named else resource)
    return named or resource


def is_whole(resource: str) -> bool:
    """Whether it is a GPU as OpenCost prices it: not a part of one."""
    return resource in _WHOLE
