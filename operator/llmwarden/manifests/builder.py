"""What exists: the list of builders is the list of our objects. A builder returns None for "not wanted"."""

from collections.abc import Callable
from typing import Final

from llmwarden.manifests import engine_scraping, gpu_exporter, monitors, port_policy, routes, webhook_configuration
from llmwarden.manifests.alerts import platform, rules, shared_rules
from llmwarden.manifests.collector import objects as collector
from llmwarden.manifests.dashboards import delivery
from llmwarden.manifests.manifest import Manifest, stamped
from llmwarden.manifests.params import ClusterParams, Params

SERVICE: Final[tuple[Callable[[Params], Manifest | None], ...]] = (
    engine_scraping.engine,
    rules.rules,
    delivery.of_service,
    routes.alertmanager_config,
    port_policy.network_policy,
)
CLUSTER: Final[tuple[Callable[[ClusterParams], Manifest | None], ...]] = (
    monitors.proxies,
    monitors.components,
    webhook_configuration.webhook_configuration,
    delivery.of_cluster,
    platform.rules,
    shared_rules.rules,
    gpu_exporter.service_account,
    gpu_exporter.daemon_set,
    gpu_exporter.pod_monitor,
    collector.service_account,
    collector.config_map,
    collector.deployment,
    collector.service,
    collector.pod_monitor,
)


def build(params: Params) -> list[Manifest]:
    """Build the objects beside one LLMService."""
    return [stamped(manifest) for builder in SERVICE if (manifest := builder(params)) is not None]


def build_cluster(params: ClusterParams) -> list[Manifest]:
    """Build what exists once in the cluster. What is in our own namespace goes with the chart's release."""
    built = (manifest for builder in CLUSTER if (manifest := builder(params)) is not None)
    return [stamped(_owned(manifest, params)) for manifest in built]


def _owned(manifest: Manifest, params: ClusterParams) -> Manifest:
    metadata = manifest["metadata"]
    if params.owner is None or metadata.get("namespace") != params.settings.namespace:
        return manifest
    return {**manifest, "metadata": {**metadata, "ownerReferences": [params.owner.reference()]}}
