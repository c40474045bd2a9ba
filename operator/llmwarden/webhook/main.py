"""The role `webhook`: informers, certificate, HTTPS on names.WEBHOOK_PORT, health and metrics on names.METRICS_PORT."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from llmwarden import kube, names, settings
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.errors import InvalidSpecError, WardenError
from llmwarden.kube import Client, Informer, Key
from llmwarden.serving import (
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

logger = logging.getLogger(__name__)

CONCURRENCY = 256  # requests at a time; more get 503, which the API server admits


class Cluster:
    """The webhook's copy of what it decides by: LLMServices and the labels of namespaces."""

    def __init__(self, client: Client) -> None:
        self._services: dict[str, dict[str, LLMService]] = {}
        self.services = Informer(
            client, names.API_VERSION, "llmservices", on_change=self.take_service, transform=_service_in_brief
        )
        self.namespaces = Informer(client, "v1", "namespaces", transform=_namespace_in_brief)

    def take_service(self, key: Key, _old: object, new: Mapping[str, Any] | None) -> None:
        """Take a changed LLMService (an Informer's callback)."""
        namespace, name = key
        known = self._services.setdefault(namespace, {})
        known.pop(name, None)
        if new is not None:
            try:
                known[name] = parse(LLMService, new)
            except InvalidSpecError as error:
                # Stored under another version of the schema: its condition says so, the others go on.
                logger.warning("LLMService %s/%s cannot be read and is left out: %s", namespace, name, error)
        if not known:
            del self._services[namespace]

    def services_in(self, namespace: str) -> Iterable[LLMService]:
        """Give the LLMServices of a namespace."""
        return self._services.get(namespace, {}).values()

    def labels_of(self, namespace: str) -> Mapping[str, str] | None:
        """Give the labels of a namespace; None where it is not known (yet)."""
        found = self.namespaces.items.get(("", namespace))
        return None if found is None else found["metadata"].get("labels") or {}

    def fault(self) -> str | None:
        """Say what is missing before pods can be judged; None where nothing is."""
        for informer in (self.services, self.namespaces):
            if not informer.synced.is_set():
                return f"the webhook has not read {informer.name} yet"
        return None


def _service_in_brief(item: dict[str, Any]) -> dict[str, Any]:
    """Keep of an LLMService what injection needs: its figures change all the time and are of no interest here."""
    metadata = item["metadata"]
    kept = ("name", "namespace", "uid", "generation", "labels", "deletionTimestamp")
    injection = (item.get("status") or {}).get("injection")
    return {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": item.get("spec") or {},
        **({"status": {"injection": injection}} if injection else {}),
    }


def _namespace_in_brief(item: dict[str, Any]) -> dict[str, Any]:
    metadata = item["metadata"]
    return {"metadata": {"name": metadata["name"], "labels": metadata.get("labels") or {}}}


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
    certificate = ServingCertificate(client, config.namespace, names.SECRET_WEBHOOK_TLS)

    def world() -> World:
        return World(cluster.fault(), cluster.services_in, cluster.labels_of, certificate.ca)

    def ready() -> str | None:
        if not certificate.ready.is_set():
            return f"Secret {names.SECRET_WEBHOOK_TLS} holds no certificate yet"
        return cluster.fault()

    await until_stopped(
        stop,
        servers=[
            serve(
                app(world, config),
                port=names.WEBHOOK_PORT,
                sock=sock,
                stop=stop,
                tls=certificate,
                concurrency=CONCURRENCY,
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
        asyncio.run(_main(config))
    except WardenError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
