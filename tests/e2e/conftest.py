"""Fixtures of the e2e tier: the demo's main job, done on a real cluster, and a namespace for each test.

A cluster that was running before is used and left running; one that is made here is taken down. `E2E_KEEP=1` keeps it.
"""

import os
import uuid
from collections.abc import Iterator

import pytest

from cluster import target
from cluster.lifecycle import DEFAULT_NAME, Cluster
from demo import steps
from demo.kube import Kube
from tests.e2e.support import Stage, stage


@pytest.fixture(scope="session")
def main_job() -> Iterator[Kube]:
    """Yield the cluster on which the demo's main job has been done: services measured, a budget run out, its alert fired."""
    chosen = target.chosen(os.environ.get("LLMWARDEN_CLUSTER") or DEFAULT_NAME)
    ours = isinstance(chosen, target.Local) and not Cluster(chosen.name).healthy()
    try:
        kube, made = steps.cluster_with_images(chosen)
        steps.install_monitoring(kube, made)
        steps.install_warden(kube)
        steps.wait_warden(kube)
        steps.apply_services(kube)
        steps.wait_injecting(kube)
        steps.apply_workloads(kube, made)
        steps.wait_workloads(kube)
        steps.wait_monitoring(kube)
        steps.wait_refusal(kube)
        steps.wait_alert(kube)
        steps.wait_figures(kube)
        yield kube
    finally:
        if ours and not os.environ.get("E2E_KEEP"):
            chosen.down()


@pytest.fixture
def fresh(main_job: Kube) -> Iterator[Stage]:
    """Yield a namespace of the test's own."""
    with stage(main_job, f"e2e-{uuid.uuid4().hex[:8]}") as made:
        yield made
