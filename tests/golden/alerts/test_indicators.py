"""Objectives of every kind on a real `promtool test rules`: their burn alert fires, does not, and clears."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.domain import objectives
from llmwarden.manifests.alerts.slo import measured
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.golden.alerts.promtool import Case, check, rules_for

WHOSE = 'namespace="models",llmservice="chat",pod="a"'
OK = f'llmwarden_requests_total{{{WHOSE},http_status_code="200",error_type=""}}'
FAILED = f'llmwarden_requests_total{{{WHOSE},http_status_code="500",error_type="500"}}'
KINDS: dict[str, dict[str, Any]] = {
    "up": {"availability": {}},
    "up-slowly": {"availability": {"quietFor": "30m"}},
    "room": {"contextUse": {"thresholdPercent": 80}},
    "queue": {"queueTime": {"threshold": "500ms"}},
    "cache": {"kvCache": {"thresholdPercent": 90}},
}


def params(name: str, engine: str = "VLLM") -> Params:
    service = parse(
        LLMService,
        {
            "metadata": {"name": "chat", "namespace": "models", "uid": "u", "generation": 1},
            "spec": {
                "backend": {"type": engine},
                "workload": {"selector": {"matchLabels": {"app": "chat"}}, "interception": {"port": {"name": "http"}}},
                "objectives": [{"name": name, **KINDS[name], "targetPercent": "99", "window": "30d"}],
            },
        },
    )
    return Params(service, Settings(), Capabilities(rules=True), objectives.of_service(service))


def rule(name: str, settings: Settings | None = None) -> dict[str, Any]:
    made = rules_for(replace(params(name), settings=settings or Settings()))
    for group in made["spec"]["groups"]:
        # Tickets have windows of days; test_slo.py has one.
        group["rules"] = [item for item in group["rules"] if item.get("labels", {}).get("severity") != "warning"]
    return made


def fired(name: str) -> list[dict[str, str]]:
    return [{"namespace": "models", "llmservice": "chat", "objective": name, "severity": "critical"}]


def histogram(metric: str, bound: str, good: str, every: str) -> dict[str, str]:
    return {
        f'{metric}_bucket{{{WHOSE},le="{bound}"}}': good,
        f'{metric}_bucket{{{WHOSE},le="+Inf"}}': every,
        f"{metric}_count{{{WHOSE}}}": every,
    }


CONTEXT = "llmwarden_context_used_ratio"
CASES: dict[str, list[tuple[str, dict[str, str], dict[str, list[dict[str, str]]]]]] = {
    "up": [
        (
            "traffic that stops is an outage; it ends when calls are answered again",
            {OK: "0+10x120 1200x60 1210+10x120"},
            {"100m": [], "150m": fired("up"), "290m": []},
        ),
        ("so is a service whose every series goes", {OK: "0+10x120 _x120"}, {"110m": [], "150m": fired("up")}),
        (
            "and one that answers nothing but errors",
            {OK: "0+10x120 1200x60", FAILED: "0x120 10+10x60"},
            {"110m": [], "150m": fired("up")},
        ),
        (
            "a service that nobody has called yet is none, nor one that is not there yet",
            {"llmwarden_requests_in_flight{" + WHOSE + "}": "_x30 0x200"},
            {"20m": [], "60m": [], "200m": []},
        ),
        ("an outage of more than a day goes on", {OK: "0+10x60 _x2000"}, {"120m": fired("up"), "1900m": fired("up")}),
        ("some errors are none", {OK: "0+5x200", FAILED: "0+5x200"}, {"60m": [], "190m": []}),
        ("a call now and then is enough", {OK: "0x3 1x3 2x3 3x3 4x3 5x3 6x3 7x3 8x3 9x3 10x3 11x3"}, {"40m": []}),
    ],
    "up-slowly": [
        (
            "a quarter of an hour without calls is no outage for it, an hour is",
            {OK: "0+10x120 1200x15 1210+10x60 1810x60"},
            {"150m": [], "250m": fired("up-slowly")},
        ),
        (
            "calls that all fail are one at once",
            {OK: "0+10x120 1200x60", FAILED: "0x120 10+10x60"},
            {"110m": [], "145m": fired("up-slowly")},
        ),
    ],
    "room": [
        (
            "calls that fill the window",
            histogram(CONTEXT, "0.8", "0+5x90 450+10x120", "0+10x90 900+10x120"),
            {"60m": fired("room"), "130m": []},
        ),
        ("calls that leave room", histogram(CONTEXT, "0.8", "0+10x90", "0+10x90"), {"60m": []}),
    ],
    "queue": [
        (
            "calls that wait",
            histogram("vllm:request_queue_time_seconds", "0.5", "0+5x90 450+10x120", "0+10x90 900+10x120"),
            {"60m": fired("queue"), "130m": []},
        ),
        (
            "under the name that Ray gives",
            histogram("ray_vllm_request_queue_time_seconds", "0.5", "0+5x90", "0+10x90"),
            {"60m": fired("queue")},
        ),
        (
            "calls that do not",
            histogram("vllm:request_queue_time_seconds", "0.5", "0+10x90", "0+10x90"),
            {"60m": []},
        ),
    ],
    "cache": [
        (
            "a cache that is full for a quarter of an hour, and then is not",
            {f"vllm:kv_cache_usage_perc{{{WHOSE}}}": "0.5x60 0.97x20 0.5x80"},
            {"50m": [], "78m": fired("cache"), "130m": []},
        ),
        ("a cache that is well used", {f"vllm:kv_cache_usage_perc{{{WHOSE}}}": "0.89x90"}, {"60m": []}),
        ("no figure is no full cache", {f"vllm:kv_cache_usage_perc{{{WHOSE}}}": "0.5x30 _x60"}, {"60m": []}),
    ],
}


@pytest.mark.parametrize(
    ("kind", "what", "series", "fires"),
    [(kind, *case) for kind, cases in CASES.items() for case in cases],
    ids=[f"{kind}-{number}" for kind, cases in CASES.items() for number, _ in enumerate(cases)],
)
def test_it_fires_and_clears_and_is_silent_otherwise(
    kind: str, what: str, series: dict[str, str], fires: dict[str, list[dict[str, str]]], tmp_path: Path
) -> None:
    assert not check(rule(kind), Case("LLMErrorBudgetBurn", series, fires), tmp_path), what


def test_every_kind_has_its_cases() -> None:
    assert set(CASES) == set(KINDS)


def test_what_the_engine_cannot_tell_makes_no_rule() -> None:
    assert measured(params("queue", "LlamaCpp")) == ()
    assert measured(params("cache", "TGI")) == ()
    assert [item.name for item in measured(params("cache", "NIM"))] == ["cache"]
