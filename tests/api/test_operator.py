"""The operator as a process of its own, with the chart's least rights, on a real API server. Writes are counted in its audit log."""

import json
import re
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llmwarden import names
from tests.api.operating import (
    ALL_OF_CHAT,
    HOOKS,
    INSTALL,
    LLM,
    NAMESPACE,
    USER,
    Operator,
    about,
    children,
    condition,
    make,
    sample,
    settled,
    until,
)
from tests.api.support import ControlPlane, documents
from tools import manifests

pytestmark = pytest.mark.usefixtures("alone")


def test_first_children_and_status_then_nothing_on_resync_and_restart(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator], monitoring: Callable[[], None]
) -> None:
    monitoring()
    operator = start()
    operator.rounds(1)
    mark = crds.audit_mark()
    make(crds, sample("chat", namespace))
    settled(crds, operator, namespace, "chat")
    assert children(crds, namespace) == ALL_OF_CHAT
    first = about(crds.writes(mark, USER), namespace)
    assert len([write for write in first if "/status" not in write]) == 3, first
    assert 1 <= len([write for write in first if "/status" in write]) <= 2, first

    mark = crds.audit_mark()
    operator.rounds(5)
    assert crds.writes(mark, USER) == []

    assert operator.stop() == 0
    mark = crds.audit_mark()
    start().rounds(4)
    assert crds.writes(mark, USER) == []


def test_what_a_hand_edits_or_deletes_is_restored_with_one_write(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator], monitoring: Callable[[], None]
) -> None:
    monitoring()
    operator = start()
    make(crds, sample("chat", namespace))
    settled(crds, operator, namespace, "chat")
    rule = f"/apis/monitoring.coreos.com/v1/namespaces/{namespace}/prometheusrules/llmwarden-alerts-chat"
    dashboard = f"/api/v1/namespaces/{namespace}/configmaps/llmwarden-dashboard-chat"
    merge = {"Content-Type": "application/merge-patch+json"}
    before = crds.http.get(rule).json()["spec"]
    edits: list[tuple[str, Callable[[], httpx.Response]]] = [
        (rule, lambda: crds.http.patch(rule, json={"spec": {"groups": []}}, headers=merge)),
        (
            rule,
            lambda: crds.http.patch(rule, json={"metadata": {"labels": {names.LABEL_MANAGED_BY: None}}}, headers=merge),
        ),
        (dashboard, lambda: crds.http.delete(dashboard)),
    ]
    for path, edit in edits:
        mark = crds.audit_mark()
        edit().raise_for_status()
        until(lambda mark=mark: crds.writes(mark, USER), f"{path} is restored")  # type: ignore[misc]
        operator.rounds(2)
        writes = crds.writes(mark, USER)
        assert len(writes) == 1, writes
        assert path in writes[0]
    assert crds.http.get(rule).json()["spec"] == before
    assert children(crds, namespace) == ALL_OF_CHAT


def test_what_is_owned_goes_with_the_service_also_while_the_operator_is_down(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator]
) -> None:
    operator = start()
    made = make(crds, sample("support-bot", namespace))
    settled(crds, operator, namespace, "support-bot")
    assert children(crds, namespace) == {"llmwarden-dashboard-support-bot"}
    assert "finalizers" not in made["metadata"]
    operator.stop(signal.SIGKILL)
    crds.http.delete(f"{LLM.format(namespace)}/support-bot").raise_for_status()
    assert crds.http.get(f"{LLM.format(namespace)}/support-bot").status_code == 404
    until(lambda: children(crds, namespace) == set(), "the garbage collector takes what was owned")
    # What has no owner is taken away when it returns: this was the last service.
    hooks = f"{HOOKS}/{names.WEBHOOK_CONFIGURATION}"
    start()
    until(lambda: not crds.http.get(hooks).json().get("webhooks"), "the webhook goes with the last service")
    assert crds.http.get(hooks).status_code == 200


