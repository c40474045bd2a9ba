"""What the operator says and does about signals, on a real API server: the closed port, Prometheus' memory, objectives nobody can measure."""

from collections.abc import Callable
from typing import Any

import pytest

from llmwarden import names
from tests.api.operating import LLM, Operator, condition, make, sample, until
from tests.api.support import ControlPlane

pytestmark = pytest.mark.usefixtures("alone")
MERGE = {"Content-Type": "application/merge-patch+json"}


def said(crds: ControlPlane, namespace: str, kind: str) -> str:
    status = crds.http.get(f"{LLM.format(namespace)}/chat").json()["status"]
    [message] = [item["message"] for item in status["conditions"] if item["type"] == kind]
    return str(message)


def test_a_closed_port_is_a_networkpolicy_as_long_as_the_spec_asks(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator]
) -> None:
    start()
    item = sample("chat", namespace)
    item["spec"]["workload"]["interception"]["networkPolicy"] = {"openPorts": [9000]}
    make(crds, item)
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/llmwarden-port-chat"

    def there() -> dict[str, Any] | None:
        answer = crds.http.get(path)
        return answer.json()["spec"] if answer.status_code == 200 else None

    spec = until(there, "the policy is written", 60)
    # As the API server understands it: what selects only injected pods, and nothing for egress.
    assert spec["podSelector"]["matchLabels"] == {"app": "vllm-chat", names.LABEL_PROXY: "true"}
    assert spec["policyTypes"] == ["Ingress"]
    [rule] = spec["ingress"]
    assert [(port["port"], port.get("endPort")) for port in rule["ports"]] == [
        (names.ADMIN_PORT, None),
        (names.PORT_PORT_BASE, names.PORT_PORT_BASE + 99),
        (9000, None),
    ]
    service = f"{LLM.format(namespace)}/chat"
    change = {"spec": {"workload": {"interception": {"networkPolicy": None}}}}
    crds.http.patch(service, json=change, headers=MERGE).raise_for_status()
    until(lambda: there() is None, "the policy goes with the wish for it")


def test_a_prometheus_that_forgets_too_soon_is_said_with_its_figure(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator], monitoring: Callable[[], None]
) -> None:
    monitoring()
    path = f"/apis/monitoring.coreos.com/v1/namespaces/{namespace}/prometheuses"
    prometheus = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": {"name": "k8s"},
        "spec": {"retention": "6h", "ruleSelector": {}, "ruleNamespaceSelector": {}},
    }
    crds.http.post(path, json=prometheus).raise_for_status()
    item = sample("chat", namespace)
    share = {"targetPercent": "99", "window": "28d"}
    item["spec"]["objectives"] = [{"name": "up", "availability": {}, **share}]
    make(crds, item)
    start()
    short = ("True", "WindowLongerThanRetention")
    until(lambda: condition(crds, namespace, "chat", "RetentionTooShort") == short, "it is too short", 60)
    assert said(crds, namespace, "RetentionTooShort").startswith(
        "Prometheus keeps data for 6h, which is shorter than the window of up (28d): "
    )
    crds.http.patch(f"{path}/k8s", json={"spec": {"retention": "40d"}}, headers=MERGE).raise_for_status()
    enough = ("False", "LongEnough")
    until(lambda: condition(crds, namespace, "chat", "RetentionTooShort") == enough, "it is long enough", 60)
    crds.http.delete(f"{path}/k8s").raise_for_status()


def test_what_an_engine_cannot_tell_is_refused(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator]
) -> None:
    start()
    item = sample("chat", namespace)
    item["spec"]["backend"]["type"] = "LlamaCpp"
    share = {"targetPercent": "99", "window": "7d"}
    item["spec"]["objectives"] = [{"name": "queue", "queueTime": {"threshold": "500ms"}, **share}]
    make(crds, item)
    refused = ("False", "EngineLacksSeries")
    until(lambda: condition(crds, namespace, "chat", "Ready") == refused, "the objective is refused", 60)
    assert "Objective queue: LlamaCpp does not report the time in its queue. Remove the objective." in said(
        crds, namespace, "Ready"
    )
