"""The CRDs in a real API server: accepted, defaulted, merged, and every wrong spec refused with a sentence."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from llmwarden.api import resources
from llmwarden.api.v1alpha1 import LLMService, LLMServiceStatus, parse
from llmwarden.api.v1alpha1.llmservice import BudgetStatus, LLMServiceSummary
from llmwarden.domain import conditions
from llmwarden.names import API_VERSION
from tests.api.support import SAMPLES, ControlPlane, documents, merged

ROOT_PATH = f"/apis/{API_VERSION}"
BUDGET = {"name": "daily", "limit": {"amount": "25.00"}, "window": {"calendar": "Day"}}
SERVICE: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "LLMService",
    "metadata": {"name": "bot"},
    "spec": {"backend": {"type": "OpenAI"}, "workload": {"selector": {"matchLabels": {"app": "bot"}}}},
}
PRICE: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "ModelPrice",
    "metadata": {"name": "contract"},
    "spec": {
        "provider": "OpenAI",
        "models": ["gpt-4o-mini"],
        "prices": [{"from": "2026-01-01T00:00:00Z", "inputPerMillionTokens": "0.1", "outputPerMillionTokens": "0.4"}],
    },
}
SHARED: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "LLMBudget",
    "metadata": {"name": "team"},
    "spec": {"selector": {"matchLabels": {"team": "a"}}, "limit": {"amount": "1"}, "window": {"calendar": "Month"}},
}
ACCOUNT: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "ProviderAccount",
    "metadata": {"name": "openai-eu"},
    "spec": {"provider": "OpenAI", "adminKey": "openai"},
}
PLURALS = {resource.kind: resource for resource in resources.RESOURCES}


def path(manifest: dict[str, Any], namespace: str = "default") -> str:
    resource = PLURALS[manifest["kind"]]
    within = f"/namespaces/{namespace}" if resource.scope == "Namespaced" else ""
    return f"{ROOT_PATH}{within}/{resource.plural}"


def create(crds: ControlPlane, manifest: dict[str, Any], namespace: str = "default", **params: str) -> dict[str, Any]:
    """Return the API server's answer, an object or a Status."""
    found: dict[str, Any] = crds.http.post(
        path(manifest, namespace), json=manifest, params={"fieldValidation": "Strict", **params}
    ).json()
    return found


def refusal(crds: ControlPlane, manifest: dict[str, Any]) -> str:
    answer = create(crds, manifest, dryRun="All")
    assert answer["kind"] == "Status", "it was accepted"
    return str(answer["message"])


def accepted(crds: ControlPlane, manifest: dict[str, Any]) -> dict[str, Any]:
    answer = create(crds, manifest, dryRun="All")
    assert answer["kind"] == manifest["kind"], answer.get("message")
    return answer


def service(**spec: Any) -> dict[str, Any]:
    return merged(SERVICE, {"spec": spec})


def account(**spec: Any) -> dict[str, Any]:
    return merged(ACCOUNT, {"spec": spec})


def budget(**changes: Any) -> dict[str, Any]:
    return service(budgets=[merged(BUDGET, changes)])


SECRET = {"name": "engine", "key": "token"}


def engine(**spec: Any) -> dict[str, Any]:
    base = service(backend={"type": "VLLM"}, workload={"interception": {"port": {"name": "http"}}})
    return merged(base, {"spec": spec})


def scrape(**changes: Any) -> dict[str, Any]:
    return service(scrape=changes)


def objective(**changes: Any) -> dict[str, Any]:
    whole = {"name": "o", "errors": {}, "targetPercent": "99", "window": "28d"}
    return service(objectives=[merged(whole, changes)])


