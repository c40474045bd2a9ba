"""PodMonitors: of engines (one per LLMService), of all proxies (one), of our own processes (one).

One PodMonitor for all proxies: one per LLMService would scrape a proxy that two services share twice, and double every sum.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.api.v1alpha1 import BackendType
from llmwarden.desired.manifest import Manifest, beside, ours
from llmwarden.desired.params import ClusterParams, Params
from llmwarden.desired.sidecar import renamed_port
from llmwarden.domain import upstream

API_VERSION: Final = "monitoring.coreos.com/v1"

# Where engines have metrics on their API port. Ollama has none; llama.cpp only behind a flag, and a target that is down for
# want of it would be a false alarm; Triton's are on another port (below).
PATHS: Final[dict[BackendType, str]] = {
    "VLLM": "/metrics",
    "SGLang": "/metrics",
    "TGI": "/metrics",
    "NIM": "/v1/metrics",
}
TRITON_METRICS_PORT: Final = "metrics"  # the name that Triton's charts give to 8002


def engine(params: Params) -> Manifest | None:
    """Scrape the engine itself, in front of which the proxy may or may not be.

    Only under Port interception: with Env the selected pods are the engine's clients. The port of the original name is the
    application's in a pod without the proxy; in a pod with it that name is the proxy's, and the application's is the renamed one.
    """
    service = params.service
    interception = service.spec.workload.interception
    if not params.capabilities.pod_monitors or upstream.interception(service) != "Port":
        return None
    if service.spec.backend.type == "TensorRTLLM":
        endpoints = [_endpoint(params, TRITON_METRICS_PORT, "/metrics")]
    elif service.spec.backend.type in PATHS and interception is not None and interception.port is not None:
        path, port = PATHS[service.spec.backend.type], interception.port.name
        endpoints = [_endpoint(params, port, path), _endpoint(params, renamed_port(port), path)]
        if interception.network_policy is not None:
            # The engine's own port is closed to all but the pod itself: the proxy passes the scrape on.
            endpoints = [_endpoint(params, port, path, through_proxy=True)]
    else:
        return None
    return {
        "apiVersion": API_VERSION,
        "kind": "PodMonitor",
        "metadata": beside(
            service, names.PREFIX_ENGINE + service.metadata.name, "engine", params.settings.monitor_labels
        ),
        "spec": {"selector": service.spec.workload.selector.dump(), "podMetricsEndpoints": endpoints},
    }


def proxies(params: ClusterParams) -> Manifest | None:
    """Scrape all proxies of the cluster."""
    if not params.capabilities.pod_monitors:
        return None
    return {
        "apiVersion": API_VERSION,
        "kind": "PodMonitor",
        "metadata": ours(names.POD_MONITOR_PROXIES, "proxy", params.settings.namespace, params.settings.monitor_labels),
        "spec": {
            "namespaceSelector": {"any": True},
            "selector": {"matchLabels": {names.LABEL_PROXY: "true"}},
            "podMetricsEndpoints": [
                {"port": names.ADMIN_PORT_NAME, "path": "/metrics", "interval": params.settings.scrape_interval}
            ],
        },
    }


def components(params: ClusterParams) -> Manifest | None:
    """Scrape operator, webhook and ledger. The ledger's series carry the namespace of the service they speak of: theirs wins."""
    if not params.capabilities.pod_monitors:
        return None
    return {
        "apiVersion": API_VERSION,
        "kind": "PodMonitor",
        "metadata": ours(
            names.POD_MONITOR_COMPONENTS, "components", params.settings.namespace, params.settings.monitor_labels
        ),
        "spec": {
            "selector": {
                "matchLabels": {names.LABEL_NAME: names.MANAGED_BY},
                "matchExpressions": [
                    {"key": names.LABEL_COMPONENT, "operator": "In", "values": ["ledger", "operator", "webhook"]}
                ],
            },
            "podMetricsEndpoints": [
                {
                    "port": "metrics",
                    "path": "/metrics",
                    "interval": params.settings.scrape_interval,
                    "honorLabels": True,
                }
            ],
        },
    }


def _endpoint(params: Params, port: str, path: str, *, through_proxy: bool = False) -> dict[str, Any]:
    # The proxy would pass the scrape on: the same series twice.
    not_the_proxy = {
        "action": "drop",
        "sourceLabels": ["__meta_kubernetes_pod_container_name"],
        "regex": names.PROXY_CONTAINER,
    }
    return {
        "port": port,
        "path": path,
        "interval": params.settings.scrape_interval,
        "relabelings": [
            *([] if through_proxy else [not_the_proxy]),
            {
                "action": "replace",
                "targetLabel": names.LABEL_M_SERVICE,
                "replacement": params.service.metadata.name,
            },
        ],
    }
