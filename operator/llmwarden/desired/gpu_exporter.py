"""The GPU exporter: one DaemonSet for the cluster, while some LLMService asks for it, and gone with the last that does.

`Auto` uses a dcgm-exporter that is there already (NVIDIA's GPU operator brings one) and else our own NVML exporter, which needs
no capability. One service that asks for `DCGM` makes it NVIDIA's for all: two exporters would say everything twice. Neither
reads the Kubernetes API: both take pods from the kubelet's PodResources socket. So there is no RBAC to give.
"""

from typing import Any, Final, Literal

from llmwarden import names
from llmwarden.desired.manifest import Manifest, ours
from llmwarden.desired.monitors import API_VERSION
from llmwarden.desired.params import ClusterParams

PORT: Final = 9400
POD_RESOURCES: Final = "/var/lib/kubelet/pod-resources"
_POD_RESOURCES: Final = {"name": "pod-resources", "mountPath": POD_RESOURCES, "readOnly": True}
Exporter = Literal["DCGM", "NVML"]


def wanted(params: ClusterParams) -> Exporter | None:
    """Say which exporter is ours to run; None where none is asked for, or somebody else's is there already."""
    asked = {service.spec.gpu.exporter for service in params.services if service.spec.gpu is not None} - {"None"}
    if not asked or params.foreign_dcgm:
        return None
    return "DCGM" if "DCGM" in asked else "NVML"


def service_account(params: ClusterParams) -> Manifest | None:
    """Build an identity without rights."""
    if wanted(params) is None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": ours(names.GPU_EXPORTER, "gpu-exporter", params.settings.namespace),
        "automountServiceAccountToken": False,
    }


def pod_monitor(params: ClusterParams) -> Manifest | None:
    """Scrape the exporter. The pod that an exporter names is the GPU's user: its labels win over the target's own."""
    if wanted(params) is None or not params.capabilities.pod_monitors:
        return None
    settings = params.settings
    return {
        "apiVersion": API_VERSION,
        "kind": "PodMonitor",
        "metadata": ours(names.GPU_EXPORTER, "gpu-exporter", settings.namespace, settings.monitor_labels),
        "spec": {
            "selector": {"matchLabels": _selector()},
            "podMetricsEndpoints": [
                {
                    "port": "metrics",
                    "path": "/metrics",
                    "interval": settings.scrape_interval,
                    "honorLabels": True,
                    "relabelings": [
                        {
                            "action": "replace",
                            "sourceLabels": ["__meta_kubernetes_pod_node_name"],
                            "targetLabel": "node",
                        }
                    ],
                }
            ],
        },
    }


def daemon_set(params: ClusterParams) -> Manifest | None:
    """Build the DaemonSet, on nodes that are labelled as having NVIDIA GPUs."""
    kind = wanted(params)
    if kind is None:
        return None
    settings = params.settings
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": ours(names.GPU_EXPORTER, "gpu-exporter", settings.namespace),
        "spec": {
            "selector": {"matchLabels": _selector()},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
            "template": {
                "metadata": {"labels": _selector()},
                "spec": {
                    "serviceAccountName": names.GPU_EXPORTER,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "nodeSelector": {settings.gpu_node_label: "true", "kubernetes.io/os": "linux"},
                    # GPU nodes are commonly tainted for GPU workloads; the exporter takes no GPU.
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "containers": [_dcgm(params) if kind == "DCGM" else _nvml(params)],
                    # The directory, not the socket in it: a kubelet that restarts makes a new one.
                    "volumes": [{"name": "pod-resources", "hostPath": {"path": POD_RESOURCES, "type": "Directory"}}],
                },
            },
        },
    }


def _selector() -> dict[str, str]:
    return {names.LABEL_NAME: names.MANAGED_BY, names.LABEL_COMPONENT: "gpu-exporter"}


def _common(image: str, policy: str) -> dict[str, Any]:
    return {
        "name": "exporter",
        "image": image,
        "imagePullPolicy": policy,
        "ports": [{"name": "metrics", "containerPort": PORT, "protocol": "TCP"}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _nvml(params: ClusterParams) -> dict[str, Any]:
    return {
        **_common(params.settings.image, params.settings.image_pull_policy),
        "args": ["gpu-exporter", "--port", str(PORT), "--pod-resources", f"{POD_RESOURCES}/kubelet.sock"],
        # NVIDIA's container runtime reads these: every GPU of the node to look at, and no more of the driver than NVML.
        "env": [
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
            {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "utility"},
            # The label Hostname: a pod's own name would be no node's.
            {"name": "LLMWARDEN_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 10},
        "livenessProbe": {"httpGet": {"path": "/livez", "port": "metrics"}, "periodSeconds": 30, "timeoutSeconds": 10},
        "resources": {"requests": {"cpu": "10m", "memory": "48Mi"}, "limits": {"memory": "128Mi"}},
        "volumeMounts": [_POD_RESOURCES],
        # The kubelet's socket is root's alone, so the user must be root; it is one without any capability, that may write nothing.
        "securityContext": {
            "runAsNonRoot": False,
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _dcgm(params: ClusterParams) -> dict[str, Any]:
    return {
        **_common(params.settings.dcgm_image, "IfNotPresent"),
        "env": [
            {"name": "DCGM_EXPORTER_LISTEN", "value": f":{PORT}"},
            {"name": "DCGM_EXPORTER_KUBERNETES", "value": "true"},
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": "metrics"},
            "initialDelaySeconds": 30,
            "periodSeconds": 15,
        },
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        # What DCGM needs, and the documented exception from the "restricted" level: root, and SYS_ADMIN for the profiling metrics.
        "securityContext": {
            "runAsNonRoot": False,
            "runAsUser": 0,
            "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [_POD_RESOURCES],
    }
