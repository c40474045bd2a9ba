"""One guard for every HTTP endpoint of ours: who calls, whether we can answer yet, how large a body may be and how long it may take.

It checks in this order: the path (404, 405), the token (401), our copy of the cluster (503), the body (413, 408, 503). Then the handler judges
the rest. A refusal looks the same everywhere.

All bodies that are being read share one bound (`bodies.Bodies`): many callers at once cannot fill our memory. How a connection is bounded
before its request is there is in `connections.py`; the guard tells it who has proved itself (`crowd.PROVE`).

An application is a table of `Endpoint`s. From the same table follow its routes, the path labels of its metrics, and its OpenAPI description
(`describe`). A handler gets a `Visit`: the request's parameters, the caller and the whole body.

The sidecar's admin port and the GPU exporter's server are not built with this: those processes may not import starlette. They read no body,
and close a connection whose head is too long or too slow (`proxy/admin.py`, `gpu/main.py`).
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llmwarden import bounded, names
from llmwarden.errors import UnavailableError
from llmwarden.serving import answers
from llmwarden.serving.answers import Refusal
from llmwarden.serving.auth import Authenticator, Caller
from llmwarden.serving.bodies import Bodies, MadeRoomError
from llmwarden.serving.crowd import PROVE

logger = logging.getLogger(__name__)

BODY_SECONDS: Final = 20.0
"""How long a body may take. The largest is 8 MiB, the slowest sender a pod on a busy node: a second is ordinary, 20 is a client that
holds a connection on purpose."""
REQUEST_TIMEOUT: Final = 408
SERVER_ERROR: Final = 500
NOT_FOUND: Final = "not_found"  # the code of a path, or of its method, that is not in the table
NO_ROOM: Final = "no_room"  # the code of a body that had to make room for others
OTHER: Final = "other"  # the path label of what is not in the table: paths come from outside


@dataclass(frozen=True, slots=True)
class Visit:
    """One request that the guard has let in. `body` is whole, and b"" where the endpoint takes none."""

    query: QueryParams
    headers: Mapping[str, str]
    caller: Caller | None
    body: bytes

    def who(self) -> Caller:
        """Return the caller of an endpoint that needs one."""
        assert self.caller is not None, "the endpoint lets anybody in"  # noqa: S101 - an error of ours
        return self.caller


Handler = Callable[[Visit], Awaitable[Response]]
Check = Callable[[], str | None]  # None: all is well; else a sentence that says what is not
Refused = Callable[[str, Refusal, Caller | None], None]  # path label, why, and whose the request is where that is known
Answered = Callable[[str, int, str, float], None]  # path label, status, code of the refusal, seconds


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of an application's table.

    `token`: a bearer token is needed; `token_header` names another header that may carry it. `synced`: the answer needs the whole of our copy
    of the cluster; until it is there, the answer is 503 with Retry-After. `body`: the most bytes of a body, 0 for none; `seconds`: how long it
    may take, BODY_SECONDS at most; `too_large` is the sentence that says what to do about a larger one. `operation`: what OpenAPI says of it, None for
    what only our own processes call.
    """

    method: str
    path: str
    handler: Handler
    token: bool = True
    token_header: str = ""
    synced: bool = False
    body: int = 0
    seconds: float = BODY_SECONDS
    too_large: str = ""
    operation: Mapping[str, Any] | None = field(default=None, hash=False)


def probe(check: Check) -> Handler:
    """Make the handler of a probe: 200 `ok`, or 503 with the sentence that `check` returns."""

    async def checked(_: Visit) -> Response:
        fault = check()
        return PlainTextResponse(f"{fault or 'ok'}\n", 503 if fault else 200)

    return checked


