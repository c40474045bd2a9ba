"""The Kubernetes client and the Informer on a real API server."""

import asyncio
import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmwarden import kube
from llmwarden.errors import ConflictError, NotFoundError, NotInstalledError, RefusedError
from llmwarden.kube import Client, Informer
from tests.api.support import ControlPlane


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[Client]:
    async with await kube.connect(str(control_plane.kubeconfig)) as connected:
        yield connected


@contextlib.asynccontextmanager
async def running(informer: Informer) -> AsyncIterator[Informer]:
    task = asyncio.create_task(informer.run())
    try:
        yield informer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def config_map(namespace: str, name: str = "one", **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kept": "yes"}},
        "data": data,
    }


def definition(group: str) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }


def widget(group: str, namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": name, "namespace": namespace}}


async def test_apply_owns_fields_and_removes_what_is_no_longer_sent(client: Client, namespace: str) -> None:
    first = await client.apply(config_map(namespace, a="1", b="2"))
    same = await client.apply(config_map(namespace, a="1", b="2"))
    assert same["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert (await client.apply(config_map(namespace, a="1")))["data"] == {"a": "1"}
    with pytest.raises(ConflictError):
        await client.apply(config_map(namespace, a="2"), force=False, field_manager="somebody-else")
    assert (await client.get("v1", "configmaps", "one", namespace))["data"] == {"a": "1"}


async def test_errors_say_what_kind_they_are(client: Client, namespace: str) -> None:
    with pytest.raises(NotFoundError):
        await client.get("v1", "configmaps", "none", namespace)
    with pytest.raises(NotFoundError):
        await client.apply(config_map("no-such-namespace", a="1"))
    with pytest.raises(NotInstalledError):
        await client.list("example.com/v1", "widgets")
    with pytest.raises(NotInstalledError):
        await client.list("apps/v1", "widgets")
    with pytest.raises(NotInstalledError):
        await client.apply({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}})
    bad = config_map(namespace, name="Not A Name", a="1")
    with pytest.raises(RefusedError, match="ConfigMap"):
        await client.create(bad)
    await client.create(config_map(namespace, name="twice"))
    with pytest.raises(ConflictError):
        await client.create(config_map(namespace, name="twice"))


async def test_delete_and_evict_say_whether_anything_was_there(client: Client, namespace: str) -> None:
    made = await client.create(config_map(namespace))
    with pytest.raises(ConflictError):
        await client.delete("v1", "configmaps", "one", namespace, uid=str(uuid.uuid4()))
    assert await client.delete("v1", "configmaps", "one", namespace, uid=made["metadata"]["uid"])
    assert not await client.delete("v1", "configmaps", "one", namespace)
    assert not await client.delete("example.com/v1", "widgets", "one", namespace)
    assert not await client.evict(namespace, "no-such-pod")


async def test_discovery(client: Client) -> None:
    assert await client.has_resource("apps/v1", "deployments")
    assert await client.has_resource("v1", "pods")
    assert not await client.has_resource("apps/v1", "widgets")
    assert not await client.has_resource("example.com/v1", "widgets")


async def test_lists_come_in_pages(client: Client, namespace: str) -> None:
    for index in range(5):
        await client.create(config_map(namespace, name=f"page-{index}"))
    first = await client.page("v1", "configmaps", namespace, label_selector="kept=yes", limit=2)
    assert len(first.items) == 2
    assert first.continue_token
    assert first.items[0]["kind"] == "ConfigMap"
    assert len(await client.list("v1", "configmaps", namespace, label_selector="kept=yes")) == 5


async def test_events_and_token_reviews(client: Client, namespace: str) -> None:
    made = await client.create(config_map(namespace))
    now = dt.datetime.now(dt.UTC)
    event = await client.create_event(made, reason="Tried", message="it works", now=now, warning=True)
    assert event["involvedObject"]["uid"] == made["metadata"]["uid"]
    answer = await client.request(
        "POST",
        f"/api/v1/namespaces/{namespace}/serviceaccounts",
        None,
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "asker"}},
    )
    token = await client.request(
        "POST",
        f"/api/v1/namespaces/{namespace}/serviceaccounts/{answer['metadata']['name']}/token",
        None,
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["llmwarden-ledger"]}},
    )
    review = await client.token_review(token["status"]["token"], ("llmwarden-ledger",))
    assert review.authenticated
    assert review.username == f"system:serviceaccount:{namespace}:asker"
    assert not (await client.token_review(token["status"]["token"], ("another",))).authenticated
    assert not (await client.token_review("nonsense", ("llmwarden-ledger",))).authenticated