def test_the_webhook_configuration_is_as_narrow_as_the_services(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator]
) -> None:
    start()
    make(crds, sample("support-bot", namespace))
    path = f"{HOOKS}/{names.WEBHOOK_CONFIGURATION}"

    def namespaces() -> list[str]:
        hooks = crds.http.get(path).json().get("webhooks")
        if not hooks:
            return []
        [hook] = hooks
        assert re.fullmatch(f"{names.WEBHOOK_PATH}/[0-9a-f]{{32}}", hook["clientConfig"]["service"]["path"])
        assert hook["failurePolicy"] == "Ignore"
        assert hook["clientConfig"]["caBundle"]
        [given] = [item for item in hook["namespaceSelector"]["matchExpressions"] if item["operator"] == "In"]
        values: list[str] = given["values"]
        return values

    until(lambda: namespace in namespaces(), "the namespace is selected")
    crds.http.delete(f"{LLM.format(namespace)}/support-bot").raise_for_status()
    until(lambda: namespace not in namespaces(), "the namespace is no longer selected")


def configuration(name: str, **labels: str) -> dict[str, object]:
    """A webhook configuration without effect."""
    api = "admissionregistration.k8s.io/v1"
    return {"apiVersion": api, "kind": "MutatingWebhookConfiguration", "metadata": {"name": name, "labels": labels}}


@pytest.mark.parametrize("ours", [True, False])
def test_the_configuration_of_an_earlier_version_is_deleted_once_and_nobody_else_s(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator], *, ours: bool
) -> None:
    old = f"{HOOKS}/{names.OLD_WEBHOOK_CONFIGURATION}"
    labels = {names.LABEL_MANAGED_BY: names.MANAGED_BY} if ours else {}
    crds.http.post(HOOKS, json=configuration(names.OLD_WEBHOOK_CONFIGURATION, **labels)).raise_for_status()
    try:
        operator = start()
        make(crds, sample("support-bot", namespace))
        settled(crds, operator, namespace, "support-bot")
        if ours:
            until(lambda: crds.http.get(old).status_code == 404, "it is deleted")
        else:
            assert crds.http.get(old).status_code == 200
        made = crds.http.get(f"{HOOKS}/{names.WEBHOOK_CONFIGURATION}").json()
        assert made["webhooks"]
        # Labels are the chart's as before: no sync has anything to put right.
        chart = next(item for item in documents(INSTALL) if item["kind"] == "MutatingWebhookConfiguration")
        assert made["metadata"]["labels"] == chart["metadata"]["labels"]
        mark = crds.audit_mark()
        crds.kubectl("apply", "--server-side", "-f", "-", given=json.dumps(chart))  # no conflict
        operator.rounds(2)
        assert crds.http.get(f"{HOOKS}/{names.WEBHOOK_CONFIGURATION}").json()["webhooks"] == made["webhooks"]
        assert crds.writes(mark, USER) == []
    finally:
        crds.http.delete(old)


def test_the_operator_cannot_make_a_webhook_configuration(crds: ControlPlane, kubeconfig: Path) -> None:
    del kubeconfig  # its rights are given
    for name in (names.WEBHOOK_CONFIGURATION, "other"):
        crds.kubectl("delete", "mutatingwebhookconfiguration", name, "--ignore-not-found")
        text = json.dumps(configuration(name))
        refused = crds.run_kubectl("create", f"--as={USER}", "-f", "-", given=text)
        assert refused.code != 0
        assert "cannot create resource" in refused.err
    chart = next(item for item in documents(INSTALL) if item["kind"] == "MutatingWebhookConfiguration")
    crds.kubectl("apply", "--server-side", "-f", "-", given=json.dumps(chart))
    given = crds.run_kubectl(
        "apply",
        "--server-side",
        f"--as={USER}",
        "-f",
        "-",
        given=json.dumps(configuration(names.WEBHOOK_CONFIGURATION)),
    )
    assert given.code == 0, given.err


