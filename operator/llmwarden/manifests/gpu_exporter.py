"""The GPU exporter: one DaemonSet for the cluster, while some LLMService asks for it, and gone with the last that does.

Which one it is, `gpu_choice` says. Neither reads the Kubernetes API: both take pods from the kubelet's PodResources socket. So there is no
RBAC to give. Somebody else's dcgm-exporter is only scraped: whoever installed it scrapes it seldom with the labels of the pods that use the
GPUs in place of its own, by which our rules and dashboards know whose a GPU is.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.manifests.manifest import Manifest, ours
from llmwarden.manifests.monitors import API_VERSION, pod_limits
from llmwarden.manifests.params import ClusterParams

POD_RESOURCES: Final = "/var/lib/kubelet/pod-resources"
_POD_RESOURCES: Final = {"name": "pod-resources", "mountPath": POD_RESOURCES, "readOnly": True}


def service_account(params: ClusterParams) -> Manifest | None:
    """Build an identity without rights."""
    if params.gpu.exporter is None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": ours(names.GPU_EXPORTER, "gpu-exporter", params.settings.namespace),
        "automountServiceAccountToken": False,
    }


def pod_monitor(params: ClusterParams) -> Manifest | None:
    """Scrape the exporter, ours or theirs. The pod that an exporter names is the GPU's user: its labels win over the target's own."""
    choice, settings = params.gpu, params.settings
    if not params.capabilities.pod_monitors or (choice.exporter is None and choice.foreign is None):
        return None
    foreign = choice.foreign
    port = foreign.port if foreign is not None else "metrics"
    relabelings: list[dict[str, Any]] = [
        {"action": "replace", "sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}
    ]
    if choice.exporter != "NVML":
        # NVIDIA's names no pod for a GPU that nobody uses, where ours says "": without this it would be the exporter's own.
        relabelings.append({"action": "labeldrop", "regex": "namespace|pod|container"})
    return {
        "apiVersion": API_VERSION,
        "kind": "PodMonitor",
        "metadata": ours(names.GPU_EXPORTER, "gpu-exporter", settings.namespace, settings.monitor_labels),
        "spec": {
            **({"namespaceSelector": {"matchNames": [foreign.namespace]}} if foreign is not None else {}),
            **pod_limits(settings.sample_limit_engine),
            "selector": {"matchLabels": dict(foreign.selector) if foreign is not None else _selector()},
            "podMetricsEndpoints": [
                {
                    **({"portNumber": port} if isinstance(port, int) else {"port": port}),
                    "path": "/metrics",
                    "interval": settings.scrape_interval,
                    "honorLabels": True,
                    "relabelings": relabelings,
                }
            ],
        },
    }


def daemon_set(params: ClusterParams) -> Manifest | None:
    """Build the DaemonSet, on nodes that are labelled as having NVIDIA GPUs."""
    choice, settings = params.gpu, params.settings
    if choice.exporter is None:
        return None
    metadata = ours(names.GPU_EXPORTER, "gpu-exporter", settings.namespace)
    if choice.unfit is not None:
        metadata["annotations"] = {names.ANNOTATION_DCGM_UNFIT: choice.unfit.dump()}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": _selector()},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
            "template": {
                "metadata": {"labels": _selector()},
                "spec": {
                    "serviceAccountName": names.GPU_EXPORTER,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    # Where NVIDIA's runtime is not the nodes' default one, only this brings the driver in.
                    **({"runtimeClassName": choice.runtime_class} if choice.runtime_class else {}),
                    "nodeSelector": {settings.gpu_node_label: "true", "kubernetes.io/os": "linux"},
                    # GPU nodes are commonly tainted for GPU workloads; the exporter takes no GPU.
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "containers": [_dcgm(params) if choice.exporter == "DCGM" else _nvml(params)],
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
        "ports": [{"name": "metrics", "containerPort": names.GPU_EXPORTER_PORT, "protocol": "TCP"}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _nvml(params: ClusterParams) -> dict[str, Any]:
    return {
        **_common(params.settings.image, params.settings.image_pull_policy),
        "args": [
            "gpu-exporter",
            "--port",
            str(names.GPU_EXPORTER_PORT),
            "--pod-resources",
            f"{POD_RESOURCES}/kubelet.sock",
        ],
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
            {"name": "DCGM_EXPORTER_LISTEN", "value": f":{names.GPU_EXPORTER_PORT}"},
            {"name": "DCGM_EXPORTER_KUBERNETES", "value": "true"},
            # A shared GPU has a row for each of its pods, as ours has.
            {"name": "KUBERNETES_VIRTUAL_GPUS", "value": "true"},
            # The label Hostname: a pod's own name would be no node's.
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
        ],
        # DCGM takes half a minute to begin.
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": "metrics"},
            "initialDelaySeconds": 30,
            "periodSeconds": 15,
        },
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": "metrics"},
            "initialDelaySeconds": 60,
            "periodSeconds": 30,
            "timeoutSeconds": 10,
        },
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        # What DCGM needs, as its own chart has it: root, and SYS_ADMIN for the profiling metrics (under MIG the only utilisation).
        "securityContext": {
            "runAsNonRoot": False,
            "runAsUser": 0,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [_POD_RESOURCES],
    }
