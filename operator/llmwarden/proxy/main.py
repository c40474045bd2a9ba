"""`python -m llmwarden proxy`: starts the sidecar, and drains it on SIGTERM.

Here is the one list of sinks, which get the record of every finished call (`fixed_sinks`). A program that wants the records as well starts the proxy
by `main([], sinks=[its_own])`; tests/proxy/test_sinks.py does so.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from llmwarden.contracts.sidecar import Limits, Route, Settings
from llmwarden.errors import InvalidSpecError
from llmwarden.proxy import settings as configuration
from llmwarden.proxy.admin import Admin
from llmwarden.proxy.calls.route import Shared
from llmwarden.proxy.calls.service import MeteredService
from llmwarden.proxy.dialects import found
from llmwarden.proxy.http import egress
from llmwarden.proxy.http.client import Client, ClientError
from llmwarden.proxy.http.endpoint import Endpoint
from llmwarden.proxy.http.server import ClientConnection
from llmwarden.proxy.http.upstream import Pool
from llmwarden.proxy.money.accounts import Accounts
from llmwarden.proxy.money.gate import Gate
from llmwarden.proxy.money.journal import Journal
from llmwarden.proxy.money.ledger_view import LedgerView
from llmwarden.proxy.reporter import Reporter
from llmwarden.proxy.seam import Service
from llmwarden.proxy.settings import Identity, parse_origin
from llmwarden.proxy.sinks import Sink, Sinks
from llmwarden.proxy.telemetry.metrics import Metrics, wants_latest
from llmwarden.proxy.telemetry.spans import Exporter

_LOG: Final = logging.getLogger("llmwarden.proxy")
_DESCRIPTORS: Final = 65536
_YOUNG: Final = 10_000  # objects after which cycles are looked for
_SWEEP_SECONDS: Final = 0.5
_DRAIN_STEP_SECONDS: Final = 0.05
_LAST_REPORT_SECONDS: Final = 4.0  # within the grace that is left after the drain
_LAST_SPANS_SECONDS: Final = 2.0


class Proxy:
    """One sidecar: its routes, its account, its background tasks."""

    def __init__(self, settings: Settings, identity: Identity, sinks: Sequence[Sink] = ()) -> None:
        self.settings = settings
        directory = Path(settings.journal_dir)
        self.metrics = Metrics(settings.routes, settings.limits.models, latest=wants_latest(os.environ))
        self.journal = Journal(directory, identity.uid)
        self._journal_errors = 0
        self.metrics.journal_skipped.inc(self.journal.skipped)
        self.metrics.journal_orphans.inc(self.journal.orphans)
        self._files: list[
            egress.Authorities | egress.ClientCertificate
        ] = []  # that contexts are made of, and that change
        tls = self._tls() if _needs_tls(settings) else None
        exporter = None
        if settings.otlp_endpoint:
            exporter = Exporter(identity, Client(settings.otlp_endpoint, tls), self.metrics.spans_dropped.inc)
        self.exporter = exporter
        ledger, gate = LedgerView(), Gate()
        accounts = Accounts(ledger, self.journal, self.metrics.capped)
        self.shared = Shared(
            identity=identity,
            ledger=ledger,
            gate=gate,
            journal=self.journal,
            accounts=accounts,
            metrics=self.metrics,
            sinks=fixed_sinks(accounts, gate, self.metrics, exporter, sinks),
            limits=settings.limits,
        )
        self.reporter: Reporter | None = None
        if settings.ledger is not None:
            services = sorted({route.service for route in settings.routes})
            self.reporter = Reporter(settings.ledger, services, self.shared, directory)
            self.reporter.restore()
        proxies = egress.proxies(os.environ)
        dialects = found()
        self.metrics.compiled.set(compiled_modules())
        self.endpoints = []
        self._certified: list[tuple[Endpoint, ssl.SSLContext]] = []  # routes that show a client certificate
        self._plain_tls = tls
        for route in settings.routes:
            service, limits = _service(
                route, MeteredService(route, dialects, self.shared), settings.limits, settings.ca_file
            )
            certified = self._tls_of(route)
            origin = parse_origin(route.upstream)
            # Without TLS, an HTTP proxy of the application's would read the key.
            way = None if route.credential_file and not origin.tls else proxies
            pool = Pool(origin, settings.limits, certified or tls, way, route.resolves_to)
            endpoint = Endpoint(route, service, pool, limits)
            self.endpoints.append(endpoint)
            if certified is not None:
                self._certified.append((endpoint, certified))
        self._listening = False
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self.admin = Admin(
            self.metrics,
            {
                "/startupz": lambda: self._listening,
                "/readyz": lambda: self._listening and not self._draining,
                "/livez": lambda: not any(task.done() for task in self._tasks),
            },
        )

    def _tls(self) -> ssl.SSLContext:
        """Trust the authorities of the image, or of SSL_CERT_FILE, and those of the pod."""
        tls = ssl.create_default_context()
        tls.set_alpn_protocols(["http/1.1"])
        if self.settings.ca_file:
            self._read(egress.Authorities(self.settings.ca_file, tls))
        return tls

    def _tls_of(self, route: Route) -> ssl.SSLContext | None:
        """The route's own TLS context, if it shows a client certificate."""
        if not (route.client_certificate_file and route.client_key_file and route.upstream.startswith("https:")):
            return None
        tls = self._tls()
        self._read(egress.ClientCertificate(route.client_certificate_file, route.client_key_file, tls))
        return tls

    def _read(self, file: egress.Authorities | egress.ClientCertificate) -> None:
        file.refresh()
        self._files.append(file)

    async def start(self) -> None:
        """Listen, then start the background tasks. Raises OSError when a port is taken."""
        for endpoint in self.endpoints:
            await endpoint.listen(ClientConnection)
        await self.admin.listen(self.settings.admin_port)
        loop = asyncio.get_running_loop()
        work = [self._sweep()]
        if self.reporter is not None:
            work += [self.reporter.follow(), self.reporter.report()]
        if self.exporter is not None:
            work.append(self.exporter.run())
        self._tasks = [loop.create_task(item) for item in work]
        for task in self._tasks:
            task.add_done_callback(_complain)
        self._listening = True

    async def stop(self) -> None:
        """Drain: answers under way go on up to the deadline; then the last report, the last spans."""
        self._draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.limits.drain_seconds
        for endpoint in self.endpoints:
            endpoint.drain()
        while loop.time() < deadline and any(  # noqa: ASYNC110 - once per life; an event would cost every answer
            item.busy for endpoint in self.endpoints for item in endpoint.connections
        ):
            await asyncio.sleep(_DRAIN_STEP_SECONDS)
        for endpoint in self.endpoints:
            endpoint.abort()
        await asyncio.sleep(0)  # the aborted connections settle their calls
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.reporter is not None:
            try:
                async with asyncio.timeout(_LAST_REPORT_SECONDS):
                    await self.reporter.finish()
            except (ClientError, TimeoutError) as error:
                _LOG.warning("the last report was not delivered: %s; the journal keeps it", error)
            self.reporter.close()
        if self.exporter is not None:
            try:
                async with asyncio.timeout(_LAST_SPANS_SECONDS):
                    await self.exporter.flush()
            except TimeoutError:
                _LOG.warning("the last spans were not delivered")
        self.journal.close()
        self.admin.close()

    async def _sweep(self) -> None:
        """Enforce deadlines, copy the journal's errors into their metric, reload certificates that changed or that we may not show."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            for endpoint in self.endpoints:
                endpoint.sweep()
            for file in self._files:
                file.refresh()
            for endpoint, certified in self._certified:
                gone = endpoint.route.service in self.shared.ledger.keyless
                endpoint.pool.use(self._plain_tls if gone else certified)
            if self.journal.errors > self._journal_errors:
                self.metrics.journal_errors.inc(self.journal.errors - self._journal_errors)
                self._journal_errors = self.journal.errors


def fixed_sinks(
    accounts: Accounts, gate: Gate, metrics: Metrics, exporter: Exporter | None, others: Sequence[Sink] = ()
) -> Sinks:
    """All sinks, in order: what is on disk and charged comes before what is only shown. Without an exporter no call pays for spans."""
    spans: tuple[Sink, ...] = (exporter,) if exporter is not None else ()
    return Sinks((accounts, gate, metrics, *spans, *others), metrics.count_sink_failure)


def _service(route: Route, metered: MeteredService, limits: Limits, ca_file: str | None) -> tuple[Service, Limits]:
    """A route's service. Calls to Bedrock are signed over their host, and so signed again; their bodies are held whole for it."""
    if route.backend != "Bedrock":
        return metered, limits
    from llmwarden.proxy.aws.keyring import Keyring  # noqa: PLC0415 - no other route pays for it
    from llmwarden.proxy.aws.service import BODY_BYTES, SignedService  # noqa: PLC0415 - the same

    origin = parse_origin(route.upstream)
    failed = metered.shared.metrics.credential_errors.labels(route.service).inc
    host = origin.authority if route.mode == "Env" else ""
    ring = Keyring(failed, ca_file)
    signed = SignedService(metered, ring, host=host, prefix=origin.prefix.encode())
    return signed, msgspec.structs.replace(limits, body_bytes=max(limits.body_bytes, BODY_BYTES))


