"""The sidecar's contract: what injection writes is what the proxy reads, of this version and of those before."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMBudget, LLMService, parse
from llmwarden.contracts import sidecar
from llmwarden.domain.budgets import Budget, of_namespace
from llmwarden.injection.sidecar import inject
from llmwarden.proxy.settings import load
from llmwarden.settings import Settings
from tests.golden.contracts import promise

INJECTED = sorted((promise.HERE.parent / "injection").glob("*.expected.yaml"))
PLATFORM = Settings(image="llmwarden:test", otlp_endpoint="http://collector.observability.svc:4318")
WRITTEN = sidecar.Settings(
    names.CONTRACT,
    (
        sidecar.Route(
            "bot",
            "Env",
            "OpenAI",
            sidecar.Listen("127.0.0.1", 15100),
            "https://api.openai.com",
            credential_file="/var/run/llmwarden/credentials/bot/key",
            client_certificate_file="/var/run/llmwarden/credentials/bot/tls.crt",
            client_key_file="/var/run/llmwarden/credentials/bot/tls.key",
            thresholds_seconds=sidecar.Thresholds((10.0,), (0.5, 1.0), (0.05,)),
            context_thresholds=(0.8,),
            budgets=(
                sidecar.Budget("LLMBudget/shop/support", "Deny"),
                sidecar.Budget("LLMService/shop/bot/day", "Deny"),
            ),
        ),
        sidecar.Route("chat", "Port", "VLLM", sidecar.Listen("", 15200), "http://127.0.0.1:8000"),
    ),
    sidecar.Ledger("https://llmwarden-ledger.llmwarden-system.svc:8443", "/var/run/llmwarden/token/token", "a $CA"),
    admin_port=names.ADMIN_PORT,
    journal_dir="/var/lib/llmwarden",
    otlp_endpoint="http://collector.observability.svc:4318",
    ca_file="/var/run/llmwarden/ca/ca.pem",
    limits=sidecar.Limits(unbounded_input_tokens=131_072, unbounded_output_tokens=0),
)


def service(
    name: str,
    backend: dict[str, Any],
    objectives: tuple[dict[str, Any], ...] = (),
    budgets: tuple[dict[str, Any], ...] = (),
    **workload: Any,
) -> LLMService:
    spec = {
        "backend": backend,
        "workload": {"selector": {"matchLabels": {"app": "shop"}}, **workload},
        "objectives": list(objectives),
        "budgets": list(budgets),
    }
    return parse(LLMService, {"metadata": {"name": name, "namespace": "shop"}, "spec": spec})


def latency(indicator: str, threshold: str) -> dict[str, Any]:
    return {
        "name": f"{indicator.lower()}-{threshold.replace('.', '-')}",
        "latency": {"indicator": indicator, "threshold": threshold, "targetPercent": 99},
    }


def hard(name: str | None = None) -> dict[str, Any]:
    """A budget that blocks, with and without the ledger."""
    policy = {
        "limit": {"amount": "25.00"},
        "window": {"calendar": "Day"},
        "onExceeded": {"action": "Block"},
        "onLedgerLoss": "Deny",
    }
    return policy if name is None else {"name": name, **policy}


def injected() -> str:
    """The variable's value in a pod that has everything, as the container gets it."""
    pod = {
        "metadata": {"name": "shop-1", "namespace": "shop", "labels": {"app": "shop"}},
        "spec": {
            "containers": [
                {
                    "name": "app",
                    "image": "shop:1",
                    "ports": [{"name": "http", "containerPort": 8000}],
                    "env": [{"name": "SSL_CERT_FILE", "value": "/etc/company/ca.pem"}],
                    "volumeMounts": [{"name": "company", "mountPath": "/etc/company"}],
                }
            ],
            "volumes": [{"name": "company", "configMap": {"name": "company-ca"}}],
        },
    }
    bot = service(
        "bot",
        {
            "type": "OpenAI",
            "credentialsSecretRef": {"name": "openai", "key": "key"},
            "clientCertificateSecretRef": {"name": "shop-client"},
        },
        (
            latency("RequestDuration", "10s"),
            latency("TimeToFirstToken", "1s"),
            latency("TimeToFirstToken", "500ms"),
            latency("TimePerOutputToken", "50ms"),
            {"name": "context", "contextUse": {"thresholdPercent": 80, "targetPercent": 99}},
        ),
        (hard("day"),),
    )
    settings = replace(PLATFORM, unbounded_output_tokens=0)
    chat = service("chat", {"type": "VLLM"}, interception={"type": "Port", "port": {"name": "http"}})
    support = parse(
        LLMBudget,
        {"metadata": {"name": "support", "namespace": "shop"}, "spec": {**hard(), "selector": {}}},
    )

    def shared(of: LLMService) -> tuple[Budget, ...]:
        return (of_namespace(support),) if of is bot else ()

    # Beside a key no authority of the application's is trusted, so that part comes from a pod without one.
    trusting = service("bot", {"type": "OpenAI"})
    written = contract_of(inject(pod, [bot, chat], settings, "a $CA", shared=shared).pod)
    written["caFile"] = contract_of(inject(pod, [trusting], settings, "a $CA").pod)["caFile"]
    return json.dumps(written, separators=(",", ":"), sort_keys=True)


