"""What the webhook keeps of LLMServices, and finds for a pod: as much as injection reads, at the same cost in any cluster."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.errors import ForbiddenError
from llmwarden.injection.selection import select
from llmwarden.injection.sidecar import decide
from llmwarden.kube.packed import Packed, pack, unpack
from llmwarden.settings import Settings
from llmwarden.webhook.admission import World, review
from llmwarden.webhook.main import Cluster
from llmwarden.webhook.services import Services, brief
from tests.unit.webhook.services import SERVICE, known, service
from tests.unit.webhook.test_admission import pod, request

INPUTS = sorted((Path(__file__).parents[2] / "golden" / "injection").glob("*.input.yaml"))


def found(services: Services, namespace: str = "shop", **labels: str) -> list[str]:
    return sorted(item.metadata.name for item in services.candidates(namespace, labels))


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name)
def test_what_is_kept_injects_as_the_whole_object_does(path: Path) -> None:
    """Every golden case of injection, by what the webhook keeps and by the objects themselves."""
    items = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    services = [item for item in items if item["kind"] == "LLMService"]
    pods = [item for item in items if item["kind"] == "Pod"]
    assert services
    assert pods
    for each in pods:
        namespace = each["metadata"].get("namespace") or services[0]["metadata"]["namespace"]
        labels = each["metadata"].get("labels") or {}
        given: dict[str, Any] = {"namespace": namespace, "namespace_labels": {}, "ca_pem": "CA"}
        whole = decide(each, [parse(LLMService, item) for item in services], Settings(), **given)
        kept = decide(each, known(*services).candidates(namespace, labels), Settings(), **given)
        assert kept == whole


def test_of_a_service_nothing_is_kept_that_injection_does_not_read() -> None:
    budgets = [{"name": "daily", "limit": {"amount": "25.00"}, "window": {"calendar": "Day"}}]
    objectives = [
        {"name": "errors", "errors": {}, "targetPercent": "99", "window": "28d"},
        {"name": "slow", "latency": {"indicator": "RequestDuration", "threshold": "7s"}, "targetPercent": "99", "window": "28d"},
    ]  # fmt: skip
    item = service(
        "bot", spec={"budgets": budgets, "objectives": objectives, "alerts": {"email": {"to": ["a@b.example"]}}}
    )
    item["metadata"] |= {"managedFields": [{"manager": "kubectl"}], "generation": 7}
    item["status"] = {"injection": {"state": "Active"}, "usage": {"requests": 12}}
    assert unpack(brief(item)) == {
        "metadata": {"name": "bot", "namespace": "shop"},
        "spec": {
            "backend": {"type": "OpenAI"},
            "workload": {"selector": {"matchLabels": {"app": "bot"}}},
            "objectives": [{"name": "slow", "latency": {"indicator": "RequestDuration", "threshold": "7s"}}],
        },
    }
    assert len(brief(item)) < 250


def test_a_service_whose_injection_is_stopped_says_so() -> None:
    item = {**service("bot"), "status": {"injection": {"state": "Stopped", "message": "pods hang"}}}
    world = World(None, known(item).candidates, lambda _: {}, "CA")
    answer = review(request(pod(app="bot")), world, Settings())
    assert answer.result == "skipped"
    assert "pods hang" in answer.review["response"]["warnings"][0]


def test_a_service_that_is_being_deleted_selects_nothing() -> None:
    item = service("bot")
    item["metadata"]["deletionTimestamp"] = "2026-11-20T10:00:00Z"
    world = World(None, known(item).candidates, lambda _: {}, "CA")
    assert review(request(pod(app="bot")), world, Settings()).result == "unselected"


def test_found_by_one_label_that_they_ask_for() -> None:
    shared = {"a-part-of": "shop"}
    services = known(
        *(service(f"bot-{number}", matchLabels={**shared, "app": f"bot-{number}"}) for number in range(5)),
        service("all", matchLabels=shared),
        service("odd", matchExpressions=[{"key": "app", "operator": "Exists"}]),
        service("bot-1", "else"),
    )
    assert found(services, app="bot-3", **shared) == [
        "all",
        "bot-0",  # the first to come: no label was shared yet
        "bot-3",
        "odd",
    ]
    assert found(services, app="bot-3") == ["bot-3", "odd"]
    assert found(services) == ["odd"]
    assert found(services, "else", app="bot-1") == ["bot-1"]
    assert found(services, "nowhere", app="bot-1") == []


def test_a_service_that_cannot_be_read_is_left_out_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    odd = {**service("odd"), "spec": {"backend": {"type": "Oracle"}}}
    older = {**service("older"), "spec": {}}
    services = known(service("bot"), odd, older)
    assert found(services, app="bot") == ["bot"]
    assert [record.args[1] for record in caplog.records if record.args] == ["odd", "older"]  # type: ignore[index]
    services.take(("shop", "odd"), brief(odd), brief(service("odd")))  # mended
    assert found(services, app="odd") == ["odd"]
    services.take(("shop", "older"), brief(older), None)
    services.take(("shop", "odd"), brief(service("odd")), brief(odd))
    assert found(services, app="odd") == []
    services.take(("shop", "bot"), brief(SERVICE), None)
    assert services._namespaces == {}


async def test_until_all_is_read_no_pod_is_judged() -> None:
    cluster = Cluster(None)  # type: ignore[arg-type]  # nothing is sent
    assert "llmservices" in (cluster.fault() or "")
    cluster.services.synced.set()
    assert "namespaces" in (cluster.fault() or "")
    cluster.namespaces.synced.set()
    assert "llmbudgets" in (cluster.fault() or "")
    cluster.namespace_budgets.synced.set()
    assert "clusterllmbudgets" in (cluster.fault() or "")
    cluster.cluster_budgets.absent = True  # its kind is not installed
    assert "limitranges" in (cluster.fault() or "")
    cluster.limit_ranges.synced.set()
    cluster.quotas._fails(
        ForbiddenError("forbidden")
    )  # these rules keep no proxy out of pods where they cannot be read
    assert cluster.fault() is None


_LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), max_size=3)
_SELECTORS = st.fixed_dictionaries(
    {},
    optional={
        "matchLabels": _LABELS,
        "matchExpressions": st.lists(
            st.fixed_dictionaries(
                {"key": st.sampled_from("abc"), "operator": st.sampled_from(["Exists", "DoesNotExist"])}
            ),
            max_size=2,
        ),
    },
)
_CHANGES = st.lists(st.tuples(st.sampled_from(["one", "two", "three", "four"]), st.none() | _SELECTORS), max_size=12)


@given(_CHANGES, _LABELS)
def test_after_any_changes_all_that_select_a_pod_are_found_and_none_is_left_behind(
    changes: list[tuple[str, dict[str, Any] | None]], labels: dict[str, str]
) -> None:
    services = Services()
    there: dict[str, dict[str, Any]] = {}
    for name, selector in changes:
        old = there.pop(name, None)
        if selector is not None:
            there[name] = {**SERVICE, "metadata": {"name": name, "namespace": "shop"}}
            there[name]["spec"] = {**SERVICE["spec"], "workload": {"selector": selector}}
        new = there.get(name)
        services.take(("shop", name), brief(old) if old else None, brief(new) if new else None)
    wanted = select({"metadata": {"labels": labels}}, "shop", {}, [parse(LLMService, item) for item in there.values()])
    got = select({"metadata": {"labels": labels}}, "shop", {}, services.candidates("shop", labels))
    assert got == wanted
    for name, item in there.items():
        services.take(("shop", name), brief(item), None)
    assert services._namespaces == {}


def operations(services: Services) -> int:
    """Calls of functions, Python's and C's, that one review makes."""
    body, world = request(pod(app="bot", tier="web")), World(None, services.candidates, lambda _: {}, "CA")
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    review(body, world, Settings())  # what is done once is done
    sys.setprofile(note)
    try:
        answer = review(body, world, Settings())
    finally:
        sys.setprofile(None)
    assert answer.result == "injected"
    return count


def test_a_review_takes_as_much_work_among_ten_services_as_among_five_thousand() -> None:
    few, many = (known(service("bot"), *(service(f"other-{number}") for number in range(size))) for size in (10, 5000))
    assert operations(few) == operations(many)
    twins = known(service("bot"), *(service(f"twin-{number}", matchLabels={"app": "bot"}) for number in range(3)))
    assert operations(twins) > operations(few)


def test_a_service_takes_little_memory() -> None:
    packed: Packed = brief(service("bot", spec={"objectives": []}))
    assert sys.getsizeof(packed) < 250
    assert sys.getsizeof(pack(SERVICE)) < 250


def test_an_objective_without_a_name_leaves_out_its_service_and_does_not_end_the_watch() -> None:
    bad = service("bad", spec={"objectives": [{"latency": {"indicator": "RequestDuration", "threshold": "7s"}}]})
    services = known(bad, service("good"))
    assert found(services, app="good") == ["good"]
    assert found(services, app="bad") == []