def _needs_tls(settings: Settings) -> bool:
    urls = [route.upstream for route in settings.routes]
    if settings.otlp_endpoint:
        urls.append(settings.otlp_endpoint)
    return any(url.startswith("https:") for url in urls)


def compiled_modules() -> int:
    """How many of our modules are compiled (image/compile.py): all hot ones in the image, none in a checkout."""
    ours = [module for name, module in sys.modules.items() if name.startswith("llmwarden.")]
    return sum((getattr(module, "__file__", None) or "").endswith(".so") for module in ours)


def _allow_descriptors() -> None:
    """Raise the limit of descriptors as far as the container may: it is often 1,024 at first, which 500 clients use up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error("a background task died; /livez fails from now on", exc_info=error)


async def _run(settings: Settings, identity: Identity, sinks: Sequence[Sink], started: float) -> int:
    _allow_descriptors()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    proxy = Proxy(settings, identity, sinks)
    try:
        await proxy.start()
    except OSError as error:
        _LOG.error("cannot listen: %s", error)
        return 1
    # Imported modules live as long as the process: the collector need not walk them.
    gc.collect()
    gc.freeze()
    # Calls leave next to no cycles: looking for them after each 700 objects, the default, took 1 % of all under load.
    gc.set_threshold(_YOUNG)
    ports = ", ".join(f"{item.route.service} {item.route.mode} on {item.port}" for item in proxy.endpoints)
    taken = time.perf_counter() - started
    _LOG.info(
        "ready after %.2f s: %s; admin on %d; %d modules compiled", taken, ports, proxy.admin.port, compiled_modules()
    )
    await stop.wait()
    _LOG.info("draining for at most %g s", settings.limits.drain_seconds)
    await proxy.stop()
    return 0


def main(argv: list[str], sinks: Sequence[Sink] = ()) -> int:
    """Run until SIGTERM; returns the exit status. `argv` must be empty: everything stands in the environment.

    `sinks` get the record of every finished call after the proxy's own sinks.
    """
    started = time.perf_counter()
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("LLMWARDEN_LOG_LEVEL") or "INFO",
        format="%(asctime)s %(levelname)s %(message)s",
    )
    if argv:
        sys.stderr.write("the proxy takes no arguments\n")
        return 2
    try:
        settings, identity = configuration.load(os.environ)
    except InvalidSpecError as error:
        _LOG.error("%s", error)
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, identity, sinks, started))
