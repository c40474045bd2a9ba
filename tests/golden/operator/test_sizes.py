"""What a service's rules and dashboard weigh in the API server: every object is in its memory, its store, and each watch."""

import json
from typing import Any

import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.domain import budgets, objectives, upstream
from llmwarden.manifests.builder import build
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities

LIMIT = 15_000  # bytes, of each
# What the API server adds: UID, version, time, and whose each field is (tests/api/test_monitoring_kinds.py weighs the real thing).
ADDED = {"PrometheusRule": 1_100, "ConfigMap": 700}
URLS = {
    "AzureOpenAI": "https://acme.openai.azure.com",
    "Bedrock": "https://bedrock-runtime.us-east-1.amazonaws.com",
    "OpenAICompatible": "https://llm.example.com",
}
SHARE = {"targetPercent": "99", "window": "28d"}


def typical(backend: str) -> Params:
    """Two budgets, three objectives over one window, all default alerts; a model of one's own has GPUs."""
    spec: dict[str, Any] = {
        "backend": {"type": backend, **({"url": URLS[backend]} if backend in URLS else {})},
        "workload": {"selector": {"matchLabels": {"app": "assistant"}}},
        "budgets": [
            {
                "name": "daily",
                "limit": {"amount": "25.00"},
                "window": {"calendar": "Day"},
                "warnAtPercent": [50, 80],
                "onExceeded": {"action": "Block"},
            },
            {
                "name": "monthly",
                "limit": {"amount": "400.00"},
                "window": {"calendar": "Month"},
                "onExceeded": {"action": "Alert"},
            },
        ],
        "objectives": [
            {"name": "first-token", "latency": {"indicator": "TimeToFirstToken", "threshold": "1s"}, **SHARE},
            {"name": "latency", "latency": {"indicator": "RequestDuration", "threshold": "10s"}, **SHARE},
            {"name": "errors", "errors": {}, **SHARE},
        ],
    }
    if upstream.BACKENDS[backend].engine:  # type: ignore[index]
        spec["workload"]["interception"] = {"port": {"name": "http"}}
        spec["gpu"] = {"exporter": "Auto"}
    metadata = {
        "name": "assistant",
        "namespace": "checkout",
        "uid": "00000000-0000-4000-8000-000000000000",
        "generation": 1,
    }
    service = parse(LLMService, {"metadata": metadata, "spec": spec})
    can = Capabilities(pod_monitors=True, rules=True)
    return Params(service, Settings(), can, objectives.of_service(service), budgets.of_service(service))


def weight(item: dict[str, Any]) -> int:
    """Bytes of JSON as Go writes it."""
    text = json.dumps(item, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return len(text.encode())


@pytest.mark.parametrize("backend", upstream.BACKENDS)
def test_rules_and_dashboard_of_a_typical_service_are_small(backend: str) -> None:
    found = {item["kind"]: item for item in build(typical(backend))}
    for kind, added in ADDED.items():
        assert weight(found[kind]) + added <= LIMIT, kind
