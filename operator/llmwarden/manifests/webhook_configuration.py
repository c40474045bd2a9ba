"""The content of the MutatingWebhookConfiguration, narrowed to the namespaces that hold an LLMService. It fails open, always.

The chart makes the object without `webhooks`, so that it goes with the release and the operator needs no right to create one. Labels are the
chart's: no field here is one that a render has, so neither Helm nor Argo CD undoes what the operator writes.
"""

import base64

from llmwarden import names
from llmwarden.injection.selection import PROTECTED_NAMESPACES
from llmwarden.manifests.manifest import Manifest
from llmwarden.manifests.params import ClusterParams


def webhook_configuration(params: ClusterParams) -> Manifest:
    """Build it; without webhooks where no LLMService exists, or while there is no CA to trust."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": names.WEBHOOK_CONFIGURATION},
        **_webhooks(params),
    }


def _webhooks(params: ClusterParams) -> Manifest:
    settings = params.settings
    namespaces = list(params.namespaces)
    if not namespaces or not params.ca_bundle:
        return {}  # an empty list would be dropped by the API server, and differ for ever
    return {
        "webhooks": [
            {
                "name": f"pods.{names.GROUP}",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {
                    "caBundle": base64.b64encode(params.ca_bundle.encode()).decode(),
                    "service": {
                        "name": names.WEBHOOK,
                        "namespace": settings.namespace,
                        "path": params.webhook_path,
                        "port": 443,
                    },
                },
                "failurePolicy": "Ignore",
                "matchPolicy": "Equivalent",
                "namespaceSelector": {
                    "matchExpressions": [
                        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces},
                        {
                            "key": "kubernetes.io/metadata.name",
                            "operator": "NotIn",
                            "values": sorted({*PROTECTED_NAMESPACES, settings.namespace}),
                        },
                        {
                            "key": names.LABEL_NAMESPACE_INJECTION,
                            "operator": "NotIn",
                            "values": ["disabled"],
                        },
                    ]
                },
                # Another webhook may add containers after us: ours is then asked again, and is idempotent.
                "reinvocationPolicy": "IfNeeded",
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                        "scope": "Namespaced",
                    }
                ],
                "sideEffects": "None",
                "timeoutSeconds": settings.webhook_timeout,
            }
        ],
    }
