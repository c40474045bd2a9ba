"""`python -m llmwarden operator`: watches, the work queue, the status tick, health and metrics, in one process."""

import asyncio
import contextlib
import datetime as dt
import logging
import os
import random
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import Counter

from llmwarden import __version__, kube, names, tracing
from llmwarden import settings as configuration
from llmwarden.clients.ledger import DirectClient
from llmwarden.control import memory
from llmwarden.control.handlers.queue import WorkQueue
from llmwarden.control.handlers.watching import Watching
from llmwarden.control.observe.engines import Engines
from llmwarden.control.observe.gpus import Gpus
from llmwarden.control.observe.prometheus import Prometheus
from llmwarden.control.observe.resources import CLUSTER, KINDS, NAMESPACE, WorkKey
from llmwarden.control.observe.world import World
from llmwarden.control.reconcile import Reconciler
from llmwarden.control.sources import Sources
from llmwarden.control.supervised import supervised
from llmwarden.errors import InvalidSpecError, WardenError
from llmwarden.kube.client import until_available
from llmwarden.serving import servers
from llmwarden.settings import Settings

logger = logging.getLogger(__name__)

TOKEN_FILE: Final = "LLMWARDEN_TOKEN_FILE"  # noqa: S105 - a variable's name
METRICS_PORT: Final = "LLMWARDEN_METRICS_PORT"  # for tests, where several run on one machine
BUGS = Counter("llmwarden_operator_tick_bugs", "Ticks that ended with an unexpected error.")
TURN_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 15.0  # after a resync that failed: only a list tells what was deleted while a watch was away
STALLED_RESYNCS: Final = 3  # without a resync that succeeded: something hangs that only a restart will loosen


def now() -> dt.datetime:
    """Return the time, in UTC."""
    return dt.datetime.now(dt.UTC)


async def run_or_report(work: Coroutine[Any, Any, None], what: str) -> None:
    """Do `work`; report an unforeseen error and go on: what others answer (engines are anybody's pods) must not end the operator."""
    task = await supervised(work)
    error = None if task.cancelled() else task.exception()
    if error is not None:
        BUGS.inc()
        logger.error("%s: this is a bug", what, exc_info=error)


