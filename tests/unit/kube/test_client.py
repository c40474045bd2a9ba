"""Client and Informer against a fake API server: a few scripted HTTP answers, nothing of Kubernetes' own behaviour."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmwarden.errors import UnavailableError
from llmwarden.kube import Client, Informer, RefusedByBudgetError

Handler = Callable[[str, str, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def server(handle: Handler) -> AsyncIterator[str]:
    """A fake API server; `handle(method, target, writer)` writes the whole answer and may close."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(" ", 2)
            length = next((int(line[15:]) for line in head.lower().splitlines() if line[:15] == "content-length:"), 0)
            await reader.readexactly(length)
            await handle(method, target, writer)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


def answer(writer: asyncio.StreamWriter, value: object, code: int = 200, *headers: str) -> None:
    body = json.dumps(value).encode() if not isinstance(value, bytes) else value
    lines = [f"HTTP/1.1 {code} X", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)


def begin_watch(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")


def event(kind: str, name: str, version: str, **more: object) -> bytes:
    item = {"metadata": {"namespace": "shop", "name": name, "resourceVersion": version}, **more}
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def listing(version: str, *names: str) -> dict[str, Any]:
    items = [{"metadata": {"namespace": "shop", "name": name, "resourceVersion": "1"}} for name in names]
    return {"kind": "ConfigMapList", "metadata": {"resourceVersion": version}, "items": items}


@contextlib.asynccontextmanager
async def informer(url: str, **options: Any) -> AsyncIterator[Informer]:
    async with Client.for_url(url, timeout=10) as client:
        made = Informer(client, "v1", "configmaps", backoff_seconds=(0.001, 0.002), **options)
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with Client.for_url("http://127.0.0.1:1") as client:
        with pytest.raises(UnavailableError, match="did not answer"):
            await client.get("v1", "pods", "one", "shop")


@pytest.mark.parametrize("body", [b"<html>", b"[]"])
async def test_an_answer_that_is_no_json_object_is_unavailable(body: bytes) -> None:
    async def handle(_method: str, _target: str, writer: asyncio.StreamWriter) -> None:
        answer(writer, body)

    async with server(handle) as url, Client.for_url(url) as client:
        with pytest.raises(UnavailableError):
            await client.get_raw("/version")


async def test_a_bounded_answer_is_read_whole_or_unavailable() -> None:
    async def handle(_method: str, _target: str, writer: asyncio.StreamWriter) -> None:
        answer(writer, b"x" * 200_000)

    async with server(handle) as url, Client.for_url(url) as client:
        assert await client.request_bytes("GET", "/x", max_bytes=200_000) == b"x" * 200_000
        with pytest.raises(UnavailableError, match="longer than 199999 bytes"):
            await client.request_bytes("GET", "/x", max_bytes=199_999)


async def test_an_eviction_that_a_disruption_budget_refuses() -> None:
    async def handle(_method: str, _target: str, writer: asyncio.StreamWriter) -> None:
        causes = [{"reason": "DisruptionBudget", "message": "needs 1 healthy pod"}]
        answer(writer, {"message": "Cannot evict", "details": {"causes": causes}}, 429, "Retry-After: 7")

    async with server(handle) as url, Client.for_url(url) as client:
        with pytest.raises(RefusedByBudgetError) as refused:
            await client.evict("shop", "one")
        assert refused.value.retry_after == 7


async def test_a_silent_watch_is_taken_for_dead_and_begun_again_from_the_last_version() -> None:
    watches: list[str] = []
    again = asyncio.Event()

    async def handle(_method: str, target: str, writer: asyncio.StreamWriter) -> None:
        if "watch=true" not in target:
            answer(writer, listing("5", "one"))
            return
        watches.append(target)
        begin_watch(writer)
        if len(watches) == 1:
            writer.write(event("BOOKMARK", "", "9"))
        else:
            again.set()
        await writer.drain()
        await asyncio.sleep(60)  # half-open: nothing more ever comes

    async with server(handle) as url, informer(url, read_seconds=0.05) as made:
        await asyncio.wait_for(again.wait(), 10)
        assert list(made.items) == [("shop", "one")]
    assert "resourceVersion=5" in watches[0]
    assert "resourceVersion=9" in watches[1]


async def test_an_expired_watch_lists_again_and_reports_the_difference() -> None:
    lists = iter([listing("5", "kept", "lost"), listing("50", "kept", "new")])
    changes: list[tuple[str, bool]] = []
    done = asyncio.Event()

    def changed(key: tuple[str, str], _old: object, new: object) -> None:
        changes.append((key[1], new is not None))
        if key[1] == "new":
            done.set()

    async def handle(_method: str, target: str, writer: asyncio.StreamWriter) -> None:
        if "watch=true" not in target:
            answer(writer, next(lists))
        elif "resourceVersion=5&" in target:
            begin_watch(writer)
            writer.write(json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old"}}).encode() + b"\n")
        else:
            begin_watch(writer)
            await writer.drain()
            await asyncio.sleep(60)

    async with server(handle) as url, informer(url, on_change=changed):
        await asyncio.wait_for(done.wait(), 10)
    assert changes == [("kept", True), ("lost", True), ("lost", False), ("new", True)]


async def test_errors_are_retried_and_nothing_is_forgotten_meanwhile() -> None:
    answers = iter([(500, {}), (429, {}), (403, {}), (200, listing("5", "one"))])
    watching = asyncio.Event()

    async def handle(_method: str, target: str, writer: asyncio.StreamWriter) -> None:
        if "watch=true" in target:
            watching.set()
            answer(writer, {"message": "overloaded"}, 503)
        else:
            code, body = next(answers)
            answer(writer, body, code)

    async with server(handle) as url, informer(url) as made:
        await asyncio.wait_for(watching.wait(), 10)
        assert list(made.items) == [("shop", "one")]


async def test_an_event_may_come_in_any_pieces_and_a_transform_may_drop_it() -> None:
    done = asyncio.Event()

    async def handle(_method: str, target: str, writer: asyncio.StreamWriter) -> None:
        if "watch=true" not in target:
            answer(writer, listing("5"))
            return
        begin_watch(writer)
        big = event("ADDED", "big", "6", data={"text": "x" * 300_000})
        for index in range(0, len(big), 70_001):
            writer.write(big[index : index + 70_001])
            await writer.drain()
        writer.write(event("ADDED", "dropped", "7") + event("ADDED", "last", "8"))
        await writer.drain()
        await asyncio.sleep(60)

    def brief(item: dict[str, Any]) -> dict[str, Any] | None:
        name = item["metadata"]["name"]
        return None if name == "dropped" else {"size": len(item.get("data", {}).get("text", ""))}

    def changed(key: tuple[str, str], _old: object, _new: object) -> None:
        if key[1] == "last":
            done.set()

    async with server(handle) as url, informer(url, transform=brief, on_change=changed) as made:
        await asyncio.wait_for(done.wait(), 10)
        assert made.items == {("shop", "big"): {"size": 300_000}, ("shop", "last"): {"size": 0}}
