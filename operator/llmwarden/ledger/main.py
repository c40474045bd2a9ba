"""`python -m llmwarden ledger`: the store, the watches, the two servers, and their end."""

import argparse
import asyncio
import contextlib
import datetime as dt
import logging
import os
import sys
import time
import uuid
from functools import partial

import anyio.to_thread
import httpx
import prometheus_client
import uvloop

from llmwarden import __version__, kube, names, tracing
from llmwarden.domain.leases import HoldLimits
from llmwarden.domain.plausible import Pace
from llmwarden.errors import InvalidSpecError, UnavailableError, WardenError
from llmwarden.ledger import changes
from llmwarden.ledger.audit import Trail
from llmwarden.ledger.collector import Collector
from llmwarden.ledger.core import Core
from llmwarden.ledger.departed import Departed
from llmwarden.ledger.gpu_metrics import GpuState
from llmwarden.ledger.http.app import create_app
from llmwarden.ledger.http.audit_api import AuditApi
from llmwarden.ledger.http.correction_api import CorrectionApi
from llmwarden.ledger.http.gpu_api import GpuApi
from llmwarden.ledger.http.query_api import SpendApi
from llmwarden.ledger.lease_metrics import LeaseState
from llmwarden.ledger.lost import LostPods
from llmwarden.ledger.metrics import Metrics, State
from llmwarden.ledger.pods import InjectedPods, PodEnds
from llmwarden.ledger.providers import usage as providers
from llmwarden.ledger.providers.account_metrics import AccountState
from llmwarden.ledger.providers.reconciliation import Reconciler, SecretKeys, watching
from llmwarden.ledger.quota_metrics import QuotaState
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.store import Quota, Remembered, Store, presence, spans
from llmwarden.ledger.store.accounts import Accounts
from llmwarden.ledger.store.compact import DAY
from llmwarden.ledger.watch import Watch
from llmwarden.ledger.writer import Writer
from llmwarden.serving import servers
from llmwarden.serving.access import Reviewer
from llmwarden.serving.auth import TokenReviewer
from llmwarden.settings import Settings, load

logger = logging.getLogger(__name__)

COMPACT_SECONDS = 600.0
HOLDERS_SECONDS = 30.0
HOLDERS_ALONE_SECONDS = 600.0  # where no other replica changes them: for a commit whose answer was lost
MOST_BELIEVED_SECONDS = 3600.0
CHECKPOINT_SECONDS = 0.5
SHARE_SECONDS = 30.0
COMPACT_PAUSE_SECONDS = 0.5
CONNECTIONS = 32_768  # ten thousand proxies, each with a report and a question that waits
CONNECTIONS_FROM_ONE = 1024  # without a good token so far: all proxies of a node, where its address is what we see
GRACE_SECONDS = 5  # long polls are answered at once, everything else takes milliseconds


