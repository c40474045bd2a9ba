"""Which pods hold GPUs, for whom, since when and until when. The API server's nodes are the fake here; OpenCost's series have its shape."""

import datetime as dt
from typing import Any, cast

import httpx
import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.control.observe import stripping
from llmwarden.control.observe.gpus import Gpus, ended, holdings
from llmwarden.control.observe.prometheus import Prometheus
from llmwarden.domain import gpus as kinds
from llmwarden.errors import NotFoundError, UnavailableError
from llmwarden.kube import Client

NOW = dt.datetime(2026, 11, 20, 16, 20, tzinfo=dt.UTC)
L4 = {"nvidia.com/gpu.product": "NVIDIA-L4", "kubernetes.io/hostname": "gpu-1"}


def service(name: str = "chat", port: str = "http", created: str = "2026-11-01T00:00:00Z") -> LLMService:
    return parse(
        LLMService,
        {
            "apiVersion": "llmwarden.io/v1alpha1",
            "kind": "LLMService",
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created},
            "spec": {
                "backend": {"type": "VLLM"},
                "workload": {
                    "selector": {"matchLabels": {"app": "chat"}},
                    "interception": {"type": "Port", "port": {"name": port}},
                },
            },
        },
    )


def container(
    name: str = "engine", port: str = "http", limits: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    held = {"cpu": "4", **({"nvidia.com/gpu": "2"} if limits is None else limits)}
    return {"name": name, "ports": [{"name": port, "containerPort": 8000}], "resources": {"limits": held}, **more}


def pod(*containers: dict[str, Any], init: tuple[dict[str, Any], ...] = (), **status: Any) -> dict[str, Any]:
    """As the operator keeps it."""
    return stripping.strip_pod(
        {
            "metadata": {
                "name": "chat-0",
                "namespace": "shop",
                "uid": "uid-0",
                "labels": {"app": "chat"},
                "creationTimestamp": "2026-11-20T15:00:00Z",
            },
            "spec": {"nodeName": "gpu-1", "containers": [*containers] or [container()], "initContainers": [*init]},
            "status": {
                "phase": "Running",
                "conditions": [
                    {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-20T15:00:07Z"},
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-20T15:03:00Z"},
                ],
                **status,
            },
        }
    )


def finished(at: str) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "engine", "state": {"terminated": {"finishedAt": at, "exitCode": 0}}}]}


class Nodes:
    """The API server's nodes; speaks as `kube.Client.get` does."""

    def __init__(self, **labels: dict[str, str]) -> None:
        self.labels = labels
        self.asked = 0
        self.down = False

    async def get(self, api_version: str, plural: str, name: str) -> dict[str, Any]:
        assert (api_version, plural) == ("v1", "nodes")
        self.asked += 1
        if self.down:
            message = "the API server does not answer"
            raise UnavailableError(message)
        if name not in self.labels:
            message = f"node {name} is not found"
            raise NotFoundError(message)
        return {"metadata": {"name": name, "labels": self.labels[name]}}


def gpus(nodes: Nodes, opencost: Prometheus | None = None) -> Gpus:
    return Gpus(cast("Client", nodes), opencost)


def test_a_pod_holds_its_gpus_from_its_binding_on() -> None:
    [held] = holdings(pod(), [service()])
    assert (held.service, held.resource, held.gpus, held.node, held.serves) == (
        "shop/chat",
        "nvidia.com/gpu",
        2,
        "gpu-1",
        True,
    )
    assert held.since == dt.datetime(2026, 11, 20, 15, 0, 7, tzinfo=dt.UTC)
    [later] = holdings(pod(), [service(created="2026-11-20T15:30:00Z")])
    assert later.since == dt.datetime(2026, 11, 20, 15, 30, tzinfo=dt.UTC)


def test_a_pod_that_waits_for_a_node_holds_nothing() -> None:
    waiting = pod()
    del waiting["spec"]["nodeName"]
    assert holdings(waiting, [service()]) == []
    assert holdings(pod(conditions=[{"type": "PodScheduled", "status": "False"}]), [service()]) == []


def test_an_application_that_only_calls_an_engine_pays_no_gpu() -> None:
    caller = service().replace(
        spec=service().spec.replace(workload=service().spec.workload.replace(interception=None)),
    )
    assert (
        holdings(pod(), [caller.replace(spec=caller.spec.replace(backend=caller.spec.backend.replace(type="OpenAI")))])
        == []
    )


def test_each_container_is_of_the_service_whose_port_it_has() -> None:
    two = pod(
        container(),
        container("other", "grpc", {"nvidia.com/gpu": "1"}),
        container("helper", "none", {"nvidia.com/mig-1g.5gb": "3"}),
        init=(container("sidecar", "none", {"amd.com/gpu": "1"}, restartPolicy="Always"),),
    )
    found = {
        (one.service, one.resource): one.gpus for one in holdings(two, [service("b", "grpc"), service("a", "http")])
    }
    assert found == {
        ("shop/a", "nvidia.com/gpu"): 2,
        ("shop/b", "nvidia.com/gpu"): 1,
        ("shop/a", "nvidia.com/mig-1g.5gb"): 3,
        ("shop/a", "amd.com/gpu"): 1,
    }


def test_what_an_init_container_needed_is_set_aside_for_good() -> None:
    [held] = holdings(pod(container(), init=(container("load", "none", {"nvidia.com/gpu": "4"}),)), [service()])
    assert held.gpus == 4


