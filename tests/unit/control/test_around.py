"""What leads calls around the proxies, and what an engine cannot tell: found from objects as a cluster has them."""

from typing import Any

import pytest

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.control import around
from llmwarden.control.observe.stripping import strip_pod, strip_service
from llmwarden.domain import objectives
from llmwarden.snapshot import Figures
from tests.unit.status.helpers import service

PORT: dict[str, Any] = {
    "backend": {"type": "VLLM"},
    "workload": {
        "selector": {"matchLabels": {"app": "chat"}},
        "interception": {"type": "Port", "port": {"name": "http"}},
    },
}


def pod(*, injected: bool = True) -> dict[str, Any]:
    proxy = {
        "name": names.PROXY_CONTAINER,
        "image": "p",
        "ports": [
            {"name": "http", "containerPort": 15200},
            {"name": names.ADMIN_PORT_NAME, "containerPort": names.ADMIN_PORT},
        ],
    }
    own = {"name": "vllm", "ports": [{"name": "http-app" if injected else "http", "containerPort": 8000}]}
    return strip_pod(
        {
            "metadata": {"name": "chat-1", "namespace": "shop", "uid": "u", "labels": {"app": "chat"}},
            "spec": {"containers": [own], "initContainers": [proxy] if injected else []},
            "status": {"phase": "Running"},
        }
    )


def kube_service(
    name: str, target: int | str, *, port: int = 80, selector: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    ports = [{"port": port, "targetPort": target}]
    whole = {"selector": selector or {"app": "chat"}, "ports": ports, **spec}
    return strip_service({"metadata": {"name": name, "namespace": "shop"}, "spec": whole})


def chat(**interception: Any) -> LLMService:
    workload = {**PORT["workload"], "interception": {**PORT["workload"]["interception"], **interception}}
    return service(None, backend=PORT["backend"], workload=workload)


GOOD = kube_service("chat", "http")
BY_NUMBER = kube_service("direct", 8000)
BY_OWN_NAME = kube_service("own-name", "http-app")
HEADLESS = kube_service("chat-pods", "http", port=8000, clusterIP="None")
STRANGER = kube_service("stranger", 8000, selector={"app": "other"})


def found(
    *services: dict[str, Any], coverage: float | None = None, of: LLMService | None = None
) -> list[tuple[str, str]]:
    problems = around.past_the_proxy(of or chat(), Figures(coverage=coverage), [pod()], services)
    return [(problem.reason, problem.message) for problem in problems]


def test_services_that_target_the_engine_itself_are_found_whatever_the_traffic() -> None:
    assert found(GOOD, STRANGER, HEADLESS) == []
    [(reason, text)] = found(GOOD, BY_NUMBER)
    assert reason == "ServiceTargetsNumber"
    assert text.startswith("Service direct targets port 8000 by number")
    assert text.endswith("Set its targetPort to the name http.")
    [(_, text)] = found(BY_OWN_NAME)
    assert "the engine's own port by the name http-app" in text


@pytest.mark.parametrize("coverage", [None, 0.99, 1.0, 1.2])
def test_coverage_of_99_percent_is_whole(coverage: float | None) -> None:
    assert found(GOOD, coverage=coverage) == []


def test_traffic_around_the_proxies_is_named_with_its_services_and_the_remedy() -> None:
    [(reason, text)] = found(GOOD, STRANGER, BY_NUMBER, HEADLESS, coverage=0.7)
    assert reason == "TrafficAroundProxy"
    assert "the proxies saw 70 % of the calls that the engine counted" in text
    assert "Service direct targets port 8000 by number" in text
    assert "Service chat-pods is headless" in text
    assert "stranger" not in text
    assert text.endswith("Set workload.interception.networkPolicy to block all of them.")


def test_where_no_service_leads_around_it_says_what_else_does() -> None:
    [(_, text)] = found(GOOD, coverage=0.5)
    assert "No Service of this namespace is the cause: callers use pods' addresses" in text


def test_a_policy_that_is_not_enforced_is_said() -> None:
    [(_, text)] = found(GOOD, coverage=0.5, of=chat(networkPolicy={}))
    assert text.endswith("the cluster's network plugin does not enforce it.")


def test_the_engine_is_asked_through_the_proxy_where_its_own_port_is_closed() -> None:
    wanted = {"http", "http-app"}
    assert around.port_numbers(pod(), wanted) == {8000}
    assert around.port_numbers(pod(), wanted, of_proxy=True) == {15200}
    assert around.port_numbers(pod(injected=False), wanted, of_proxy=True) == {8000}


def test_objectives_that_the_engine_cannot_tell_are_problems() -> None:
    of = service(
        None,
        **PORT,
        objectives=[
            {"name": "queue", "queueTime": {"threshold": "700ms"}, "targetPercent": "99", "window": "7d"},
            {"name": "errors", "errors": {}, "targetPercent": "99", "window": "7d"},
        ],
    )
    wanted = objectives.of_service(of)
    assert around.unmeasurable(wanted, of, ()) == ()
    [problem] = around.unmeasurable(wanted, of, (0.5, 0.8))
    assert problem.reason == "ThresholdNotABound"
    assert problem.message.endswith("Set the threshold to 500ms or 800ms.")


@pytest.mark.parametrize(
    ("url", "spec", "refused"),
    [
        ("http://engine", {"type": "ExternalName", "externalName": "evil.example"}, True),
        ("http://engine.shop.svc:8000/x", {"selector": None}, True),
        ("http://engine.shop.svc.cluster.local", {"selector": {}}, True),
        ("http://engine", {}, False),
        ("https://engine.shop.svc", {"type": "ExternalName"}, False),
        ("http://other", {"type": "ExternalName"}, False),
        ("http://engine.ml.svc", {"type": "ExternalName"}, False),
    ],
)
def test_a_key_without_tls_stays_in_the_cluster(url: str, spec: dict[str, Any], *, refused: bool) -> None:
    whole = {"selector": {"app": "engine"}, "ports": [{"port": 80}], **spec}
    item = strip_service({"metadata": {"name": "engine", "namespace": "shop"}, "spec": whole})
    keyed = service(backend={"type": "OpenAI", "url": url, "credentialsSecretRef": {"name": "s", "key": "k"}})
    problems = around.not_in_cluster(keyed, [item], "cluster.local")
    assert [problem.reason for problem in problems] == [names.REASON_NOT_IN_CLUSTER] * refused
    assert not around.not_in_cluster(service(backend={"type": "OpenAI", "url": url}), [item], "cluster.local")
