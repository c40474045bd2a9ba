"""What all our objects have in common: labels, the owner, and the hash by which a change is known."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService

Manifest = dict[str, Any]
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")
DASHBOARD_OVERVIEW_UID: Final = "llmwarden-overview"


def beside(service: LLMService, name: str, component: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Metadata of an object in a service's namespace, which goes with the service.

    `blockOwnerDeletion` is off: the deletion of an LLMService must never wait for anything.
    """
    return {
        "name": name,
        "namespace": service.metadata.namespace,
        "labels": {**(labels or {}), **_labels(component), names.LABEL_SERVICE: service.metadata.name},
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": "LLMService",
                "name": service.metadata.name,
                "uid": service.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def ours(
    name: str, component: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Metadata of an object that exists once."""
    metadata: dict[str, Any] = {"name": name, "labels": {**(labels or {}), **_labels(component)}}
    if namespace is not None:
        metadata["namespace"] = namespace
    return metadata


def stamped(manifest: Mapping[str, Any]) -> Manifest:
    """Return the manifest with the hash of itself as an annotation. Stable over processes and versions of Python."""
    digest = hashlib.sha256(_ENCODER.encode(manifest)).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), names.ANNOTATION_SPEC_HASH: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def dashboard_uid(namespace: str, name: str) -> str:
    """Return the UID of a service's dashboard: Grafana allows 40 characters, a namespace and a name may be longer."""
    return f"llmwarden-{hashlib.sha256(f'{namespace}/{name}'.encode()).hexdigest()[:20]}"


def _labels(component: str) -> dict[str, str]:
    return {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_NAME: names.MANAGED_BY,
        names.LABEL_COMPONENT: component,
    }
