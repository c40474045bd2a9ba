"""The webhook's HTTP surface: POST names.WEBHOOK_PATH."""

import logging
from collections.abc import Callable
from typing import Final

import prometheus_client
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from llmwarden import names
from llmwarden.settings import Settings
from llmwarden.webhook.admission import BadReviewError, Result, World, review

logger = logging.getLogger(__name__)

MAX_BODY: Final = 8 * 1024 * 1024  # bytes; the API server's own limit of a request is 3 MiB

INJECTIONS = prometheus_client.Counter(
    "llmwarden_webhook_injections",
    "Pods looked at: injected; skipped (selected, but cannot or may not be); unselected; unready (we were not); error.",
    ["result"],
)
DURATION = prometheus_client.Histogram(
    "llmwarden_webhook_duration_seconds",
    "Time to answer one admission request.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
for _result in ("injected", "skipped", "unselected", "unready", "error"):
    INJECTIONS.labels(_result)  # series exist from the start: a rate over them sees the first event


def app(world: Callable[[], World], settings: Settings) -> Starlette:
    """Make the app; `world` is asked anew for each request."""

    async def mutate(request: Request) -> Response:
        result: Result = "error"
        try:
            with DURATION.time():
                body = await _body(request)
                if body is None:
                    return PlainTextResponse("the review is too large\n", status_code=413)
                answer = review(body, world(), settings)
            result = answer.result
        except BadReviewError as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it: the API server has given up, and admits the pod
        finally:
            # A fault of ours becomes 500, which the API server admits (failurePolicy: Ignore), and is counted here.
            INJECTIONS.labels(result).inc()
        return JSONResponse(answer.review)

    return Starlette(routes=[Route(names.WEBHOOK_PATH, mutate, methods=["POST"])])


async def _body(request: Request) -> bytes | None:
    """Read the body; None where it is larger than MAX_BODY."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
    return b"".join(parts)
