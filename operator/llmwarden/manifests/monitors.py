"""PodMonitors of what exists once: of all proxies, of our own processes; engines' own are `engine_scraping`'s.

One PodMonitor for all proxies: one per LLMService would scrape a proxy that two services share twice, and double every sum.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.manifests.manifest import Manifest, ours
from llmwarden.manifests.params import ClusterParams

API_VERSION: Final = "monitoring.coreos.com/v1"
MOST_LABELS: Final = 64  # of one series: ours have at most 20, and Prometheus adds some
LONGEST_NAME: Final = 256
LONGEST_VALUE: Final = 2048
SAMPLE_BYTES: Final = 1024  # of an answer, for each sample that it may have: a line of ours has some 300


def limits(samples: int) -> dict[str, Any]:
    """Bound what one target can bring into Prometheus; a scrape that has more is given up whole. The fields are of every kind of monitor."""
    return {
        "sampleLimit": samples,
        "labelLimit": MOST_LABELS,
        "labelNameLengthLimit": LONGEST_NAME,
        "labelValueLengthLimit": LONGEST_VALUE,
    }


def pod_limits(samples: int) -> dict[str, Any]:
    """As `limits`, with the size of the answer, which a ScrapeConfig cannot bound."""
    return {**limits(samples), "bodySizeLimit": f"{samples * SAMPLE_BYTES // 1024}KiB"}


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
            # Anybody may label a pod as ours. Without honorLabels its series are the pod's and its namespace's, whatever they say.
            **pod_limits(params.settings.sample_limit_proxy),
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
            **pod_limits(params.settings.sample_limit_platform),
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