def contract_of(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = (item for item in pod["spec"]["initContainers"] if item["name"] == names.PROXY_CONTAINER)
    value = {entry["name"]: entry.get("value", "") for entry in container["env"]}[names.PROXY_ENV]
    written: dict[str, Any] = json.loads(str(value).replace("$$", "$"))  # as the kubelet does
    return written


def test_the_proxy_reads_what_injection_writes() -> None:
    settings, _ = load({names.PROXY_ENV: injected()})
    assert settings == WRITTEN


def test_every_version_is_written_as_it_was(golden: Callable[[Path, str], None]) -> None:
    promise.check(golden, "sidecar", injected())


@pytest.mark.parametrize("path", promise.versions("sidecar"), ids=lambda path: path.parent.name)
def test_every_version_is_read(path: Path) -> None:
    settings, _ = load({names.PROXY_ENV: path.read_text()})
    promise.read(path, settings, WRITTEN, sidecar.document(settings))


@pytest.mark.parametrize("path", INJECTED, ids=lambda path: path.name.removesuffix(".expected.yaml"))
def test_whatever_was_injected_is_read_and_written_alike(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        for container in document.get("spec", {}).get("initContainers", []):
            for entry in container.get("env", []):
                if entry["name"] == names.PROXY_ENV:
                    text = entry["value"].replace("$$", "$")
                    settings, _ = load({names.PROXY_ENV: text})
                    written = sidecar.document(settings)
                    assert json.dumps(written, ensure_ascii=False, separators=(",", ":"), sort_keys=True) == text


def test_what_may_be_absent_means_what_its_absence_always_meant() -> None:
    route = {"service": "chat", "mode": "Port", "backend": "VLLM", "listen": {"host": "", "port": 15200}}
    text = json.dumps(
        {"contract": 1, "routes": [{**route, "upstream": "http://127.0.0.1:8000", "new": [1]}], "new": {}}
    )
    settings, _ = load({names.PROXY_ENV: text})
    assert settings == sidecar.Settings(1, (WRITTEN.routes[1],))
    assert (settings.ledger, settings.admin_port, settings.journal_dir) == (None, 15099, "/var/lib/llmwarden")
    assert settings.limits == sidecar.Limits()


def test_every_limit_is_written_under_its_name_and_read() -> None:
    default = sidecar.Limits()
    changed = sidecar.Limits(*(getattr(default, field) + 1 for field in default.__struct_fields__))
    settings = msgspec.structs.replace(WRITTEN, limits=changed)
    document = sidecar.document(settings)
    assert document["limits"].keys() == {field.encode_name for field in msgspec.structs.fields(sidecar.Limits)}
    assert load({names.PROXY_ENV: json.dumps(document)})[0] == settings
