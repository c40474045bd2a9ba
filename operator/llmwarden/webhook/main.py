"""The role `webhook`: informers, certificate, HTTPS on names.WEBHOOK_PORT, health and metrics on names.METRICS_PORT."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import uvloop

from llmwarden import kube, names, settings
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.domain.budgets import Budget
from llmwarden.errors import WardenError
from llmwarden.injection import limits
from llmwarden.kube import Client, Informer, ObjectName, ScopedInformer
from llmwarden.kube.packed import Packed
from llmwarden.serving.servers import (
    ServingCertificate,
    serve,
    serve_metrics,
    start_logging,
    stop_on_signals,
    until_stopped,
)
from llmwarden.settings import Settings
from llmwarden.webhook.admission import World
from llmwarden.webhook.app import app
from llmwarden.webhook.budgets import Budgets, read_cluster_budget, read_namespace_budget
from llmwarden.webhook.services import Services, brief

logger = logging.getLogger(__name__)

CONNECTIONS = 384  # several API servers with a connection for each of many pods at a time
_NO_LABELS: Mapping[str, str] = MappingProxyType({})  # one for all namespaces without


class Cluster:
    """The webhook's copy of what it decides by: LLMServices, the budgets over them, and the labels of namespaces."""

    def __init__(self, client: Client) -> None:
        self._services = Services()
        self.candidates = self._services.candidates
        self.services = Informer(client, names.API_VERSION, "llmservices", on_change=self._take, transform=brief)
        # Of namespaces that hold a service. A LimitRange or a quota must not be why a pod is refused with the proxy.
        self.limit_ranges = ScopedInformer(client, "v1", "limitranges", transform=limits.limit_range)
        self.quotas = ScopedInformer(client, "v1", "resourcequotas", transform=limits.quota)
        self._limiting = (self.limit_ranges, self.quotas)
        self.namespaces = Informer(client, "v1", "namespaces", transform=_labels)
        self._budgets = Budgets()
        self.namespace_budgets = Informer(
            client,
            names.API_VERSION,
            "llmbudgets",
            on_change=self._budgets.take_namespaced,
            transform=read_namespace_budget,
        )
        self.cluster_budgets = Informer(
            client,
            names.API_VERSION,
            "clusterllmbudgets",
            on_change=self._budgets.take_cluster,
            transform=read_cluster_budget,
        )

    @property
    def informers(self) -> tuple[Informer, ...]:
        """Return those of all namespaces."""
        return self.services, self.namespaces, self.namespace_budgets, self.cluster_budgets

    def _take(self, key: ObjectName, old: Packed | None, new: Packed | None) -> None:
        self._services.take(key, old, new)
        for informer in self._limiting:
            if self._services.has(key[0]):
                informer.include(key[0])
            else:
                informer.exclude(key[0])

    def limits_of(self, namespace: str) -> limits.Limits:
        """Give what a namespace allows its pods, as far as it is known."""
        ranges, quotas = (informer.of(namespace) for informer in self._limiting)
        if not ranges and not quotas:
            return limits.NONE
        items = tuple(item for name in sorted(ranges) for item in ranges[name])
        return limits.Limits(items, tuple(quotas[name] for name in sorted(quotas)))

    async def run_limits(self) -> None:
        """Keep the limits fresh, from when it is known which namespaces' are wanted; ends by cancellation only."""
        await self.services.synced.wait()
        async with asyncio.TaskGroup() as group:
            for informer in self._limiting:
                group.create_task(informer.run())

    def labels_of(self, namespace: str) -> Mapping[str, str] | None:
        """Give a namespace's labels; None where it is not known (yet)."""
        return self.namespaces.items.get(("", namespace))

    def budgets(self, service: LLMService) -> Iterator[Budget]:
        """Give the shared budgets that hold for a service, those alone that matter to a proxy without a ledger."""
        return self._budgets.over(service, self.labels_of(service.metadata.namespace))

    def fault(self) -> str | None:
        """Say what is missing before pods can be judged; None where nothing is. Kinds of budgets may be absent."""
        for informer in self.informers:
            may_be_absent = informer in {self.namespace_budgets, self.cluster_budgets}
            if not informer.synced.is_set() and not (may_be_absent and informer.absent):
                return f"the webhook has not read {informer.name} yet"
        for informer in self._limiting:
            # One that cannot be read keeps no proxy out of pods: most namespaces have no such rules.
            if not informer.synced.is_set() and not informer.fault(0):
                return f"the webhook has not read {informer.name} yet"
        return None


def _labels(item: dict[str, Any]) -> Mapping[str, str]:
    return item["metadata"].get("labels") or _NO_LABELS


async def run(
    config: Settings,
    client: Client,
    stop: asyncio.Event,
    *,
    sock: socket.socket | None = None,
    metrics_sock: socket.socket | None = None,
) -> None:
    """Serve until `stop` is set, on names.WEBHOOK_PORT and names.METRICS_PORT or on the sockets given."""
    cluster = Cluster(client)
    certificate = ServingCertificate(
        client,
        config.namespace,
        names.SECRET_WEBHOOK_TLS,
        client_ca=config.webhook_client_ca,
        client_names=config.webhook_client_names,
    )

    def world() -> World:
        limits_of, budgets = cluster.limits_of, cluster.budgets
        return World(cluster.fault(), cluster.candidates, cluster.labels_of, certificate.ca, limits_of, budgets)

    def paths() -> tuple[str, ...]:
        # An operator of an earlier version has written none, and tells the API server of the fixed one.
        return certificate.paths or (names.WEBHOOK_PATH,)

    def ready() -> str | None:
        if not certificate.ready.is_set():
            return f"Secret {names.SECRET_WEBHOOK_TLS} holds no certificate yet"
        return cluster.fault()

    await until_stopped(
        stop,
        servers=[
            serve(
                app(world, config, paths),
                port=names.WEBHOOK_PORT,
                sock=sock,
                stop=stop,
                tls=certificate,
                name="webhook",
                connections=CONNECTIONS,
            ),
            serve_metrics(ready, stop=stop, sock=metrics_sock),
        ],
        background=[certificate.run(), *(informer.run() for informer in cluster.informers), cluster.run_limits()],
    )


async def _main(config: Settings) -> None:
    stop = stop_on_signals()
    async with await kube.connect() as client:
        await run(config, client, stop)


def main(arguments: list[str]) -> int:
    """Run the role until SIGTERM; returns the process's exit status."""
    if arguments:
        sys.stderr.write("the role webhook takes no arguments; its settings are environment variables\n")
        return 2
    try:
        config = settings.load(os.environ)
        start_logging(config.log_level)
        uvloop.run(_main(config))  # a TLS connection of asyncio takes 256 KiB, of uvloop a sixth
    except WardenError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
