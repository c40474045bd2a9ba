"""The webhook's HTTP surface: POST on the paths that are told to the API server, and nothing on any other.

A path has a random segment, and is what tells the API server from others (`serving.pki`). A request with another path is answered 404 before
its body is read, so that nobody else learns which Secrets and upstreams a namespace's services name.
"""

import hmac
import logging
from collections.abc import Callable, Iterable
from typing import Final

import prometheus_client
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from llmwarden import names
from llmwarden.serving import guard
from llmwarden.serving.answers import Refusal
from llmwarden.serving.bodies import Bodies
from llmwarden.serving.guard import Endpoint, Guard, Visit
from llmwarden.settings import Settings
from llmwarden.webhook.admission import BadReviewError, World, review

logger = logging.getLogger(__name__)

MAX_BODY: Final = 3 * 1024 * 1024  # bytes: the API server's own limit of a request; etcd keeps objects of up to 1.5 MiB
MAX_BODIES: Final = 16 * 1024 * 1024  # bytes of all that are being read
BODY_SECONDS: Final = 5.0  # the API server sends a review within milliseconds

INJECTIONS = prometheus_client.Counter(
    "llmwarden_webhook_injections",
    "Pods by result: injected; skipped (selected, but not injectable); unselected; unready (the webhook was not ready); error.",
    ["result"],
)
DURATION = prometheus_client.Histogram(
    "llmwarden_webhook_duration_seconds",
    "Seconds to answer one admission request.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
for _result in ("injected", "skipped", "unselected", "unready", "error"):
    INJECTIONS.labels(_result)  # series exist from the start: a rate over them sees the first event


def app(
    world: Callable[[], World], settings: Settings, paths: Callable[[], Iterable[str]] = lambda: (names.WEBHOOK_PATH,)
) -> ASGIApp:
    """Make the app; `world` and `paths`, under which it is called, are asked again for each request."""

    def secret_path(path: str) -> str | None:
        sent = path.encode()
        # All are compared: how long it takes says nothing.
        matches = [hmac.compare_digest(sent, accepted.encode()) for accepted in paths()]
        return names.WEBHOOK_PATH if any(matches) else None

    guarded = Guard(refuse=_refuse, answered=_answered, bodies=Bodies(MAX_BODIES), secret_path=secret_path)
    return guarded.application(endpoints(world, settings))


def endpoints(world: Callable[[], World], settings: Settings) -> tuple[Endpoint, ...]:
    """List every endpoint of the webhook."""

    async def mutate(visit: Visit) -> Response:
        try:
            answer = review(visit.body, world(), settings)
        except BadReviewError as error:
            raise Refusal(400, "malformed", str(error)) from error
        INJECTIONS.labels(answer.result).inc()
        return JSONResponse(answer.review)

    # No bearer token: the API server has none.
    return (
        Endpoint(
            "POST",
            names.WEBHOOK_PATH,
            mutate,
            token=False,
            body=MAX_BODY,
            seconds=BODY_SECONDS,
            too_large="the review is too large",
        ),
    )


def _refuse(refusal: Refusal) -> Response:
    return PlainTextResponse(f"{refusal.message}\n", status_code=refusal.status)


def _answered(_path: str, _status: int, code: str, seconds: float) -> None:
    if code == guard.NOT_FOUND:
        return
    DURATION.observe(seconds)
    if code:
        # Also a fault of ours, which becomes 500: the API server then admits the pod (failurePolicy: Ignore).
        INJECTIONS.labels("error").inc()
