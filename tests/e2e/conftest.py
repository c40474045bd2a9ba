"""Fixtures of the e2e tier: the demo's main job, done on a real cluster, and a namespace for each test."""

import uuid
from collections.abc import Iterator

import pytest

from demo import steps
from demo.kube import Kube
from tests.e2e.support import Stage, stage, warden


@pytest.fixture(scope="session")
def main_job() -> Iterator[Kube]:
    """Yield the cluster on which the demo's main job has been done: services measured, a budget run out, its alert fired."""
    with warden() as (kube, made):
        steps.apply_services(kube)
        steps.wait_injecting(kube)
        steps.apply_workloads(kube, made)
        steps.wait_workloads(kube)
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