def price(*entries: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return merged(PRICE, {"spec": {**spec, **({"prices": list(entries)} if entries else {})}})


def entry(**changes: Any) -> dict[str, Any]:
    return merged(PRICE["spec"]["prices"][0], changes)


@pytest.mark.parametrize("resource", resources.RESOURCES, ids=lambda item: item.kind)
def test_the_api_server_takes_the_crd(crds: ControlPlane, resource: resources.Resource) -> None:
    found = crds.http.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{resource.name}").json()
    states = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
    assert states["Established"] == "True"
    assert states["NamesAccepted"] == "True"
    assert states.get("NonStructuralSchema", "False") == "False"


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.yaml")), ids=lambda item: item.stem)
def test_samples_apply_unchanged_and_twice_is_no_change(crds: ControlPlane, sample: Path) -> None:
    for wanted in sorted({item["metadata"].get("namespace") for item in documents(sample)} - {None}):
        crds.http.post("/api/v1/namespaces", json={"metadata": {"name": wanted}})
    first = crds.kubectl("apply", "-f", str(sample))
    assert "Warning" not in first
    again = crds.kubectl("apply", "-f", str(sample))
    assert {line.rpartition(" ")[2] for line in again.splitlines()} == {"unchanged"}
    for item in documents(sample):
        model = PLURALS[item["kind"]].model
        stored = crds.http.get(f"{path(item, item['metadata'].get('namespace', ''))}/{item['metadata']['name']}").json()
        assert parse(model, stored).spec == parse(model, item).spec


def test_what_is_left_out_is_filled_in(crds: ControlPlane) -> None:
    spec = accepted(crds, service(budgets=[BUDGET], gpu={}))["spec"]
    assert spec["workload"]["rollout"] == "None"
    assert spec["tracing"] == {"samplePercent": 100, "captureContent": False, "browserOrigins": []}
    assert spec["gpu"] == {"exporter": "Auto"}
    assert accepted(crds, SHARED)["spec"]["onExceeded"] == {"action": "Alert"}
    # What is filled into a list's item would be a difference for ever to client-side apply and to Argo CD.
    assert spec["budgets"][0] == BUDGET
    # It follows from another field, so the API server leaves it alone.
    assert "interception" not in spec["workload"]
    assert "gpu" not in accepted(crds, SERVICE)["spec"]


def test_defaults_are_those_of_the_models(crds: ControlPlane) -> None:
    manifest = service(budgets=[BUDGET], gpu={})
    assert parse(LLMService, accepted(crds, manifest)).spec == parse(LLMService, manifest).spec


GOOD = {
    "rolling window": budget(window={"calendar": None, "rolling": "24h"}),
    "tokens": budget(limit={"amount": None, "tokens": 5}),
    "smallest amount": budget(limit={"amount": "0.000000000001"}),
    "fallback": budget(onExceeded={"action": "Fallback", "model": "m", "ceiling": {"amount": "25.01"}}),
    "fallback in tokens": budget(
        limit={"amount": None, "tokens": 5}, onExceeded={"action": "Fallback", "model": "m", "ceiling": {"tokens": 6}}
    ),
    "zones": budget(window={"timeZone": "America/Argentina/Buenos_Aires"}),
    "plus in a zone": budget(window={"timeZone": "Etc/GMT+5"}),
    "warnings": budget(warnAtPercent=[1, 100]),
    "service in the cluster": service(backend={"url": "http://vllm.models.svc:8000/prefix"}),
    "gateway": service(backend={"url": "https://gateway.example/openai-v1"}),
    "expressions only": service(
        workload={"selector": {"matchLabels": None, "matchExpressions": [{"key": "a", "operator": "Exists"}]}}
    ),
    "engine by port": service(backend={"type": "VLLM"}, workload={"interception": {"port": {"name": "http"}}}),
    "engine by environment": service(backend={"type": "VLLM"}, workload={"interception": {"type": "Env"}}),
    "compatible by port": service(
        backend={"type": "OpenAICompatible"}, workload={"interception": {"type": "Port", "port": {"name": "http"}}}
    ),
    "half a percent of traces": service(tracing={"samplePercent": 0.5}),
    "traces that are kept": service(tracing={"keep": {"slowerThan": "1500ms", "dearerThan": "0.50", "percent": 100}}),
    "pages": service(
        tracing={"browserOrigins": ["https://shop.example.com", "http://localhost:3000", "https://*.a.b"]}
    ),
    "latency": objective(errors=None, latency={"indicator": "TimeToFirstToken", "threshold": "1500ms"}),
    "availability": objective(errors=None, availability={}),
    "availability of quiet services": objective(errors=None, availability={"quietFor": "24h"}),
    "context": objective(errors=None, contextUse={"thresholdPercent": 100}),
    "an engine's queue and cache": engine(
        objectives=[
            {"name": "q", "queueTime": {"threshold": "500ms"}, "targetPercent": "99", "window": "28d"},
            {"name": "c", "kvCache": {"thresholdPercent": 1}, "targetPercent": "99", "window": "28d"},
        ]
    ),
    "the queue of an engine elsewhere": service(
        scrape={
            "targets": ["gpu1.example.com:8000", "[2001:db8::1]:8000"],
            "scheme": "https",
            "bearerTokenSecretRef": SECRET,
        },
        objectives=[{"name": "q", "queueTime": {"threshold": "500ms"}, "targetPercent": "99", "window": "28d"}],
    ),
    "an engine behind a Service": service(
        scrape={
            "service": {"selector": {"matchLabels": {"app": "vllm"}}, "port": "http"},
            "relabelings": [{"targetLabel": "__tmp_a", "replacement": "b"}, {"action": "drop", "sourceLabels": ["a"]}],
            "metricRelabelings": [{"action": "labelmap", "regex": "a(.*)"}],
            "basicAuth": {"usernameSecretRef": SECRET, "passwordSecretRef": SECRET},
        }
    ),
    "a closed port": engine(
        workload={"interception": {"port": {"name": "http"}, "networkPolicy": {"openPorts": [1, 65535]}}}
    ),
    "a closed port, and nothing else open": engine(
        workload={"interception": {"port": {"name": "http"}, "networkPolicy": {}}}
    ),
    "decimal percent": objective(targetPercent="99.95"),
    "63 characters": merged(SERVICE, {"metadata": {"name": "a" * 63}}),
    "free model": price(entry(inputPerMillionTokens="0", outputPerMillionTokens="0")),
    "price per request": price(entry(perRequest="0.000000000001")),
    "price by length and tier": price(
        entry(
            cacheWrite1hPerMillionTokens="0.2",
            batchDiscountPercent=50,
            variants=[
                {"minInputTokens": 200_001, "inputPerMillionTokens": "0.2"},
                {"tier": "priority", "minInputTokens": 1},
            ],
        )
    ),
    "gpu": price(
        {"from": "2026-01-01T00:00:00Z", "perGPUHour": "2.50"}, provider=None, models=None, gpu={"product": "H100"}
    ),
    "empty selector of a shared budget": merged(SHARED, {"spec": {"selector": {"matchLabels": None}}}),
    "account": ACCOUNT,
    "account of two projects": account(
        projects=["proj_a", "default"],
        baseUrl="https://eu.api.openai.com/v0",
        tolerance={"percent": "0.5", "amount": "0.01"},
        namespaceSelector={},
    ),
}


@pytest.mark.parametrize("manifest", GOOD.values(), ids=GOOD.keys())
def test_a_good_spec_is_taken(crds: ControlPlane, manifest: dict[str, Any]) -> None:
    accepted(crds, manifest)


# Each with the field that the sentence names, and the remedy.
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown backend type": (service(backend={"type": "Nonsense"}), "spec.backend.type", 'supported values: "OpenAI"'),
    "no backend type": (service(backend={"type": None}), "spec.backend.type", "Required value"),
    "negative limit": (budget(limit={"amount": "-5"}), "spec.budgets[0].limit.amount", 'such as "25.00"'),
    "limit in words": (budget(limit={"amount": "lots"}), "spec.budgets[0].limit.amount", 'such as "25.00"'),
    "limit with a unit": (budget(limit={"amount": "$5"}), "spec.budgets[0].limit.amount", 'such as "25.00"'),
    "limit as a float": (budget(limit={"amount": "1e3"}), "spec.budgets[0].limit.amount", 'such as "25.00"'),
    "limit without quotes": (budget(limit={"amount": 25.5}), "spec.budgets[0].limit.amount", "must be of type string"),
    "no limit": (budget(limit={"amount": "0.00"}), "spec.budgets[0].limit.amount", "above zero"),
    "absurd limit": (budget(limit={"amount": "1000000000"}), "spec.budgets[0].limit.amount", "at most 9 digits"),
    "zero tokens": (budget(limit={"amount": None, "tokens": 0}), "spec.budgets[0].limit.tokens", "above zero"),
    "negative tokens": (budget(limit={"amount": None, "tokens": -1}), "spec.budgets[0].limit.tokens", "above zero"),
    "amount and tokens": (budget(limit={"tokens": 5}), "spec.budgets[0].limit", "exactly one of amount"),
    "neither amount nor tokens": (budget(limit={"amount": None}), "spec.budgets[0].limit", "exactly one of amount"),
    "other currency": (budget(limit={"currency": "EUR"}), "spec.budgets[0].limit.currency", '"USD"'),
    "currency of tokens": (
        budget(limit={"amount": None, "tokens": 5, "currency": "USD"}),
        "spec.budgets[0].limit.currency",
        "remove currency from a limit in tokens",
    ),
    "calendar and rolling": (budget(window={"rolling": "24h"}), "spec.budgets[0].window", "exactly one of calendar"),
    "neither": (budget(window={"calendar": None}), "spec.budgets[0].window", "exactly one of calendar"),
    "unknown calendar": (budget(window={"calendar": "Year"}), "spec.budgets[0].window.calendar", '"Month"'),
    "rolling in minutes": (
        budget(window={"calendar": None, "rolling": "90m"}),
        "spec.budgets[0].window.rolling",
        'such as "24h"',
    ),
    "zone of a rolling window": (
        budget(window={"calendar": None, "rolling": "24h", "timeZone": "UTC"}),
        "spec.budgets[0].window.timeZone",
        "remove timeZone from a rolling window",
    ),
    "zone as an offset": (budget(window={"timeZone": "+09:00"}), "spec.budgets[0].window.timeZone", '"Asia/Seoul"'),
    "zone as a path": (budget(window={"timeZone": "../etc"}), "spec.budgets[0].window.timeZone", '"Asia/Seoul"'),
    "warning at zero": (budget(warnAtPercent=[0]), "spec.budgets[0].warnAtPercent[0]", "from 1 to 100"),
    "warning above a hundred": (budget(warnAtPercent=[101]), "spec.budgets[0].warnAtPercent[0]", "from 1 to 100"),
    "unknown action": (budget(onExceeded={"action": "Explode"}), "spec.budgets[0].onExceeded.action", '"Block"'),
    "fallback without a model": (
        budget(onExceeded={"action": "Fallback"}),
        "spec.budgets[0].onExceeded",
        "name the cheaper model",
    ),
    "model without fallback": (
        budget(onExceeded={"action": "Block", "model": "m"}),
        "spec.budgets[0].onExceeded",
        "or set action: Fallback",
    ),
    "ceiling at the limit": (
        budget(onExceeded={"action": "Fallback", "model": "m", "ceiling": {"amount": "25"}}),
        "spec.budgets[0].onExceeded",
        "ceiling.amount must be above limit.amount",
    ),
    "ceiling in another unit": (
        budget(onExceeded={"action": "Fallback", "model": "m", "ceiling": {"tokens": 10}}),
        "spec.budgets[0].onExceeded",
        "in the unit of limit",
    ),
    "ceiling of tokens at the limit": (
        budget(
            limit={"amount": None, "tokens": 5},
            onExceeded={"action": "Fallback", "model": "m", "ceiling": {"tokens": 5}},
        ),
        "spec.budgets[0].onExceeded",
        "ceiling.tokens must be above limit.tokens",
    ),
    "two budgets of one name": (service(budgets=[BUDGET, BUDGET]), "spec.budgets[1]", "same name: give each its own"),
    "budget's name": (budget(name="Daily_1"), "spec.budgets[0].name", "only lower-case letters"),
    "17 budgets": (
        service(budgets=[merged(BUDGET, {"name": f"b{i}"}) for i in range(17)]),
        "spec.budgets",
        "at most 16 items",
    ),
    "url with user information": (
        service(backend={"url": "https://me:secret@api.openai.com"}),
        "spec.backend.url",
        "name it in backend.credentialsSecretRef",
    ),
    "client certificate without TLS": (
        service(backend={"url": "http://gw.shop.svc", "clientCertificateSecretRef": {"name": "client"}}),
        "spec.backend",
        "clientCertificateSecretRef needs TLS",
    ),
    "url of another scheme": (service(backend={"url": "ftp://x"}), "spec.backend.url", "must begin with https://"),
    "url without a scheme": (
        service(backend={"url": "api.openai.com"}),
        "spec.backend.url",
        "must begin with https://",
    ),
    "url with a query": (
        service(backend={"url": "https://x.example?a=b"}),
        "spec.backend.url",
        "remove the text from '?'",
    ),
    "url with a fragment": (
        service(backend={"url": "https://x.example/#a"}),
        "spec.backend.url",
        "remove the text from '?'",
    ),
    "url with the version": (
        service(backend={"url": "https://api.openai.com/v1"}),
        "spec.backend.url",
        "must not end in the API version, which clients add themselves: remove it",
    ),
    "url with the version and a slash": (
        service(backend={"url": "https://x.example/openai/v1beta/"}),
        "spec.backend.url",
        "must not end in the API version",
    ),
    "url with a blank": (
        service(backend={"url": "https://a b"}),
        "spec.backend.url",
        "must be scheme, host and an optional path prefix",
    ),
    "url without a host": (
        service(backend={"url": "https://"}),
        "spec.backend.url",
        "must be scheme, host and an optional path prefix",
    ),
    "compatible without a url": (
        service(backend={"type": "OpenAICompatible"}),
        "spec.backend",
        "backend.url is required with type OpenAICompatible",
    ),
    "secret without a key": (
        service(backend={"credentialsSecretRef": {"name": "openai"}}),
        "spec.backend.credentialsSecretRef.key",
        "Required value",
    ),
    "empty selector": (
        service(workload={"selector": {"matchLabels": None}}),
        "spec.workload.selector",
        "set matchLabels or matchExpressions",
    ),
    "no selector": (service(workload={"selector": None}), "spec.workload.selector", "Required value"),
    "expression without values": (
        service(workload={"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
        "spec.workload.selector.matchExpressions[0]",
        "values is required with operator In or NotIn",
    ),
    "port interception without a port": (
        service(workload={"interception": {"type": "Port"}}),
        "spec.workload",
        "name the engine's container port",
    ),
    "engine without a port": (
        service(backend={"type": "VLLM"}),
        "spec.workload",
        "or set workload.interception.type: Env",
    ),
    "port beside environment": (
        service(workload={"interception": {"type": "Env", "port": {"name": "http"}}}),
        "spec.workload.interception.port",
        "or set type: Port",
    ),
    "port as a number": (
        service(workload={"interception": {"type": "Port", "port": {"name": "8000"}}}),
        "spec.workload.interception.port.name",
        "give the port a name",
    ),
    "objective of nothing": (
        objective(errors=None),
        "spec.objectives[0]",
        "exactly one of latency, errors, availability",
    ),
    "objective of two": (
        objective(spend={"perHour": "1"}),
        "spec.objectives[0]",
        "exactly one of latency, errors, availability",
    ),
    "objective without a target": (
        objective(targetPercent=None),
        "spec.objectives[0]",
        "targetPercent and window are required",
    ),
    "target of spending": (
        service(objectives=[{"name": "o", "spend": {"perHour": "1"}, "targetPercent": "9"}]),
        "spec.objectives[0]",
        "not for spend objectives: remove them",
    ),
    "target of a hundred": (objective(targetPercent="100"), "spec.objectives[0].targetPercent", "below 100"),
    "objective's window": (objective(window="4w"), "spec.objectives[0].window", 'such as "24h" or "28d"'),
    "threshold without a unit": (
        objective(errors=None, latency={"indicator": "RequestDuration", "threshold": "10"}),
        "spec.objectives[0].latency.threshold",
        'such as "500ms"',
    ),
    "threshold with a point": (
        objective(errors=None, latency={"indicator": "RequestDuration", "threshold": "1.5s"}),
        "spec.objectives[0].latency.threshold",
        'write 1.5 seconds as "1500ms"',
    ),
    "two objectives of one name": (
        service(objectives=[{"name": "o", "spend": {"perHour": "1"}}] * 2),
        "spec.objectives[1]",
        "same name: give each its own",
    ),
    "quiet for no time": (
        objective(errors=None, availability={"quietFor": "1m"}),
        "spec.objectives[0].availability.quietFor",
        'such as "5m"',
    ),
    "more than the window": (
        objective(errors=None, contextUse={"thresholdPercent": 101}),
        "spec.objectives[0].contextUse.thresholdPercent",
        "from 1 to 100",
    ),
    "an engine's queue, of its client": (
        objective(errors=None, queueTime={"threshold": "500ms"}),
        "spec.objectives",
        "set them on the LLMService of the engine itself, or set scrape to where its metrics are",
    ),
    "an engine's cache, of its client": (
        objective(errors=None, kvCache={"thresholdPercent": 90}),
        "spec.objectives",
        "need the metrics of an engine",
    ),
    "policy beside environment": (
        service(workload={"interception": {"type": "Env", "networkPolicy": {}}}),
        "spec.workload.interception.networkPolicy",
        "name the container port in port.name, or remove networkPolicy",
    ),
    "no port's number": (
        service(
            workload={"interception": {"type": "Port", "port": {"name": "http"}, "networkPolicy": {"openPorts": [0]}}}
        ),
        "spec.workload.interception.networkPolicy.openPorts[0]",
        "1 to 65535",
    ),
    "target with a scheme": (scrape(targets=["http://x:1"]), "spec.scrape.targets[0]", "HOST:PORT without a scheme"),
    "target without a port": (scrape(targets=["x.example"]), "spec.scrape.targets[0]", "such as gpu1.example.com:8000"),
    "targets and service": (
        scrape(targets=["x:1"], service={"selector": {"matchLabels": {"a": "b"}}, "port": "http"}),
        "spec.scrape",
        "not both",
    ),
    "service of any kind": (scrape(service={"selector": {}, "port": "http"}), "spec.scrape.service.selector", "empty"),
    "token in the clear": (
        scrape(targets=["x:1"], bearerTokenSecretRef={"name": "a", "key": "b"}),
        "spec.scrape.scheme",
        "must not be sent unencrypted: set scheme: https",
    ),
    "password and token": (
        scrape(
            bearerTokenSecretRef={"name": "a", "key": "b"},
            basicAuth={"usernameSecretRef": {"name": "a", "key": "b"}, "passwordSecretRef": {"name": "a", "key": "b"}},
        ),
        "spec.scrape",
        "set basicAuth or bearerTokenSecretRef",
    ),
    "tls over http": (
        scrape(tls={"serverName": "x"}),
        "spec.scrape.tls",
        "tls is only for scheme https: set scheme: https",
    ),
    "another address by relabeling": (
        scrape(relabelings=[{"targetLabel": "__address__", "replacement": "x:1"}]),
        "spec.scrape.relabelings[0].targetLabel",
        "set the address, scheme and path in scrape instead",
    ),
    "another address by a group": (
        scrape(relabelings=[{"targetLabel": "${1}", "regex": "(.*)"}]),
        "spec.scrape.relabelings[0].targetLabel",
        "must be a plain label",
    ),
    "another address by a map of labels": (
        scrape(relabelings=[{"action": "labelmap", "regex": "a(.*)"}]),
        "spec.scrape.relabelings[0].action",
        "name each label",
    ),
    "captured content": (
        service(tracing={"captureContent": True}),
        "spec.tracing.captureContent",
        "does not store prompts and answers: remove captureContent",
    ),
    "more than all traces": (
        service(tracing={"samplePercent": 101}),
        "spec.tracing.samplePercent",
        "from 0 to 100",
    ),
    "a page instead of an origin": (
        service(tracing={"browserOrigins": ["https://shop.example.com/cart"]}),
        "spec.tracing.browserOrigins[0]",
        'without a path, such as "https://shop.example.com"',
    ),
    "every page": (
        service(tracing={"browserOrigins": ["*"]}),
        "spec.tracing.browserOrigins[0]",
        "must be an origin as browsers send it",
    ),
    "traces that cost nothing": (
        service(tracing={"keep": {"dearerThan": "0"}}),
        "spec.tracing.keep.dearerThan",
        "above zero and in quotes",
    ),
    "unknown exporter": (service(gpu={"exporter": "Magic"}), "spec.gpu.exporter", '"DCGM"'),
    "price in an LLMService": (service(prices=[]), "spec.prices", "unknown field"),
    "64 characters": (
        merged(SERVICE, {"metadata": {"name": "a" * 64}}),
        "metadata.name",
        "at most 63 characters, because it becomes a label's value: choose a shorter name",
    ),
    "shared budget without a selector": (
        merged(SHARED, {"spec": {"selector": None}}),
        "spec.selector",
        "Required value",
    ),
    "shared budget with a negative limit": (
        merged(SHARED, {"spec": {"limit": {"amount": "-1"}}}),
        "spec.limit.amount",
        'such as "25.00"',
    ),
    "shared budget's ceiling": (
        merged(SHARED, {"spec": {"onExceeded": {"action": "Fallback", "model": "m", "ceiling": {"amount": "1"}}}}),
        "spec.onExceeded",
        "ceiling.amount must be above limit.amount",
    ),
    "models and gpu": (price(gpu={"product": "H100"}), "spec", "set either gpu, or provider and models"),
    "neither models nor gpu": (
        price(provider=None, models=None),
        "spec",
        "set either gpu, or provider and models",
    ),
    "provider without models": (price(models=None), "spec", "provider and models are only allowed together: set both"),
    "no models": (price(models=[]), "spec.models", "at least 1 items"),
    "model twice": (price(models=["a", "a"]), "spec.models[1]", "Duplicate value"),
    "negative price": (
        price(entry(inputPerMillionTokens="-0.1")),
        "spec.prices[0].inputPerMillionTokens",
        'zero or more, below 100000 and in quotes, such as "0.12"',
    ),
    "absurd price": (
        price(entry(outputPerMillionTokens="100000")),
        "spec.prices[0].outputPerMillionTokens",
        "below 100000",
    ),
    "price that is no picodollars": (
        price(entry(inputPerMillionTokens="0.0000001")),
        "spec.prices[0].inputPerMillionTokens",
        "at most 6 digits after the point",
    ),
    "variant of nothing": (
        price(entry(variants=[{"inputPerMillionTokens": "1"}])),
        "spec.prices[0].variants[0]",
        "needs minInputTokens, tier or both: add one",
    ),
    "variant twice": (
        price(entry(variants=[{"tier": "flex"}, {"tier": "flex", "inputPerMillionTokens": "1"}])),
        "spec.prices[0].variants",
        "merge them into one",
    ),
    "two prices of a batch": (
        price(entry(batchDiscountPercent=50, variants=[{"tier": "batch"}])),
        "spec.prices",
        "not both",
    ),
    "variants of a gpu": (
        price(
            {"from": "2026-01-01T00:00:00Z", "perGPUHour": "1", "variants": [{"tier": "flex"}]},
            provider=None,
            models=None,
            gpu={"product": "H100"},
        ),
        "spec.prices",
        "and no other price",
    ),
    "price of output missing": (price(entry(outputPerMillionTokens=None)), "spec.prices", '("0" if it is free)'),
    "gpu-hours of models": (price(entry(perGPUHour="1")), "spec.prices", "and no perGPUHour"),
    "tokens of a gpu": (price(provider=None, models=None, gpu={"product": "H100"}), "spec.prices", "needs perGPUHour"),
    "no prices": (merged(PRICE, {"spec": {"prices": []}}), "spec.prices", "at least 1 items"),
    "two prices from one day": (price(entry(), entry()), "spec.prices[1]", "Duplicate value"),
    "two prices from one instant": (
        price(entry(), entry(**{"from": "2026-01-01T01:00:00+01:00"})),
        "spec.prices",
        "give each its own from",
    ),
    "price from no time": (price(entry(**{"from": "soon"})), "spec.prices[0].from", "date-time"),
    "account of a provider without a billing API": (account(provider="Ollama"), "spec.provider", '"Anthropic"'),
    "account without a key": (account(adminKey=None), "spec.adminKey", "Required value"),
    "account with the key itself": (account(adminKey="sk-admin/x y"), "spec.adminKey", "should match"),
    "account in plain HTTP": (account(baseUrl="http://api.openai.com"), "spec.baseUrl", "must be an https URL"),
    "account with a password in its URL": (
        account(baseUrl="https://a:b@api.openai.com"),
        "spec.baseUrl",
        "without user name",
    ),
    "account with a query": (account(baseUrl="https://api.openai.com?x=1"), "spec.baseUrl", "query and fragment"),
    "tolerance of all": (account(tolerance={"percent": "100"}), "spec.tolerance.percent", "below 100"),
    "tolerance of nothing": (account(tolerance={"amount": "0"}), "spec.tolerance.amount", "above zero"),
    "one project twice": (account(projects=["a", "a"]), "spec.projects[1]", "Duplicate value"),
}


@pytest.mark.parametrize(("manifest", "field", "remedy"), BAD.values(), ids=BAD.keys())
def test_a_bad_spec_is_refused_with_field_and_remedy(
    crds: ControlPlane, manifest: dict[str, Any], field: str, remedy: str
) -> None:
    message = refusal(crds, manifest)
    assert field in message
    assert remedy in message


def test_two_managers_each_own_a_budget(crds: ControlPlane, namespace: str) -> None:
    def apply(manager: str, manifest: dict[str, Any]) -> dict[str, Any]:
        answer = crds.http.patch(
            f"{path(manifest, namespace)}/bot",
            params={"fieldManager": manager},
            headers={"Content-Type": "application/apply-patch+yaml"},
            content=json.dumps(manifest),
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def names(found: dict[str, Any]) -> list[str]:
        return [item["name"] for item in found["spec"]["budgets"]]

    monthly = merged(BUDGET, {"name": "monthly", "window": {"calendar": "Month"}})
    bare = {key: SERVICE[key] for key in ("apiVersion", "kind", "metadata")}
    assert names(apply("team", service(budgets=[BUDGET]))) == ["daily"]
    assert names(apply("platform", {**bare, "spec": {"budgets": [monthly]}})) == ["daily", "monthly"]
    # Each may take its own away, and only that.
    assert names(apply("team", SERVICE)) == ["monthly"]


def test_spec_and_status_are_written_apart(crds: ControlPlane, namespace: str) -> None:
    created = create(crds, {**SERVICE, "status": {"observedGeneration": 9}}, namespace)
    assert "status" not in created
    own = f"{path(SERVICE, namespace)}/bot"
    merge = {"Content-Type": "application/merge-patch+json"}
    written = crds.http.patch(
        f"{own}/status", headers=merge, json={"status": status().dump(), "spec": {"gpu": {}}}
    ).json()
    assert written["status"] == status().dump()
    assert "gpu" not in written["spec"]
    assert written["metadata"]["generation"] == created["metadata"]["generation"] == 1
    changed = crds.http.patch(own, headers=merge, json={"spec": {"gpu": {}}}).json()
    assert changed["metadata"]["generation"] == 2
    assert changed["status"] == status().dump()
    stored = parse(LLMService, changed)
    assert stored.status == status()


def status() -> LLMServiceStatus:
    now = LLMServiceStatus.model_validate({"asOf": "2026-11-21T10:00:00Z"}).as_of
    assert now is not None
    return LLMServiceStatus(
        observed_generation=1,
        as_of=now,
        summary=LLMServiceSummary(
            pods="2/3",
            ttft_p95="120ms",
            p95="1.2s",
            errors="0.3%",
            cost_per_request="$0.00042",
            spent="$12.30",
            budget="83% daily",
            tokens="1.2M",
            throughput="34 tok/s",
            exhausted="2h",
        ),
        budgets=tuple(
            BudgetStatus(
                scope=scope,
                name="monthly",
                unit="USD",
                limit="25.00",
                spent="20.75",
                remaining="4.25",
                used_percent=83,
                state="Warned",
                action="Block",
            )
            for scope in ("LLMService", "LLMBudget")
        ),
        conditions=conditions.set_condition((), "Ready", "True", "AllInPlace", "", generation=1, now=now),
    )


def test_kubectl_get_shows_the_columns(crds: ControlPlane, namespace: str) -> None:
    create(crds, SERVICE, namespace)
    # A column of a new object is empty, not an error.
    assert crds.kubectl("get", "llm", "-n", namespace).splitlines()[1].split()[:2] == ["bot", "OpenAI"]
    merge = {"Content-Type": "application/merge-patch+json"}
    crds.http.patch(f"{path(SERVICE, namespace)}/bot/status", headers=merge, json={"status": status().dump()})
    header, row = crds.kubectl("get", "llm", "-n", namespace).splitlines()
    assert header.split() == "NAME READY BACKEND PODS TTFT-P95 P95 ERRORS $/REQ SPENT BUDGET AGE".split()  # noqa: SIM905
    shown = row.split()
    assert shown[:-1] == ["bot", "True", "OpenAI", "2/3", "120ms", "1.2s", "0.3%", "$0.00042", "$12.30", "83%", "daily"]
    wide, row = crds.kubectl("get", "llm", "-n", namespace, "-o", "wide").splitlines()
    assert wide.split()[-3:] == ["TOKENS", "THROUGHPUT", "EXHAUSTED"]
    assert row.split()[-4:] == ["1.2M", "34", "tok/s", "2h"]


@pytest.mark.parametrize("name", ["llmb", "cllmb", "mprice", "pacct", "llmservice", "llmwarden"])
def test_short_names_and_the_category(crds: ControlPlane, name: str) -> None:
    found = crds.run_kubectl("get", name, "-A")
    assert found.code == 0, found.err


def test_kubectl_explains_every_field(crds: ControlPlane) -> None:
    # The OpenAPI document follows a CRD by some moments.
    deadline = time.monotonic() + 30
    while True:
        found = crds.run_kubectl("explain", "llmservice.spec.budgets.onExceeded.action")
        if found.code == 0 or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert "Block refuses them" in " ".join(found.out.split()), found.err
