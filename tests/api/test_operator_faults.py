"""The operator with an API server that fails, with another operator beside it, and with many objects (faults 30, 31 and 34)."""

import base64
import json
import os
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from llmwarden import names
from tests.api.flaky import Flaky, flaky
from tests.api.operating import (
    LLM,
    NAMESPACE,
    USER,
    Operator,
    about,
    children,
    condition,
    make,
    sample,
    until,
)
from tests.api.support import ControlPlane

pytestmark = pytest.mark.usefixtures("alone")

# `make soak` takes ten thousand.
MANY = int(os.environ.get("LLMWARDEN_TEST_SERVICES", "200"))
RECONCILED = 'llmwarden_operator_reconcile_total{kind="LLMService",result="success"}'
WATCHES_ENDED = "llmwarden_operator_watches_ended_total"
CLUSTER_RECONCILED = 'llmwarden_operator_reconcile_total{kind="Cluster",result="success"}'


def services(plane: ControlPlane, namespace: str, count: int) -> list[str]:
    """Make `count` services; returns their names."""
    wanted = []
    for number in range(count):
        item = sample("chat", namespace)
        item["metadata"]["name"] = f"chat-{number}"
        wanted.append(item)
    with ThreadPoolExecutor(8) as pool:
        return [made["metadata"]["name"] for made in pool.map(lambda item: make(plane, item), wanted)]


@contextmanager
def between(kubeconfig: Path, directory: Path, share: float) -> Iterator[tuple[Flaky, Path]]:
    """Put an API server that fails a share of all requests before the real one; yields it, and a kubeconfig that leads to it."""
    config = json.loads(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with flaky(cluster["server"], context, share) as server:
        config["clusters"][0]["cluster"] = {"server": server.url}
        through = directory / "flaky"
        through.write_text(json.dumps(config))
        yield server, through


@pytest.fixture
def spaces(crds: ControlPlane) -> Iterator[list[str]]:
    """Yield the names of sixty namespaces, which are deleted afterwards."""
    made = [f"many-{number}-{uuid.uuid4().hex[:6]}" for number in range(60)]
    for name in made:
        crds.http.post("/api/v1/namespaces", json={"metadata": {"name": name}}).raise_for_status()
    yield made
    for name in made:
        crds.http.delete(f"/api/v1/namespaces/{name}")


def looks(operator: Operator, count: int, seconds: float = 60) -> None:
    """Wait until services were reconciled so many times more, by ticks and resyncs."""
    before = operator.metric(RECONCILED)
    until(lambda: operator.metric(RECONCILED) >= before + count, f"{count} more reconciliations", seconds)


def done(plane: ControlPlane, namespace: str) -> int:
    """Return how many services have their status."""
    found = plane.http.get(LLM.format(namespace)).json()["items"]
    return sum(bool(item.get("status", {}).get("conditions")) for item in found)


def test_it_converges_though_a_tenth_of_all_requests_fail_and_does_not_hammer(
    crds: ControlPlane,
    namespace: str,
    kubeconfig: Path,
    tmp_path: Path,
    monitoring: Callable[[], None],
) -> None:
    monitoring()
    with between(kubeconfig, tmp_path, share=0.1) as (server, through):
        operator = Operator(through, tmp_path / "operator.log")
        try:
            wanted = services(crds, namespace, 20)
            # An engine's monitor, the rules and the dashboard of each.
            until(lambda: len(children(crds, namespace)) == 3 * len(wanted), "every service has its children", 90)
            until(lambda: done(crds, namespace) == len(wanted), "every service has its status", 90)
            for name in wanted:
                until(
                    lambda name=name: condition(crds, namespace, name, "AlertsReady") == ("True", "Applied"),  # type: ignore[misc]
                    f"{name} says so",
                    90,
                )
            assert {429, 409, 500} <= set(server.failed), "no fault was met"
            # What failed is tried again after a while, not at once: no path was asked for more often than a few times a second.
            until(lambda: operator.metric(CLUSTER_RECONCILED), "what exists once is there too", 90)
            looks(operator, len(wanted))
            mark, before, started = crds.audit_mark(), server.asked.copy(), time.monotonic()
            looks(operator, 6 * len(wanted))
            seconds = time.monotonic() - started
            busiest, often = max((server.asked - before).items(), key=lambda item: item[1])
            assert often <= 4 * seconds, f"{busiest} was asked for {often} times in {seconds:.1f} s"
            assert about(crds.writes(mark, USER), namespace) == []
            assert "this is a bug" not in operator.log.read_text()
        finally:
            assert operator.stop() == 0


def test_a_watch_that_reports_an_error_is_begun_again_and_ends_nothing_else(
    crds: ControlPlane, namespace: str, kubeconfig: Path, tmp_path: Path
) -> None:
    with between(kubeconfig, tmp_path, share=0.0) as (server, through):
        operator = Operator(through, tmp_path / "operator.log")
        try:
            services(crds, namespace, 1)
            until(lambda: done(crds, namespace) == 1, "the service has its status")
            for ended in (1, 2):
                until(server.break_watches, "kopf watches")
                until(lambda ended=ended: operator.metric(WATCHES_ENDED) >= ended, "kopf has ended")  # type: ignore[misc]
                other = sample("chat", namespace)
                other["metadata"]["name"] = f"later-{ended}"
                make(crds, other)
                until(lambda ended=ended: done(crds, namespace) == 1 + ended, "its successor sees a new service")  # type: ignore[misc]
            until(server.break_watches, "and watches")
            assert operator.answers("/livez")
        finally:
            assert operator.stop() == 0, operator.log.read_text()[-3000:]


def test_two_operators_at_once_do_not_undo_each_others_work(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator], monitoring: Callable[[], None]
) -> None:
    monitoring()
    both = [start(), start()]
    mark = crds.audit_mark()
    wanted = services(crds, namespace, 5)
    until(lambda: len(children(crds, namespace)) == 3 * len(wanted), "every service has its children")
    until(lambda: done(crds, namespace) == len(wanted), "every service has its status")
    for operator in both:
        operator.rounds(3)
    # At most each of the two writes each object once, and its status when it first sees it and when the children are there.
    writes = about(crds.writes(mark, USER), namespace)
    assert len([write for write in writes if "/status" not in write]) <= 2 * 3 * len(wanted), writes
    assert len([write for write in writes if "/status" in write]) <= 2 * 2 * len(wanted), writes
    mark = crds.audit_mark()
    for operator in both:
        operator.rounds(5)
    assert crds.writes(mark, USER) == []
    # Both made certificates at the same time: what is left over fits together.
    secrets = {
        name: crds.http.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}").json()["data"]
        for name in (names.SECRET_CA, names.SECRET_WEBHOOK_TLS, names.SECRET_LEDGER_TLS)
    }
    authority = x509.load_pem_x509_certificate(base64.b64decode(secrets[names.SECRET_CA]["tls.crt"]))
    for name in (names.SECRET_WEBHOOK_TLS, names.SECRET_LEDGER_TLS):
        leaf = x509.load_pem_x509_certificate(base64.b64decode(secrets[name]["tls.crt"]))
        leaf.verify_directly_issued_by(authority)


