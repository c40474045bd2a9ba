"""What the platform may say of its collector, and what becomes of it: the Collector itself judges in the traces tier."""

import json
from typing import Any

import pytest

from llmwarden.api.collector import Collector
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.errors import InvalidSpecError
from llmwarden.manifests.collector.configuration import configuration
from llmwarden.settings import load

TEMPO = {"name": "tempo", "endpoint": "tempo:4317"}


def service(name: str, **tracing: Any) -> LLMService:
    spec = {"backend": {"type": "OpenAI"}, "workload": {"selector": {}}, "tracing": tracing}
    metadata = {"name": name, "namespace": "shop", "uid": "u"}
    return parse(
        LLMService, {"apiVersion": "llmwarden.io/v1alpha1", "kind": "LLMService", "metadata": metadata, "spec": spec}
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"exporter": []}, "exporter"),  # a misspelt word is not lost
        ({"exporters": [TEMPO, TEMPO]}, "two exporters have the same name"),
        ({"exporters": [{**TEMPO, "headers": [{"name": "a"}]}]}, "set exactly one of value and secret"),
        ({"exporters": [{**TEMPO, "name": "Not A Name"}]}, "exporters.0.name"),
        ({"sampling": {"percent": 101}}, "sampling.percent"),
        ({"resourceAttributes": {"a": '") where true'}}, "resourceAttributes"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_the_start(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpecError, match=said):
        load({"LLMWARDEN_COLLECTOR": json.dumps(wrong)})


def test_what_the_chart_writes_is_read() -> None:
    settings = load({"LLMWARDEN_COLLECTOR": json.dumps({"enabled": True, "podSecurity": {"runAsUser": None}})})
    assert settings.collector == Collector.model_validate({"enabled": True, "podSecurity": {"runAsUser": None}})
    assert load({}).collector.enabled is False


def test_without_a_backend_spans_are_only_counted_and_browsers_not_let_in() -> None:
    made = configuration(Collector(enabled=True), [service("pages", browserOrigins=["https://shop.example.com"])])
    assert set(made["service"]["pipelines"]) == {"traces/in", "metrics/spans"}
    assert set(made["receivers"]) == {"otlp"}


def test_services_that_want_the_same_share_a_policy_and_are_excepted_from_the_default() -> None:
    collector = Collector.model_validate({"enabled": True, "exporters": [TEMPO]})
    services = [
        service("a.b", keep={"slowerThan": "2s"}),
        service("c", keep={"slowerThan": "2000ms"}),
        service("d", keep={"slowerThan": "500ms", "percent": 50}),
        service("e"),
    ]
    made = configuration(collector, services)
    policies = {item["name"]: item for item in made["processors"]["tail_sampling"]["policies"]}
    assert list(policies) == ["errors", "slow", "slow-500", "slow-2000", "dear", "share-50", "share"]
    [condition] = policies["slow"]["ottl_condition"]["span"]
    assert condition.startswith("not IsMatch(")
    assert '"^(shop/a[.]b|shop/c|shop/d)$"' in condition
    assert '"^(shop/a[.]b|shop/c)$"' in policies["slow-2000"]["ottl_condition"]["span"][0]
    # The order in which the API server lists services moves nothing: no pod is replaced for it.
    assert configuration(collector, reversed(services)) == made
