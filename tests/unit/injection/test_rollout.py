import datetime as dt
from typing import Any

import pytest

from llmwarden.api.v1alpha1.llmservice import InjectionStatus
from llmwarden.injection.pods import Owner, PodView
from llmwarden.injection.rollout import decide, to_evict, to_unstick
from llmwarden.settings import Settings
from tests.unit.status.helpers import NOW, pod, service

SETTINGS = Settings()
OWNER = Owner("ReplicaSet", "bot-abc", "rs1", "rs1/")


def hanging(name: str = "bot-1", seconds: int = 90, **changes: Any) -> PodView:
    since = NOW - dt.timedelta(seconds=seconds)
    base = {
        "since": since,
        "never_started": True,
        "owner": OWNER,
        "reason": "ErrImagePull",
        "message": "no such image",
        "image": SETTINGS.image,
        "ready": False,
    }
    return pod(name, "Hanging", **{**base, **changes})


def test_injection_stops_where_a_pod_hangs_too_long() -> None:
    state = decide(service(), [pod(), hanging()], SETTINGS, NOW)
    assert (state.state, state.reason, state.since, state.image) == ("Stopped", "ErrImagePull", NOW, SETTINGS.image)


@pytest.mark.parametrize(
    "harmless",
    [
        hanging(seconds=30),
        hanging(never_started=False),
        hanging(terminating=True),
        hanging(image="llmwarden:older"),
        pod(),
    ],
)
def test_injection_goes_on_otherwise(harmless: PodView) -> None:
    assert decide(service(), [harmless], SETTINGS, NOW).state == "Active"


def stopped(since: dt.datetime, image: str = SETTINGS.image, generation: int = 3) -> Any:
    injection = {"state": "Stopped", "reason": "ErrImagePull", "since": since.isoformat(), "image": image}
    return service({"observedGeneration": generation, "injection": injection})


def test_a_stop_lasts_until_it_is_tried_again() -> None:
    assert decide(stopped(NOW - dt.timedelta(seconds=899)), [], SETTINGS, NOW).state == "Stopped"
    assert decide(stopped(NOW - dt.timedelta(seconds=900)), [], SETTINGS, NOW).state == "Active"


def test_a_new_image_or_an_edit_tries_at_once() -> None:
    assert decide(stopped(NOW, image="llmwarden:broken"), [], SETTINGS, NOW).state == "Active"
    assert decide(stopped(NOW, generation=2), [], SETTINGS, NOW).state == "Active"


def test_hanging_pods_with_a_controller_are_made_anew_once_injection_has_stopped() -> None:
    pods = [hanging("a"), hanging("b", owner=None), hanging("c", seconds=10), pod("d")]
    assert to_unstick(pods, InjectionStatus(), SETTINGS, NOW) == ()
    assert [item.name for item in to_unstick(pods, InjectionStatus(state="Stopped"), SETTINGS, NOW)] == ["a"]


def unmetered(name: str, **changes: Any) -> PodView:
    return pod(name, "Unmetered", **{"owner": OWNER, "evictable": True, "reason": "CreatedBefore", **changes})


EVICT = service(workload={"selector": {"matchLabels": {"app": "bot"}}, "rollout": "Evict"})


def chosen(*pods: PodView, tried: dict[str, dt.datetime] | None = None, ready: bool = True) -> str | None:
    found = to_evict(EVICT, pods, InjectionStatus(), tried or {}, webhook_ready=ready)
    return found.name if found else None


def test_one_pod_is_evicted_at_a_time() -> None:
    assert chosen(unmetered("a"), unmetered("b")) == "a"
    assert chosen(unmetered("a"), pod("b", ready=False)) is None
    assert chosen(unmetered("a"), pod("b", terminating=True)) is None


def test_nothing_is_evicted_without_need_or_hope() -> None:
    assert chosen(unmetered("a"), ready=False) is None
    assert chosen(unmetered("a", owner=None)) is None
    assert chosen(unmetered("a", evictable=False)) is None
    assert to_evict(service(), [unmetered("a")], InjectionStatus(), {}, webhook_ready=True) is None
    stopped_now = InjectionStatus(state="Stopped")
    assert to_evict(EVICT, [unmetered("a")], stopped_now, {}, webhook_ready=True) is None


def test_a_template_that_came_back_without_the_proxy_is_left_alone() -> None:
    tried = {OWNER.template: NOW - dt.timedelta(minutes=5)}
    assert chosen(unmetered("old"), tried=tried) == "old"
    came_back = unmetered("new", created=NOW)
    assert chosen(unmetered("old"), came_back, tried=tried) is None
    other = unmetered("other", owner=Owner("ReplicaSet", "bot-def", "rs2", "rs2/"))
    assert chosen(came_back, other, tried=tried) == "other"
