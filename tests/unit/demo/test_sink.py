"""The demo's pager finds what PagerDuty's Events API v2 would: only then is a page that it took a page."""

from typing import Any

import pytest
import yaml

from demo.steps import MANIFESTS
from demo.workloads.sink import KEY_LENGTH, problems

KEY = "k" * KEY_LENGTH
TRIGGER: dict[str, Any] = {
    "routing_key": KEY,
    "event_action": "trigger",
    "dedup_key": "d",
    "payload": {"summary": "slow", "source": "shop/bot", "severity": "critical"},
    "links": [{"href": "https://runbooks.example.com", "text": "Runbook"}],
}


def payload(**changed: Any) -> dict[str, Any]:
    return {**TRIGGER, "payload": {**TRIGGER["payload"], **changed}}


def test_a_good_event_has_no_problem() -> None:
    assert not problems(TRIGGER)
    assert not problems({"routing_key": KEY, "event_action": "resolve", "dedup_key": "d", "payload": None})


@pytest.mark.parametrize(
    ("event", "word"),
    [
        ({**TRIGGER, "routing_key": "short"}, "routing_key"),
        ({**TRIGGER, "event_action": "page"}, "event_action"),
        ({**TRIGGER, "payload": None}, "payload.summary"),
        (payload(summary=""), "payload.summary"),
        (payload(summary="s" * 1025), "payload.summary"),
        (payload(source=""), "payload.source"),
        (payload(severity="page"), "payload.severity"),
        ({**TRIGGER, "links": [{"href": "", "text": "Runbook"}]}, "links"),
        ({"routing_key": KEY, "event_action": "resolve"}, "dedup_key"),
    ],
)
def test_what_is_wrong_is_said(event: dict[str, Any], word: str) -> None:
    (said,) = [problem for problem in problems(event) if word in problem]
    assert said


def test_the_demos_own_key_would_be_taken() -> None:
    secrets = [
        item for item in yaml.safe_load_all((MANIFESTS / "prerequisites.yaml").read_text()) if item["kind"] == "Secret"
    ]
    (key,) = [item["stringData"]["routing-key"] for item in secrets if item["metadata"]["name"] == "pagerduty"]
    assert not problems({**TRIGGER, "routing_key": key})
