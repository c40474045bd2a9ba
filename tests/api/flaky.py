"""An API server that fails now and then: a proxy before the real one which answers a share of all requests itself, and can break watches.

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
    """See the module. `asked` counts requests by (method, path), `failed` those of them that we answered, by code."""

    def __init__(self, upstream: str, context: ssl.SSLContext, share: float = SHARE) -> None:
        self._upstream = upstream
        self._context = context
        self._share = share
        self._breaking: set[asyncio.Event] = set()
        self._random = random.Random(30)  # noqa: S311 - which requests fail
        self.asked: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[int] = Counter()
        self.url = ""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.method, request.path] += 1
        if self._random.random() < self._share:
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
            if "watch" in request.query and request.headers.get("User-Agent", "").startswith("kopf"):
                await self._watch(answer, response)
            else:
                async for part in answer.content.iter_any():
                    await response.write(part)
            await response.write_eof()
        return response

    async def _watch(self, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        """Carry a watch of kopf's; once watches break, end it with an error such as an API server sends whose etcd fails."""
        breaking = asyncio.Event()
        self._breaking.add(breaking)
        broken = asyncio.ensure_future(breaking.wait())
        try:
            while True:
                line = asyncio.ensure_future(answer.content.readline())
                await asyncio.wait({line, broken}, return_when=asyncio.FIRST_COMPLETED)
                if broken.done():
                    line.cancel()
                    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "InternalError"}
                    error = {
                        "type": "ERROR",
                        "object": {**status, "code": 500, "message": "etcdserver: leader changed"},
                    }
                    await response.write(json.dumps(error).encode() + b"\n")
                    return
                if not await line:
                    return
                await response.write(line.result())
        finally:
            broken.cancel()
            self._breaking.discard(breaking)

    def break_watches(self) -> int:
        """End each of kopf's watches with an error; returns how many there were. From another thread."""

        async def broken() -> int:
            found = list(self._breaking)
            for breaking in found:
                breaking.set()
            return len(found)

        return asyncio.run_coroutine_threadsafe(broken(), self._loop).result(10)

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
def flaky(upstream: str, context: ssl.SSLContext, share: float = SHARE) -> Iterator[Flaky]:
    """Run one before `upstream` (a URL) in a thread of its own, which fails a share of all requests."""
    made = Flaky(upstream, context, share)
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(made._serve(started)))
    thread.start()
    assert started.wait(10)
    try:
        yield made
    finally:
        made.stop()
        thread.join(30)
