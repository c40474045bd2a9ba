"""Prometheus, the ledger and engines: asked once a tick for all services together, and whose figures moved is marked.

An answer that fails keeps the last figures.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from llmwarden import tracing
from llmwarden.clients.ledger import DirectClient
from llmwarden.contracts import ledger as wire
from llmwarden.contracts import reconciliation
from llmwarden.control.observe.engines import Engines
from llmwarden.control.observe.gpus import Gpus
from llmwarden.control.observe.prometheus import Prometheus
from llmwarden.control.observe.resources import CLUSTER, Name, WorkKey
from llmwarden.control.observe.world import Mark, World
from llmwarden.errors import UnavailableError, WardenError
from llmwarden.snapshot import Source
from llmwarden.status import moved

logger = logging.getLogger(__name__)

AT_ONCE: Final = 200  # services that are compared without a pause
Postpone = Callable[[str, str, str], None]  # kind, namespace, name: its figures have moved, and may wait for their turn


class Sources:
    """See the module."""

    def __init__(
        self,
        world: World,
        prometheus: Prometheus | None,
        ledger: DirectClient,
        engines: Engines,
        *,
        gpus: Gpus,
        mark: Mark,
        postpone: Postpone,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._world = world
        self._engines = engines
        self._gpus = gpus
        self._prometheus = prometheus
        self._ledger = ledger
        self._mark = mark
        self._postpone = postpone
        self._now = now
        self._services: dict[Name, moved.Mark] = {}
        self._budgets: dict[str, int] = {}
        self._said: object = None  # of the sources themselves, as every status says it

    async def ask(self) -> None:
        """Ask Prometheus and the ledger, tell the ledger of GPUs, and mark what moved."""
        with tracing.span("tick"):
            await self._ask_prometheus()
            await self._tell_gpus()
            await self._ask_ledger()
            await self._mark_moved()

    async def ask_engines(self) -> None:
        """Ask engines what they are; one that does not answer holds up nobody else's figures."""
        before = self._world.engines
        self._world.engines = await self._engines.ask(self._world.engine_addresses())
        for name in before.keys() | self._world.engines.keys():
            if before.get(name) != self._world.engines.get(name):
                self._mark(WorkKey("LLMService", *name), urgent=False)

    async def _mark_moved(self) -> None:
        """Mark services and budgets of which a status would change: at once where a state may, in their turn where only figures do."""
        world = self._world
        self._mark(CLUSTER, urgent=False)
        for kind in ("ModelPrice", "ProviderAccount"):  # few; a price begins to apply at a time, without an event
            for name in world.names(kind):
                self._mark(WorkKey(kind, *name), urgent=False)
        said = [(source.asked, source.fresh, source.reason) for source in (world.prometheus, world.ledger)]
        if (said, world.retention) != self._said:
            self._said = (said, world.retention)
            world.mark_all()
        usage = world.usage
        budgets: Mapping[str, wire.BudgetUsage] = usage.budgets if usage is not None else {}
        services: dict[Name, moved.Mark] = {}
        for number, (name, outline) in enumerate(list(world.outlines())):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)  # an edit that arrives meanwhile does not wait for all of them
            used = usage.services.get(f"{name[0]}/{name[1]}") if usage is not None else None
            reading = moved.reading(world.figures.get(name), used, budgets)
            services[name] = new = moved.mark(reading, outline.spend_limits, outline.targets)
            old = self._services.get(name)
            if old is None or old.state != new.state:
                self._mark(WorkKey("LLMService", *name), urgent=False)
            elif old.figures != new.figures:
                self._postpone("LLMService", *name)
        self._services = services
        self._mark_budgets({key: moved.budget(used) for key, used in budgets.items()})

    def _mark_budgets(self, new: dict[str, int]) -> None:
        old, self._budgets = self._budgets, new
        for kind in ("LLMBudget", "ClusterLLMBudget"):
            for name in self._world.names(kind):
                key = "/".join(part for part in (kind, *name) if part)
                if old.get(key) != new.get(key):
                    self._mark(WorkKey(kind, *name), urgent=False)

    async def _tell_gpus(self) -> None:
        """Tell the ledger which pods hold GPUs; what it was not told now it is told the next time, with the time between."""
        if not self._world.ca_bundle:
            return
        pods = await self._gpus.told(self._world.pods_there(), self._world.take_gone(), self._now())
        if not pods:
            return
        try:
            await self._ledger.trust(self._world.ca_bundle)
            await self._ledger.report_gpus(pods)
        except WardenError as error:
            logger.warning("the ledger cannot be told which pods hold GPUs, trying again: %s", error)
        else:
            self._gpus.delivered(pods)

    async def _ask_prometheus(self) -> None:
        if self._prometheus is None:
            return
        try:
            figures = await self._prometheus.figures()
        except UnavailableError as error:
            self._world.prometheus = _stale(self._world.prometheus, "PrometheusUnavailable", error)
        else:
            self._world.figures = figures
            self._world.retention = await self._retention()
            self._world.prometheus = Source(asked=True, fresh=True, as_of=self._now())

    async def _retention(self) -> int | None:
        """Ask for how long data is kept; what was known before where it does not answer this time."""
        try:
            return await self._prometheus.retention() if self._prometheus is not None else None
        except UnavailableError:
            return self._world.retention

    async def _accounts(self) -> Mapping[str, reconciliation.Account]:
        """Ask for providers' own figures; what was known before where the ledger does not answer this time."""
        if not self._world.count("ProviderAccount"):
            return {}
        try:
            return (await self._ledger.reconciliation()).accounts
        except WardenError as error:
            logger.warning("%s", error)
            return self._world.accounts

    async def _ask_ledger(self) -> None:
        if not self._world.ca_bundle:
            return  # the certificates are made first: a moment's matter, and no fault of the ledger
        try:
            await self._ledger.trust(self._world.ca_bundle)
            usage = await self._ledger.usage()
        except WardenError as error:
            self._world.ledger = _stale(self._world.ledger, "LedgerUnavailable", error)
        else:
            self._world.usage = usage
            self._world.accounts = await self._accounts()
            self._world.ledger = Source(asked=True, fresh=True, as_of=usage.as_of)


def _stale(old: Source, reason: str, error: WardenError) -> Source:
    if old.fresh or not old.asked:
        logger.warning("%s", error)
    return replace(old, asked=True, fresh=False, reason=reason, message=str(error))
