"""Pods in namespaces with LimitRanges and ResourceQuotas: what the API server admits without the proxy it admits with it, or with the reason."""

import asyncio
import json
import uuid
from typing import Any

from llmwarden import names
from llmwarden.injection.sidecar import REFUSING
from llmwarden.kube import Client
from tests.api.test_webhook import client, injected, pod, service, shop, webhook

__all__ = ["client", "shop"]  # fixtures

BURSTABLE = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
PODS: dict[str, dict[str, Any]] = {
    "burstable": BURSTABLE,
    "guaranteed": {"limits": {"cpu": "500m", "memory": "256Mi"}},
    "requests": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    "best-effort": {},
    "storage": {**BURSTABLE, "limits": {**BURSTABLE["limits"], "ephemeral-storage": "1Gi"}},
}
BOTH = {"cpu": "2", "memory": "1Gi"}
RANGES: dict[str, list[dict[str, Any]]] = {
    "least": [{"type": "Container", "min": {"cpu": "100m", "memory": "128Mi"}}],
    "most": [{"type": "Container", "max": {"cpu": "1", "memory": "512Mi"}}],
    "little": [
        {"type": "Container", "max": {"memory": "600Mi", "cpu": "1"}, "default": {"cpu": "1", "memory": "32Mi"}}
    ],
    "ratio": [{"type": "Container", "maxLimitRequestRatio": {"cpu": "4", "memory": "2"}}],
    "fine-ratio": [{"type": "Container", "maxLimitRequestRatio": {"cpu": "2.2", "memory": "1.1"}}],
    "pod": [{"type": "Pod", "max": {"cpu": "1", "memory": "512Mi"}}],
    "pod-room": [{"type": "Pod", "max": BOTH, "min": {"cpu": "50m"}}],
    "pod-ratio": [{"type": "Pod", "maxLimitRequestRatio": {"cpu": "2", "memory": "1"}}],
    "defaults": [{"type": "Container", "default": {"cpu": "200m", "memory": "256Mi"}, "defaultRequest": {"cpu": "5m"}}],
    "storage": [{"type": "Container", "max": {"ephemeral-storage": "2Gi"}, "min": {"ephemeral-storage": "10Mi"}}],
    "storage-of-pod": [{"type": "Pod", "max": {"ephemeral-storage": "1100Mi"}}],
    "gpu": [{"type": "Container", "default": {"example.com/gpu": "1"}, "defaultRequest": {"example.com/gpu": "1"}}],
    "gpu-needed": [{"type": "Container", "min": {"example.com/gpu": "1"}}],
    "tiny": [
        {"type": "Container", "max": {"memory": "512Mi", "cpu": "1"}},
        {"type": "Pod", "max": {"memory": "530Mi"}},
    ],
}
QUOTAS: dict[str, dict[str, str]] = {
    "limits": {"limits.cpu": "2", "limits.memory": "2Gi"},
    "tight": {"limits.memory": "540Mi", "requests.memory": "540Mi"},
    "requests": {"requests.cpu": "505m", "requests.ephemeral-storage": "1Gi"},
}


async def _create(client: Client, namespace: str, item: dict[str, Any]) -> dict[str, Any] | str:
    """What the API server makes of a pod, without keeping it; or why it refuses it."""
    try:
        made: dict[str, Any] = await client.request(
            "POST", f"/api/v1/namespaces/{namespace}/pods", {"dryRun": "All"}, item
        )
    except Exception as error:  # noqa: BLE001 - whatever it says, it is compared
        return str(error)
    return made


async def _settled(client: Client, namespace: str, item: dict[str, Any]) -> dict[str, Any] | str:
    """Create until the pod is admitted: the webhook's watch may be a moment behind the rules."""
    answer: dict[str, Any] | str = ""
    for _ in range(10):
        answer = await _create(client, namespace, item)
        if not isinstance(answer, str):
            break
        await asyncio.sleep(0.3)
    return answer


async def test_every_pod_that_is_admitted_without_the_proxy_is_admitted_with_it(client: Client, shop: str) -> None:
    await client.apply(service("bot", shop))
    kinds: list[tuple[str, dict[str, Any], str]] = [
        ("LimitRange", {"limits": limits}, name) for name, limits in RANGES.items()
    ]
    kinds += [("ResourceQuota", {"hard": hard}, name) for name, hard in QUOTAS.items()]
    report: list[str] = []
    async with webhook(client, own_namespace="default", watched=shop):
        probe = await injected(client, shop)
        await client.delete("v1", "pods", probe["metadata"]["name"], shop)
        for kind, spec, rule in kinds:
            await client.apply(
                {"apiVersion": "v1", "kind": kind, "metadata": {"name": rule, "namespace": shop}, "spec": spec}
            )
            if kind == "ResourceQuota":
                await _counted(client, shop, rule)
            await asyncio.sleep(0.5)
            for name, resources in PODS.items():
                alone = pod(f"{name}-{uuid.uuid4().hex[:6]}", shop)
                alone["spec"]["containers"][0]["resources"] = resources
                alone["metadata"]["labels"] = {"app": "other"}
                without = await _create(client, shop, alone)
                selected = {**alone, "metadata": {**alone["metadata"], "labels": {"app": "bot"}}}
                if isinstance(without, str):
                    continue  # refused by itself
                made = await _settled(client, shop, selected)
                assert not isinstance(made, str), f"{kind} {rule}, {name}: {made}"
                assert made["status"]["qosClass"] == without["status"]["qosClass"], f"{kind} {rule}, {name}"
                proxies = [
                    item for item in made["spec"].get("initContainers") or [] if item["name"] == names.PROXY_CONTAINER
                ]
                if proxies:
                    report.append(f"{rule} {name}: {proxies[0].get('resources')}")
                    assert "example.com/gpu" not in json.dumps(proxies[0].get("resources", {})).replace('gpu": "0"', "")
                    continue
                (found,) = json.loads(made["metadata"]["annotations"][names.ANNOTATION_FINDINGS])
                assert found["reason"] in REFUSING, f"{kind} {rule}, {name}"
                report.append(f"{rule} {name}: {found['message']}")
            await client.delete("v1", "limitranges" if kind == "LimitRange" else "resourcequotas", rule, shop)
            await asyncio.sleep(0.2)
    print("\n".join(report))  # noqa: T201 - what became of each, where somebody asks (-s)
    refused = [line for line in report if "would be refused" in line]
    assert len(refused) < len(report) / 3
    assert not any(line.startswith(("least", "ratio", "pod burstable", "defaults")) for line in refused)


async def _counted(client: Client, namespace: str, name: str) -> None:
    """Wait until the quota's controller has counted."""
    async with asyncio.timeout(30):
        while True:
            item = await client.get("v1", "resourcequotas", name, namespace)
            if (item.get("status") or {}).get("hard"):
                return
            await asyncio.sleep(0.2)
