"""The garbage collector does not look at what is there for good, and still finds what is garbage."""

import asyncio
import gc
import sys
from collections.abc import Iterator

import pytest
import uvloop

from llmwarden.ledger import collector
from llmwarden.ledger.collector import Collector
from llmwarden.serving import servers
from llmwarden.serving.servers import Message, Receive, Scope, Send

CONNECTIONS = 100


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def collections() -> int:
    return sum(one["collections"] for one in gc.get_stats())


class Cycle:
    """Garbage that only the collector finds."""

    gone = 0

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        Cycle.gone += 1


def test_what_was_there_at_the_start_is_not_looked_at_and_what_ends_by_itself_needs_no_collection() -> None:
    kept = [[number] for number in range(1000)]
    Collector()
    assert gc.get_freeze_count() > len(kept)
    before = collections()
    for _ in range(20_000):
        gone: list[object] = [[], []]
        del gone
    assert collections() == before
    for _ in range(2 * collector.YOUNG):
        cycle: list[object] = []
        cycle.append(cycle)
    assert collections() > before


def test_what_came_since_is_frozen_and_garbage_among_it_found_at_once() -> None:
    calm = Collector()
    gone = Cycle.gone
    kept = [[number] for number in range(1000)]
    Cycle()
    calm.settle()
    assert Cycle.gone == gone + 1
    # Each of them by itself: how many objects are frozen in all also depends on what other tests let go meanwhile.
    assert not {id(item) for item in kept} & set(map(id, gc.get_objects()))
    assert len(gc.get_objects(generation=2)) < len(kept)  # what a collection would look at


def test_what_becomes_garbage_after_it_was_frozen_is_found_once_memory_has_grown() -> None:
    calm = Collector()
    gone = Cycle.gone
    cycle = Cycle()
    calm.settle()
    del cycle
    calm.settle()
    assert Cycle.gone == gone
    kept = [[number] for number in range(sys.getallocatedblocks() // 2)]
    calm.settle()
    assert Cycle.gone == gone + 1
    del kept


def test_connections_that_stand_are_frozen_and_closed_ones_need_no_collector() -> None:
    uvloop.run(_connections())


async def _connections() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        while (await receive()).get("more_body"):
            pass
        answer: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        await send(answer)
        await send({"type": "http.response.body", "body": b"ok"})

    stop, sock = asyncio.Event(), servers.listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    server = asyncio.create_task(servers.serve(app, sock=sock, stop=stop, grace_seconds=1))

    async def connect() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/report HTTP/1.1\r\nHost: ledger\r\nContent-Length: 2\r\n\r\n{}")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        return writer

    (await connect()).close()  # what the first one makes for good
    calm = Collector()
    before = gc.get_freeze_count()
    gc.disable()
    try:
        writers = [await connect() for _ in range(CONNECTIONS)]
        calm.settle()
        held = gc.get_freeze_count() - before
        assert held > 20 * CONNECTIONS  # ours and the clients'
        for writer in writers:
            writer.close()
            await writer.wait_closed()
        writers.clear()
        del writer
        async with asyncio.timeout(10):
            while gc.get_freeze_count() - before > held // 10:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
        stop.set()
        await server
