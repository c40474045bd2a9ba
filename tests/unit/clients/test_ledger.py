"""The client of the ledger: how it connects, what it makes of answers, and how much of one it reads."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest

from llmwarden import kube
from llmwarden.clients import ledger
from llmwarden.clients.ledger import ApiServerClient, DirectClient
from llmwarden.contracts import ledger as wire
from llmwarden.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotInstalledError,
    RefusedError,
    UnavailableError,
    WardenError,
)
from tests.unit.ledger.objects import NOW

REFUSAL = msgspec.json.encode(wire.ErrorAnswer(wire.ErrorDetail("a_code", "a sentence")))
USAGE = wire.Usage(1, NOW, {}, {})


def direct(tmp_path: Path, answer: Callable[[httpx.Request], Any]) -> DirectClient:
    (tmp_path / "token").write_text("secret\n")
    client = DirectClient("https://ledger.test", tmp_path / "token")
    client._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return client


async def test_a_question_has_the_token_and_the_contract_s_version(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer secret"
        assert dict(request.url.params) == {"contract": "1"}
        return httpx.Response(200, content=msgspec.json.encode(USAGE))

    client = direct(tmp_path, answer)
    assert await client.usage() == USAGE
    await client.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RefusedError),
        (401, ForbiddenError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (408, UnavailableError),
        (409, ConflictError),
        (413, RefusedError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
async def test_a_refusal_becomes_our_error_with_the_ledger_s_sentence(
    tmp_path: Path, status: int, kind: type[WardenError]
) -> None:
    client = direct(tmp_path, lambda _: httpx.Response(status, content=REFUSAL))
    with pytest.raises(kind) as caught:
        await client.usage()
    assert str(caught.value) == f"The ledger did not serve GET /v1/usage: a sentence ({status})."
    await client.close()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b'{"contract": "one"}', b"\xff"])
async def test_an_answer_that_cannot_be_read_is_unavailable(tmp_path: Path, content: bytes) -> None:
    client = direct(tmp_path, lambda _: httpx.Response(200, content=content))
    with pytest.raises(UnavailableError, match="could not be read"):
        await client.usage()
    await client.close()


async def test_an_answer_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_ANSWER", 1000)
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 100

    client = direct(tmp_path, lambda _: httpx.Response(200, content=endless()))
    with pytest.raises(UnavailableError, match="longer than 1000 bytes"):
        await client.usage()
    assert read == 11
    await client.close()


async def test_an_answer_that_trickles_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "TOTAL_SECONDS", 0.1)

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.01)
            yield b" "

    client = direct(tmp_path, lambda _: httpx.Response(200, content=trickle()))
    with pytest.raises(UnavailableError, match="did not answer completely"):
        await client.usage()
    await client.close()


async def test_what_is_missing_before_a_question_is_said(tmp_path: Path) -> None:
    client = DirectClient("https://ledger.test", tmp_path / "token")
    with pytest.raises(UnavailableError, match="no certificate authority"):
        await client.usage()
    client._http = httpx.AsyncClient()
    with pytest.raises(UnavailableError, match=r"the token .* cannot be read"):
        await client.usage()
    await client.close()


async def test_nobody_listening_is_unavailable(tmp_path: Path) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        message = "connection refused"
        raise httpx.ConnectError(message)

    client = direct(tmp_path, refuse)
    with pytest.raises(UnavailableError, match=r"^The ledger did not answer: connection refused\.$"):
        await client.usage()
    await client.close()


async def test_many_gpus_are_reported_in_parts(tmp_path: Path) -> None:
    pods = [
        wire.GpuPod("shop/chat", f"u{number}", "chat", "nvidia.com/gpu", "H200", 1, NOW, NOW + dt.timedelta(hours=1))
        for number in range(ledger.MAX_PODS * 2 + 1)
    ]
    reported: list[wire.GpuPod] = []
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        report = msgspec.json.decode(request.content, type=wire.GpuReport)
        reported.extend(report.pods)
        sizes.append(len(report.pods))
        return httpx.Response(200, content=msgspec.json.encode(wire.GpuAnswer(1, len(report.pods))))

    client = direct(tmp_path, answer)
    await client.report_gpus(pods)
    assert reported == pods
    assert sizes == [ledger.MAX_PODS, ledger.MAX_PODS, 1]
    await client.close()


@pytest.mark.parametrize("error", [NotFoundError("no service"), NotInstalledError("no path")])
async def test_without_a_ledger_the_namespace_is_named(error: WardenError) -> None:
    class ApiServer:
        async def request_bytes(self, *_: Any, **__: Any) -> bytes:
            raise error

    client = ApiServerClient(cast("kube.Client", ApiServer()), "elsewhere", "token")
    with pytest.raises(NotFoundError, match="there is no ledger in namespace elsewhere"):
        await client.spend({})
