"""Which pods hold GPUs, by a real API server's word and with the operator's own rights."""

import asyncio
import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from llmwarden import kube
from llmwarden.control.observe.gpus import Gpus
from llmwarden.control.observe.world import World
from llmwarden.settings import Settings
from tests.api.operating import make, sample
from tests.api.support import ControlPlane
from tests.unit.control.test_world import ignore

pytestmark = pytest.mark.usefixtures("alone")
BOUND = "2026-11-20T15:00:07Z"


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.05)


@pytest.fixture
def node(crds: ControlPlane) -> Any:
    name = f"gpu-{uuid.uuid4().hex[:8]}"
    labels = {"nvidia.com/gpu.product": "NVIDIA-L4"}
    crds.http.post("/api/v1/nodes", json={"metadata": {"name": name, "labels": labels}}).raise_for_status()
    yield name
    crds.http.delete(f"/api/v1/nodes/{name}")


@pytest.fixture
async def world(kubeconfig: Path) -> AsyncIterator[tuple[World, kube.Client]]:
    async with await kube.connect(str(kubeconfig)) as client:
        made = World(client, Settings(), ignore, lambda: dt.datetime.now(dt.UTC))
        running = asyncio.create_task(made.run())
        try:
            await made.synced()
            yield made, client
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def start(crds: ControlPlane, namespace: str, node: str, labels: dict[str, str]) -> None:
    """Make a pod that runs on the node, as scheduler and kubelet would leave it."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    pod = {
        "metadata": {"name": "chat-0", "labels": labels},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "engine",
                    "image": "engine",
                    "ports": [{"name": "http", "containerPort": 8000}],
                    "resources": {"limits": {"nvidia.com/gpu": "2"}},
                }
            ],
        },
    }
    await until(lambda: crds.http.post(pods, json=pod).status_code == 201)  # once the namespace has its account
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": BOUND}
    crds.http.patch(
        f"{pods}/chat-0/status",
        json={"status": {"phase": "Running", "conditions": [scheduled]}},
        headers={"Content-Type": "application/merge-patch+json"},
    ).raise_for_status()


async def test_a_pod_is_told_of_from_its_binding_to_its_end(
    crds: ControlPlane, namespace: str, node: str, world: tuple[World, kube.Client]
) -> None:
    seen, client = world
    service = make(crds, sample("chat", namespace))
    await start(crds, namespace, node, service["spec"]["workload"]["selector"]["matchLabels"])
    seen.take("LLMService", service, (namespace, "chat"))
    await until(seen.pods_there)
    gpus = Gpus(client, None)
    await until(lambda: seen.pods_there()[0][0]["spec"].get("nodeName"))
    now = dt.datetime.now(dt.UTC)
    [told] = await gpus.told(seen.pods_there(), seen.take_gone(), now)
    created = dt.datetime.fromisoformat(service["metadata"]["creationTimestamp"])
    assert (told.service, told.product, told.gpus, told.ended) == (f"{namespace}/chat", "NVIDIA-L4", 2, False)
    assert told.serves
    assert (told.since, told.until) == (max(created, dt.datetime.fromisoformat(BOUND)), now)
    gpus.delivered([told])

    crds.http.delete(f"/api/v1/namespaces/{namespace}/pods/chat-0").raise_for_status()
    await until(lambda: not seen.pods_there())
    [last] = await gpus.told(seen.pods_there(), seen.take_gone(), dt.datetime.now(dt.UTC))
    assert (last.uid, last.ended) == (told.uid, True)
    assert now <= last.until <= dt.datetime.now(dt.UTC)
    # The ledger did not answer: it is told again until it does.
    [again] = await gpus.told(seen.pods_there(), seen.take_gone(), dt.datetime.now(dt.UTC))
    assert again == last
