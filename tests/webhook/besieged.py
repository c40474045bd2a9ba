"""The webhook as a process, the little of an API server that it needs, and clients of both kinds: honest ones and hostile ones."""

import asyncio
import base64
import contextlib
import datetime as dt
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from llmwarden import names
from llmwarden.serving import pki, servers
from tests.unit.webhook.services import SERVICE

ROOT = Path(__file__).parents[2]
NAMESPACE = "llmwarden-system"
PATH = f"{names.WEBHOOK_PATH}/0123456789abcdef0123456789abcdef"
OLD_PATH = f"{names.WEBHOOK_PATH}/fedcba9876543210fedcba9876543210"
HONEST = "127.0.0.9"  # the API server's address
MEBIBYTE = 1024  # KiB


def review() -> bytes:
    """A review of a pod that the service `bot` selects."""
    pod = {"metadata": {"generateName": "bot-", "labels": {"app": "bot"}}, "spec": {"containers": [{"name": "app"}]}}
    request = {"uid": "u-1", "kind": {"version": "v1", "kind": "Pod"}, "namespace": "shop", "object": pod}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def injects(answer: bytes) -> bool:
    """Whether an answer is a patch."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return b" 200 " in head.split(b"\r\n", 1)[0] and "patch" in json.loads(body)["response"]


def api_server(secret: dict[str, Any]) -> Starlette:
    """One Secret, one LLMService, and watches that bring nothing."""

    async def watched() -> AsyncIterator[bytes]:
        yield b""
        await asyncio.Event().wait()

    def listing(kind: str, items: list[dict[str, Any]]) -> Any:
        async def answer(request: Request) -> Response:
            if request.query_params.get("watch"):
                return StreamingResponse(watched())
            return JSONResponse({"kind": f"{kind}List", "metadata": {"resourceVersion": "1"}, "items": items})

        return answer

    async def the_secret(_: Request) -> Response:
        return JSONResponse(secret)

    namespaces = [{"metadata": {"name": "shop"}}]
    return Starlette(
        routes=[
            Route(f"/api/v1/namespaces/{NAMESPACE}/secrets/{names.SECRET_WEBHOOK_TLS}", the_secret),
            Route(f"/apis/{names.API_VERSION}/llmservices", listing("LLMService", [SERVICE])),
            Route(f"/apis/{names.API_VERSION}/llmbudgets", listing("LLMBudget", [])),
            Route(f"/apis/{names.API_VERSION}/clusterllmbudgets", listing("ClusterLLMBudget", [])),
            Route("/api/v1/namespaces", listing("Namespace", namespaces)),
            Route("/api/v1/namespaces/{namespace}/limitranges", listing("LimitRange", [])),
            Route("/api/v1/namespaces/{namespace}/resourcequotas", listing("ResourceQuota", [])),
            Route("/api/v1/limitranges", listing("LimitRange", [])),
            Route("/api/v1/resourcequotas", listing("ResourceQuota", [])),
        ]
    )


@dataclass
class Webhook:
    """The process. `ca` verifies it; `held` are connections that stay."""

    process: asyncio.subprocess.Process
    port: int
    metrics_port: int
    ca: str
    held: list[asyncio.StreamWriter] = field(default_factory=list)

    def kib(self, line: str) -> int:
        """KiB of a line of the process's status, such as VmRSS."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(next(one for one in text.splitlines() if one.startswith(f"{line}:")).split()[1])

    async def connect(
        self, address: str = HONEST, identity: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection from an address of this machine's loopback."""
        context = identity or ssl.create_default_context(cadata=self.ca)
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname="localhost", local_addr=(address, 0)
        )

    async def ask(
        self, path: str = PATH, body: bytes | None = None, address: str = HONEST, identity: ssl.SSLContext | None = None
    ) -> bytes:
        """Send a review as the API server does, on a connection of its own; returns the whole answer."""
        reader, writer = await self.connect(address, identity)
        content = review() if body is None else body
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        try:
            async with asyncio.timeout(60):
                return await reader.read()
        finally:
            writer.close()

    async def besiege(self, request: bytes, address: str, *, tls: bool) -> None:
        """Open a connection, write what is unfinished, and stay. The server may close it at any time."""
        with contextlib.suppress(OSError):
            if tls:
                _, writer = await self.connect(address)
            else:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))
            self.held.append(writer)
            writer.write(request)
            async with asyncio.timeout(60):
                await writer.drain()

    async def crowd(self, size: int, request: bytes, address: str, *, tls: bool = True) -> None:
        """Besiege with so many connections, from four addresses 127.0.`address`.x. Returns once all have written what they can."""
        for start in range(0, size, 32):
            await asyncio.gather(
                *(
                    self.besiege(request, f"127.0.{address}.{number % 4 + 1}", tls=tls)
                    for number in range(start, min(start + 32, size))
                )
            )

    async def lift(self) -> None:
        """Close what stays."""
        for writer in self.held:
            writer.transport.abort()
        self.held.clear()
        await asyncio.sleep(0)

    async def metrics(self) -> str:
        """Return /metrics."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.metrics_port, local_addr=(HONEST, 0))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            return (await reader.read()).decode()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[Webhook]:
    """Start the webhook, and wait until it answers a review."""
    now = dt.datetime.now(dt.UTC)
    ca = pki.make_ca(now)
    more = {pki.PATHS: f"{PATH}\n{OLD_PATH}"}
    secret = pki._secret(
        names.SECRET_WEBHOOK_TLS, NAMESPACE, pki.make_leaf(ca, ["localhost"], now), ca.certificate, more
    )
    stop = asyncio.Event()
    sock = servers.listen("127.0.0.1", 0)
    api = asyncio.create_task(servers.serve(api_server(secret), sock=sock, stop=stop, grace_seconds=0))
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{sock.getsockname()[1]}"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    paths = f"{ROOT / 'operator'}{os.pathsep}{ROOT}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.webhook.server", NAMESPACE,
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": paths, **settings},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            port, metrics_port = map(int, (await process.stdout.readline()).split())
            webhook = Webhook(process, port, metrics_port, ca.certificate)
            await ready(webhook)
        yield webhook
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        stop.set()
        await api


async def ready(webhook: Webhook) -> None:
    """Wait for /readyz."""
    while True:
        assert webhook.process.returncode is None
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", webhook.metrics_port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if answer.startswith(b"HTTP/1.1 200"):
                return
        await asyncio.sleep(0.1)


def client_identity(webhook: Webhook, pair: pki.KeyPair, folder: Path) -> ssl.SSLContext:
    """A client's context that shows a certificate."""
    file = folder / "client.pem"
    file.write_text(pair.certificate + pair.key)
    context = ssl.create_default_context(cadata=webhook.ca)
    context.load_cert_chain(file)
    return context


def encoded(text: str) -> str:
    """As in a Secret."""
    return base64.b64encode(text.encode()).decode()
