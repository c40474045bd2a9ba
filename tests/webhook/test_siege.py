"""The webhook under siege: its memory is bounded, and the API server's reviews are answered meanwhile.

The API server comes from an address that has never been seen, on a new connection, while the besiegers hold theirs.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from llmwarden import names
from tests.webhook.besieged import MEBIBYTE, OLD_PATH, PATH, Webhook, injects, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOST_GROWTH = 96 * MEBIBYTE  # KiB, of all sieges together; the chart's limit of 256Mi leaves twice that
EIGHT = 8 * 1024 * 1024
THREE = 3 * 1024 * 1024
WRONG = f"{names.WEBHOOK_PATH}/00000000000000000000000000000000"


def post(path: str, *lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode() + body


def chunked(path: str, size: int) -> bytes:
    return post(path, "Transfer-Encoding: chunked", body=f"{size:x}\r\n".encode() + b" " * (size - 1))


SIEGES = {
    "reviews-of-8-mb-said-beforehand": (60, post(PATH, f"Content-Length: {EIGHT}", body=b" " * (EIGHT - 1))),
    "reviews-of-8-mb-in-chunks": (60, chunked(PATH, EIGHT)),
    "reviews-of-3-mb-but-for-a-byte": (100, post(PATH, f"Content-Length: {THREE}", body=b" " * (THREE - 1))),
    "reviews-on-a-guessed-path": (100, chunked(WRONG, EIGHT)),
    "reviews-on-the-path-of-earlier-versions": (60, chunked(names.WEBHOOK_PATH, EIGHT)),
    "expecting-continue": (200, post(PATH, f"Content-Length: {THREE}", "Expect: 100-continue")),
    "idle": (1500, b""),
    "half-a-head": (1500, b"POST /mutate-pod HTTP/1.1\r\nHost: x\r\n"),
    "an-endless-header": (60, b"POST /mutate-pod HTTP/1.1\r\nHost: " + b"x" * EIGHT),
    "endless-headers": (60, b"POST /mutate-pod HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * (EIGHT // 6)),
    "an-endless-path": (60, b"POST /" + b"a" * EIGHT),
    "endless-trailers": (60, chunked(PATH, 10) + b" \r\n0\r\n" + b"a: b\r\n" * (EIGHT // 6)),
    "empty-chunks-of-a-body": (60, post(PATH, "Transfer-Encoding: chunked", body=b"1\r\n \r\n" * (EIGHT // 6))),
    "requests-ahead": (60, post("/", "Content-Length: 0") * (EIGHT // 48)),
    "empty-lines": (60, b"\r\n" * (EIGHT // 2)),
    "no-http": (60, b"\x16\x03\x01" * (EIGHT // 3)),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def webhook(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Webhook]:
    async with running(tmp_path_factory.mktemp("siege")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at_first(webhook: Webhook) -> int:
    """KiB before any siege, and after a review."""
    assert injects(await webhook.ask(address="127.0.0.8"))
    return webhook.kib("VmRSS")


@pytest.mark.parametrize("siege", SIEGES)
async def test_a_review_is_answered_and_memory_is_bounded(webhook: Webhook, at_first: int, siege: str) -> None:
    size, request = SIEGES[siege]
    number = list(SIEGES).index(siege)
    try:
        await webhook.crowd(size, request, address=str(10 + number))
        assert injects(await webhook.ask(address=f"127.0.9.{number + 1}"))
        assert injects(await webhook.ask(address=f"127.0.{10 + number}.1"))  # from a besieger's own address, too
    finally:
        await webhook.lift()
    assert webhook.process.returncode is None
    growth = webhook.kib("VmHWM") - at_first
    assert growth < MOST_GROWTH, f"{growth / MEBIBYTE:.0f} MiB"


async def test_probes_and_metrics_are_answered_while_their_port_is_besieged(webhook: Webhook) -> None:
    port, webhook.port = webhook.port, webhook.metrics_port
    try:
        await webhook.crowd(1000, b"GET /metrics HTTP/1.1\r\nHost: x\r\n", address="50", tls=False)
        text = await webhook.metrics()
    finally:
        webhook.port = port
        await webhook.lift()
    closed = {line for line in text.splitlines() if line.startswith(names.METRIC_CONNECTIONS_CLOSED)}
    assert any('reason="address",server="metrics"' in line and not line.endswith(" 0.0") for line in closed)


@pytest.mark.parametrize("path", [WRONG, names.WEBHOOK_PATH, "/", PATH + "/", PATH.upper(), PATH[:-1], f"//{PATH}"])
async def test_another_path_is_refused_without_a_word_about_the_pod(webhook: Webhook, path: str) -> None:
    answer = await webhook.ask(path)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"there is nothing here\n")


async def test_a_body_on_another_path_is_not_waited_for(webhook: Webhook) -> None:
    reader, writer = await webhook.connect()
    writer.write(post(WRONG, f"Content-Length: {THREE}"))
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close" in answer
    writer.close()


async def test_the_path_before_a_rotation_is_served_meanwhile(webhook: Webhook) -> None:
    assert injects(await webhook.ask(OLD_PATH))
    text = await webhook.metrics()
    assert PATH not in text
    assert OLD_PATH not in text
