"""What the operator knows of its own objects where a watch, a list and the answer to a write come in another order than they happened."""

from collections.abc import AsyncGenerator
from typing import Any, cast

from llmwarden import names
from llmwarden.control.observe.owned import OwnedInformer
from llmwarden.control.observe.resources import WorkKey
from llmwarden.kube import Client
from llmwarden.kube.client import Page
from tests.unit.control.test_scale import Cluster

Object = dict[str, Any]
KEY = ("shop", "rules")


class Server:
    """An API server whose list the test sets."""

    def __init__(self) -> None:
        self.items: list[Object] = []
        self.version = "0"

    async def pages(self, *_: Any, **__: Any) -> AsyncGenerator[Page]:
        yield Page(self.items, self.version, "")


def rules(version: int, data: str = "ours") -> Object:
    metadata = {"namespace": KEY[0], "name": KEY[1], "uid": "u", "resourceVersion": str(version)}
    labels = {names.LABEL_SERVICE: "bot"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "labels": labels}, "data": {"a": data}}


class Copy:
    """An informer, and what it told."""

    def __init__(self) -> None:
        self.server = Server()
        self.told: list[tuple[int | None, int | None]] = []
        self.informer = OwnedInformer(cast("Client", self.server), "v1", "configmaps", on_change=self._changed)

    def _changed(self, _key: Any, old: Any, new: Any) -> None:
        self.told.append((old and old.version, new and new.version))

    def event(self, kind: str, item: Object) -> None:
        self.informer._take({"type": kind, "object": item})

    async def list(self, version: int, *items: Object) -> None:
        self.server.items, self.server.version = list(items), str(version)
        await self.informer._list()

    @property
    def version(self) -> int | None:
        kept = self.informer.items.get(KEY)
        return kept.version if kept is not None else None


async def test_a_write_is_known_at_once_and_what_was_before_it_does_not_undo_it() -> None:
    copy = Copy()
    await copy.list(10, rules(9))
    copy.informer.written(rules(12))
    copy.event("MODIFIED", rules(11, "theirs"))
    assert copy.version == 12
    copy.event("MODIFIED", rules(12))
    copy.event("MODIFIED", rules(13, "theirs"))
    assert copy.version == 13
    assert copy.told == [(None, 9), (12, 13)]


async def test_an_answer_that_is_older_than_what_the_watch_has_told_does_not_undo_it() -> None:
    copy = Copy()
    await copy.list(10)
    copy.event("ADDED", rules(11))
    copy.event("MODIFIED", rules(12, "theirs"))
    copy.informer.written(rules(11))
    assert copy.version == 12


async def test_an_answer_does_not_bring_back_what_the_watch_saw_deleted() -> None:
    copy = Copy()
    await copy.list(10)
    copy.event("ADDED", rules(11))
    copy.event("DELETED", rules(12))
    copy.informer.written(rules(11))
    assert copy.version is None


async def test_what_is_missing_in_a_list_that_is_newer_than_our_write_is_gone() -> None:
    copy = Copy()
    await copy.list(10)
    copy.informer.written(rules(11))
    await copy.list(20)  # the watch was interrupted, and the object deleted meanwhile
    assert copy.version is None
    assert copy.told[-1] == (11, None)


async def test_what_is_missing_or_old_in_a_list_that_is_older_than_our_write_stays() -> None:
    copy = Copy()
    await copy.list(10, rules(9))
    copy.informer.written(rules(12))
    await copy.list(11)
    assert copy.version == 12
    await copy.list(11, rules(9))
    copy.event("MODIFIED", rules(12))
    assert copy.version == 12


async def test_a_child_whose_label_somebody_moved_to_another_service_is_still_the_business_of_the_first() -> None:
    cluster = Cluster(6)
    await cluster.settle()
    first, second = (WorkKey("LLMService", "team-0", name) for name in ("chat-0", "chat-5"))
    child = cluster.world.owned_of(("team-0", "chat-0"))[0]
    metadata = {"namespace": child.namespace, "name": child.name, "uid": child.uid, "resourceVersion": "900000"}
    labels = {**dict(child.labels), names.LABEL_SERVICE: "chat-5"}
    item = {"apiVersion": child.api_version, "kind": child.kind, "metadata": {**metadata, "labels": labels}}
    cluster.world._owned[child.kind]._take({"type": "MODIFIED", "object": item})
    assert {key for key, _ in cluster.marked} == {first, second}
    # Once the first has put its label back, the second knows it no more.
    cluster.world.written({**item, "metadata": {**metadata, "resourceVersion": "900001", "labels": dict(child.labels)}})
    assert child.identity in {one.identity for one in cluster.world.owned_of(("team-0", "chat-0"))}
    assert child.identity not in {one.identity for one in cluster.world.owned_of(("team-0", "chat-5"))}
