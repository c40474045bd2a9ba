"""PodMonitors of what exists once: of all proxies, of our own processes; engines' own are `engine_scraping`'s.

One PodMonitor for all proxies: one per LLMService would scrape a proxy that two services share twice, and double every sum.
"""

from typing import Final

from llmwarden import names
from llmwarden.manifests.manifest import Manifest, ours
from llmwarden.manifests.params import ClusterParams

API_VERSION: Final = "monitoring.coreos.com/v1"


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
