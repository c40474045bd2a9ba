"""The two decisions that move pods: when injection stops itself, and whom `rollout: Evict` evicts next. Pure."""

import datetime as dt
from collections.abc import Iterable, Mapping

from llmwarden.api.v1alpha1 import LLMService
from llmwarden.api.v1alpha1.llmservice import InjectionStatus
from llmwarden.injection.pods import PodView
from llmwarden.settings import Settings


def decide(service: LLMService, pods: Iterable[PodView], settings: Settings, now: dt.datetime) -> InjectionStatus:
    """Say whether new pods get the proxy.

    It stops where injected pods hang, because applications go first; it is tried again after a while, and at once when the proxy's
    image or the spec changes.
    """
    old = service.status.injection if service.status else None
    if old is not None and old.state == "Stopped" and not _due(old, service, settings, now):
        return old
    hanging = [pod for pod in pods if is_stuck(pod, settings, now) and pod.image == settings.image]
    if not hanging:
        return InjectionStatus(state="Active")
    pod = min(hanging, key=lambda item: (item.since, item.name))
    seconds = round(settings.injection_stuck_seconds)
    text = (
        f"Pod {pod.name} has not started within {seconds} s because of its proxy: {pod.message}. New pods start without the proxy, "
        f"unmeasured; injection is tried again every {round(settings.injection_retry_seconds / 60)} minutes, and when the image "
        f"({settings.image}) or this spec changes."
    )
    return InjectionStatus(
        state="Stopped", reason=pod.reason or "NotStarted", message=text, since=now, image=settings.image
    )


def is_stuck(pod: PodView, settings: Settings, now: dt.datetime) -> bool:
    """Whether a pod's application has waited too long for its proxy. One that has ever run is not ours to judge."""
    return (
        pod.state in {"Hanging", "Starting"}
        and pod.never_started
        and not pod.terminating
        and (now - pod.since).total_seconds() >= settings.injection_stuck_seconds
    )


def to_unstick(
    pods: Iterable[PodView], injection: InjectionStatus, settings: Settings, now: dt.datetime
) -> tuple[PodView, ...]:
    """Say which hanging pods are to be made anew: those with a controller, once new ones will not hang for the same reason."""
    return tuple(
        pod
        for pod in pods
        if is_stuck(pod, settings, now)
        and pod.owner is not None
        and (injection.state == "Stopped" or pod.image != settings.image)
    )


def to_evict(
    service: LLMService,
    pods: Iterable[PodView],
    injection: InjectionStatus,
    tried: Mapping[str, dt.datetime],
    *,
    webhook_ready: bool,
) -> PodView | None:
    """Say which unmetered pod `rollout: Evict` evicts now; None where it is not wanted, or is not the time.

    One at a time: while any pod of the service is not ready or on its way out, none. `tried` says when a pod template was first
    tried: a pod made after that came back without the proxy, and its template is left alone.
    """
    if service.spec.workload.rollout != "Evict" or injection.state == "Stopped" or not webhook_ready:
        return None
    every = list(pods)
    if any(pod.terminating or not pod.ready for pod in every):
        return None
    failed = {
        pod.owner.template
        for pod in every
        if pod.owner is not None
        and pod.state == "Unmetered"
        and pod.owner.template in tried
        and pod.created >= tried[pod.owner.template]
    }
    candidates = [pod for pod in every if pod.evictable and pod.owner is not None and pod.owner.template not in failed]
    return min(candidates, key=lambda pod: (pod.created, pod.name), default=None)


def next_look(
    pods: Iterable[PodView], injection: InjectionStatus, settings: Settings, now: dt.datetime
) -> float | None:
    """Return after how many seconds a pod may have waited too long, or a stopped injection is tried again; None where neither can come."""
    waits = [
        settings.injection_stuck_seconds - (now - pod.since).total_seconds()
        for pod in pods
        if pod.state in {"Hanging", "Starting"} and pod.never_started and not pod.terminating
    ]
    if injection.state == "Stopped" and injection.since is not None:
        waits.append(settings.injection_retry_seconds - (now - injection.since).total_seconds())
    return min((max(wait, 1.0) for wait in waits), default=None)


def _due(old: InjectionStatus, service: LLMService, settings: Settings, now: dt.datetime) -> bool:
    changed = service.status is None or service.status.observed_generation != service.metadata.generation
    expired = old.since is None or (now - old.since).total_seconds() >= settings.injection_retry_seconds
    return changed or expired or old.image != settings.image
