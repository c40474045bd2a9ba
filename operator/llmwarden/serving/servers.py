"""How operator, webhook and ledger listen: HTTP(S) servers, their certificate, health and metrics, the end by SIGTERM.

A role's `main` reads like this::

    async def run(settings):
        async with await kube.connect() as client:
            certificate = ServingCertificate(client, settings.namespace, names.SECRET_LEDGER_TLS)
            stop = stop_on_signals()
            await until_stopped(
                stop,
                servers=[
                    serve(app, port=names.LEDGER_PORT, tls=certificate, stop=stop),
                    serve_metrics(lambda: None if certificate.ready.is_set() else "no certificate yet", stop=stop),
                ],
                background=[certificate.run()],
            )
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, MutableMapping
from typing import Any, Final

import prometheus_client
import uvicorn
from cryptography import x509
from prometheus_client.exposition import choose_encoder
from starlette.responses import PlainTextResponse, Response

from llmwarden import names
from llmwarden.errors import InvalidSpecError, NotFoundError, WardenError
from llmwarden.kube import Client
from llmwarden.serving import audit, pki
from llmwarden.serving.connections import Connection, Door
from llmwarden.serving.crowd import MOST, MOST_FROM_ONE, Crowd, Guest
from llmwarden.serving.guard import Check, Endpoint, Guard, Visit, probe

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GRACE_SECONDS: Final = 20  # below a pod's 30 s, so that we end before we are killed
SPARE_FILES: Final = 128  # file descriptors for all but connections: databases, watches, the other server
FIRST_POLL_SECONDS: Final = 10.0
POLL_SECONDS: Final = 60.0
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"

CERTIFICATE_EXPIRY = prometheus_client.Gauge(
    "llmwarden_certificate_expiry_timestamp_seconds", "When the certificate in use ends, in Unix seconds.", ["secret"]
)
CERTIFICATE_ERRORS = prometheus_client.Counter(
    "llmwarden_certificate_errors", "Readings of the certificate's Secret that failed.", ["secret"]
)


class ServingCertificate:
    """The certificate of a server, read from its Secret through the API and renewed in place.

    `context` is one object for the server's whole life: new handshakes take what was loaded last. The key goes from the
    API into OpenSSL by way of an anonymous file in memory: it is never on a disk.

    With `client_ca` (PEM), clients must show a certificate that it signed, and with `client_names` one with such a common name or DNS name.
    Raises InvalidSpecError where `client_ca` cannot be read.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        secret: str,
        *,
        first_poll_seconds: float = FIRST_POLL_SECONDS,
        poll_seconds: float = POLL_SECONDS,
        client_ca: str = "",
        client_names: Collection[str] = (),
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._secret = secret
        self._first_poll = first_poll_seconds
        self._poll = poll_seconds
        self._loaded: pki.KeyPair | None = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._client_names = frozenset(client_names)
        self.authenticates = bool(client_ca)  # whether clients must show a certificate
        if client_ca:
            try:
                self.context.load_verify_locations(cadata=client_ca)
            except (ssl.SSLError, ValueError) as error:
                message = f"the CA of client certificates cannot be read: {error}"
                raise InvalidSpecError(message) from error
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.ca = ""  # PEM bundle that verifies this certificate, and its siblings
        self.paths: tuple[str, ...] = ()  # under which the server is called, if the Secret says so; the newest first
        self.ready = asyncio.Event()  # set once a certificate is loaded

    async def run(self) -> None:
        """Keep the certificate fresh for ever; ends by cancellation only. Errors are logged, and the last one serves on."""
        while True:
            try:
                await self.refresh()
            except NotFoundError:
                logger.info("waiting for Secret %s, which the operator makes", self._secret)
            except WardenError as error:
                CERTIFICATE_ERRORS.labels(self._secret).inc()
                logger.warning("Secret %s cannot be used: %s", self._secret, error)
            await asyncio.sleep(self._poll if self.ready.is_set() else self._first_poll)

    async def refresh(self) -> bool:
        """Read the Secret once; returns whether a new certificate was loaded.

        Raises NotFoundError where the Secret, or a key in it, is missing; UnavailableError where the API server does not
        answer; RefusedError's siblings as `kube.Client.get`; WardenError where what it holds is no usable pair.
        """
        secret = await self._client.get("v1", "secrets", self._secret, self._namespace)
        pair = pki.pair_of(secret)
        if pair is None:
            message = f"Secret {self._secret} holds no {pki.CA_CERT} and {pki.CA_KEY}"
            raise NotFoundError(message)
        self.ca = pki.ca_bundle(secret) or ""
        self.paths = pki.paths(secret)
        if pair == self._loaded:
            return False
        self._load(pair)
        return True

    def trusts(self, connection: ssl.SSLObject) -> bool:
        """Tell whether the client certificate of a connection, which the CA has signed, has one of the names that may call."""
        if not self._client_names:
            return True
        certificate = connection.getpeercert() or {}
        fields = (field for part in certificate.get("subject", ()) for field in part)
        shown = {
            value for kind, value in (*fields, *certificate.get("subjectAltName", ())) if kind in {"commonName", "DNS"}
        }
        return not shown.isdisjoint(self._client_names)

    def _load(self, pair: pki.KeyPair) -> None:
        try:
            ends = x509.load_pem_x509_certificate(pair.certificate.encode()).not_valid_after_utc
            with _memory_file(pair.certificate + pair.key) as path:
                self.context.load_cert_chain(path)
        except (ValueError, ssl.SSLError) as error:
            message = f"the certificate or its key cannot be read: {error}"
            raise WardenError(message) from error
        self._loaded = pair
        CERTIFICATE_EXPIRY.labels(self._secret).set(ends.timestamp())
        logger.info("certificate of Secret %s loaded, valid until %s", self._secret, ends.isoformat())
        self.ready.set()