async def test_an_informer_follows_every_change(client: Client, namespace: str) -> None:
    await client.create(config_map(namespace, name="before", a="1"))
    seen: list[tuple[str, bool, bool]] = []
    informer = Informer(
        client,
        "v1",
        "configmaps",
        namespace,
        label_selector="kept=yes",
        on_change=lambda key, old, new: seen.append((key[1], old is not None, new is not None)),
    )
    async with running(informer):
        await informer.synced.wait()
        assert [name for _, name in informer.items] == ["before"]
        await client.create(config_map(namespace, name="after", a="1"))
        await until(lambda: (namespace, "after") in informer.items)
        await client.patch("v1", "configmaps", "after", namespace, {"data": {"a": "2"}})
        await until(lambda: informer.items[namespace, "after"]["data"] == {"a": "2"})
        await client.delete("v1", "configmaps", "before", namespace)
        await until(lambda: (namespace, "before") not in informer.items)
    assert seen == [("before", False, True), ("after", False, True), ("after", True, True), ("before", True, False)]


async def test_an_informer_whose_version_has_expired_lists_again_and_misses_nothing(
    client: Client, namespace: str
) -> None:
    # A kind that is younger than version 1: the API server remembers nothing of it from then, and says 410.
    group = f"test-{uuid.uuid4().hex[:8]}.example.com"
    await client.apply(definition(group))
    changes: list[tuple[str, bool]] = []
    informer = Informer(
        client,
        f"{group}/v1",
        "widgets",
        absent_seconds=0.2,
        on_change=lambda key, _, new: changes.append((key[1], new is not None)),
    )
    async with running(informer):
        await until(informer.synced.is_set)
        await client.apply(widget(group, namespace, "kept"))
        await client.apply(widget(group, namespace, "lost"))
        await until(lambda: len(informer.items) == 2)
    changes.clear()
    # While nobody watches, one object goes and one comes.
    await client.delete(f"{group}/v1", "widgets", "lost", namespace)
    await client.apply(widget(group, namespace, "new"))
    informer._version = "1"
    with pytest.raises(kube.ExpiredError):
        async with asyncio.timeout(30):
            await informer._watch()
    async with running(informer):
        await until(lambda: (namespace, "new") in informer.items)
    assert changes == [("lost", False), ("new", True)]
    await client.delete("apiextensions.k8s.io/v1", "customresourcedefinitions", f"widgets.{group}")


async def test_an_informer_waits_for_an_api_that_is_not_there_yet(client: Client, namespace: str) -> None:
    group = f"test-{uuid.uuid4().hex[:8]}.example.com"
    informer = Informer(client, f"{group}/v1", "widgets", absent_seconds=0.2, backoff_seconds=(0.05, 0.2))
    async with running(informer):
        await until(lambda: informer.absent)
        assert not informer.synced.is_set()
        await client.apply(definition(group))
        await until(informer.synced.is_set)
        await client.apply(widget(group, namespace, "one"))
        await until(lambda: (namespace, "one") in informer.items)
        await client.delete("apiextensions.k8s.io/v1", "customresourcedefinitions", f"widgets.{group}")
        await until(lambda: not informer.items)