def test_with_the_release_goes_what_the_operator_made_in_its_namespace(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator], monitoring: Callable[[], None]
) -> None:
    monitoring()
    settings = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    monitors = f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/podmonitors"

    def there() -> set[str]:
        items = [item for path in (secrets, monitors) for item in crds.http.get(path).json()["items"]]
        return {item["metadata"]["name"] for item in items}

    operator = start()
    make(crds, sample("chat", namespace))
    settled(crds, operator, namespace, "chat")
    made = there()
    assert {names.SECRET_CA, names.SECRET_WEBHOOK_TLS, names.POD_MONITOR_PROXIES} <= made
    # The release takes over what was made without it.
    owner = crds.http.post(settings, json={"metadata": {"name": names.SETTINGS}}).raise_for_status().json()

    def owned() -> bool:
        items = [item for path in (secrets, monitors) for item in crds.http.get(path).json()["items"]]
        owners = [[one["uid"] for one in item["metadata"].get("ownerReferences", [])] for item in items]
        return all(uids == [owner["metadata"]["uid"]] for uids in owners)

    until(owned, "everything has its owner")
    crds.http.delete(f"{settings}/{names.SETTINGS}").raise_for_status()
    # The garbage collector looks for new kinds, as the monitors' is here, every half minute.
    until(lambda: not there() & made, "it goes with the release", 180)
    operator.rounds(3)
    assert not there() & made  # and does not come back while the operator still runs


def test_without_gpus_the_operator_needs_no_right_to_their_exporters(
    crds: ControlPlane, namespace: str, start: Callable[..., Operator]
) -> None:
    """The rights are taken away: an operator that tried would say that its watches fail."""
    off = {item["metadata"]["name"]: item for item in without_gpus()}
    before = [item for item in documents(INSTALL) if item["kind"] in {"Role", "ClusterRole"}]
    crds.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=listed(list(off.values())))
    try:
        operator = start(LLMWARDEN_GPU_ENABLED="false")
        item = sample("chat", namespace)
        item["spec"]["gpu"] = {"exporter": "Auto"}
        make(crds, item)
        settled(crds, operator, namespace, "chat")
        assert condition(crds, namespace, "chat", "GPUMetricsReady") == ("False", "Disabled")
        assert condition(crds, namespace, "chat", "Observed")[0] == "True"
        assert "forbidden" not in operator.log.read_text().lower()
    finally:
        crds.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=listed(before))


def without_gpus() -> list[dict[str, Any]]:
    """The operator's roles of an installation without GPUs."""
    every = [item for item in yaml.safe_load_all(manifests.render(settings=["gpu.enabled=false"])) if item]
    return [
        item for item in every if item["kind"] in {"Role", "ClusterRole"} and item["metadata"]["name"] == names.OPERATOR
    ]


def listed(items: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def test_the_prometheus_operator_may_come_later(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator], monitoring: Callable[[], None]
) -> None:
    operator = start()
    make(crds, sample("chat", namespace))
    settled(crds, operator, namespace, "chat")
    assert condition(crds, namespace, "chat", "AlertsReady") == ("False", "NotInstalled")
    monitoring()
    until(lambda: children(crds, namespace) == ALL_OF_CHAT, "it catches up", 60)
    until(lambda: condition(crds, namespace, "chat", "AlertsReady") == ("True", "Applied"), "the condition follows")
    assert operator.answers("/livez")