def test_a_restart_with_many_services_writes_nothing(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator]
) -> None:
    operator = start()
    services(crds, namespace, MANY)
    patience = 60 + MANY / 10
    until(lambda: len(children(crds, namespace)) == MANY, "every service has its dashboard", patience)
    until(lambda: done(crds, namespace) == MANY, "every service has its status", patience)
    operator.rounds(2)
    assert operator.stop() == 0
    mark = crds.audit_mark()
    operator = start()
    looks(operator, 2 * MANY, patience)
    assert crds.writes(mark, USER) == []


def test_sixty_namespaces_are_served_as_one_is(
    crds: ControlPlane, start: Callable[[], Operator], spaces: list[str]
) -> None:
    operator = start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda namespace: make(crds, sample("chat", namespace)), spaces))
    for namespace in spaces:
        until(lambda namespace=namespace: done(crds, namespace) == 1, f"{namespace} has its status", 120)  # type: ignore[misc]
    last = spaces[-1]
    # A new pod and an edit are seen in the last namespace, too.
    labels = sample("chat", last)["spec"]["workload"]["selector"]["matchLabels"]
    container = {"name": "engine", "image": "engine"}
    pod = {"metadata": {"name": "one", "labels": labels}, "spec": {"containers": [container]}}
    crds.http.post(f"/api/v1/namespaces/{last}/pods", json=pod).raise_for_status()
    until(lambda: condition(crds, last, "chat", "Instrumented")[1] not in {"", "NoPods"}, "the pod is counted")
    edit = {"metadata": {"labels": {"edited": "yes"}}, "spec": {"alerts": {"disable": ["LLMNoTraffic"]}}}
    path = f"{LLM.format(last)}/chat"
    merge = {"Content-Type": "application/merge-patch+json"}
    edited = crds.http.patch(path, json=edit, headers=merge).json()["metadata"]["generation"]
    until(lambda: crds.http.get(path).json()["status"]["observedGeneration"] == edited, "the edit is seen")
    assert condition(crds, last, "chat", "Observed") == ("True", "Watching")
    # Watches do not multiply with namespaces.
    assert operator.metric("llmwarden_watch_up") < len(spaces)
    operator.rounds(2)
    assert operator.stop() == 0
    mark = crds.audit_mark()
    start().rounds(3)
    assert about(crds.writes(mark, USER), last) == []


def test_a_watch_that_is_forbidden_is_a_condition_and_a_metric(
    crds: ControlPlane, namespace: str, start: Callable[[], Operator]
) -> None:
    role = json.loads(crds.kubectl("get", "clusterrole", names.OPERATOR, "-o", "json"))
    pods = next(index for index, rule in enumerate(role["rules"]) if "pods" in rule["resources"])
    without = [{"op": "replace", "path": f"/rules/{pods}/resources", "value": ["namespaces", "services"]}]
    crds.kubectl("patch", "clusterrole", names.OPERATOR, "--type=json", "-p", json.dumps(without))
    try:
        operator = start()
        services(crds, namespace, 1)
        failing = ("False", "WatchFailing")
        until(lambda: condition(crds, namespace, "chat-0", "Observed") == failing, "the status says so", 120)
        assert len(children(crds, namespace)) == 1, "what does not rest on pods goes on"
        assert operator.metric('llmwarden_watch_up{resource="pods.v1"}') == 0
        assert operator.metric('llmwarden_watch_errors_total{resource="pods.v1"}') > 0
    finally:
        whole = [{"op": "replace", "path": "/rules", "value": role["rules"]}]
        crds.kubectl("patch", "clusterrole", names.OPERATOR, "--type=json", "-p", json.dumps(whole))
    watching = ("True", "Watching")
    until(lambda: condition(crds, namespace, "chat-0", "Observed") == watching, "it is watched again by itself", 90)
