"""Fixtures of the e2e tier: the demo's main job, done on a real cluster, and a namespace for each test."""

import uuid
from collections.abc import Iterator

import pytest

from demo import steps
from demo.kube import Kube
from tests.e2e import everything, paging
from tests.e2e.support import Stage, stage, warden


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