def test_a_label_that_a_prometheus_misses_is_named_until_it_is_there(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator], monitoring: Callable[[], None]
) -> None:
    monitoring()
    start()
    make(crds, sample("chat", namespace))
    nobody = ("Unknown", "NoPrometheus")
    until(lambda: condition(crds, namespace, "chat", "RulesSelected") == nobody, "there is nobody to select", 60)
    path = f"/apis/monitoring.coreos.com/v1/namespaces/{namespace}/prometheuses"
    prometheus = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": {"name": "k8s"},
        "spec": {"podMonitorSelector": {}, "ruleSelector": {"matchLabels": {"release": "kps"}}},
    }
    crds.http.post(path, json=prometheus).raise_for_status()
    refused = ("False", "NotSelected")
    until(lambda: condition(crds, namespace, "chat", "RulesSelected") == refused, "the label is missing")
    status = crds.http.get(f"{LLM.format(namespace)}/chat").json()["status"]
    [said] = [item["message"] for item in status["conditions"] if item["type"] == "RulesSelected"]
    assert said == (
        f"Prometheus {namespace}/k8s does not select PrometheusRule {namespace}/llmwarden-alerts-chat: its ruleSelector wants the "
        "label release=kps: put it into the chart's prometheus.ruleLabels."
    )
    # The proxies' PodMonitor is in our namespace, and this Prometheus looks in its own only.
    assert condition(crds, namespace, "chat", "ScrapeSelected") == refused
    merge = {"Content-Type": "application/merge-patch+json"}
    spec = {"ruleSelector": {"matchLabels": None}, "podMonitorNamespaceSelector": {}}
    crds.http.patch(f"{path}/k8s", json={"spec": spec}, headers=merge).raise_for_status()
    apart = ("False", "SharedNotSelected")
    until(
        lambda: condition(crds, namespace, "chat", "RulesSelected") == apart, "the rules for all services are elsewhere"
    )
    crds.http.patch(f"{path}/k8s", json={"spec": {"ruleNamespaceSelector": {}}}, headers=merge).raise_for_status()
    taken = ("True", "Selected")
    until(lambda: condition(crds, namespace, "chat", "RulesSelected") == taken, "the rules are selected")
    until(lambda: condition(crds, namespace, "chat", "ScrapeSelected") == taken, "the PodMonitors are selected")
    crds.http.delete(f"{path}/k8s").raise_for_status()
    until(lambda: condition(crds, namespace, "chat", "RulesSelected") == nobody, "there is nobody again")


def test_a_spec_that_only_we_can_judge_becomes_a_condition(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator]
) -> None:
    start()
    elsewhere = sample("support-bot", namespace)
    elsewhere["spec"]["backend"]["url"] = "https://keys.example.com"
    make(crds, elsewhere)
    zone = sample("support-bot", namespace)
    zone["metadata"]["name"] = "zone"
    zone["spec"]["budgets"][0]["window"]["timeZone"] = "Mars/Olympus"
    make(crds, zone)
    until(
        lambda: condition(crds, namespace, "support-bot", "Ready") == ("False", "UpstreamNotAllowed"),
        "the host is refused",
    )
    until(lambda: condition(crds, namespace, "zone", "Ready") == ("False", "InvalidBudget"), "the zone is refused")
    assert condition(crds, namespace, "zone", "Instrumented") == ("False", "NoPods")


def test_a_namespace_that_goes_while_reconciling_is_no_trouble(
    crds: ControlPlane, start: Callable[[], Operator]
) -> None:
    operator = start()
    name = f"gone-{uuid.uuid4().hex[:8]}"
    crds.http.post("/api/v1/namespaces", json={"metadata": {"name": name}}).raise_for_status()
    for number in range(10):
        item = sample("support-bot", name)
        item["metadata"]["name"] = f"bot-{number}"
        make(crds, item)
    crds.http.delete(f"/api/v1/namespaces/{name}").raise_for_status()
    until(lambda: crds.http.get(f"/api/v1/namespaces/{name}").status_code == 404, "the namespace is gone")
    operator.rounds(2)
    mark = crds.audit_mark()
    operator.rounds(3)
    assert about(crds.writes(mark, USER), name) == []


def test_killed_in_the_middle_it_converges(crds: ControlPlane, namespace: str, start: Callable[[], Operator]) -> None:
    operator = start()
    for number in range(20):
        item = sample("support-bot", namespace)
        item["metadata"]["name"] = f"bot-{number}"
        make(crds, item)
    until(lambda: children(crds, namespace), "it has begun")
    operator.stop(signal.SIGKILL)
    start()
    until(lambda: len(children(crds, namespace)) == 20, "every service has its dashboard")
    until(
        lambda: all(condition(crds, namespace, f"bot-{number}", "Ready")[0] for number in range(20)),
        "every service has its status",
    )


