import copy
from typing import Any

import pytest

from llmwarden.control import child
from llmwarden.control.act.apply import MOST_REPAIRS, REPAIR_SECONDS, Applier
from llmwarden.control.act.publish import BURST_SECONDS, DEBT_SECONDS, LEAST_SECONDS, Publisher
from llmwarden.control.child import Child, Identity
from llmwarden.errors import NotFoundError, RefusedError, UnavailableError
from llmwarden.manifests.manifest import stamped

Object = dict[str, Any]


class Server:
    """An API server of one object each: stores what is applied, counts, and fails when told to."""

    def __init__(self) -> None:
        self.version = 10
        self.writes: list[Object] = []
        self.reads = 0
        self.stored: Object | None = None
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
        self.stored = stored
        return stored

    async def apply_status(self, manifest: Object) -> Object:
        return await self.apply(manifest)

    async def get(self, *_: Any) -> Object:
        self.reads += 1
        assert self.stored is not None
        return self.stored

    async def delete(self, _version: str, _plural: str, name: str, _namespace: str | None, **_: Any) -> bool:
        self.deleted.append(name)
        return True


class World:
    """A server, what the watch has seen of it, and a clock."""

    def __init__(self) -> None:
        self.server = Server()
        self.live: dict[Identity, Child] = {}
        self.now = 0.0
        self.item: Object = {}
        client: Any = self.server
        self.applier = Applier(client, self, lambda: self.now)
        self.publisher = Publisher(client, self.take, 10.0, lambda: self.now)

    def owned(self, identity: Identity) -> Child | None:
        return self.live.get(identity)

    def written(self, item: Object) -> Child:
        kept = child.of(item, int(item["metadata"]["resourceVersion"]))
        self.live[kept.identity] = kept
        return kept

    def deleted(self, identity: Identity) -> None:
        del self.live[identity]

    def see(self, item: Object, version: int) -> None:
        """Let the watch see an object that somebody else has written."""
        self.server.stored = item
        self.written({**item, "metadata": {**item["metadata"], "resourceVersion": str(version), "uid": "u"}})

    def take(self, kind: str, item: Object, name: tuple[str, str]) -> None:
        self.item = {"kind": kind, **item}
        assert name == ("shop", item["metadata"]["name"])


def rule(**spec: Any) -> Object:
    metadata = {"name": "r", "namespace": "shop", "labels": {"a": "b"}}
    return stamped(
        {"apiVersion": "x/v1", "kind": "PrometheusRule", "metadata": metadata, "spec": {"groups": [], **spec}}
    )


NAME = ("PrometheusRule", "shop", "r")


async def test_what_is_there_is_not_written_again() -> None:
    world = World()
    await world.applier.apply([rule()])
    await world.applier.apply([rule()])
    assert len(world.server.writes) == 1
    assert world.server.reads == 0
    after_a_restart = World()
    after_a_restart.live = world.live
    await after_a_restart.applier.apply([rule()])
    assert (after_a_restart.server.writes, after_a_restart.server.reads) == ([], 0)


async def test_a_change_and_a_hand_edit_are_written_once() -> None:
    world = World()
    await world.applier.apply([rule()])
    await world.applier.apply([rule(interval="30s")])
    assert len(world.server.writes) == 2
    # The edit leaves our annotation, which says what it was made from.
    edited = rule(interval="30s")
    edited["spec"]["interval"] = "5s"
    world.see(edited, 20)
    world.server.version = 20
    for _ in range(3):
        await world.applier.apply([rule(interval="30s")])
    assert len(world.server.writes) == 3


async def test_what_others_add_is_theirs_and_is_read_once() -> None:
    world = World()
    theirs = copy.deepcopy(rule())
    theirs["metadata"]["labels"]["theirs"] = "x"
    theirs["spec"]["added"] = 1
    world.see(theirs, 20)
    for _ in range(3):
        await world.applier.apply([rule()])
    assert world.server.writes == []
    assert world.server.reads == 1


async def test_a_delete_is_made_good_at_once() -> None:
    world = World()
    await world.applier.apply([rule()])
    world.deleted(NAME)
    await world.applier.apply([rule()])
    assert len(world.server.writes) == 2


async def test_a_server_that_drops_a_field_does_not_make_us_write_for_ever() -> None:
    world = World()
    world.server.drops = "newer"
    for _ in range(5):
        await world.applier.apply([rule(newer=1)])
    assert len(world.server.writes) == 1


async def test_one_refusal_holds_up_nobody_and_is_told() -> None:
    world = World()
    world.server.error = RefusedError("denied by policy")
    assert await world.applier.apply([rule()]) == {"PrometheusRule": "denied by policy"}
    world.server.error = UnavailableError("500")
    with pytest.raises(UnavailableError):
        await world.applier.apply([rule()])