def main(argv: list[str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status: 1 with a sentence where it cannot start or go on."""
    parser = argparse.ArgumentParser(prog="llmwarden ledger", description=__doc__)
    parser.add_argument("--port", type=int, default=names.LEDGER_PORT, help="of the contract, HTTPS (%(default)s)")
    parser.add_argument("--metrics-port", type=int, default=names.METRICS_PORT, help="plain HTTP (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        settings = load(os.environ)
        servers.start_logging(settings.log_level)
        end_of_spans = tracing.start(names.LEDGER, __version__)
        try:
            uvloop.run(run(settings, port=arguments.port, metrics_port=arguments.metrics_port))
        finally:
            end_of_spans()
    except (WardenError, OSError) as error:
        sys.stderr.write(f"llmwarden ledger: {error}\n")
        return 1
    return 0


async def run(settings: Settings, *, port: int, metrics_port: int) -> None:
    """Open the store, rebuild the sums from it, watch and serve until a signal comes.

    Raises WardenError where the database or the connection to Kubernetes cannot be opened, OSError where a port is taken.
    """
    pace = Pace(settings.plausible_tokens_per_second, settings.plausible_requests_per_second)
    store = await anyio.to_thread.run_sync(Store, settings.database_url or settings.database_path, pace)
    spans.watch(store.database)
    try:
        core = Core(Catalogue(), store.prices(), lambda: dt.datetime.now(dt.UTC), settings.report_seconds)
        bound(store, core, settings)
        bound_leases(core, store, settings)
        core.rebuild(store.sums(), store.last_reports())
        async with await kube.connect() as client, httpx.AsyncClient(timeout=providers.TIMEOUT) as http:
            await _serve(settings, core, store, client, http, port=port, metrics_port=metrics_port)
    finally:
        store.close()


def bound(store: Store, core: Core, settings: Settings) -> None:
    """Set the quotas, and what they ask about usage in memory."""
    store.quotas.quota = Quota(
        settings.quota_journal_rows,
        settings.quota_folded_rows,
        settings.quota_namespace_rows,
        settings.quota_unpriced_rows,
    )
    store.quotas.unpriced = lambda namespace: core.history.aggregate.unpriced[namespace]
    store.quotas.settled = core.history.settled


def bound_leases(core: Core, store: Store, settings: Settings) -> None:
    """Set what holders may hold, and whether balances are believed for a while. Raises InvalidSpecError."""
    holders = core.standings.desk.holders
    holders.limits = HoldLimits(
        settings.lease_pod_percent,
        settings.lease_service_percent,
        settings.lease_namespace_percent,
        settings.lease_factor,
        max(settings.lease_window_seconds, 1),
    )
    holders.reload(store.lease_state())
    if not settings.lease_believe_until:
        return
    try:
        until = dt.datetime.fromisoformat(settings.lease_believe_until).timestamp()
    except ValueError as error:
        message = (
            f"LLMWARDEN_LEASE_BELIEVE_UNTIL is {settings.lease_believe_until!r}, not a time like 2026-12-01T08:00:00Z"
        )
        raise InvalidSpecError(message) from error
    # At most an hour from now: who forgets the setting must not open the gate for good.
    now = core.clock().timestamp()
    store.believe_until = int(min(until, now + MOST_BELIEVED_SECONDS))
    if store.believe_until > now:
        logger.warning(
            "for %d s, balances that proxies report are believed, as after a restore from a backup: anyone who may "
            "report can claim what is left of its budgets",
            store.believe_until - now,
        )


async def _serve(
    settings: Settings,
    core: Core,
    store: Store,
    client: kube.Client,
    http: httpx.AsyncClient,
    *,
    port: int,
    metrics_port: int,
) -> None:
    stop = servers.stop_on_signals()
    writer = Writer(store, core, lambda: _rebuild(core, store))
    remembered = store.remembered()
    core.remember_services(remembered)
    departed = Departed(remembered, lambda: core.history.aggregate.services)
    trail = Trail(core.clock, time.monotonic)
    watch = Watch(client, core.configure, departed, partial(changes.record, trail))
    accounts = Reconciler(
        Accounts(store.database),
        writer.alone,
        SecretKeys(client, settings.namespace),
        http,
        clock=core.clock,
        rater=core.history.rater,
        namespaces=lambda: watch.namespaces,
    )
    certificate = servers.ServingCertificate(client, settings.namespace, names.SECRET_LEDGER_TLS)
    metrics = Metrics(prometheus_client.REGISTRY)
    prometheus_client.REGISTRY.register(State(core, watch.synced, store.size))
    prometheus_client.REGISTRY.register(GpuState(core))
    prometheus_client.REGISTRY.register(QuotaState(store.quotas))
    prometheus_client.REGISTRY.register(LeaseState(core))
    prometheus_client.REGISTRY.register(AccountState(lambda: accounts.shown))

    def ready() -> str | None:
        missing = watch.missing()
        if missing:
            return f"not yet read: {', '.join(missing)}"
        if not core.synced:
            return "the cluster's resources are being put together"
        return None if certificate.ready.is_set() else f"no certificate yet in Secret {names.SECRET_LEDGER_TLS}"

    tokens, access = TokenReviewer(client), Reviewer(client)
    holdings = GpuApi(core, store, writer, namespace=settings.namespace)
    await holdings.follow()
    audit = AuditApi(trail, store.database, access, namespace=settings.namespace)
    app = create_app(
        core,
        writer,
        tokens,
        InjectedPods(client),
        metrics,
        namespace=settings.namespace,
        ready=ready,
        stopping=stop,
        holdings=holdings,
        questions=SpendApi(core, store, access, namespace=settings.namespace, accounts=accounts),
        audit=audit,
        corrections=CorrectionApi(
            core, store.database, writer, access, namespace=settings.namespace, corrected=audit.corrected
        ),
    )

    lost = LostPods(
        PodEnds(client),
        store,
        writer,
        metrics,
        lambda: core.clock().timestamp(),
        services=lambda: list(core.view.services),
        share=core.standings.desk.holders.share,
    )

    async def end() -> None:
        await stop.wait()
        core.stop()

    await servers.until_stopped(
        stop,
        servers=[
            servers.serve(
                app,
                port=port,
                tls=certificate,
                stop=stop,
                grace_seconds=GRACE_SECONDS,
                name="ledger",
                connections=CONNECTIONS,
                connections_from_one=CONNECTIONS_FROM_ONE,
            ),
            servers.serve_metrics(ready, port=metrics_port, stop=stop),
        ],
        background=[
            watch.run(),
            certificate.run(),
            writer.run(),
            _tick(core, store, writer, departed),
            checkpoints(store),
            Collector().run(),
            *([_share(core, store, writer)] if store.database.postgresql else []),
            _compact(writer, settings.pod_detail_days * DAY),
            lost.run(),
            _reload_holders(store, writer),
            holdings.run(),
            watching(client, accounts, partial(changes.record, trail)).run(),
            trail.run(store.database, writer.alone, dt.timedelta(days=settings.audit_days)),
            _reconcile(core, accounts),
            end(),
        ],
    )
    with contextlib.suppress(UnavailableError):  # the lines have it
        await trail.flush(store.database, writer.alone, everything=True)


async def _rebuild(core: Core, store: Store) -> None:
    # First all of it into memory: sums of which half is old must not be asked.
    prices, sums, last = await anyio.to_thread.run_sync(
        lambda: (store.prices(), list(store.sums()), store.last_reports())
    )
    core.history.prices.update(prices)
    core.rebuild(sums, last)


async def _share(core: Core, store: Store, writer: Writer) -> None:
    """Tell the other replicas which pods we hear from, and hear which they do, for ever."""
    replica = uuid.uuid4().hex
    while True:
        now = int(core.clock().timestamp())
        try:
            # A copy: the thread must not read what reports change meanwhile.
            mine = {service: list(pods) for service, pods in core.usage.presence.by_service.items()}
            core.usage.elsewhere = await writer.alone(partial(presence.share, store.database, replica, mine, now))
        except UnavailableError as error:
            logger.warning("what other replicas hear is not known now: %s", error)
        await asyncio.sleep(SHARE_SECONDS)


async def _reload_holders(store: Store, writer: Writer) -> None:
    """Take who holds what from the store again, for ever: other replicas change it."""
    while True:
        await asyncio.sleep(HOLDERS_SECONDS if store.database.postgresql else HOLDERS_ALONE_SECONDS)
        try:
            await writer.reload_holders()
        except UnavailableError as error:
            logger.warning("who holds which leases is not known anew: %s", error)


async def checkpoints(store: Store) -> None:
    """Keep SQLite's write-ahead log small, for ever, beside the commits."""
    while True:
        await asyncio.sleep(CHECKPOINT_SECONDS)
        try:
            await anyio.to_thread.run_sync(store.checkpoint)
        except UnavailableError as error:
            logger.warning("the write-ahead log stays for now: %s", error)


async def _compact(writer: Writer, keep: int) -> None:
    """Drop old detail, a step at a time: reports come in between. `keep` in seconds."""
    while True:
        await asyncio.sleep(COMPACT_SECONDS)
        try:
            while await writer.compact(int(time.time()), keep):  # noqa: ASYNC110 - steps of work, no state that is waited for
                await asyncio.sleep(COMPACT_PAUSE_SECONDS)
        except UnavailableError as error:
            logger.warning("old detail stays for now: %s", error)


async def _reconcile(core: Core, accounts: Reconciler) -> None:
    """Begin once prices and Namespaces are read: before that, whose spend it is and what it cost is not known."""
    while not core.synced:  # noqa: ASYNC110 - once only
        await asyncio.sleep(1)
    await accounts.run()


async def _tick(core: Core, store: Store, writer: Writer, departed: Departed) -> None:
    """Each second: time passes, other replicas are followed, what services are is saved."""
    while True:
        await asyncio.sleep(1)
        unsaved: dict[str, Remembered] = {}
        try:
            if store.database.postgresql:
                await writer.follow()
            unsaved = departed.take_unsaved()
            if unsaved:
                await writer.remember(unsaved)
        except UnavailableError as error:
            logger.warning("the database does not answer, trying again: %s", error)
            departed.put_back(unsaved)
        core.tick()
