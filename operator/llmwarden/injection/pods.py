"""One pod of one service: metered or not, and if not, why and what helps. Pure."""

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.injection import exposure
from llmwarden.injection.selection import Finding
from llmwarden.injection.sidecar import REFUSING, Injection, decide, is_injected
from llmwarden.settings import Settings

# Why a container waits when it will not start by waiting alone.
HANGING: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
        "CreateContainerError",
        "CreateContainerConfigError",
        "RunContainerError",
        "PostStartHookError",
        "CrashLoopBackOff",
    }
)
State = Literal["Metered", "Starting", "Hanging", "Unmetered"]


@dataclass(frozen=True, slots=True)
class Owner:
    """A pod's controller. `template` tells pod templates apart: a ReplicaSet is one, others name a revision."""

    kind: str
    name: str
    uid: str
    template: str


@dataclass(frozen=True, slots=True)
class PodView:
    """A selected pod. `reason`, `message` and `remedy` say why it is not metered.

    Hanging: its proxy does not start, and so the application has never started. `since`: since when it could have.
    `evictable`: it would be injected if it were made anew. `notes`: what else was found at injection. `exposed`: ways by which its
    containers could read the service's key now.
    """

    name: str
    uid: str
    state: State
    created: dt.datetime
    since: dt.datetime
    ready: bool = False
    terminating: bool = False
    owner: Owner | None = None
    reason: str = ""
    message: str = ""
    remedy: str = ""
    image: str = ""
    evictable: bool = False
    never_started: bool = False
    notes: tuple[Finding, ...] = ()
    exposed: tuple[Finding, ...] = ()


