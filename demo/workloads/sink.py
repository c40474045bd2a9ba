"""The demo's alert receiver: Alertmanager's webhook posts here, what came is printed and can be read back.

POST /        Alertmanager's webhook body (version 4)
GET  /alerts  what was received, newest last, as JSON
"""

import json
from collections import deque

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_received: deque[dict[str, object]] = deque(maxlen=500)


async def receive(request: Request) -> Response:
    """Take one notification; one line per alert on standard output."""
    body = await request.json()
    for alert in body.get("alerts", []):
        line = {key: alert.get(key) for key in ("status", "labels", "annotations", "startsAt")}
        _received.append(line)
        print(json.dumps(line), flush=True)
    return Response(status_code=204)


async def alerts(_: Request) -> Response:
    """Give back what came."""
    return JSONResponse(list(_received))


async def health(_: Request) -> Response:
    """Answer the probe."""
    return Response()


if __name__ == "__main__":
    print("This is the demo's alert receiver, in the place of a pager.", flush=True)
    routes = [
        Route("/", receive, methods=["POST"]),
        Route("/alerts", alerts),
        Route("/health", health),
    ]
    uvicorn.run(Starlette(routes=routes), host="", port=8080, log_level="warning")