def test_a_worker_without_the_port_serves_nobody_itself() -> None:
    [held] = holdings(pod(container(port="rpc")), [service()])
    assert not held.serves


@pytest.mark.parametrize(
    ("found", "gone", "expected"),
    [
        (pod(), None, None),
        (pod(), NOW, NOW),
        (pod(phase="Succeeded", **finished("2026-11-20T15:50:00Z")), None, NOW - dt.timedelta(minutes=30)),
        (pod(**finished("2026-11-20T15:50:00Z")), NOW, NOW - dt.timedelta(minutes=30)),
        (pod(phase="Failed", conditions=[]), None, NOW - dt.timedelta(minutes=80)),
    ],
)
def test_they_are_held_until_the_containers_ended(
    found: dict[str, Any], gone: dt.datetime | None, expected: dt.datetime | None
) -> None:
    assert ended(found, gone) == expected


async def test_the_ledger_is_told_of_what_is_there_and_of_each_end_until_it_took_it() -> None:
    nodes = Nodes(**{"gpu-1": L4})
    known = gpus(nodes)
    services = (service(),)
    [told] = await known.told([(pod(), services)], [], NOW)
    assert (told.product, told.gpus, told.until, told.ended, told.rate) == ("NVIDIA-L4", 2, NOW, False, 0)
    known.delivered([told])
    end = NOW + dt.timedelta(seconds=4)
    for _ in range(2):  # the ledger did not answer the first time
        [last] = await known.told(
            [], [(pod(), end, services)] if not known._gone else [], NOW + dt.timedelta(minutes=1)
        )
        assert (last.until, last.ended) == (end, True)
    known.delivered([last])
    assert await known.told([], [], NOW) == ()
    assert nodes.asked == 1


async def test_a_node_that_cannot_be_read_leaves_its_last_labels(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes(**{"gpu-1": L4})
    known = gpus(nodes)
    await known.told([(pod(), (service(),))], [], NOW)
    nodes.down = True
    [told] = await known.told([(pod(), (service(),))], [], NOW + dt.timedelta(hours=1))
    assert told.product == "NVIDIA-L4"
    assert "gpu-1" in caplog.text
    [unknown] = await gpus(Nodes()).told([(pod(), (service(),))], [], NOW)
    assert unknown.product == "nvidia.com/gpu"


async def test_nodes_that_went_are_forgotten() -> None:
    found = gpus(Nodes(**{"gpu-1": L4}))
    await found.told([(pod(), [service()])], [], NOW)
    assert set(found._labels) == {"gpu-1"}
    await found.told([], [], NOW)
    assert not found._labels


async def test_opencosts_rate_of_the_node_goes_with_whole_gpus() -> None:
    answers = {"status": "success", "data": {"resultType": "vector", "result": [
        {"metric": {"node": "gpu-1"}, "value": [1763655600, "0.7525"]},
        {"metric": {"node": "gpu-2"}, "value": [1763655600, "NaN"]},
    ]}}  # fmt: skip
    asked: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        return httpx.Response(200, json=answers) if len(asked) == 1 else httpx.Response(503, text="busy")

    prometheus = Prometheus("http://prometheus.test", 1.0, httpx.MockTransport(answer))
    known = gpus(Nodes(**{"gpu-1": L4}), prometheus)
    both = pod(container(), container("part", "none", {"nvidia.com/mig-1g.5gb": "1"}))
    for _ in range(2):  # what it said last stays
        told = {one.resource: one for one in await known.told([(both, (service(),))], [], NOW)}
        assert told["nvidia.com/gpu"].rate == 752_500_000_000
        assert told["nvidia.com/mig-1g.5gb"].rate == 0
    assert b"node_gpu_hourly_cost" in asked[0]
    await prometheus.close()


@pytest.mark.parametrize(
    ("resource", "labels", "product"),
    [
        ("nvidia.com/gpu", L4, "NVIDIA-L4"),
        ("nvidia.com/gpu.shared", {"nvidia.com/gpu.product": "NVIDIA-L4-SHARED"}, "NVIDIA-L4-SHARED"),
        ("nvidia.com/gpu", {"cloud.google.com/gke-accelerator": "nvidia-l4"}, "nvidia-l4"),
        (
            "nvidia.com/mig-1g.5gb",
            {"nvidia.com/mig-1g.5gb.product": "NVIDIA-A100-MIG-1g.5gb", **L4},
            "NVIDIA-A100-MIG-1g.5gb",
        ),
        ("nvidia.com/mig-1g.5gb", L4, "NVIDIA-L4-MIG-1g.5gb"),
        ("nvidia.com/mig-1g.5gb", {}, "nvidia.com/mig-1g.5gb"),
        ("amd.com/gpu", {"amd.com/gpu.product-name": "AMD_Instinct_MI300X"}, "AMD_Instinct_MI300X"),
        ("gpu.intel.com/i915", L4, "gpu.intel.com/i915"),
    ],
)
def test_products_are_named_as_the_nodes_labels_do(resource: str, labels: dict[str, str], product: str) -> None:
    assert kinds.product(resource, labels) == product


def test_only_gpus_are_limits_that_count() -> None:
    held = {
        "cpu": "1",
        "nvidia.com/gpu": "2",
        "amd.com/gpu": "0",
        "nvidia.com/hostdev": "1",
        "nvidia.com/gpu.shared": "x",
    }
    assert kinds.limits({"resources": {"limits": held}}) == {"nvidia.com/gpu": 2}
    assert kinds.limits({"resources": None}) == {}
