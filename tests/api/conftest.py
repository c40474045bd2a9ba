"""Fixtures of the api tier: one control plane for the session, our CRDs in it, a namespace for each test.

`LLMWARDEN_API_CLUSTER=NAME` uses the cluster of that name, makes it where there is none, and leaves it running: for quick turns by hand.
"""

import os
import uuid
from collections.abc import Iterator

import pytest

from cluster import Cluster
from tests.api.support import ControlPlane, obstacle


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """Yield a real control plane; skips with the reason where none can run, which under CI=true is a failure."""
    reason = obstacle()
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    kept = os.environ.get("LLMWARDEN_API_CLUSTER", "")
    cluster = Cluster(kept or f"api-{os.getpid()}", "control-plane")
    cluster.up()
    try:
        plane = ControlPlane.of(cluster)
        with plane.http:
            yield plane
    finally:
        if not kept:
            cluster.down()


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> ControlPlane:
    """Return the control plane with our CRDs established."""
    control_plane.apply_crds()
    return control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """Yield the name of a namespace of the test's own; it is deleted afterwards, without waiting."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    control_plane.http.post("/api/v1/namespaces", json={"metadata": {"name": name}}).raise_for_status()
    yield name
    control_plane.http.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def blank(crds: ControlPlane) -> ControlPlane:
    """Return the control plane with no custom resource of ours: those of earlier tests are prices, budgets and writes to a process."""
    kinds = ("llmservices", "llmbudgets", "clusterllmbudgets", "modelprices")
    for kind in kinds:
        scope = ("--all-namespaces",) if kind.startswith("llm") else ()
        crds.kubectl("delete", f"{kind}.llmwarden.io", "--all", *scope, "--timeout=60s")
    return crds
