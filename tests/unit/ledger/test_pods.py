"""Which services a pod was injected for: by its metadata alone, and what is known stays known."""

import asyncio
from typing import Any

import pytest

from llmwarden import names
from llmwarden.errors import ForbiddenError, NotFoundError, UnavailableError
from llmwarden.ledger import pods
from llmwarden.ledger.pods import Injected, InjectedPods, PodEnds
from llmwarden.serving.auth import Caller

POD = Caller("shop", "default", "bot-0", "u")


def metadata(services: str = "bot", uid: str = "u", proxy: str = "true") -> dict[str, Any]:
    return {
        "metadata": {
            "name": "bot-0",
            "uid": uid,
            "creationTimestamp": "2026-11-20T16:20:00Z",
            "labels": {names.LABEL_PROXY: proxy},
            "annotations": {names.ANNOTATION_SERVICES: services},
        }
    }


class ApiServer:
    """Answers for one pod, or fails."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer
        self.asked = 0

    async def get_metadata(
        self, api_version: str, plural: str, name: str, namespace: str | None = None
    ) -> dict[str, Any]:
        assert (api_version, plural, name, namespace) == ("v1", "pods", "bot-0", "shop")
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_many_requests_of_a_pod_are_one_question(clock: Clock) -> None:
    server = ApiServer(metadata("bot,chat"))
    known = InjectedPods(server, clock)
    for found in await asyncio.gather(*(known.injected(POD) for _ in range(50))):
        assert found == Injected(frozenset({"bot", "chat"}), 1795191600.0)
    assert server.asked == 1


@pytest.mark.parametrize(
    "answer",
    [
        metadata(services=""),
        metadata(uid="another pod of this name"),
        metadata(proxy="false"),
        {"metadata": {"uid": "u"}},
        {},
        NotFoundError("gone"),
    ],
)
async def test_a_pod_that_was_not_injected_has_no_services(answer: Any, clock: Clock) -> None:
    server = ApiServer(answer)
    known = InjectedPods(server, clock)
    assert (await known.injected(POD)).services == frozenset()
    await known.injected(POD)
    assert server.asked == 1
    # It may have been too early: the answer is not believed for long.
    server.answer = metadata()
    clock.now += pods.BAD_SECONDS
    assert (await known.injected(POD)).services == {"bot"}


@pytest.mark.parametrize("error", [UnavailableError("no answer"), NotFoundError("gone"), ForbiddenError("no right")])
async def test_what_is_known_of_a_pod_stays_known(error: Exception, clock: Clock) -> None:
    server = ApiServer(metadata())
    known = InjectedPods(server, clock)
    await known.injected(POD)
    server.answer = error
    clock.now += pods.GOOD_SECONDS
    assert (await known.injected(POD)).services == {"bot"}
    # Nor does an edit take away what it was injected for.
    server.answer = metadata("chat")
    clock.now += pods.GOOD_SECONDS
    assert (await known.injected(POD)).services == {"bot", "chat"}


@pytest.mark.parametrize("error", [UnavailableError("no answer"), ForbiddenError("no right")])
async def test_not_knowing_is_no_refusal(error: Exception, clock: Clock) -> None:
    with pytest.raises(UnavailableError):
        await InjectedPods(ApiServer(error), clock).injected(POD)


async def test_pods_and_their_services_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "REMEMBERED", 10)
    server = ApiServer(metadata(",".join(f"s{number}" for number in range(1000))))
    known = InjectedPods(server, clock)
    assert len((await known.injected(POD)).services) == pods.MOST_SERVICES
    for number in range(100):
        await known.injected(Caller("shop", "default", "bot-0", f"u{number}"))
    assert len(known._known) == 10


class Whole:
    """The API server's answer to who asks for a whole pod."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def request_bytes(self, method: str, path: str) -> bytes:
        assert (method, path) == ("GET", "/api/v1/namespaces/shop/pods/bot-0")
        return self.body


async def test_of_a_pods_end_nothing_but_uid_and_phase_is_read() -> None:
    body = b'{"metadata":{"uid":"u"},"spec":{"containers":[{"env":[{"name":"KEY","value":"secret"}]}]},"status":{"phase":"Failed"}}'
    assert await PodEnds(Whole(body)).get("v1", "pods", "bot-0", "shop") == {
        "metadata": {"uid": "u"},
        "status": {"phase": "Failed"},
    }
    with pytest.raises(UnavailableError) as raised:
        await PodEnds(Whole(body[:-2])).get("v1", "pods", "bot-0", "shop")
    assert "secret" not in str(raised.value)
