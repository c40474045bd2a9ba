"""The collector's objects. A change of its configuration replaces its pod, because a collector reads it only when it starts.

One replica: a trace is judged where all of its spans are. Its pod meets Pod Security "restricted" and may ask the API server nothing.
"""

import hashlib
from typing import Any, Final

import yaml

from llmwarden import names
from llmwarden.api.collector import Collector, Exporter
from llmwarden.manifests.collector import configuration
from llmwarden.manifests.manifest import Manifest, ours
from llmwarden.manifests.monitors import API_VERSION, pod_limits
from llmwarden.manifests.params import ClusterParams

COMPONENT: Final = "collector"
_FOLDER: Final = "/etc/collector/config"
_FILE: Final = "collector.yaml"
_PORTS: Final = (
    ("otlp-grpc", configuration.GRPC_PORT),
    ("otlp-http", configuration.HTTP_PORT),
    ("browser", configuration.BROWSER_PORT),
)
_METRICS: Final = (("metrics", configuration.METRICS_PORT), ("span-metrics", configuration.SPAN_METRICS_PORT))


def service_account(params: ClusterParams) -> Manifest | None:
    """Build an identity without rights."""
    if not params.settings.collector.enabled:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(params),
        "automountServiceAccountToken": False,
    }


def config_map(params: ClusterParams) -> Manifest | None:
    """Build the configuration; no Secret's value is in it."""
    if not params.settings.collector.enabled:
        return None
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(params), "data": {_FILE: _text(params)}}


def service(params: ClusterParams) -> Manifest | None:
    """Build the Service that proxies, applications and (behind your ingress) browsers send to."""
    if not params.settings.collector.enabled:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(params),
        "spec": {
            "selector": _selector(),
            "ports": [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in _PORTS],
        },
    }


def pod_monitor(params: ClusterParams) -> Manifest | None:
    """Scrape what the collector says of itself, and what it counted of spans."""
    settings = params.settings
    if not settings.collector.enabled or not params.capabilities.pod_monitors:
        return None
    return {
        "apiVersion": API_VERSION,
        "kind": "PodMonitor",
        "metadata": ours(names.COLLECTOR, COMPONENT, settings.namespace, settings.monitor_labels),
        "spec": {
            **pod_limits(settings.sample_limit_platform),
            "selector": {"matchLabels": _selector()},
            "podMetricsEndpoints": [
                {"port": name, "path": "/metrics", "interval": settings.scrape_interval} for name, _ in _METRICS
            ],
        },
    }


def deployment(params: ClusterParams) -> Manifest | None:
    """Build the Deployment."""
    collector = params.settings.collector
    if not collector.enabled:
        return None
    digest = hashlib.sha256(_text(params).encode()).hexdigest()[:16]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(params),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": _selector()},
            # The old one takes spans until the new one does; a trace that is under way meanwhile is judged in two parts.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": _selector(), "annotations": {names.ANNOTATION_CONFIGURATION: digest}},
                "spec": _pod(collector),
            },
        },
    }


def _pod(collector: Collector) -> dict[str, Any]:
    authorities = [exporter for exporter in collector.exporters if exporter.ca is not None]
    security = collector.pod_security
    identity = {"runAsUser": security.run_as_user, "runAsGroup": security.run_as_group}
    optional = {
        "nodeSelector": collector.node_selector,
        "tolerations": list(collector.tolerations),
        "affinity": collector.affinity,
        "priorityClassName": collector.priority_class_name,
        "imagePullSecrets": list(collector.image_pull_secrets),
    }
    return {
        "serviceAccountName": names.COLLECTOR,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Time to judge what is held and to send it.
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            **{key: value for key, value in identity.items() if value is not None},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **{key: value for key, value in optional.items() if value},
        "containers": [_container(collector, authorities)],
        "volumes": [
            {"name": "config", "configMap": {"name": names.COLLECTOR}},
            *(_ca_volume(exporter) for exporter in authorities),
        ],
    }


def _container(collector: Collector, authorities: list[Exporter]) -> dict[str, Any]:
    probe = {"tcpSocket": {"port": "otlp-http"}, "timeoutSeconds": 5}
    return {
        "name": "collector",
        "image": collector.image,
        "imagePullPolicy": collector.image_pull_policy,
        "args": [f"--config={_FOLDER}/{_FILE}"],
        "env": [
            # Go collects harder towards the container's limit; from 80 % of it on memory_limiter refuses spans.
            {"name": "GOMEMLIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
            *_environment(collector),
        ],
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in (*_PORTS, *_METRICS)],
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 60},
        "readinessProbe": {**probe, "periodSeconds": 5},
        "livenessProbe": {**probe, "periodSeconds": 15, "failureThreshold": 4},
        "resources": collector.resources,
        "volumeMounts": [
            {"name": "config", "mountPath": _FOLDER, "readOnly": True},
            *(
                {"name": f"ca-{exporter.name}", "mountPath": configuration.ca_folder(exporter), "readOnly": True}
                for exporter in authorities
            ),
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _environment(collector: Collector) -> list[dict[str, Any]]:
    return [
        {
            "name": configuration.variable(number, index),
            "valueFrom": {"secretKeyRef": {"name": header.secret.name, "key": header.secret.key}},
        }
        for number, exporter in enumerate(collector.exporters)
        for index, header in enumerate(exporter.headers)
        if header.secret is not None
    ]


def _ca_volume(exporter: Exporter) -> dict[str, Any]:
    return {"name": f"ca-{exporter.name}", "secret": {"secretName": exporter.ca.name if exporter.ca else ""}}


def _text(params: ClusterParams) -> str:
    made = configuration.configuration(params.settings.collector, params.services)
    return yaml.safe_dump(made, sort_keys=False, width=1000)


def _metadata(params: ClusterParams) -> dict[str, Any]:
    return ours(names.COLLECTOR, COMPONENT, params.settings.namespace)


def _selector() -> dict[str, str]:
    return {names.LABEL_NAME: names.MANAGED_BY, names.LABEL_COMPONENT: COMPONENT}
