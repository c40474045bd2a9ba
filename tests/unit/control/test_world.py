"""What the operator knows of its own kinds, where a list and the watch tell it of the same objects at the same time."""

import asyncio
import copy
import datetime as dt
import time
from typing import Any, cast

import pytest

from llmwarden.control.handlers.main import BUGS, run_or_report
from llmwarden.control.observe.resources import CLUSTER, NAMESPACE, WorkKey
from llmwarden.control.observe.world import FAULT_SECONDS, World
from llmwarden.kube import Client
from llmwarden.settings import Settings
from tests.unit.control.test_scale import Cluster, Server


def ignore(key: WorkKey, *, urgent: bool = True) -> None:
    """Take a mark that nobody waits for."""
    del key, urgent


def world() -> World:
    # Nothing is asked here: a client is only handed on.
    return World(cast("Client", None), Settings(), ignore, lambda: dt.datetime.now(dt.UTC))


def named(name: str, version: int = 1) -> dict[str, Any]:
    return {"kind": NAMESPACE, "metadata": {"name": name, "uid": name, "resourceVersion": str(version)}}


def known(made: World) -> list[str]:
    return [name for _, name in made.names(NAMESPACE)]


def test_a_list_tells_what_is_gone_and_what_is_new() -> None:
    made = world()
    made.take(NAMESPACE, named("stays"), ("", "stays"))
    made.take(NAMESPACE, named("goes"), ("", "goes"))
    listing = made.listing(NAMESPACE)
    listing.take(named("stays", 2))
    listing.take(named("comes"))
    listing.end()
    assert known(made) == ["comes", "stays"]


def test_what_the_watch_told_while_the_list_was_under_way_stands() -> None:
    made = world()
    made.take(NAMESPACE, named("deleted"), ("", "deleted"))
    listing = made.listing(NAMESPACE)
    made.take(NAMESPACE, None, ("", "deleted"))
    made.take(NAMESPACE, named("created", 9), ("", "created"))
    made.take(NAMESPACE, named("came and went", 10), ("", "came and went"))
    made.take(NAMESPACE, None, ("", "came and went"))
    for name in ("deleted", "came and went"):
        listing.take(named(name))
    listing.end()
    assert known(made) == ["created"]


async def test_an_error_that_nobody_foresaw_ends_one_tick_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def bad() -> None:
        raise ZeroDivisionError

    before = BUGS._value.get()
    await run_or_report(bad(), "asking")
    assert BUGS._value.get() == before + 1
    assert "asking: this is a bug" in caplog.text


def test_a_list_that_is_older_than_a_new_object_of_the_same_name_does_not_bring_the_old_one_back() -> None:
    made = world()
    made.take(NAMESPACE, named("shop", 5), ("", "shop"))
    listing = made.listing(NAMESPACE)
    old = named("shop", 5)
    made.take(NAMESPACE, None, ("", "shop"))
    new = named("shop", 9)
    new["metadata"]["uid"] = "another"
    made.take(NAMESPACE, new, ("", "shop"))
    listing.take(old)
    listing.end()
    raw = made.raw(NAMESPACE, ("", "shop"))
    assert raw is not None
    assert raw["metadata"]["uid"] == "another"


@pytest.mark.parametrize("recreated", [False, True])
async def test_the_answer_to_a_status_write_does_not_bring_back_what_was_deleted_meanwhile(*, recreated: bool) -> None:
    cluster = Cluster(1)
    [name] = cluster.names
    again = copy.deepcopy(cluster.server.objects["LLMService", *name])
    again["metadata"] |= {"uid": "another", "resourceVersion": "900000"}

    async def apply_status(manifest: dict[str, Any]) -> dict[str, Any]:
        answer = await Server.apply_status(cluster.server, manifest)
        cluster.world.take("LLMService", None, name)  # the watch is faster than the answer
        if recreated:
            cluster.world.take("LLMService", again, name)
        return answer

    cluster.server.apply_status = apply_status  # type: ignore[method-assign]
    await cluster.reconciler.reconcile_once(WorkKey("LLMService", *name))
    raw = cluster.world.raw("LLMService", name)
    assert (raw and raw["metadata"]["uid"]) == ("another" if recreated else None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second of `asyncio.sleep` pass at once."""
    sleep = asyncio.sleep
    monkeypatch.setattr("llmwarden.control.observe.world.asyncio.sleep", lambda _seconds: sleep(0))


async def rounds() -> None:
    """Let what looks once a second look some times."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.usefixtures("quick")
async def test_services_hear_of_each_watch_that_begins_or_ceases_to_fail() -> None:
    cluster = Cluster(1)
    key = (WorkKey("LLMService", *cluster.names[0]), False)
    maps, policies = cluster.world._owned["ConfigMap"], cluster.world._owned["NetworkPolicy"]
    since = time.monotonic() - 2 * FAULT_SECONDS
    following = asyncio.create_task(cluster.world._follow_capabilities())
    try:
        for informer, failing in ((maps, (since, "403")), (policies, (since, "403")), (maps, None), (policies, None)):
            await rounds()
            cluster.marked.clear()
            informer._failing = failing
            await rounds()
            assert key in cluster.marked, (informer.name, failing)
        # Other words for the same fault are no news.
        maps._failing = (since, "403")
        await rounds()
        cluster.marked.clear()
        maps._failing = (since, "500")
        await rounds()
        assert key not in cluster.marked
    finally:
        following.cancel()


@pytest.mark.usefixtures("quick")
async def test_a_kind_that_is_read_late_and_of_which_nothing_is_there_marks_everything() -> None:
    """While it is not read it is not written. It may have failed for a shorter time than is reported."""
    cluster = Cluster(1)
    policies = cluster.world._owned["NetworkPolicy"]
    policies.synced.clear()
    policies._failing = (time.monotonic(), "503")
    assert cluster.world.unread()
    following = asyncio.create_task(cluster.world._follow_capabilities())
    try:
        await rounds()
        cluster.marked.clear()
        policies._failing = None
        policies.synced.set()
        await rounds()
        assert (WorkKey("LLMService", *cluster.names[0]), False) in cluster.marked
        assert (CLUSTER, False) in cluster.marked
    finally:
        following.cancel()
