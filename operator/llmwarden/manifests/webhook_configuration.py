"""The MutatingWebhookConfiguration, narrowed to the namespaces that hold an LLMService. It fails open, always."""

import base64

from llmwarden import names
from llmwarden.injection.selection import PROTECTED_NAMESPACES
from llmwarden.manifests.manifest import Manifest, ours
from llmwarden.manifests.params import ClusterParams


def webhook_configuration(params: ClusterParams) -> Manifest | None:
    """Build it; None where no LLMService exists, or while there is no CA to trust."""
    settings = params.settings
    namespaces = list(params.namespaces)
    if not namespaces or not params.ca_bundle:
        return None
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": ours(names.WEBHOOK_CONFIGURATION, "webhook"),
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
