"""An API server that fails now and then: a proxy before the real one which answers a share of all requests itself.

The answers are the real ones' shape: a Status with its code, and a Retry-After where the server is too busy.
"""

import asyncio
import json
import random
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web

FAULTS = ((429, "TooManyRequests"), (500, "InternalError"))
WRITE_FAULTS = (*FAULTS, (409, "Conflict"))  # nobody reads in conflict with another
SHARE = 0.1


class Flaky:
    """See the module. `asked` counts requests, `failed` those of them that we answered, by (method, path)."""

    def __init__(self, upstream: str, context: ssl.SSLContext) -> None:
        self._upstream = upstream
        self._context = context
        self._random = random.Random(30)  # noqa: S311 - which requests fail
        self.asked: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[int] = Counter()
        self.url = ""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.method, request.path] += 1
        if self._random.random() < SHARE:
            code, reason = self._random.choice(FAULTS if request.method == "GET" else WRITE_FAULTS)
            self.failed[code] += 1
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
            return web.Response(
                status=code,
                text=json.dumps({**status, "message": "a fault of the test's"}),
                content_type="application/json",
                headers={"Retry-After": "1"} if code == 429 else {},
            )
        headers = {key: value for key, value in request.headers.items() if key.lower() not in {"host", "connection"}}
        async with self._session.request(
            request.method,
            self._upstream + request.raw_path,
            headers=headers,
            data=await request.read() or None,
            skip_auto_headers=["Content-Type"],
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            await response.prepare(request)
            async for part in answer.content.iter_any():
                await response.write(part)
            await response.write_eof()
        return response

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
        limits = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=limits) as self._session:
            application = web.Application(client_max_size=2**24)
            application.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(application, shutdown_timeout=0, access_log=None)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
            started.set()
            await self._stop.wait()
            await runner.cleanup()

    def stop(self) -> None:
        """End it, from another thread."""
        self._loop.call_soon_threadsafe(self._stop.set)


@contextmanager
def flaky(upstream: str, context: ssl.SSLContext) -> Iterator[Flaky]:
    """Run one before `upstream` (a URL) in a thread of its own."""
    made = Flaky(upstream, context)
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(made._serve(started)))
    thread.start()
    assert started.wait(10)
    try:
        yield made
    finally:
        made.stop()
        thread.join(30)
