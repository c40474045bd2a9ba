"""How engines' own metrics are scraped: exact manifests for review, and what must hold of them whatever a spec adds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.domain import objectives
from llmwarden.manifests import engine_scraping
from llmwarden.manifests.alerts import rules, vocabulary
from llmwarden.manifests.manifest import Manifest
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from llmwarden.status import selected

HERE = Path(__file__).parent
ALL = Capabilities(pod_monitors=True, service_monitors=True, scrape_configs=True, rules=True)
SETTINGS = Settings(allowed_hosts=("*.gpus.example.com", "10.1.2.3"), monitor_labels={"release": "stack"})
EVERYTHING: dict[str, Any] = {
    "path": "/internal/metrics",
    "scheme": "https",
    "interval": "30s",
    "labels": {"team": "models"},
    "honorLabels": True,
    "relabelings": [{"sourceLabels": ["__address__"], "regex": "([^:]+):.*", "targetLabel": "machine"}],
    "metricRelabelings": [{"action": "drop", "sourceLabels": ["__name__"], "regex": "vllm:.*_created"}],
    "tls": {
        "caSecretRef": {"name": "engine-tls", "key": "ca.crt"},
        "certSecretRef": {"name": "engine-tls", "key": "tls.crt"},
        "keySecretRef": {"name": "engine-tls", "key": "tls.key"},
        "serverName": "engine.internal",
    },
}
TARGETS = ["a.gpus.example.com:8000", "10.1.2.3:8000", "vllm.shared.svc:8000"]
BASIC = {
    "usernameSecretRef": {"name": "engine", "key": "user"},
    "passwordSecretRef": {"name": "engine", "key": "password"},
}
TOKEN = {"name": "engine", "key": "token"}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "targets": ("Env", {"targets": TARGETS, **EVERYTHING, "basicAuth": BASIC}),
    "targets-plain": ("Env", {"targets": ["vllm.shared.svc:8000"]}),
    "service": (
        "Env",
        {
            "service": {"selector": {"matchLabels": {"app": "vllm"}}, "port": "http"},
            **EVERYTHING,
            "bearerTokenSecretRef": TOKEN,
        },
    ),
    "pods": ("Port", {**EVERYTHING, "bearerTokenSecretRef": TOKEN}),
}


def params(way: str, *, capabilities: Capabilities = ALL, kind: str = "VLLM", **changes: Any) -> Params:
    interception, scrape = WAYS[way]
    workload: dict[str, Any] = {"selector": {"matchLabels": {"app": "bot"}}, "interception": {"type": interception}}
    if interception == "Port":
        workload["interception"]["port"] = {"name": "http"}
    service = parse(
        LLMService,
        {
            "metadata": {"name": "bot", "namespace": "shop", "uid": "u", "generation": 1},
            "spec": {
                "backend": {"type": kind, "url": "https://a.gpus.example.com"},
                "workload": workload,
                "scrape": {**scrape, **changes},
                "objectives": [
                    {"name": "queue", "queueTime": {"threshold": "500ms"}, "targetPercent": "99", "window": "7d"}
                ],
            },
        },
    )
    return Params(service, SETTINGS, capabilities, objectives.of_service(service))


def built(way: str, **changes: Any) -> Manifest:
    made = engine_scraping.engine(params(way, **changes))
    assert made is not None
    return made


def endpoint(made: Manifest) -> dict[str, Any]:
    spec = made["spec"]
    found: dict[str, Any] = (spec.get("podMetricsEndpoints") or spec.get("endpoints") or [spec])[0]
    return found


@pytest.mark.parametrize("way", WAYS)
def test_an_engine_is_scraped_by(way: str, golden: Callable[[Path, str], None]) -> None:
    text = yaml.safe_dump(json.loads(json.dumps(built(way))), sort_keys=False, width=160)
    golden(HERE / "expected" / f"scrape-{way}.yaml", text)


@pytest.mark.parametrize("way", WAYS)
def test_whose_the_series_are_is_never_the_specs_to_say(way: str) -> None:
    takes_over = [
        {"targetLabel": "namespace", "replacement": "other"},
        {"targetLabel": "llmservice", "replacement": "x"},
    ]
    for key in ("relabelings", "metricRelabelings"):
        steps = endpoint(built(way, honorLabels=True, **{key: takes_over}))[key]
        last = {step["targetLabel"]: step["replacement"] for step in steps if step.get("targetLabel")}
        assert last == {"namespace": "shop", "llmservice": "bot"}


def test_a_target_that_is_not_allowed_is_neither_scraped_nor_silently_left_out() -> None:
    given = params("targets", targets=["169.254.169.254:80", "kubernetes.example.com:443"])
    assert engine_scraping.engine(given) is None
    found = engine_scraping.refusals(given.service, SETTINGS)
    assert [item.reason for item in found] == ["TargetNotAllowed"] * 2
    assert (
        "169.254.169.254, which is not allowed: the platform team can add it to the chart's allowedHosts"
        in found[0].message
    )
    assert engine_scraping.refusals(params("targets").service, SETTINGS) == ()


def test_what_is_not_installed_is_said() -> None:
    for way, kind in (("targets", "ScrapeConfig"), ("service", "ServiceMonitor")):
        given = params(way, capabilities=Capabilities(pod_monitors=True))
        assert engine_scraping.engine(given) is None
        [problem] = engine_scraping.not_installed(given.service, given.capabilities)
        assert problem.reason == "NotInstalled"
        assert kind in problem.message


def test_an_engine_elsewhere_has_the_same_vocabulary_and_objectives() -> None:
    for way in WAYS:
        made = rules.rules(params(way))
        assert made is not None
        first = made["spec"]["groups"][0]["rules"][0]
        # By its type its series are recorded, and its alerts hold.
        assert first["labels"]["engine"] == "VLLM"
        assert ",LLMKVCacheFull," in first["labels"]["alerts"]
    assert built("targets-plain", kind="NIM")["spec"]["metricsPath"] == "/v1/metrics"
    assert vocabulary.engine_of(params("targets", kind="OpenAICompatible")) is None


@pytest.mark.parametrize(
    ("way", "field"),
    [("targets", "scrapeConfigSelector"), ("service", "serviceMonitorSelector"), ("pods", "podMonitorSelector")],
)
def test_the_selection_proof_knows_each_kind(way: str, field: str) -> None:
    made, own = built(way), SETTINGS.namespace
    applied = {
        ("PodMonitor", own, "llmwarden-proxies"): {"metadata": {"labels": {"team": "models"}}},
        (made["kind"], "shop", "llmwarden-engine-bot"): made,
    }

    def verdict(wanted: dict[str, str]) -> tuple[str, str, str]:
        kinds = ("podMonitor", "serviceMonitor", "scrapeConfig")
        spec: dict[str, Any] = {f"{kind}{what}": {} for kind in kinds for what in ("Selector", "NamespaceSelector")}
        spec[field] = {"matchLabels": wanted}
        prometheus = selected.strip({"metadata": {"name": "main", "namespace": "monitoring"}, "spec": spec})
        around = selected.Around(prometheuses=(prometheus,), applied=applied, namespaces={own: {}, "shop": {}})
        return selected.verdicts(params(way).service, SETTINGS, around)["ScrapeSelected"]

    assert verdict({"team": "models"})[:2] == ("True", "Selected")
    status, reason, text = verdict({"team": "models", "shard": "b"})
    assert (status, reason) == ("False", "NotSelected" if way == "pods" else "EngineNotSelected")
    assert f"its {field} wants the label shard=b" in text
