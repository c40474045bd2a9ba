"""Whose token it is, and how long that is believed."""

import asyncio
from typing import Any

import pytest

from llmwarden.errors import UnavailableError
from llmwarden.kube import Review
from llmwarden.serving import auth
from llmwarden.serving.auth import Caller, TokenReviewer, caller_of, is_operator, is_pod

POD = {"authentication.kubernetes.io/pod-name": ("bot-0",), "authentication.kubernetes.io/pod-uid": ("u",)}
GOOD = Review(
    authenticated=True,
    username="system:serviceaccount:shop:default",
    extra=POD,
    audiences=("llmwarden-ledger",),
)


class ApiServer:
    """Answers TokenReviews, and counts them."""

    def __init__(self, review: Review = GOOD) -> None:
        self.review = review
        self.asked = 0
        self.down = False

    async def token_review(self, token: str, audiences: tuple[str, ...] = ()) -> Review:
        assert token
        assert audiences == ("llmwarden-ledger",)
        self.asked += 1
        await asyncio.sleep(0)
        if self.down:
            message = "the API server did not answer"
            raise UnavailableError(message)
        return self.review


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def reviewer(server: Any, clock: Clock | None = None) -> TokenReviewer:
    return TokenReviewer(server, clock or Clock())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Caller("shop", "default", "bot-0", "u")),
        ({"extra": {}}, Caller("shop", "default")),
        ({"authenticated": False}, None),
        ({"audiences": ("https://kubernetes.default.svc",)}, None),
        ({"audiences": ()}, None),
        ({"username": "admin"}, None),
        ({"username": "system:serviceaccount:shop"}, None),
        ({"username": "system:serviceaccount:shop:default\n"}, None),
        (
            {"extra": {**POD, "authentication.kubernetes.io/pod-uid": ("a", "b")}},
            Caller("shop", "default", "bot-0", ""),
        ),
    ],
)
def test_who_a_review_is_about(change: dict[str, Any], expected: Caller | None) -> None:
    values = {"authenticated": True, "username": GOOD.username, "extra": GOOD.extra, "audiences": GOOD.audiences}
    assert caller_of(Review(**{**values, **change})) == expected


def test_the_operator_is_one_account_of_our_namespace() -> None:
    assert is_operator(Caller("llmwarden-system", "llmwarden-operator"), "llmwarden-system")
    assert not is_operator(Caller("shop", "llmwarden-operator"), "llmwarden-system")
    assert not is_operator(Caller("llmwarden-system", "default"), "llmwarden-system")


def test_a_pod_is_its_namespace_name_and_uid() -> None:
    caller = Caller("shop", "default", "bot-0", "u")
    assert is_pod(caller, "shop", "bot-0", "u")
    for other in (("web", "bot-0", "u"), ("shop", "bot-1", "u"), ("shop", "bot-0", "v")):
        assert not is_pod(caller, *other)
    assert not is_pod(Caller("shop", "default"), "shop", "", "")


async def test_a_good_token_is_asked_for_once_a_minute() -> None:
    server, clock = ApiServer(), Clock()
    tokens = reviewer(server, clock)
    for _ in range(3):
        assert await tokens.caller("t") == Caller("shop", "default", "bot-0", "u")
    assert server.asked == 1
    clock.now = auth.GOOD_SECONDS
    await tokens.caller("t")
    assert server.asked == 2


async def test_a_bad_token_is_asked_for_again_soon() -> None:
    server, clock = ApiServer(Review(authenticated=False)), Clock()
    tokens = reviewer(server, clock)
    assert await tokens.caller("t") is None
    assert await tokens.caller("t") is None
    clock.now = auth.BAD_SECONDS
    assert await tokens.caller("t") is None
    assert server.asked == 2


async def test_calls_at_the_same_time_ask_once() -> None:
    server = ApiServer()
    tokens = reviewer(server)
    await asyncio.gather(*(tokens.caller("t") for _ in range(20)))
    assert server.asked == 1


async def test_an_api_server_that_is_down_is_no_verdict_and_is_not_remembered() -> None:
    server = ApiServer()
    server.down = True
    tokens = reviewer(server)
    with pytest.raises(UnavailableError):
        await tokens.caller("t")
    server.down = False
    assert await tokens.caller("t") is not None


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REMEMBERED", 3)
    tokens = reviewer(ApiServer())
    for number in range(10):
        await tokens.caller(f"t{number}")
    assert len(tokens._known) == 3


async def test_a_monstrous_token_is_not_even_asked_about() -> None:
    server = ApiServer()
    assert await reviewer(server).caller("t" * 10_000) is None
    assert server.asked == 0
