"""What proxies are told: configuration by namespace, when it changes, and the wake-up of those that wait for that."""

import asyncio
import hashlib
from collections.abc import Iterable

import msgspec

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.ledger.budgets import leases as lending
from llmwarden.ledger.budgets.standing import Standings
from llmwarden.ledger.history import Clock, History
from llmwarden.ledger.view import Service, View


class Configuration:
    """See the module."""

    def __init__(self, history: History, standings: Standings, clock: Clock, report_seconds: float) -> None:
        self._history = history
        self._standings = standings
        self._clock = clock
        self._report_seconds = report_seconds
        self._view = View()
        self._gone: dict[str, list[Service]] = {}  # services that are gone, by namespace
        self._changed: dict[str, asyncio.Event] = {}  # by namespace, of those whose proxies wait
        self._generations: dict[str, str] = {}
        self._price_generations: dict[str, str] = {}

    def configure(self, view: View) -> None:
        """Take what the cluster says."""
        self._view = view
        self._gone = {}
        for service in view.departed.values():
            self._gone.setdefault(service.namespace, []).append(service)

    async def changed(self, namespace: str, seconds: float) -> bool:
        """Wait until anything changes for a namespace's proxies, at most so long; returns whether something did."""
        event = self._changed.setdefault(namespace, asyncio.Event())
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def generation(self, namespace: str) -> str:
        """Return what changes whenever some proxy of the namespace must act differently: not with every dollar spent."""
        known = self._generations.get(namespace)
        if known is None:
            services = [
                (service.name, self._service_config(service))
                for service in (*self._view.by_namespace.get(namespace, ()), *self._gone.get(namespace, ()))
            ]
            everywhere = self._view.everywhere.get(namespace, ())
            keys = sorted({*everywhere, *(key for _, config in services for key in config.budgets)})
            rules = [(key, msgspec.structs.replace(self._budget_config(key), spent=0)) for key in keys]
            told = (services, rules, self._history.catalogue.bounds, everywhere)
            known = hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]
            self._generations[namespace] = known
        return known

    def config(self, namespace: str, services: Iterable[str]) -> wire.Config:
        """Return the configuration of these services (bare names).

        One that is gone is departed: the shared budgets that held for it still do. One that never was, and that no budget holds for, is
        Released.
        """
        found = {name: self._view.told(namespace, name) for name in services}
        keys = {key for service in found.values() if service for key in service.budgets}
        return wire.Config(
            contract=names.CONTRACT,
            generation=self.generation(namespace),
            report_interval_seconds=self._report_seconds,
            services={
                name: self._service_config(service) if service else wire.ServiceConfig(state="Released")
                for name, service in found.items()
            },
            budgets={key: self._budget_config(key) for key in sorted(keys)},
            now=self._clock(),
            context_bounds=self._history.catalogue.bounds,
        )

    def price_generation(self, service: str) -> str:
        """Return the generation of the current prices of a service (`namespace/name`); "" if it does not exist (yet)."""
        known = self._view.find(service)
        return "" if known is None else self._service_config(known).price_generation

    def moved(self, namespaces: Iterable[str] = (), *, everything: bool = False) -> None:
        """Wake the proxies of these namespaces, or all: something has changed for them."""
        if everything:
            self._generations.clear()
            self._price_generations.clear()
            namespaces = list(self._changed)
        for namespace in namespaces:
            self._generations.pop(namespace, None)
            event = self._changed.pop(namespace, None)
            if event is not None:
                event.set()

    def _service_config(self, service: Service) -> wire.ServiceConfig:
        prices = self._price_generations.get(service.provider)
        if prices is None:
            prices = self._history.catalogue.generation(service.provider, self._clock())
            self._price_generations[service.provider] = prices
        present = self._history.gpu.present(service.key)
        if present is not None:
            prices += f"+{present.input}+{present.output}"
        return wire.ServiceConfig(
            state="Active",
            provider=service.provider,
            sample_percent=service.sample_percent,
            budgets=service.budgets,
            price_generation=prices,
            departed=service.departed,
        )

    def _budget_config(self, key: str) -> wire.BudgetConfig:
        standing = self._standings.by_key[key]
        budget = standing.shared.budget
        return wire.BudgetConfig(
            unit=budget.unit,
            limit=budget.limit,
            spent=standing.spent,
            state=standing.state,
            action=budget.action,
            window_start=standing.span.start,
            resets_at=standing.span.end,
            warn_at_percent=budget.warn_at,
            on_unknown_price=budget.on_unknown_price,
            on_ledger_loss=budget.on_ledger_loss,
            fallback_model=budget.fallback_model,
            ceiling=budget.ceiling,
            leased=lending.is_leased(budget),
        )
