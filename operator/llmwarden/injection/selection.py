"""Which LLMServices a pod belongs to, and why it gets no proxy where it gets none.

The webhook decides by this at a pod's creation; the operator explains by it afterwards.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.domain import selectors

PROTECTED_NAMESPACES: Final = frozenset({"kube-system", "kube-node-lease"})  # never injected, whatever their labels say
_SYSTEMS: Final = ("kubernetes.io/os", "beta.kubernetes.io/os")  # labels of nodes
_WINDOWS_BUILD: Final = "node.kubernetes.io/windows-build"  # a label that only Windows nodes have
_LINUX: Final = "linux"
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_MIRROR: Final = "kubernetes.io/config.mirror"  # annotation of a static pod's mirror: the kubelet ignores our changes


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one service in one pod that a person should know.

    `reason` is one CamelCase word. `blocking`: the pod does not get the proxy for this service.
    """

    service: str
    reason: str
    message: str
    remedy: str = ""
    blocking: bool = False

    def dump(self) -> dict[str, Any]:
        """JSON for the pod's annotation."""
        return {
            "service": self.service,
            "reason": self.reason,
            "message": self.message,
            "remedy": self.remedy,
            "blocking": self.blocking,
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """`selected`: every service whose selector matches, by name; `injected`: those of them that the pod is to carry."""

    selected: tuple[LLMService, ...]
    injected: tuple[LLMService, ...]
    findings: tuple[Finding, ...]


def is_injected(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has our proxy."""
    init = (pod.get("spec") or {}).get("initContainers") or []
    return any(container.get("name") == names.PROXY_CONTAINER for container in init)


def select(
    pod: Mapping[str, Any],
    namespace: str,
    namespace_labels: Mapping[str, str],
    services: Iterable[LLMService],
    own_namespace: str = names.DEFAULT_NAMESPACE,
) -> Selection:
    """Select the services of a pod that is (to be) in `namespace`; services of other namespaces are ignored.

    `namespace` is an argument because a pod under admission often does not name its own yet.
    """
    metadata = pod.get("metadata") or {}
    labels = metadata.get("labels") or {}
    annotations = metadata.get("annotations") or {}
    selected = tuple(
        sorted(
            (
                service
                for service in services
                if service.metadata.namespace == namespace
                and service.metadata.deletion_timestamp is None
                and not selectors.is_empty(service.spec.workload.selector)
                and selectors.matches(service.spec.workload.selector, labels)
            ),
            key=lambda service: service.metadata.name,
        )
    )
    refusal = _refusal(pod, namespace, namespace_labels, annotations, own_namespace)
    if refusal:
        reason, message, remedy = refusal
        findings = [Finding(service.metadata.name, reason, message, remedy, blocking=True) for service in selected]
        return Selection(selected, (), tuple(findings))
    injected, notes = [], []
    for service in selected:
        name = service.metadata.name
        if service.status and service.status.injection and service.status.injection.state == "Stopped":
            notes.append(
                Finding(
                    name,
                    "InjectionStopped",
                    f"injection is stopped for this service: {service.status.injection.message or 'injected pods did not start'}",
                    "injection is tried again automatically; see status.injection of the LLMService",
                    blocking=True,
                )
            )
            continue
        injected.append(service)
        if annotations.get(names.ANNOTATION_INJECT) == "false":
            notes.append(
                Finding(
                    name,
                    "OptOutNotAllowed",
                    f"the pod's annotation {names.ANNOTATION_INJECT}=false was ignored",
                    f"the platform team allows it by the namespace label {names.LABEL_ALLOW_OPT_OUT}=true",
                )
            )
    return Selection(selected, tuple(injected), tuple(notes))


def _refusal(
    pod: Mapping[str, Any],
    namespace: str,
    namespace_labels: Mapping[str, str],
    annotations: Mapping[str, str],
    own_namespace: str,
) -> tuple[str, str, str] | None:
    """(reason, message, remedy) where no service at all may be injected."""
    spec = pod.get("spec") or {}
    taken_volumes = sorted({item.get("name", "") for item in spec.get("volumes") or []} & names.VOLUMES)
    checks = (
        (
            namespace in PROTECTED_NAMESPACES or namespace == own_namespace,
            "ProtectedNamespace",
            f"nothing is injected in namespace {namespace}",
            "run the application in another namespace",
        ),
        (
            namespace_labels.get(names.LABEL_NAMESPACE_INJECTION) == "disabled",
            "NamespaceDisabled",
            f"the namespace's label {names.LABEL_NAMESPACE_INJECTION} is disabled",
            "remove that label and restart the pod",
        ),
        (
            annotations.get(names.ANNOTATION_INJECT) == "false"
            and namespace_labels.get(names.LABEL_ALLOW_OPT_OUT) == "true",
            "OptedOut",
            f"the pod's annotation {names.ANNOTATION_INJECT} is false, which its namespace allows",
            "remove that annotation from the pod template",
        ),
        (
            _MIRROR in annotations,
            "StaticPod",
            "the pod is static, and its mirror cannot be changed",
            "run the application as a Deployment",
        ),
        (
            bool(spec.get("hostNetwork")),
            "HostNetwork",
            "the pod uses the node's network, where the proxy would open ports on the node",
            "remove hostNetwork from the pod template",
        ),
        (
            needs_windows(spec),
            "Windows",
            "the proxy runs on Linux only",
            "run the application on Linux nodes",
        ),
        (
            any(item.get("name") == names.PROXY_CONTAINER for item in spec.get("containers") or []),
            "NameTaken",
            f"the pod already has a container named {names.PROXY_CONTAINER}",
            "give that container another name",
        ),
        (
            bool(taken_volumes) and not is_injected(pod),
            "NameTaken",
            f"the pod already has a volume named {', '.join(taken_volumes)}",
            "give that volume another name",
        ),
    )
    return next(((reason, message, remedy) for holds, reason, message, remedy in checks if holds), None)


def needs_windows(spec: Mapping[str, Any]) -> bool:
    """Whether a pod can run on Windows nodes only, as `spec.os`, its node selector or its required node affinity says."""
    system = (spec.get("os") or {}).get("name")
    if system:
        return bool(system == "windows")
    selector = spec.get("nodeSelector") or {}
    if _WINDOWS_BUILD in selector or any(selector.get(label, _LINUX) != _LINUX for label in _SYSTEMS):
        return True
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(_REQUIRED) or {}
    terms = [term for term in affinity.get("nodeSelectorTerms") or [] if term]  # an empty term matches no node
    return bool(terms) and all(any(map(_excludes_linux, term.get("matchExpressions") or ())) for term in terms)


def _excludes_linux(expression: Mapping[str, Any]) -> bool:
    operator, values = expression.get("operator"), expression.get("values") or ()
    if expression.get("key") == _WINDOWS_BUILD:
        return operator in {"Exists", "In"}
    if expression.get("key") not in _SYSTEMS:
        return False
    return (operator == "In" and _LINUX not in values) or (operator == "NotIn" and _LINUX in values)
