"""The NetworkPolicy that closes the way around the proxy under Port interception: of injected pods only the proxy's ports can be reached.

A NetworkPolicy can only allow. So it names what stays open: the proxy's ports, its metrics, and what `openPorts` lists; all else of those pods
is closed, the engine's own port above all. The proxy reaches that over the pod's loopback, which no policy governs; kubelet's probes come from
the node, which is always allowed. Pods without a proxy are left alone: they would be cut off. Where the cluster's network does not enforce policies
(flannel, kindnet before 2024), it changes nothing: status.workload.coverage still tells.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.domain import upstream
from llmwarden.manifests.engine_scraping import TRITON_METRICS_PORT
from llmwarden.manifests.manifest import Manifest, beside
from llmwarden.manifests.params import Params

LAST_PORT: Final = names.PORT_PORT_BASE + 99  # a pod's Port services take numbers from the base upwards


def network_policy(params: Params) -> Manifest | None:
    """Build the policy where the spec asks for it."""
    service = params.service
    interception = service.spec.workload.interception
    if upstream.interception(service) != "Port" or interception is None or interception.network_policy is None:
        return None
    selector = service.spec.workload.selector.dump()
    labels = {**selector.get("matchLabels", {}), names.LABEL_PROXY: "true"}
    # Numbers, not names: whether a policy's port name is looked for among native sidecars differs by network plugin.
    ports: list[dict[str, Any]] = [
        {"protocol": "TCP", "port": names.ADMIN_PORT},
        {"protocol": "TCP", "port": names.PORT_PORT_BASE, "endPort": LAST_PORT},
        *({"protocol": "TCP", "port": number} for number in interception.network_policy.open_ports),
    ]
    if service.spec.backend.type == "TensorRTLLM":
        ports.append({"protocol": "TCP", "port": TRITON_METRICS_PORT})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": beside(service, names.PREFIX_POLICY + service.metadata.name, "port-policy"),
        "spec": {
            "podSelector": {**selector, "matchLabels": labels},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": ports}],
        },
    }
