"""What the operator remembers of an object of its own in the cluster: what it is called, its labels, and a hash of its content. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any

from llmwarden import names
from llmwarden.kube import diff

Identity = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class Child:
    """One object of ours in the cluster.

    `digest`: of its content (`diff.digest`). `stamp`: the hash of the manifest that it was last made from, as its annotation says.
    `service`: the LLMService that it stands beside; "" for what exists once.
    """

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    version: int
    digest: bytes
    stamp: str
    service: str
    labels: tuple[tuple[str, str], ...]

    @property
    def identity(self) -> Identity:
        """Kind, namespace and name."""
        return self.kind, self.namespace, self.name

    @property
    def managed(self) -> bool:
        """Whether we have written it (Helm labels what it installs as ours, too)."""
        return bool(self.stamp) and (names.LABEL_MANAGED_BY, names.MANAGED_BY) in self.labels


def of(item: Mapping[str, Any], version: int) -> Child:
    """Return what is kept of an object, whose resourceVersion is `version`. Strings that thousands have in common are kept once."""
    metadata = item["metadata"]
    labels = metadata.get("labels") or {}
    return Child(
        api_version=intern(item["apiVersion"]),
        kind=intern(item["kind"]),
        namespace=intern(metadata.get("namespace") or ""),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        version=version,
        digest=diff.digest(item),
        stamp=(metadata.get("annotations") or {}).get(names.ANNOTATION_SPEC_HASH, ""),
        service=intern(labels.get(names.LABEL_SERVICE, "")),
        labels=tuple((intern(key), intern(value)) for key, value in sorted(labels.items())),
    )
