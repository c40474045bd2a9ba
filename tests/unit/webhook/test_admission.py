import base64
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from llmwarden import names
from llmwarden.injection import limits
from llmwarden.settings import Settings
from llmwarden.webhook.admission import BadReviewError, World, review
from llmwarden.webhook.app import INJECTIONS, MAX_BODY, app
from tests.unit.webhook.services import SERVICE, known


def world(*services: dict[str, Any], ready: str | None = None, labels: dict[str, str] | None = None) -> World:
    return World(ready, known(*services).candidates, lambda _: labels, "CA")


def request(pod: Any, **more: Any) -> bytes:
    body = {"uid": "u-1", "kind": {"version": "v1", "kind": "Pod"}, "namespace": "shop", "object": pod, **more}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": body}).encode()


def pod(**labels: str) -> dict[str, Any]:
    # As the API server sends it: from a template, without a name, without a namespace.
    return {"metadata": {"generateName": "bot-", "labels": labels}, "spec": {"containers": [{"name": "app"}]}}


def test_a_selected_pod_is_patched_by_the_requests_namespace() -> None:
    answer = review(request(pod(app="bot")), world(SERVICE), Settings())
    response = answer.review["response"]
    assert answer.result == "injected"
    assert (response["uid"], response["allowed"], response["patchType"]) == ("u-1", True, "JSONPatch")
    patch = json.loads(base64.b64decode(response["patch"]))
    assert "/spec/initContainers" in [operation["path"] for operation in patch]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "[" * 100_000,
        '{"routes": ' * 50_000,
        '{"routes": 7}',
        '{"routes": [{"service": "bot", "mode": "Env", "listen": {"port": 1e999}, "upstream": ""}]}',
        '{"routes": [{"service": [], "mode": "Env", "listen": {"port": 1}, "upstream": ""}]}',
    ],
)
def test_a_container_that_pretends_to_be_ours_does_not_keep_the_proxy_out(value: str) -> None:
    wanted = pod(app="bot")
    wanted["spec"]["initContainers"] = [
        {"name": names.PROXY_CONTAINER, "image": "x", "env": [{"name": names.PROXY_ENV, "value": value}]}
    ]
    assert review(request(wanted), world(SERVICE), Settings()).result == "injected"


@pytest.mark.parametrize(
    ("body", "seen", "result"),
    [
        (request(pod(app="other")), world(SERVICE), "unselected"),
        (request(pod(app="bot"), namespace="else"), world(SERVICE), "unselected"),
        (request(pod(app="bot"), subResource="status"), world(SERVICE), "unselected"),
        (request(None), world(SERVICE), "unselected"),
        (request({}), world(SERVICE), "unselected"),
        (request(pod(app="bot")), world(SERVICE, ready="still reading"), "unready"),
        (request(pod(app="bot")), world(SERVICE, labels={names.LABEL_NAMESPACE_INJECTION: "disabled"}), "skipped"),
    ],
)
def test_what_is_not_injected_is_admitted_as_it_is(body: bytes, seen: World, result: str) -> None:
    answer = review(body, seen, Settings())
    assert answer.result == result
    assert answer.review["response"]["allowed"] is True
    assert "patch" not in answer.review["response"]
    assert bool(answer.review["response"].get("warnings")) is (result in {"unready", "skipped"})


def test_warnings_fit_into_a_header() -> None:
    long = {
        **SERVICE,
        "spec": {**SERVICE["spec"], "backend": {"type": "OpenAI", "url": "https://" + "x" * 200 + ".example"}},
    }
    warnings = review(request(pod(app="bot")), world(long), Settings()).review["response"]["warnings"]
    assert all(len(warning) <= 256 and "\n" not in warning for warning in warnings)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"1"}}']
)
def test_what_is_no_review_is_the_callers_mistake(body: bytes) -> None:
    with pytest.raises(BadReviewError):
        review(body, world(), Settings())


def counted(result: str) -> float:
    return next(
        sample.value
        for metric in INJECTIONS.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["result"] == result
    )


def test_the_http_surface() -> None:
    client = TestClient(app(lambda: world(SERVICE), Settings()))
    before = counted("injected"), counted("error")
    assert client.post(names.WEBHOOK_PATH, content=request(pod(app="bot"))).json()["response"]["allowed"] is True
    assert client.post(names.WEBHOOK_PATH, content=b"{").status_code == 400
    assert client.post(names.WEBHOOK_PATH, content=b"x" * (MAX_BODY + 1)).status_code == 413
    assert client.get(names.WEBHOOK_PATH).status_code == 405
    assert (counted("injected"), counted("error")) == (before[0] + 1, before[1] + 2)


def test_a_fault_of_ours_is_counted_and_left_to_the_failure_policy() -> None:
    def broken() -> World:
        raise RuntimeError

    before = counted("error")
    answer = TestClient(app(broken, Settings()), raise_server_exceptions=False).post(
        names.WEBHOOK_PATH, content=request(pod(app="bot"))
    )
    assert answer.status_code == 500  # failurePolicy: Ignore admits the pod
    assert counted("error") == before + 1


def test_a_pod_that_a_quota_would_refuse_is_admitted_with_the_reason_on_it() -> None:
    hard = {"limits.memory": "1Gi"}
    item = {"metadata": {"name": "team"}, "spec": {"hard": hard}, "status": {"used": {"limits.memory": "0"}}}
    full = limits.Limits(quotas=(limits.quota(item),))
    given = pod(app="bot")
    given["spec"]["containers"][0]["resources"] = {"limits": {"memory": "1Gi"}}
    answer = review(request(given), replace(world(SERVICE), limits=lambda _namespace: full), Settings())
    assert answer.result == "skipped"
    (operation,) = json.loads(base64.b64decode(answer.review["response"]["patch"]))
    assert operation["path"] == "/metadata/annotations"
    assert "ResourceQuota team" in json.dumps(operation)
    assert "ResourceQuota team" in answer.review["response"]["warnings"][0]


def test_a_pod_that_is_left_alone_is_an_audit_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("llmwarden.audit"), "propagate", True)
    out = {
        **pod(app="bot"),
        "metadata": {**pod(app="bot")["metadata"], "annotations": {names.ANNOTATION_INJECT: "false"}},
    }
    on_host = pod(app="bot")
    on_host["spec"]["hostNetwork"] = True
    allowing = world(SERVICE, labels={names.LABEL_ALLOW_OPT_OUT: "true"})
    with caplog.at_level(logging.INFO, "llmwarden.audit"):
        for given, more in ((out, {}), (on_host, {}), (on_host, {"dryRun": True}), (pod(app="bot"), {})):
            review(request(given, **more), allowing, Settings())
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    assert [(line["kind"], line["namespace"], line["object"]) for line in lines] == [
        ("OptedOut", "shop", "Pod/shop/bot-"),
        ("Unmetered", "shop", "Pod/shop/bot-"),
    ]
    assert "HostNetwork" in lines[1]["text"]