@contextlib.contextmanager
def _memory_file(text: str) -> Iterator[str]:
    """Give a path under which `text` can be read by this process alone, as long as the context lasts."""
    descriptor = os.memfd_create("llmwarden")
    try:
        content = text.encode()
        while content:
            content = content[os.write(descriptor, content) :]
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class _Server(uvicorn.Server):
    """uvicorn's server with our own doors, and without its signal handlers: one process has several servers and one end."""

    def __init__(self, config: uvicorn.Config, crowd: Crowd, tls: ServingCertificate | None) -> None:
        super().__init__(config)
        self._crowd = crowd
        self._tls = tls
        self._trusts = tls.trusts if tls is not None and tls.authenticates else None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        tls = self._tls.context if self._tls is not None else None
        self.lifespan.state = {}
        self.servers = [Door(sock, self._connection, self._crowd, tls) for sock in sockets or ()]  # type: ignore[misc]
        self.started = True

    def _connection(self, guest: Guest) -> Connection:
        return Connection(self.config, self.server_state, guest, self._trusts)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Bind a TCP socket; the host "" is every address, IPv4 and IPv6 where the machine has it; port 0 is any free one.

    What it accepts sends at once (TCP_NODELAY), which asyncio sees to only for sockets that name their protocol: these do not. Without it the
    second part of an answer, its body, waits for the client's delayed acknowledgement of the first: 44 ms.
    """
    sock = _bind(host, port)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # on Linux those accepted inherit it
    return sock


def _bind(host: str, port: int) -> socket.socket:
    if host == "" and socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 is compiled in but disabled: IPv4 alone, below
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


async def serve(
    app: App,
    host: str = "",
    port: int = 0,
    *,
    stop: asyncio.Event,
    tls: ServingCertificate | None = None,
    sock: socket.socket | None = None,
    grace_seconds: int = GRACE_SECONDS,
    keep_alive_seconds: int = 75,
    name: str = "metrics",
    connections: int = MOST,
    connections_from_one: int = MOST_FROM_ONE,
) -> None:
    """Serve an ASGI app until `stop` is set, then let running requests finish for `grace_seconds`.

    With `tls`, listens only once there is a certificate: until then a client's connection is refused at once rather
    than hanging. `name` is the server's in metrics. `connections` and `connections_from_one` bound who may be connected
    (`crowd`); there are fewer where the process may not open as many files. Raises OSError where the port is taken.
    """
    if tls is not None and not await _first(tls.ready, stop):
        return
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=grace_seconds,
    )
    config.load()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    crowd = Crowd(name, min(connections, max(files - SPARE_FILES, SPARE_FILES)), connections_from_one)
    server = _Server(config, crowd, tls)
    bound = sock or listen(host, port)
    logger.info("listening on %s, %s", bound.getsockname(), "https" if tls else "http")

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    watcher = asyncio.create_task(end())
    try:
        await server.serve(sockets=[bound])
    finally:
        watcher.cancel()
        bound.close()


async def _first(wanted: asyncio.Event, stop: asyncio.Event) -> bool:
    """Wait until one of both is set; returns whether it was `wanted`."""
    waits = [asyncio.create_task(event.wait()) for event in (wanted, stop)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return wanted.is_set() and not stop.is_set()


def stop_on_signals() -> asyncio.Event:
    """Give an event that SIGTERM and SIGINT set. To be called in the running event loop of the main thread."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def until_stopped(
    stop: asyncio.Event,
    servers: Iterable[Coroutine[Any, Any, None]],
    background: Iterable[Coroutine[Any, Any, None]] = (),
) -> None:
    """Run all together until `stop` is set and the servers have finished; then end the background parts.

    Servers end by themselves after `stop`; background parts (informers, certificates) go on for ever and are cancelled
    last, so that requests in flight still find them. Where one of either fails, all end and its error is raised: the
    process ends, and Kubernetes starts it anew.
    """
    serving = [asyncio.ensure_future(part) for part in servers]
    others = [asyncio.ensure_future(part) for part in background]
    try:
        pending = {*serving, *others}
        while any(not task.done() for task in serving):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        await stop.wait()
    finally:
        for task in (*serving, *others):
            task.cancel()
        await asyncio.gather(*serving, *others, return_exceptions=True)