class Operator:
    """One operator. `run` ends when `stop` is set."""

    def __init__(self, client: kube.Client, settings: Settings, token_file: Path, stop: asyncio.Event) -> None:
        self._client = client
        self._settings = settings
        self._stop = stop
        self._due = asyncio.Event()  # a resync is wanted before its time
        self._queue = WorkQueue(self._work, time.monotonic)
        self._world = World(client, settings, self._queue.mark, now)
        self._reconciler = Reconciler(client, settings, self._world, now, time.monotonic)
        url = settings.prometheus_url
        self._prometheus = Prometheus(url, settings.prometheus_timeout) if url else None
        self._ledger = DirectClient(settings.ledger_url, token_file)
        self._engines = Engines(time.monotonic)
        self._sources = Sources(
            self._world,
            self._prometheus,
            self._ledger,
            self._engines,
            gpus=Gpus(client, self._prometheus),
            mark=self._queue.mark,
            postpone=self._reconciler.publisher.postpone,
            now=now,
        )
        self._watching = Watching(self._world.take, self._due.set)
        self._world.kinds_fault = self._watching.fault
        self._synced = asyncio.Event()
        self._can_ask = asyncio.Event()
        self._asked = asyncio.Event()  # Prometheus and ledger, once: they have answered, or will not for now
        self._resynced = time.monotonic()

    async def _work(self, key: WorkKey) -> float | None:
        with tracing.span(f"reconcile {key.kind}", {"llmwarden.namespace": key.namespace, "llmwarden.name": key.name}):
            return await self._reconciler.reconcile_once(key)

    async def run(self, port: int) -> None:
        """Run until `stop` is set."""
        try:
            await servers.until_stopped(
                self._stop,
                servers=[
                    servers.serve_metrics(self.not_ready, live=self.not_live, stop=self._stop, port=port),
                ],
                background=[
                    self._watching.run(),
                    self._world.run(),
                    self._reconcile(),
                    self._tick(),
                    self._engines_tick(),
                    self._turns(),
                    self._resync(),
                ],
            )
        finally:
            await self._ledger.close()
            await self._engines.close()
            if self._prometheus is not None:
                await self._prometheus.close()

    def not_ready(self) -> str | None:
        """Say why we are not ready; None where we are."""
        return None if self._synced.is_set() else "the cluster has not been read yet"

    def not_live(self) -> str | None:
        """Say why a restart would help; None where it would not."""
        age = time.monotonic() - self._resynced
        limit = STALLED_RESYNCS * self._settings.resync_seconds + 60
        return None if age < limit else f"no resync has succeeded for {age:.0f} s"

    async def _reconcile(self) -> None:
        """Work, once all is known: what has not been read yet must not be taken for missing."""
        await until_available(self._client)
        while True:
            try:
                await self._list()
                break
            except WardenError as error:
                logger.warning("the cluster cannot be read yet: %s", error)
                await asyncio.sleep(2.0)
        await self._world.synced()
        self._synced.set()
        self._resynced = time.monotonic()
        logger.info("the cluster is read: %d LLMServices", self._world.count("LLMService"))
        # What exists once comes first: the ledger is asked with the CA that it makes.
        try:
            await self._reconciler.reconcile_once(CLUSTER)
        except WardenError as error:
            logger.warning("what exists once: %s; trying again", error)
        self._can_ask.set()
        # A first look without figures would write states that the first answer takes back.
        await self._asked.wait()
        self._world.mark_all()
        await self._queue.run(self._settings.workers)

    async def _list(self) -> None:
        """Read our kinds and Namespaces whole: kopf's watch does not tell of what was deleted while it was away."""
        kinds = [(kind, names.API_VERSION, plural) for kind, plural in KINDS.items()]
        for kind, api_version, plural in (*kinds, (NAMESPACE, "v1", "namespaces")):
            listing = self._world.listing(kind)
            async with contextlib.aclosing(self._client.pages(api_version, plural)) as pages:
                async for page in pages:
                    for item in page.items:
                        listing.take(item)
            listing.end()

    async def _resync(self) -> None:
        await self._synced.wait()
        period = self._settings.resync_seconds
        while True:
            pause = period * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), pause)
            self._due.clear()
            try:
                await self._list()
            except WardenError as error:
                logger.warning("resync: %s", error)
                period = min(RETRY_SECONDS, self._settings.resync_seconds)
                continue
            period = self._settings.resync_seconds
            self._world.mark_all()
            self._resynced = time.monotonic()

    async def _tick(self) -> None:
        """Ask Prometheus and the ledger, which marks what moved."""
        await self._can_ask.wait()
        while True:
            await run_or_report(self._sources.ask(), "asking for figures")
            self._asked.set()
            await self._until_next_tick()

    async def _until_next_tick(self) -> None:
        """Wait for a tick's time, or for other certificates: with the first ones the ledger is asked at once."""
        before, left = self._world.ca_bundle, self._settings.status_seconds
        while left > 0 and self._world.ca_bundle == before:
            await asyncio.sleep(min(left, 1.0))
            left -= 1.0

    async def _engines_tick(self) -> None:
        await self._synced.wait()
        while True:
            await run_or_report(self._sources.ask_engines(), "asking engines")
            await asyncio.sleep(self._settings.status_seconds)

    async def _turns(self) -> None:
        """Let those statuses be looked at of which only figures have moved, as fast as they may be written."""
        await self._synced.wait()
        while True:
            await asyncio.sleep(TURN_SECONDS)
            for turn in self._reconciler.publisher.turns():
                self._queue.mark(WorkKey(*turn), urgent=False)


async def run(settings: Settings, token_file: Path, port: int, stop: asyncio.Event | None = None) -> None:
    """Run the operator until SIGTERM, SIGINT or `stop`."""
    stop = stop or servers.stop_on_signals()
    async with await kube.connect() as client:
        await Operator(client, settings, token_file, stop).run(port)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the role; returns the process's exit status."""
    del argv
    try:
        settings = configuration.load(os.environ)
        port = int(os.environ.get(METRICS_PORT) or names.METRICS_PORT)
    except (InvalidSpecError, ValueError) as error:
        sys.stderr.write(f"llmwarden operator: {error}\n")
        return 2
    memory.give_back()
    servers.start_logging(settings.log_level)
    token_file = Path(os.environ.get(TOKEN_FILE) or names.TOKEN_FILE)
    end_of_spans = tracing.start(names.OPERATOR, __version__)
    try:
        asyncio.run(run(settings, token_file, port))
    except WardenError:
        logger.exception("the operator ends")
        return 1
    finally:
        end_of_spans()
    return 0
