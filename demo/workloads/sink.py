"""The demo's alert receiver, in the place of a pager and a chat: what came is printed and can be read back.

POST /            Alertmanager's webhook body (version 4)
GET  /alerts      the alerts that came in those, newest last, as JSON
POST /v2/enqueue  PagerDuty's Events API v2: 202, or 400 with what is wrong with the event, as PagerDuty does
GET  /events      what was accepted there, newest last
POST /services/…  an incoming webhook of Slack
GET  /messages    what came there, newest last
"""

import json
from collections import deque
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

KEY_LENGTH = 32
SUMMARY_LENGTH = 1024
DEDUP_LENGTH = 255
SEVERITIES = ("critical", "error", "warning", "info")

_alerts: deque[dict[str, Any]] = deque(maxlen=500)
_events: deque[dict[str, Any]] = deque(maxlen=500)
_messages: deque[dict[str, Any]] = deque(maxlen=500)


async def receive(request: Request) -> Response:
    """Take one notification; one line per alert on standard output."""
    body = await request.json()
    for alert in body.get("alerts", []):
        line = {key: alert.get(key) for key in ("status", "labels", "annotations", "startsAt")}
        _alerts.append({**line, "receiver": body.get("receiver", "")})
        print(json.dumps(line), flush=True)
    return Response(status_code=204)


def problems(event: dict[str, Any]) -> list[str]:
    """Return what PagerDuty would find wrong with an event."""
    found = []
    if len(str(event.get("routing_key", ""))) != KEY_LENGTH:
        found.append(f"Length of 'routing_key' is incorrect (should be {KEY_LENGTH} characters)")
    if event.get("event_action") not in ("trigger", "acknowledge", "resolve"):
        found.append("'event_action' must be trigger, acknowledge or resolve")
    if len(str(event.get("dedup_key", ""))) > DEDUP_LENGTH:
        found.append("'dedup_key' is too long")
    if event.get("event_action") != "trigger":
        return found if event.get("dedup_key") else [*found, "'dedup_key' is missing or blank"]
    payload = event.get("payload") or {}
    found += [f"'payload.{name}' is missing or blank" for name in ("summary", "source") if not payload.get(name)]
    if len(payload.get("summary", "")) > SUMMARY_LENGTH:
        found.append("'payload.summary' is too long")
    if payload.get("severity") not in SEVERITIES:
        found.append(f"'payload.severity' is invalid (must be one of: {', '.join(SEVERITIES)})")
    found += [f"'links' has no href: {link}" for link in event.get("links") or [] if not link.get("href")]
    return found


async def enqueue(request: Request) -> Response:
    """Take an event of the Events API v2."""
    event = await request.json()
    wrong = problems(event)
    if wrong:
        print(json.dumps({"refusedEvent": wrong}), flush=True)
        return JSONResponse({"status": "invalid event", "message": "Event object is invalid", "errors": wrong}, 400)
    _events.append(event)
    said = {"event": event["event_action"], "summary": (event.get("payload") or {}).get("summary")}
    print(json.dumps(said), flush=True)
    return JSONResponse({"status": "success", "message": "Event processed", "dedup_key": event.get("dedup_key")}, 202)


async def chat(request: Request) -> Response:
    """Take a message as Slack does."""
    _messages.append(await request.json())
    return PlainTextResponse("ok")


async def health(_: Request) -> Response:
    """Answer the probe."""
    return Response()


def kept(what: deque[dict[str, Any]]) -> Any:
    """Return a handler that gives back what came."""

    async def give(_: Request) -> Response:
        return JSONResponse(list(what))

    return give


if __name__ == "__main__":
    print("This is the demo's alert receiver, in the place of a pager.", flush=True)
    routes = [
        Route("/", receive, methods=["POST"]),
        Route("/alerts", kept(_alerts)),
        Route("/v2/enqueue", enqueue, methods=["POST"]),
        Route("/events", kept(_events)),
        Route("/services/{path:path}", chat, methods=["POST"]),
        Route("/messages", kept(_messages)),
        Route("/health", health),
    ]
    uvicorn.run(Starlette(routes=routes), host="", port=8080, log_level="warning")
