"""A span for each request that one of our servers answers, where spans are on (`llmwarden.tracing`)."""

from collections.abc import Container

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmwarden import tracing

SERVER_ERROR = 500


def traced(app: ASGIApp, paths: Container[str]) -> ASGIApp:
    """Return `app` with a span around each request; `app` itself while spans are off.

    A span is named after method and path. A path that is not in `paths` comes from outside and is left out of the name.
    """
    tracer = tracing.tracer()
    if tracer is None:
        return app
    from opentelemetry.propagate import extract  # noqa: PLC0415 - see `tracing.start`
    from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        name = f"{method} {path}" if path in paths else method
        caller = extract({key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]})
        attributes = {"http.request.method": method, "url.path": path[:200]}
        with tracer.start_as_current_span(name, caller, SpanKind.SERVER, attributes) as span:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= SERVER_ERROR:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await app(scope, receive, noted)

    return around
