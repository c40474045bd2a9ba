"""The role `webhook`: informers, certificate, HTTPS on names.WEBHOOK_PORT, health and metrics on names.METRICS_PORT."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import uvloop

from llmwarden import kube, names, settings
from llmwarden.errors import WardenError
from llmwarden.kube import Client, Informer
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
from llmwarden.webhook.services import Services, brief

logger = logging.getLogger(__name__)

CONNECTIONS = 384  # several API servers with a connection for each of many pods at a time
NAMESPACE_LABELS = (names.LABEL_NAMESPACE_INJECTION, names.LABEL_ALLOW_OPT_OUT)
_NO_LABELS: Mapping[str, str] = MappingProxyType({})  # one for all namespaces without


class Cluster:
    """The webhook's copy of what it decides by: LLMServices and, of namespaces, the labels that we give a meaning."""

    def __init__(self, client: Client) -> None:
        self._services = Services()
        self.candidates = self._services.candidates
        self.services = Informer(
            client, names.API_VERSION, "llmservices", on_change=self._services.take, transform=brief
        )
        self.namespaces = Informer(client, "v1", "namespaces", transform=_labels_of_ours)

    def labels_of(self, namespace: str) -> Mapping[str, str] | None:
        """Give a namespace's labels as far as we give them a meaning; None where it is not known (yet)."""
        return self.namespaces.items.get(("", namespace))

    def fault(self) -> str | None:
        """Say what is missing before pods can be judged; None where nothing is."""
        for informer in (self.services, self.namespaces):
            if not informer.synced.is_set():
                return f"the webhook has not read {informer.name} yet"
        return None


def _labels_of_ours(item: dict[str, Any]) -> Mapping[str, str]:
    labels = item["metadata"].get("labels") or {}
    return {label: labels[label] for label in NAMESPACE_LABELS if label in labels} or _NO_LABELS


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
        return World(cluster.fault(), cluster.candidates, cluster.labels_of, certificate.ca)

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
        background=[certificate.run(), cluster.services.run(), cluster.namespaces.run()],
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
