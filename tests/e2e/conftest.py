"""Fixtures of the e2e tier: the demo's main job, done on a real cluster, and a namespace for each test."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import steps
from demo.kube import Kube
from tests.e2e import everything, paging
from tests.e2e.support import Stage, stage, warden

# First what shows the demo's own calls: they end with its budget, and figures of the last minutes with them. Last what takes Prometheus away.
FIRST, LAST = "test_main_job", "test_prometheus"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order this folder's files; all others stay as they are."""
    place = {FIRST: 0, LAST: 2}
    ours = [index for index, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    ordered = sorted((items[index] for index in ours), key=lambda item: place.get(item.path.stem, 1))
    for index, item in zip(ours, ordered, strict=True):
        items[index] = item


@pytest.fixture(scope="session")
def main_job() -> Iterator[Kube]:
    """Yield the cluster on which the demo's main job has been done: services measured, a budget run out, its alert fired."""
    with warden() as (kube, made):
        steps.apply_services(kube)
        paging.apply(kube)
        everything.apply(kube)
        steps.wait_injecting(kube, ("shop", "models", paging.NAMESPACE, everything.NAMESPACE))
        steps.apply_workloads(kube, made)
        paging.apply_application(kube)
        everything.apply_workloads(kube)
        steps.wait_workloads(kube)
        everything.apply_gpus(kube)
        steps.wait_monitoring(kube)
        steps.wait_refusal(kube)
        steps.wait_alert(kube)
        steps.wait_figures(kube)
        yield kube


@pytest.fixture
def fresh(main_job: Kube) -> Iterator[Stage]:
    """Yield a namespace of the test's own."""
    with stage(main_job, f"e2e-{uuid.uuid4().hex[:8]}") as made:
        yield made
