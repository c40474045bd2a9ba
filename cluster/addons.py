"""What runs in the cluster from the start: DNS, the default storage class, and the provisioner's role."""

from typing import Any

from cluster.images import COREDNS
from cluster.network import DNS_ADDRESS, DOMAIN

PROVISIONER = "llmwarden.io/local-directory"
PROVISIONER_USER = "llmwarden-provisioner"

_COREFILE = """\
.:53 {{
    errors
    health {{
        lameduck 1s
    }}
    ready
    kubernetes {domain} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
{forward}    cache 10
    loadbalance
}}
"""


def _meta(name: str, namespace: str | None = None, **labels: str) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name}
    if namespace:
        meta["namespace"] = namespace
    if labels:
        meta["labels"] = {key.replace("_", "-"): value for key, value in labels.items()}
    return meta


def _role(name: str, subject: dict[str, str], rules: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Return a ClusterRole of (group, resources, verbs), and its binding."""
    group = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": _meta(name),
            "rules": [
                {"apiGroups": [api], "resources": resources.split(), "verbs": verbs.split()}
                for api, resources, verbs in rules
            ],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": _meta(name),
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [subject],
        },
    ]


def _dns(*, upstream: bool) -> list[dict[str, Any]]:
    forward = "    forward . /etc/resolv.conf\n" if upstream else ""
    labels = {"k8s-app": "kube-dns"}
    service_account = {"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta("coredns", "kube-system")},
        *_role(
            "system:coredns",
            service_account,
            [
                ("", "services pods namespaces", "list watch"),
                ("discovery.k8s.io", "endpointslices", "list watch"),
            ],
        ),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _meta("coredns", "kube-system"),
            "data": {"Corefile": _COREFILE.format(domain=DOMAIN, forward=forward)},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _meta("kube-dns", "kube-system", k8s_app="kube-dns"),
            "spec": {
                "clusterIP": DNS_ADDRESS,
                "selector": labels,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": "dns-tcp"},
                ],
            },
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": _meta("coredns", "kube-system", k8s_app="kube-dns"),
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": _dns_pod()},
            },
        },
    ]


def _dns_pod() -> dict[str, Any]:
    return {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        # The node's name servers, not the cluster's: it would ask itself.
        "dnsPolicy": "Default",
        "containers": [
            {
                "name": "coredns",
                "image": COREDNS,
                "imagePullPolicy": "Never",
                "args": ["-conf", "/etc/coredns/Corefile"],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "170Mi"}},
                "ports": [
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                ],
                "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 30},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                },
                "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
            }
        ],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }


def _storage() -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "standard",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": PROVISIONER,
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
        *_role(
            "llmwarden:provisioner",
            {"kind": "User", "name": PROVISIONER_USER, "apiGroup": "rbac.authorization.k8s.io"},
            [
                ("", "persistentvolumeclaims", "list watch"),
                ("", "persistentvolumes", "list watch create delete"),
                ("storage.k8s.io", "storageclasses", "get"),
            ],
        ),
    ]


def manifests(*, upstream: bool) -> list[dict[str, Any]]:
    """Return what is applied to a new node, in order. `upstream`: whether the machine has name servers to ask."""
    return [*_storage(), *_dns(upstream=upstream)]
