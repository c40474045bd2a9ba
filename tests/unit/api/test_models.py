import datetime as dt
from typing import Any

import pytest

from llmwarden.api.v1alpha1 import LLMService, LLMServiceStatus, ModelPrice, parse
from llmwarden.api.v1alpha1.llmservice import InjectionStatus, UnmeteredPod, WorkloadStatus
from llmwarden.errors import InvalidSpecError

SPEC: dict[str, Any] = {"backend": {"type": "OpenAI"}, "workload": {"selector": {"matchLabels": {"app": "bot"}}}}


def test_what_is_not_said_has_its_default() -> None:
    service = parse(LLMService, {"metadata": {"name": "bot", "namespace": "shop", "managedFields": []}, "spec": SPEC})
    assert service.key == "shop/bot"
    assert service.spec.workload.rollout == "None"
    assert service.spec.tracing.sample_percent == 100
    assert service.spec.tracing.capture_content is False
    assert service.spec.gpu is None
    assert service.status is None


def test_a_wrong_spec_is_a_sentence_with_the_path() -> None:
    wrong = {"metadata": {"name": "bot"}, "spec": {**SPEC, "backend": {"type": "Nonsense"}}}
    with pytest.raises(InvalidSpecError, match=r"^spec\.backend\.type: Input should be 'OpenAI'"):
        parse(LLMService, wrong)
    with pytest.raises(InvalidSpecError, match=r"spec\.prices\[0\]\.from: Field required"):
        parse(ModelPrice, {"metadata": {"name": "p"}, "spec": {"prices": [{}]}})


def test_a_status_of_another_version_never_stops_the_spec_from_being_read() -> None:
    service = parse(LLMService, {"metadata": {"name": "bot"}, "spec": SPEC, "status": {"observedGeneration": "much"}})
    assert service.status is None
    assert service.spec.backend.type == "OpenAI"


def test_a_wrong_spec_beside_a_wrong_status_is_still_refused() -> None:
    with pytest.raises(InvalidSpecError, match="spec"):
        parse(LLMService, {"metadata": {"name": "bot"}, "spec": {}, "status": {"observedGeneration": "much"}})


def test_a_status_is_dumped_as_kubernetes_has_it_and_read_back() -> None:
    status = LLMServiceStatus(
        observed_generation=3,
        as_of=dt.datetime(2026, 11, 21, 10, 0, 0, 5, tzinfo=dt.UTC),
        injection=InjectionStatus(state="Stopped", reason="ImagePullFailed", message="m" * 5000),
        workload=WorkloadStatus(
            selected=30, metered=0, unmetered=tuple(UnmeteredPod(pod=f"p{i}", reason="Old") for i in range(30))
        ),
    )
    dumped = status.dump()
    assert dumped["asOf"] == "2026-11-21T10:00:00Z"
    assert dumped["observedGeneration"] == 3
    assert "usage" not in dumped
    # What the CRD's bounds would refuse is shortened: one long message must not lose a whole status.
    assert len(dumped["injection"]["message"]) == 1024
    assert len(dumped["workload"]["unmetered"]) == 20
    assert LLMServiceStatus.model_validate(dumped).dump() == dumped


def test_values_are_frozen() -> None:
    service = parse(LLMService, {"metadata": {"name": "bot"}, "spec": SPEC})
    with pytest.raises(ValueError, match="frozen"):
        service.spec.workload.rollout = "Evict"  # type: ignore[misc]
    assert service.replace(status=LLMServiceStatus()).status is not None
