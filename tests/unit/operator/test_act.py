import copy
from typing import Any

import pytest

from llmwarden.act.apply import Applier
from llmwarden.act.publish import LEAST_SECONDS, Publisher
from llmwarden.desired.diff import compact, holds
from llmwarden.desired.manifest import stamped
from llmwarden.errors import NotFoundError, RefusedError, UnavailableError

Object = dict[str, Any]


class Server:
    """An API server of one object each: stores what is applied, counts, and fails when told to."""

    def __init__(self) -> None:
        self.version = 10
        self.writes: list[Object] = []
        self.deleted: list[str] = []
        self.error: Exception | None = None
        self.drops = ""  # a field of spec that it does not keep

    async def apply(self, manifest: Object) -> Object:
        if self.error:
            raise self.error
        self.version += 1
        self.writes.append(manifest)
        stored = copy.deepcopy(manifest)
        stored.get("spec", {}).pop(self.drops, None)
        stored["metadata"] |= {"resourceVersion": str(self.version), "uid": "u", "managedFields": [{}]}
        return stored

    async def apply_status(self, manifest: Object) -> Object:
        return await self.apply(manifest)

    async def delete(self, _version: str, _plural: str, name: str, _namespace: str | None, **_: Any) -> bool:
        self.deleted.append(name)
        return True


class World:
    """A server, what the watch has seen of it, and a clock."""

    def __init__(self) -> None:
        self.server = Server()
        self.live: dict[tuple[str, str], Object] = {}
        self.now = 0.0
        client: Any = self.server
        self.applier = Applier(client, lambda _kind, name: self.live.get(name), lambda: self.now)
        self.publisher = Publisher(client, lambda: self.now)


def rule(**spec: Any) -> Object:
    metadata = {"name": "r", "namespace": "shop", "labels": {"a": "b"}}
    return stamped(
        {"apiVersion": "x/v1", "kind": "PrometheusRule", "metadata": metadata, "spec": {"groups": [], **spec}}
    )


NAME = ("shop", "r")


async def test_what_is_there_is_not_written_again_before_or_after_the_watch_catches_up() -> None:
    world = World()
    await world.applier.apply([rule()])
    await world.applier.apply([rule()])
    assert len(world.server.writes) == 1
    world.live[NAME] = compact(await Server().apply(rule()))
    world.live[NAME]["metadata"]["resourceVersion"] = "11"
    await world.applier.apply([rule()])
    assert len(world.server.writes) == 1


async def test_a_change_and_a_hand_edit_are_written_once() -> None:
    world = World()
    await world.applier.apply([rule()])
    await world.applier.apply([rule(interval="30s")])
    assert len(world.server.writes) == 2
    edited = compact({**rule(interval="5s"), "metadata": {**rule()["metadata"], "resourceVersion": "20"}})
    world.live[NAME] = edited
    world.server.version = 20
    for _ in range(3):
        await world.applier.apply([rule(interval="30s")])
    assert len(world.server.writes) == 3


async def test_what_others_add_is_theirs() -> None:
    world = World()
    theirs = copy.deepcopy(rule())
    theirs["metadata"]["labels"]["theirs"] = "x"
    theirs["spec"]["added"] = 1
    world.live[NAME] = compact(theirs)
    await world.applier.apply([rule()])
    assert world.server.writes == []


async def test_a_delete_that_the_watch_saw_is_believed_at_once() -> None:
    world = World()
    await world.applier.apply([rule()])
    world.applier.seen_gone(("PrometheusRule", *NAME), 11)
    await world.applier.apply([rule()])
    assert len(world.server.writes) == 2


async def test_a_server_that_drops_a_field_does_not_make_us_write_for_ever() -> None:
    world = World()
    world.server.drops = "newer"
    for turn in range(5):
        await world.applier.apply([rule(newer=1)])
        world.live[NAME] = compact(await Server().apply(rule()))
        world.live[NAME]["metadata"] |= {
            "resourceVersion": str(30 + turn),
            "annotations": rule(newer=1)["metadata"]["annotations"],
        }
        world.now += 100
    assert len(world.server.writes) == 1


async def test_one_refusal_holds_up_nobody_and_is_told() -> None:
    world = World()
    world.server.error = RefusedError("denied by policy")
    assert await world.applier.apply([rule()]) == {"PrometheusRule": "denied by policy"}
    world.server.error = UnavailableError("500")
    with pytest.raises(UnavailableError):
        await world.applier.apply([rule()])


async def test_prune_deletes_what_is_not_wanted_once() -> None:
    world = World()
    owned = compact({**rule(), "metadata": {**rule()["metadata"], "uid": "u", "resourceVersion": "5"}})
    world.live[NAME] = owned
    await world.applier.prune([owned], [rule()])
    assert world.server.deleted == []
    await world.applier.prune([owned], [])
    await world.applier.prune([owned], [])
    assert world.server.deleted == ["r"]


def test_a_config_maps_text_is_compared_by_its_hash() -> None:
    one = {"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}
    assert holds(compact(one), compact(one))
    assert not holds(compact(one), compact({**one, "data": {"x": "2"}}))


def item(status: Object | None = None, version: int = 1) -> Object:
    metadata = {"name": "bot", "namespace": "shop", "uid": "u", "resourceVersion": str(version)}
    return {"kind": "LLMService", "metadata": metadata, **({"status": status} if status else {})}


def status(requests: int, ready: str = "True", reason: str = "AsSpecified") -> Object:
    condition = {"type": "Ready", "status": ready, "reason": reason, "observedGeneration": 1}
    return {"observedGeneration": 1, "asOf": f"T{requests}", "usage": {"requests": requests}, "conditions": [condition]}


async def test_figures_are_written_once_a_minute_and_states_at_once() -> None:
    world = World()
    assert await world.publisher.publish(item(), status(1)) is None
    world.now = 10
    assert await world.publisher.publish(item(), status(2)) == LEAST_SECONDS - 10
    assert len(world.server.writes) == 1
    assert await world.publisher.publish(item(), status(2, "False", "NotInstrumented")) is None
    assert len(world.server.writes) == 2
    world.now = 80
    assert await world.publisher.publish(item(), status(3, "False", "NotInstrumented")) is None
    assert len(world.server.writes) == 3


async def test_nothing_new_is_not_written_even_after_a_restart() -> None:
    world = World()
    known = item(status(1))
    later = {**status(1), "asOf": "T9"}
    assert await world.publisher.publish(known, later) is None
    assert world.server.writes == []


async def test_a_service_that_is_gone_is_no_error() -> None:
    world = World()
    world.server.error = NotFoundError("gone")
    assert await world.publisher.publish(item(), status(1)) is None
