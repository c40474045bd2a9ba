"""Fixtures of the engines tier: the cluster with LLM Warden in it, and the programs of the real vLLM."""

import os
from collections.abc import Iterator

import pytest

from cluster import target
from cluster.lifecycle import DEFAULT_NAME, Cluster
from demo import engines, images, steps
from demo.kube import Kube, documents
from tests.e2e.support import Stage, stage

NAMESPACE = "engines-test"


@pytest.fixture(scope="session")
def warden() -> Iterator[tuple[Kube, images.Images]]:
    """Yield a cluster with LLM Warden; one that was running before is left running (`E2E_KEEP=1` keeps ours too)."""
    chosen = target.chosen(os.environ.get("LLMWARDEN_CLUSTER") or DEFAULT_NAME)
    if not isinstance(chosen, target.Local):
        pytest.skip("the real vLLM is mounted from this machine: our own cluster only (CLUSTER unset)")
    ours = not Cluster(chosen.name).healthy()
    try:
        kube, made = steps.cluster_with_images(chosen, "vllm")
        steps.install_monitoring(kube, made)
        steps.install_warden(kube)
        steps.wait_warden(kube)
        yield kube, made
    finally:
        if ours and not os.environ.get("E2E_KEEP"):
            chosen.down()


@pytest.fixture(scope="session")
def vllm(warden: tuple[Kube, images.Images]) -> Iterator[Stage]:
    """Yield a namespace in which the real vLLM serves behind an injected proxy."""
    kube, made = warden
    service = documents(steps.SAMPLES / "chat-vllm.yaml", {"models": NAMESPACE})
    engine = documents(
        steps.MANIFESTS / "engine-vllm.yaml", {"models": NAMESPACE, **made.names, **engines.replacements()}
    )
    with stage(kube, NAMESPACE) as made_stage:
        kube.apply(*service)
        made_stage.wait_injecting()
        kube.apply(*engine)
        made_stage.rollout("vllm-chat", seconds=600)
        yield made_stage