class Guard:
    """Lets requests in, and turns what goes wrong into answers.

    `authenticator` tells whose a token is (None where no endpoint needs one). `unsynced` says what of the cluster has not been read yet, and
    returns None once all has. `refuse` makes the answer of a refusal. `refused` is told of every refusal and whose
    request it was, `answered` of
    every answer: its path label, its status, the refusal's code ("" for none, `bug` for a fault of ours), and the seconds that it took.
    `bodies` bounds the bytes of all bodies that are being read. `secret_path` is given where a path is a secret that proves who calls: it
    returns the table's path of a request's path, None where there is none. Labels, logs and spans only ever have the table's path.
    """

    def __init__(
        self,
        authenticator: Authenticator | None = None,
        *,
        unsynced: Check = lambda: None,
        refuse: Callable[[Refusal], Response] = answers.refuse,
        answered: Answered = lambda *_: None,
        refused: Refused = lambda *_: None,
        bodies: Bodies | None = None,
        secret_path: Callable[[str], str | None] | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._unsynced = unsynced
        self._refuse = refuse
        self._answered = answered
        self._refused = refused
        self._bodies = bodies or Bodies()
        self._secret_path = secret_path

    def application(self, endpoints: Sequence[Endpoint]) -> ASGIApp:
        """Make the ASGI app of a table. A dictionary and no router: reports are nearly all that comes, and a router is a tenth of their cost."""
        table = {(endpoint.method, endpoint.path): endpoint for endpoint in endpoints}
        allowed: dict[str, list[str]] = {}
        for endpoint in endpoints:
            allowed.setdefault(endpoint.path, []).append(endpoint.method)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return
            method, path = scope["method"], scope["path"]
            if self._secret_path is not None:
                path = self._secret_path(path) or ""
            endpoint = table.get((method, path)) or (table.get(("GET", path)) if method == "HEAD" else None)
            if endpoint is not None:
                response = await self._serve(endpoint, Request(scope, receive))
            else:
                there = f"there is no {method} {path[:200]}" if self._secret_path is None else "there is nothing here"
                refusal = Refusal(405 if path in allowed else 404, NOT_FOUND, there)
                response = self._refuse(refusal)
                response.headers["Connection"] = "close"
                if path in allowed:
                    response.headers["Allow"] = ", ".join(allowed[path])
                self._answered(path if path in allowed else OTHER, response.status_code, refusal.code, 0.0)
            await response(scope, receive, send)

        return app

    async def _serve(self, endpoint: Endpoint, request: Request) -> Response:
        started, code, caller = time.perf_counter(), "", None
        try:
            caller = await self._caller(endpoint, request) if endpoint.token else None
            if caller is not None or self._secret_path is not None:
                _prove(request.scope)
            self._require_sync(endpoint)
            body = await self._body(endpoint, request) if endpoint.body else b""
            response = await endpoint.handler(Visit(request.query_params, request.headers, caller, body))
        except Refusal as refusal:
            code = refusal.code
            self._refused(endpoint.path, refusal, caller)
            response = self._refuse(refusal)
            if refusal.status == REQUEST_TIMEOUT or code == NO_ROOM:
                response.headers["Connection"] = "close"  # else the rest of the body would hold the connection
        except UnavailableError as error:
            logger.warning("%s cannot be served now: %s", endpoint.path, error)
            code = "unavailable"
            response = self._refuse(Refusal(503, code, str(error), answers.RETRY_SECONDS))
        except ClientDisconnect:
            code = "disconnected"
            response = Response(status_code=400)  # nobody reads it
        except Exception:
            # A fault of ours: the server logs it and answers 500.
            self._answered(endpoint.path, SERVER_ERROR, "bug", time.perf_counter() - started)
            raise
        self._answered(endpoint.path, response.status_code, code, time.perf_counter() - started)
        return response

    async def _caller(self, endpoint: Endpoint, request: Request) -> Caller:
        assert self._authenticator is not None, f"{endpoint.path} needs a token, and nobody to check it"  # noqa: S101
        token = request.headers.get(endpoint.token_header, "").strip() if endpoint.token_header else ""
        if not token:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            token = token.strip() if scheme.lower() == "bearer" else ""
        if not token:
            also = f", or in the header {endpoint.token_header}" if endpoint.token_header else ""
            message = f"send a service account's token with the audience {names.TOKEN_AUDIENCE} as bearer{also}"
            raise Refusal(401, "unauthenticated", message)
        caller = await self._authenticator.caller(token)
        if caller is None:
            message = f"the token is not valid for the audience {names.TOKEN_AUDIENCE}"
            raise Refusal(401, "unauthenticated", message)
        return caller

    def _require_sync(self, endpoint: Endpoint) -> None:
        missing = self._unsynced() if endpoint.synced else None
        if missing is not None:
            raise Refusal(503, "not_synced", missing, answers.RETRY_SECONDS)

    async def _body(self, endpoint: Endpoint, request: Request) -> bytes:
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared[:12]) > endpoint.body:
            raise _too_large(endpoint)
        seconds = min(endpoint.seconds, BODY_SECONDS)
        try:
            async with self._bodies.reading(seconds) as body:
                return await bounded.read(body.counted(request.stream()), endpoint.body)
        except bounded.TooLongError:
            raise _too_large(endpoint) from None
        except MadeRoomError:
            message = "too many bodies are being read, and this one had taken the longest"
            raise Refusal(503, NO_ROOM, message, answers.RETRY_SECONDS) from None
        except TimeoutError:
            message = f"the body was not complete after {seconds:.0f} s"
            raise Refusal(REQUEST_TIMEOUT, "timeout", message) from None


def _too_large(endpoint: Endpoint) -> Refusal:
    return Refusal(413, "too_large", endpoint.too_large or f"a body has at most {endpoint.body} bytes")


def _prove(scope: Scope) -> None:
    prove = (scope.get("extensions") or {}).get(PROVE)
    if prove is not None:
        prove()


def describe(
    endpoints: Sequence[Endpoint], *, title: str, version: str, about: str, components: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the OpenAPI 3.1 description of those endpoints that have an operation.

    `components`: the schemas that operations refer to, as `msgspec.json.schema_components` makes them.
    """
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        if endpoint.operation is not None:
            paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = dict(endpoint.operation)
    schemes: dict[str, Any] = {"bearer": {"type": "http", "scheme": "bearer"}}
    for endpoint in endpoints:
        if endpoint.operation is not None and endpoint.token_header:
            schemes["header"] = {"type": "apiKey", "in": "header", "name": endpoint.token_header}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": about},
        "paths": paths,
        "components": {"schemas": dict(components), "securitySchemes": schemes},
        "security": [{name: []} for name in schemes],
    }