@pytest.mark.parametrize("annotated", [True, False])
async def test_somebody_who_undoes_each_write_is_not_fought_at_the_speed_of_the_network(*, annotated: bool) -> None:
    world = World()
    await world.applier.apply([rule()])
    theirs = copy.deepcopy(rule())
    theirs["spec"]["groups"] = [{"name": "theirs"}]
    if not annotated:
        del theirs["metadata"]["annotations"]
    failed: dict[str, str] = {}
    for _ in range(100):
        world.server.version += 1
        world.see(theirs, world.server.version)  # which marks the service
        failed = await world.applier.apply([rule()])
    assert len(world.server.writes) == 1 + MOST_REPAIRS
    assert "shop/r" in failed["PrometheusRule"]
    await world.applier.apply([rule(interval="30s")])
    assert len(world.server.writes) == 2 + MOST_REPAIRS, "an edit of ours does not wait"
    world.see(theirs, world.server.version + 1)
    world.now += REPAIR_SECONDS
    assert not await world.applier.apply([rule()])
    assert len(world.server.writes) == 3 + MOST_REPAIRS


async def test_prune_deletes_what_is_not_wanted_once() -> None:
    world = World()
    await world.applier.apply([rule()])
    await world.applier.prune(list(world.live.values()), [rule()])
    assert world.server.deleted == []
    await world.applier.prune(list(world.live.values()), [])
    await world.applier.prune(list(world.live.values()), [])
    assert world.server.deleted == ["r"]


def item(status: Object | None = None, version: int = 1, name: str = "bot") -> Object:
    metadata = {"name": name, "namespace": "shop", "uid": "u", "resourceVersion": str(version)}
    return {"kind": "LLMService", "metadata": metadata, **({"status": status} if status else {})}


def status(requests: int, ready: str = "True", reason: str = "AsSpecified") -> Object:
    condition = {"type": "Ready", "status": ready, "reason": reason, "observedGeneration": 1}
    return {"observedGeneration": 1, "asOf": f"T{requests}", "usage": {"requests": requests}, "conditions": [condition]}


async def test_figures_are_written_once_a_minute_and_states_at_once() -> None:
    world = World()
    assert await world.publisher.publish(item(), status(1)) is None
    world.now = 10
    assert await world.publisher.publish(world.item, status(2)) == LEAST_SECONDS - 10
    assert len(world.server.writes) == 1
    assert await world.publisher.publish(world.item, status(2, "False", "NotInstrumented")) is None
    assert len(world.server.writes) == 2
    world.now = 80
    assert await world.publisher.publish(world.item, status(3, "False", "NotInstrumented")) is None
    assert len(world.server.writes) == 3


async def test_figures_of_many_take_turns_and_changes_of_state_do_not_wait() -> None:
    """Ten writes a second over all: a thousand services' figures take a hundred seconds, each in its turn."""
    world = World()
    count, seconds = 1000, 400
    items = {f"s{number}": item(status(0), name=f"s{number}") for number in range(count)}
    world.now = 1000.0
    for name in items:
        world.publisher.postpone("LLMService", "shop", name)
    written: dict[str, list[float]] = {name: [] for name in items}
    for _ in range(seconds):
        world.now += 1
        for _, _, name in world.publisher.turns():
            before = len(world.server.writes)
            again = await world.publisher.publish(items[name], status(int(world.now)))
            if len(world.server.writes) > before:
                written[name].append(world.now)
                items[name] = world.item
            assert again is None
            world.publisher.postpone("LLMService", "shop", name)  # the next tick: they have moved again
    total = sum(map(len, written.values()))
    assert total <= 10 * seconds + 10 * BURST_SECONDS
    assert total >= 10 * seconds - 10
    often = [len(times) for times in written.values()]
    assert max(often) - min(often) <= 1, "it is not fairly shared"
    before = len(world.server.writes)
    assert not world.publisher.turns()
    for one in items.values():
        await world.publisher.publish(one, status(1, "False", "NotInstrumented"))
    assert len(world.server.writes) == before + count
    # What could not wait is owed, but not for ever.
    world.publisher.postpone("LLMService", "shop", "s0")
    world.now += DEBT_SECONDS
    assert not world.publisher.turns()
    world.now += 1
    assert world.publisher.turns()


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


async def test_figures_of_services_that_are_looked_at_often_do_not_take_the_turns_of_the_others() -> None:
    """Pods that change make services be looked at all the time: their figures wait in the same line as those of quiet services."""
    world = World()
    world.now = 1000.0
    count, seconds = 800, 300
    items = {f"busy{number}": item(status(0), name=f"busy{number}") for number in range(count)}
    items["quiet"] = item(status(0), name="quiet")
    for name in items:
        world.publisher.postpone("LLMService", "shop", name)
    written = dict.fromkeys(items, 0)
    due: dict[str, float] = {}

    async def look(name: str) -> None:
        before = len(world.server.writes)
        again = await world.publisher.publish(items[name], status(int(world.now)))
        due[name] = world.now + (again or float("inf"))
        if len(world.server.writes) > before:
            written[name] += 1
            items[name] = world.item

    for _ in range(seconds):
        world.now += 1
        turns = [name for _, _, name in world.publisher.turns()]
        for name in items:
            if name != "quiet":
                await look(name)  # a pod of it has changed
        for name in turns:  # a turn is not urgent
            await look(name)
        if due.get("quiet", float("inf")) <= world.now:
            await look("quiet")
        world.publisher.postpone("LLMService", "shop", "quiet")
    assert sum(written.values()) >= 10 * seconds - 20
    assert sum(written.values()) <= 10 * seconds + 10 * BURST_SECONDS
    assert max(written.values()) - written["quiet"] <= 1
