"""LLMServices as a cluster holds them, with a status and managed fields; and pods under admission."""

import json
from collections.abc import Mapping
from typing import Any, Final

from llmwarden import names
from llmwarden import status as statuses
from llmwarden.api.v1alpha1.llmservice import InjectionStatus
from llmwarden.snapshot import Outcome
from tests.unit.status.helpers import NOW, snapshot

USER, OPERATOR = "kubectl", "llmwarden"  # who writes the spec, and who the status

_BUDGETS: Final = [
    {
        "name": "daily",
        "limit": {"amount": "25.00", "currency": "USD"},
        "window": {"calendar": "Day", "timeZone": "Asia/Seoul"},
        "warnAtPercent": [50, 80],
        "onExceeded": {"action": "Block"},
    },
    {
        "name": "monthly",
        "limit": {"amount": "400.00"},
        "window": {"calendar": "Month"},
        "onExceeded": {"action": "Fallback", "model": "gpt-4o-mini", "ceiling": {"amount": "440.00"}},
    },
]
_OBJECTIVES: Final = [
    {"name": "first-token", "latency": {"indicator": "TimeToFirstToken", "threshold": "1s"}},
    {"name": "latency", "latency": {"indicator": "RequestDuration", "threshold": "10s"}},
    {"name": "errors", "errors": {}},
]


def namespace_of(number: int, namespaces: int) -> str:
    """The namespace of the service of a number."""
    return f"bench-{number % namespaces:03}"


def name_of(number: int) -> str:
    """The name of the service of a number."""
    return f"service-{number:05}"


def service(number: int, namespaces: int) -> dict[str, Any]:
    """An LLMService as its owner writes it: every other one calls a provider, or serves a model."""
    name = name_of(number)
    calls = number % 2 == 0
    backend: dict[str, Any] = (
        {
            "type": "OpenAI",
            "url": "https://api.openai.com",
            "credentialsSecretRef": {"name": "openai", "key": "api-key"},
        }
        if calls
        else {"type": "VLLM"}
    )
    interception: dict[str, Any] = {"type": "Env"} if calls else {"type": "Port", "port": {"name": "http"}}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "LLMService",
        "metadata": {
            "name": name,
            "namespace": namespace_of(number, namespaces),
            "labels": {"team": f"team-{number % 20}"},
        },
        "spec": {
            "backend": backend,
            "workload": {"selector": {"matchLabels": {"app": name}}, "interception": interception, "rollout": "None"},
            "budgets": _BUDGETS,
            "objectives": [{**item, "targetPercent": "99", "window": "28d"} for item in _OBJECTIVES],
            "alerts": {"pagerDuty": {"routingKeySecretRef": {"name": "pagerduty", "key": "routing-key"}}},
            "tracing": {"samplePercent": 100},
        },
    }


def status() -> dict[str, Any]:
    """A status as the operator writes it of a service whose all is well: the operator's own code makes it."""
    return statuses.build(snapshot(), Outcome(), InjectionStatus(), NOW).dump()


def pod(number: int, namespaces: int) -> dict[str, Any]:
    """A pod that the service of a number selects, as a ReplicaSet makes it."""
    name = name_of(number)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{name}-6d4cf56db6-",
            "namespace": namespace_of(number, namespaces),
            "labels": {"app": name, "pod-template-hash": "6d4cf56db6", "app.kubernetes.io/part-of": "shop"},
            "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-11-20T10:00:00Z"},
        },
        "spec": {
            "serviceAccountName": "default",
            "containers": [
                {
                    "name": "app",
                    "image": "registry.example.com/shop/app:1.4.2",
                    "ports": [{"name": "http", "containerPort": 8000}],
                    "env": [{"name": f"SETTING_{at}", "value": str(at)} for at in range(20)],
                    "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
                }
            ],
            "volumes": [{"name": "config", "configMap": {"name": "app"}}],
        },
    }


def review(made: Mapping[str, Any]) -> bytes:
    """The AdmissionReview that the API server sends for a pod."""
    request = {
        "uid": "0df28fbd-5f5f-11e8-bc74-36e6bb280816",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": made["metadata"]["namespace"],
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": made,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()
