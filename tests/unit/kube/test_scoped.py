"""ScopedInformer against a fake API server: what a list of one namespace and the watch of all tell of the same objects."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from llmwarden.kube import Client, ScopedInformer
from tests.unit.kube.test_client import answer, begin_watch, server

Object = dict[str, Any]


def pod(namespace: str, name: str, version: int) -> Object:
    return {"metadata": {"namespace": namespace, "name": name, "resourceVersion": str(version)}}


class Cluster:
    """A scripted API server: what lists answer, by path, and events that the test sends to the one watch."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Object]] = {"/api/v1/pods": []}
        self.asked: list[str] = []
        self.hold = asyncio.Event()  # lists of one namespace wait for it
        self.hold.set()
        self.refuse = False
        self.pages: asyncio.Event | None = None  # lists of the cluster come in pages of one; the second waits for it
        self.between = asyncio.Event()  # the second page waits
        self.watching = asyncio.Event()
        self._events: asyncio.Queue[bytes] = asyncio.Queue()

    def send(self, kind: str, item: Object) -> None:
        self._events.put_nowait(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    async def handle(self, _method: str, target: str, writer: asyncio.StreamWriter) -> None:
        path = target.split("?", maxsplit=1)[0]
        if "watch=true" in target:
            begin_watch(writer)
            await writer.drain()
            self.watching.set()
            while True:
                writer.write(await self._events.get())
                await writer.drain()
        self.asked.append(path)
        found = list(self.lists.get(path, []))
        if path != "/api/v1/pods":
            await self.hold.wait()
        if self.refuse:
            answer(writer, {"message": "pods is forbidden"}, 403)
            return
        metadata = {"resourceVersion": "10"}
        if path == "/api/v1/pods" and self.pages is not None:
            at = int(target.partition("continue=")[2] or 0)
            if at:
                self.between.set()
                await self.pages.wait()
            found, more = found[at : at + 1], at + 1 < len(found)
            metadata |= {"continue": str(at + 1)} if more else {}
        answer(writer, {"kind": "PodList", "metadata": metadata, "items": found})


@contextlib.asynccontextmanager
async def watched(cluster: Cluster, *namespaces: str) -> AsyncIterator[ScopedInformer]:
    async with server(cluster.handle) as url, Client.for_url(url, timeout=10) as client:
        made = ScopedInformer(client, "v1", "pods", backoff_seconds=(0.001, 0.002))
        for namespace in namespaces:
            made.include(namespace)
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def test_many_namespaces_are_one_list_and_one_watch() -> None:
    cluster = Cluster()
    cluster.lists["/api/v1/pods"] = [pod(f"team-{number}", "one", 5) for number in range(300)]
    wanted = [f"team-{number}" for number in range(200)]
    async with watched(cluster, *wanted) as made:
        await cluster.watching.wait()
        assert all(made.complete(name) and len(made.of(name)) == 1 for name in wanted)
        assert len(made.items) == 200
        assert not made.of("team-250")
        assert cluster.asked == ["/api/v1/pods"]


async def test_a_namespace_that_is_included_later_is_listed_by_itself_and_then_watched() -> None:
    cluster = Cluster()
    cluster.lists["/api/v1/pods"] = [pod("shop", "old", 5), pod("other", "theirs", 6)]
    cluster.lists["/api/v1/namespaces/shop/pods"] = [pod("shop", "old", 5)]
    async with watched(cluster) as made:
        await cluster.watching.wait()
        assert not made.items
        made.include("shop")
        assert not made.complete("shop")
        await until(lambda: made.complete("shop"))
        cluster.send("ADDED", pod("other", "more", 11))
        cluster.send("ADDED", pod("shop", "new", 12))
        await until(lambda: ("shop", "new") in made.items)
        assert sorted(made.items) == [("shop", "new"), ("shop", "old")]
        made.exclude("shop")
        assert not made.items
        assert not made.complete("shop")


async def test_what_the_watch_told_while_the_list_was_under_way_stands() -> None:
    cluster = Cluster()
    listed = [pod("shop", "deleted", 5), pod("shop", "changed", 5), pod("shop", "kept", 5)]
    cluster.lists["/api/v1/namespaces/shop/pods"] = listed
    cluster.hold.clear()
    async with watched(cluster) as made:
        await cluster.watching.wait()
        made.include("shop")
        await until(lambda: "/api/v1/namespaces/shop/pods" in cluster.asked)
        cluster.send("DELETED", pod("shop", "deleted", 11))
        cluster.send("MODIFIED", pod("shop", "changed", 12))
        cluster.send("ADDED", pod("shop", "new", 13))
        await until(lambda: ("shop", "new") in made.items)
        cluster.hold.set()
        await until(lambda: made.complete("shop"))
        versions = {key[1]: item["metadata"]["resourceVersion"] for key, item in made.items.items()}
        assert versions == {"changed": "12", "kept": "5", "new": "13"}


async def test_a_watch_that_cannot_be_had_says_why_until_it_can() -> None:
    cluster = Cluster()
    cluster.refuse = True
    async with watched(cluster, "shop") as made:
        await until(lambda: made.fault(0))
        assert "pods is forbidden" in made.fault(0)
        assert not made.fault(3600)
        assert not made.complete("shop")
        cluster.refuse = False
        await until(lambda: not made.fault(0))
        assert made.complete("shop")


async def test_a_namespace_that_is_included_while_the_cluster_is_listed_again_keeps_its_objects() -> None:
    cluster = Cluster()
    cluster.lists["/api/v1/pods"] = [pod("shop", "one", 5), pod("shop", "two", 5)]
    cluster.lists["/api/v1/namespaces/shop/pods"] = cluster.lists["/api/v1/pods"]
    async with watched(cluster) as made:
        await cluster.watching.wait()
        cluster.pages = asyncio.Event()
        cluster.watching.clear()
        cluster.send("ERROR", {"code": 410, "message": "too old"})
        await until(cluster.between.is_set)  # the first page has come, and "one" was not wanted
        made.include("shop")
        await asyncio.sleep(0.05)
        cluster.pages.set()
        await until(cluster.watching.is_set)
        await until(lambda: made.complete("shop"))
        assert sorted(made.items) == [("shop", "one"), ("shop", "two")]