def hanging_pod(crds: ControlPlane, namespace: str) -> str:
    """Make a pod as the webhook makes them, whose proxy's image cannot be pulled. Its controller is one that does nothing by itself:
    a real one would count its pods and delete this one.
    """
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    owner = crds.http.post(maps, json={"metadata": {"name": "controller"}}).raise_for_status().json()
    pod = {
        "metadata": {
            "name": "bot-1",
            "labels": {"app": "support-bot", names.LABEL_PROXY: "true"},
            "annotations": {names.ANNOTATION_SERVICES: "support-bot"},
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "name": "controller",
                    "uid": owner["metadata"]["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": "app:1"}],
            "initContainers": [{"name": names.PROXY_CONTAINER, "image": "llmwarden:dev", "restartPolicy": "Always"}],
        },
    }
    path = f"/api/v1/namespaces/{namespace}/pods"
    crds.http.post(path, json=pod).raise_for_status()
    waiting = {
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
        "image": "",
        "imageID": "",
    }
    status = {
        "phase": "Pending",
        "initContainerStatuses": [
            {"name": names.PROXY_CONTAINER, "ready": False, "started": False, "restartCount": 0, **waiting}
        ],
    }
    merge = {"Content-Type": "application/merge-patch+json"}
    crds.http.patch(f"{path}/bot-1/status", json={"status": status}, headers=merge).raise_for_status()
    return f"{path}/bot-1"


def test_injection_stops_itself_where_the_proxy_hangs_and_the_pod_is_made_anew(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator]
) -> None:
    start()
    make(crds, sample("support-bot", namespace))
    pod = hanging_pod(crds, namespace)
    until(
        lambda: condition(crds, namespace, "support-bot", "Instrumented") == ("False", "InjectionStopped"),
        "injection has stopped",
    )
    injection = crds.http.get(f"{LLM.format(namespace)}/support-bot").json()["status"]["injection"]
    assert (injection["state"], injection["reason"]) == ("Stopped", "ImagePullBackOff")
    until(lambda: crds.http.get(pod).status_code == 404, "the pod is evicted")
    assert any(
        event["reason"] == "InjectionStopped"
        for event in crds.http.get(f"/api/v1/namespaces/{namespace}/events").json()["items"]
    )


def test_a_provider_account_has_a_status_and_brings_the_platforms_alerts(
    crds: ControlPlane, start: Callable[[], Operator], monitoring: Callable[[], None]
) -> None:
    """With the chart's rights; there is no ledger here, which is what the status says, and no figure is made up."""
    monitoring()
    accounts = "/apis/llmwarden.io/v1alpha1/provideraccounts"
    rule = f"/apis/monitoring.coreos.com/v1/namespaces/{names.DEFAULT_NAMESPACE}/prometheusrules/{names.RULES_PLATFORM}"
    operator = start()
    operator.rounds(2)

    def alerts() -> set[str]:
        spec = crds.http.get(rule).json().get("spec") or {"groups": []}
        return {item["alert"] for group in spec["groups"] for item in group["rules"]}

    billed = {"LLMCostDrift", "LLMProviderUnread"}
    until(lambda: "LLMWatchFailing" in alerts(), "the ledger's and the watches' alerts are there")
    always = alerts()
    assert not always & billed, "without an account nobody's bills are watched"
    account = {
        "apiVersion": names.API_VERSION,
        "kind": "ProviderAccount",
        "metadata": {"name": "openai"},
        "spec": {"provider": "OpenAI", "adminKey": "openai"},
    }
    assert crds.http.post(accounts, json=account).status_code == 201
    try:

        def ready() -> str:
            status = crds.http.get(f"{accounts}/openai").json().get("status") or {}
            found = {item["type"]: item for item in status.get("conditions") or []}
            assert not status.get("days")
            assert "CostDrift" not in found
            return str(found.get("Ready", {}).get("status", ""))

        assert until(ready, "the account has a status") == "Unknown"
        until(lambda: alerts() == always | billed, "the platform's alerts are there")
        operator.rounds(2)
        mark = crds.audit_mark()
        operator.rounds(3)
        assert crds.writes(mark, USER) == []
    finally:
        crds.http.delete(f"{accounts}/openai")
    until(lambda: alerts() == always, "they go with the last account")
