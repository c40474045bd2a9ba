"""Fixtures of the engines tier: the real vLLM behind an injected proxy, on the cluster with LLM Warden."""

from collections.abc import Iterator

import pytest

from cluster import target
from demo import engines, steps
from demo.kube import documents
from tests.e2e.support import Stage, stage, warden

NAMESPACE = "engines-test"
# Heavy enough for the model's own time to be nearly all of what is measured: half a second for the test's prompt on two cores.
MODEL = ("--layers=12", "--width=512")
# Of calls that all ask the same, the second would find its prompt computed.
ENGINE = ("--no-enable-prefix-caching",)


@pytest.fixture(scope="session")
def vllm() -> Iterator[Stage]:
    """Yield a namespace in which the real vLLM serves behind an injected proxy."""
    if not isinstance(target.chosen(), target.Local):
        pytest.skip("the real vLLM is mounted from this machine: our own cluster only (CLUSTER unset)")
    with warden("vllm") as (kube, images), stage(kube, NAMESPACE) as made:
        service = documents(steps.SAMPLES / "chat-vllm.yaml", {"models": NAMESPACE})
        engine = documents(
            steps.MANIFESTS / "engine-vllm.yaml", {"models": NAMESPACE, **images.names, **engines.replacements()}
        )
        pod = next(item for item in engine if item["kind"] == "Deployment")["spec"]["template"]["spec"]
        pod["initContainers"][0]["command"] += MODEL
        pod["containers"][0]["command"] += ENGINE
        kube.apply(*service)
        made.wait_injecting()
        kube.apply(*engine)
        made.rollout("vllm-chat", seconds=600)
        yield made