def metrics_app(
    ready: Check, live: Check = lambda: None, registry: prometheus_client.CollectorRegistry = prometheus_client.REGISTRY
) -> App:
    """Make the ASGI app of /metrics, /livez and /readyz; a failed check answers 503 with its sentence."""
    return Guard(refuse=lambda refusal: PlainTextResponse(f"{refusal.message}\n", refusal.status)).application(
        metrics_endpoints(ready, live, registry)
    )


def metrics_endpoints(ready: Check, live: Check, registry: prometheus_client.CollectorRegistry) -> tuple[Endpoint, ...]:
    """List the endpoints of the port for metrics and probes, which every role has. They need no token and read no body."""

    async def metrics(visit: Visit) -> Response:
        encode, kind = choose_encoder(visit.headers.get("accept", ""))
        return Response(encode(registry), media_type=kind)

    table = {"/metrics": metrics, "/livez": probe(live), "/readyz": probe(ready)}
    return tuple(Endpoint("GET", path, handler, token=False) for path, handler in table.items())


async def serve_metrics(
    ready: Check,
    *,
    stop: asyncio.Event,
    live: Check = lambda: None,
    host: str = "",
    port: int = names.METRICS_PORT,
    sock: socket.socket | None = None,
) -> None:
    """Serve /metrics, /livez and /readyz in plain HTTP until `stop` is set."""
    await serve(metrics_app(ready, live), host, port, stop=stop, sock=sock, grace_seconds=1)


def start_logging(level: str) -> None:
    """Log to stderr, one line an event; our own at `level`, libraries' from WARNING up."""
    logging.basicConfig(format=LOG_FORMAT, level=logging.WARNING)
    logging.getLogger("llmwarden").setLevel(level.upper())
    audit.start()
    # It warns of each malformed request: anybody could fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
