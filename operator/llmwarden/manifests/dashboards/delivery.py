"""How a dashboard gets to Grafana: a ConfigMap that its sidecar loads, or a GrafanaDashboard of the Grafana Operator, as the settings say."""

from typing import Any, Final

from llmwarden import names
from llmwarden.manifests.dashboards import overview, service
from llmwarden.manifests.dashboards.panels import to_json
from llmwarden.manifests.manifest import DASHBOARD_OVERVIEW_UID, Manifest, beside, ours
from llmwarden.manifests.params import ClusterParams, Params
from llmwarden.settings import Settings

GRAFANA: Final = "grafana.integreatly.org/v1beta1"
FOLDER_ANNOTATION: Final = "grafana_folder"  # what the sidecar of Grafana's chart looks for


def of_service(params: Params) -> Manifest | None:
    """Build the dashboard beside an LLMService."""
    metadata = params.service.metadata
    placed = beside(
        params.service, names.PREFIX_DASHBOARD + metadata.name, "dashboard", params.settings.dashboard_labels
    )
    # The key becomes a file's name beside those of all other namespaces.
    file = f"llmwarden-{metadata.namespace}-{metadata.name}.json"
    return _deliver(placed, file, service.build(params), params.settings, params.capabilities.grafana_dashboards)


def of_cluster(params: ClusterParams) -> Manifest | None:
    """Build the dashboard over all services, in our own namespace."""
    placed = ours(names.DASHBOARD_OVERVIEW, "dashboard", params.settings.namespace, params.settings.dashboard_labels)
    return _deliver(
        placed,
        f"{DASHBOARD_OVERVIEW_UID}.json",
        overview.build(),
        params.settings,
        params.capabilities.grafana_dashboards,
    )


def _deliver(
    metadata: dict[str, Any],
    file: str,
    dashboard: dict[str, Any],
    settings: Settings,
    operator: bool,  # noqa: FBT001 - a capability
) -> Manifest | None:
    text = to_json(dashboard)
    folder = settings.grafana_folder
    if settings.grafana_delivery == "GrafanaDashboard":
        if not operator:
            return None
        return {
            "apiVersion": GRAFANA,
            "kind": "GrafanaDashboard",
            "metadata": metadata,
            "spec": {
                "instanceSelector": {"matchLabels": dict(settings.grafana_instance_labels)},
                # A Grafana of another namespace may show it: that is the platform's own choice of labels.
                "allowCrossNamespaceImport": True,
                "folder": folder,
                "json": text,
            },
        }
    if folder:
        metadata = {**metadata, "annotations": {FOLDER_ANNOTATION: folder}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {file: text}}
