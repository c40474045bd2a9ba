import json
from typing import Any

import pytest

from llmwarden import names
from llmwarden.control.observe.stripping import strip_pod
from llmwarden.injection.pods import PodView, view
from llmwarden.settings import Settings
from tests.unit.status.helpers import service

SETTINGS = Settings()


def raw(*, injected: bool = False, created: str = "2026-11-21T11:00:00Z", **changes: Any) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "metadata": {
            "name": "bot-1",
            "namespace": "shop",
            "uid": "p1",
            "creationTimestamp": created,
            "labels": {"app": "bot"},
            "annotations": {},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "bot-abc", "uid": "rs1", "controller": True}],
        },
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    if injected:
        pod["spec"]["initContainers"] = [{"name": names.PROXY_CONTAINER, "image": "llmwarden:dev"}]
        pod["metadata"]["annotations"][names.ANNOTATION_SERVICES] = "bot,other"
    for path, value in changes.items():
        pod[path] = {**pod[path], **value}
    return pod


def look(pod: dict[str, Any], labels: dict[str, str] | None = None) -> PodView:
    item = service()
    return view(strip_pod(pod), item, [item], labels or {}, SETTINGS)


def proxy(**state: Any) -> dict[str, Any]:
    return {"initContainerStatuses": [{"name": names.PROXY_CONTAINER, **state}], "phase": "Pending"}


def test_a_pod_with_a_running_proxy_is_metered() -> None:
    seen = look(raw(injected=True, status=proxy(state={"running": {}}, started=True)))
    assert (seen.state, seen.reason) == ("Metered", "")
    assert seen.image == "llmwarden:dev"
    assert seen.owner is not None
    assert seen.owner.template == "rs1/"


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "CreateContainerError", "CrashLoopBackOff"])
def test_a_proxy_that_cannot_start_hangs(reason: str) -> None:
    seen = look(raw(injected=True, status=proxy(state={"waiting": {"reason": reason, "message": "why\nnot"}})))
    assert (seen.state, seen.reason) == ("Hanging", reason)
    assert "why not" in seen.message
    assert seen.never_started


def test_a_proxy_that_only_has_not_started_yet_is_starting() -> None:
    assert look(raw(injected=True, status=proxy(state={"running": {}}, started=False))).state == "Starting"
    assert look(raw(injected=True, status={"phase": "Pending"})).state == "Starting"


def test_a_pod_that_has_run_before_never_counts_as_never_started() -> None:
    status = proxy(state={"waiting": {"reason": "CrashLoopBackOff"}})
    status["containerStatuses"] = [{"name": "app", "state": {"running": {}}, "restartCount": 0, "lastState": {}}]
    assert not look(raw(injected=True, status=status)).never_started
    status["containerStatuses"] = [{"name": "app", "state": {"waiting": {}}, "restartCount": 1, "lastState": {}}]
    assert not look(raw(injected=True, status=status)).never_started


def test_a_pod_from_before_the_service_can_be_evicted() -> None:
    seen = look(raw(created="2026-11-21T09:00:00Z"))
    assert (seen.state, seen.reason, seen.evictable) == ("Unmetered", "CreatedBefore", True)
    assert "rollout" in seen.remedy


def test_a_pod_that_the_webhook_missed_is_told_apart() -> None:
    assert look(raw()).reason == "NotInjected"


@pytest.mark.parametrize(
    ("pod", "labels", "reason"),
    [
        (raw(spec={"hostNetwork": True}), {}, "HostNetwork"),
        (raw(), {names.LABEL_NAMESPACE_INJECTION: "disabled"}, "NamespaceDisabled"),
    ],
)
def test_a_pod_that_would_not_be_injected_again_is_not_evicted(
    pod: dict[str, Any], labels: dict[str, str], reason: str
) -> None:
    seen = look(pod, labels)
    assert (seen.reason, seen.evictable) == (reason, False)
    assert seen.remedy


def test_what_was_found_at_injection_is_told() -> None:
    pod = raw(injected=True)
    pod["metadata"]["annotations"] |= {
        names.ANNOTATION_SERVICES: "other",
        names.ANNOTATION_FINDINGS: json.dumps(
            [{"service": "bot", "reason": "PortConflict", "message": "taken", "remedy": "choose", "blocking": True}]
        ),
    }
    seen = look(pod)
    assert (seen.state, seen.reason, seen.remedy) == ("Unmetered", "PortConflict", "choose")


@pytest.mark.parametrize("garbage", ["{", "[1]", '{"a":1}', "null", '[{"service":1}]'])
def test_findings_that_somebody_else_wrote_harm_nobody(garbage: str) -> None:
    pod = raw(injected=True)
    pod["metadata"]["annotations"] |= {names.ANNOTATION_SERVICES: "other", names.ANNOTATION_FINDINGS: garbage}
    assert look(pod).reason == "InjectedEarlier"


def test_stripping_keeps_no_secrets_and_no_bulk() -> None:
    pod = raw()
    pod["spec"]["containers"][0] |= {"env": [{"name": "PASSWORD", "value": "x"}], "command": ["a"] * 100}
    assert "PASSWORD" not in json.dumps(strip_pod(pod))
    assert "command" not in strip_pod(pod)["spec"]["containers"][0]


def test_a_volume_with_our_name_is_why_a_pod_is_left_alone() -> None:
    pod = raw()
    pod["spec"]["volumes"] = [{"name": names.VOLUME_TOKEN, "emptyDir": {}}, {"name": "data", "emptyDir": {}}]
    seen = look(pod)
    assert (seen.state, seen.reason) == ("Unmetered", "NameTaken")
    assert not seen.evictable


def test_what_the_webhook_alone_knew_is_read_from_the_pod() -> None:
    """A quota may have room again by now: why the pod has no proxy is what its annotation says."""
    noticed = {
        "service": "bot",
        "reason": "ResourceQuota",
        "message": "it was full",
        "remedy": "more",
        "blocking": True,
    }
    seen = look(raw(metadata={**raw()["metadata"], "annotations": {names.ANNOTATION_FINDINGS: json.dumps([noticed])}}))
    assert (seen.state, seen.reason, seen.message, seen.evictable) == (
        "Unmetered",
        "ResourceQuota",
        "it was full",
        False,
    )