def view(
    pod: Mapping[str, Any],
    service: LLMService,
    rivals: Iterable[LLMService],
    namespace_labels: Mapping[str, str],
    settings: Settings,
) -> PodView:
    """Look at a pod that `service` selects; `rivals` are all services of the namespace, this one included."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    created = parse_time(metadata["creationTimestamp"])
    findings = tuple(finding for finding in _findings(annotations) if finding.service == service.metadata.name)
    served = (annotations.get(names.ANNOTATION_SERVICES) or "").split(",")
    proxy = _proxy_status(status)
    base = PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        state="Unmetered",
        created=created,
        since=_scheduled(status) or created,
        ready=_condition(status, "Ready") == "True",
        terminating="deletionTimestamp" in metadata,
        owner=_owner(metadata),
        image=_image(pod) or settings.image,
        never_started=_never_started(status),
        notes=tuple(finding for finding in findings if not finding.blocking),
        exposed=exposure.findings(service, exposure.kept(pod)),
    )
    if is_injected(pod) and service.metadata.name in served:
        return _injected(base, proxy)
    if is_injected(pod):
        blocking = next((finding for finding in findings if finding.blocking), None)
        if blocking is None:
            return _with(
                base,
                "InjectedEarlier",
                "its proxy was injected before this LLMService existed",
                "restart the pod",
                evictable=True,
            )
        return _with(base, blocking.reason, blocking.message, blocking.remedy)
    today = decide(
        dict(pod), rivals, settings, namespace=metadata["namespace"], namespace_labels=namespace_labels, ca_pem=""
    )
    return _uninjected(base, service, today, findings)


def _injected(base: PodView, proxy: Mapping[str, Any]) -> PodView:
    state = proxy.get("state") or {}
    if "running" in state and proxy.get("started"):
        return replace(base, state="Metered")
    waiting, ended = (
        state.get("waiting") or {},
        state.get("terminated") or (proxy.get("lastState") or {}).get("terminated"),
    )
    if waiting.get("reason") in HANGING:
        why = waiting.get("message") or (ended or {}).get("message") or ""
        text = f"the proxy does not start: {waiting['reason']}" + (f": {_one_line(why)}" if why else "")
        return replace(base, state="Hanging", reason=waiting["reason"], message=text)
    if ended:
        text = f"the proxy ended with exit status {ended.get('exitCode')}" + (
            f": {_one_line(ended['message'])}" if ended.get("message") else ""
        )
        return replace(base, state="Hanging", reason="ProxyEnded", message=text)
    return replace(base, state="Starting", reason="Starting", message="the proxy is starting")


def _uninjected(base: PodView, service: LLMService, decision: Injection, findings: Iterable[Finding]) -> PodView:
    """Say why a pod has no proxy, by what injection would decide today, or by what only the webhook knew (`findings`)."""
    name = service.metadata.name
    if name not in decision.services:
        finding = next((item for item in decision.findings if item.service == name and item.blocking), None)
        if finding is not None:
            return _with(base, finding.reason, finding.message, finding.remedy)
    then = next((item for item in findings if item.blocking and item.reason in REFUSING), None)
    if then is not None:
        return _with(base, then.reason, then.message, then.remedy)
    since = service.metadata.creation_timestamp
    if since is not None and base.created < since:
        return _with(
            base, "CreatedBefore", "the pod is older than the LLMService", _remedy(service, base), evictable=True
        )
    text = "the pod is selected but was created without the proxy: the webhook did not answer in time"
    return _with(base, "NotInjected", text, _remedy(service, base), evictable=True)


def _remedy(service: LLMService, base: PodView) -> str:
    if base.owner is None:
        return "delete the pod and create it again: it has no controller that does so"
    if service.spec.workload.rollout == "Evict":
        return "it will be evicted as soon as the webhook is healthy and disruption budgets allow it"
    return f"restart it (kubectl rollout restart of what owns {base.owner.kind} {base.owner.name}), or set workload.rollout: Evict"


def _with(base: PodView, reason: str, message: str, remedy: str, *, evictable: bool = False) -> PodView:
    return replace(base, reason=reason, message=message, remedy=remedy, evictable=evictable)


def _findings(annotations: Mapping[str, str]) -> list[Finding]:
    """Read what the webhook noticed. The annotation is the pod's: anyone may have written anything there."""
    try:
        raw = json.loads(annotations.get(names.ANNOTATION_FINDINGS) or "[]")
        return [
            Finding(
                str(item["service"]),
                str(item["reason"])[:64],
                str(item["message"]),
                str(item.get("remedy", "")),
                bool(item.get("blocking")),
            )
            for item in raw
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


def _proxy_status(status: Mapping[str, Any]) -> Mapping[str, Any]:
    status_of_proxy: Mapping[str, Any] = next(
        (item for item in status.get("initContainerStatuses") or [] if item.get("name") == names.PROXY_CONTAINER), {}
    )
    return status_of_proxy


def _image(pod: Mapping[str, Any]) -> str:
    init = (pod.get("spec") or {}).get("initContainers") or []
    return next((str(item.get("image", "")) for item in init if item.get("name") == names.PROXY_CONTAINER), "")


def _never_started(status: Mapping[str, Any]) -> bool:
    """Whether no container of the application's has ever run."""
    ours = names.PROXY_CONTAINER
    every = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    return all(
        "waiting" in (item.get("state") or {"waiting": {}})
        and not item.get("restartCount")
        and not item.get("lastState")
        for item in every
        if item.get("name") != ours
    )


def _scheduled(status: Mapping[str, Any]) -> dt.datetime | None:
    """Since when the pod has a node: before that no container can start, and that is not the proxy's fault."""
    for item in status.get("conditions") or []:
        if item.get("type") == "PodScheduled" and item.get("status") == "True" and item.get("lastTransitionTime"):
            return parse_time(item["lastTransitionTime"])
    return None


def _condition(status: Mapping[str, Any], kind: str) -> str:
    return next((str(item["status"]) for item in status.get("conditions") or [] if item.get("type") == kind), "Unknown")


def _owner(metadata: Mapping[str, Any]) -> Owner | None:
    for reference in metadata.get("ownerReferences") or []:
        if reference.get("controller"):
            labels = metadata.get("labels") or {}
            revision = labels.get("controller-revision-hash", "")
            return Owner(reference["kind"], reference["name"], reference["uid"], f"{reference['uid']}/{revision}")
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def parse_time(text: str) -> dt.datetime:
    """Read a Kubernetes time (RFC 3339, UTC)."""
    return dt.datetime.fromisoformat(text)
