"""The webhook by real admission: the API server calls it, applies its patch, and validates the pod that results."""

import asyncio
import base64
import contextlib
import datetime as dt
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmwarden import kube, names
from llmwarden.errors import NotFoundError
from llmwarden.kube import Client
from llmwarden.serving import pki, servers
from llmwarden.settings import Settings
from llmwarden.webhook.main import run
from tests.api.support import ControlPlane


def pod(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "app", "image": "app:1", "ports": [{"name": "http", "containerPort": 8000}]}
    container["readinessProbe"] = {"httpGet": {"path": "/", "port": "http"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "bot"}},
        "spec": {"containers": [container], **spec},
    }


def service(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "LLMService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "backend": {
                "type": "OpenAI",
                "url": "https://api.openai.com",
                "credentialsSecretRef": {"name": "openai", "key": "key"},
            },
            "workload": {"selector": {"matchLabels": {"app": "bot"}}},
            **spec,
        },
    }


def configuration(name: str, namespace: str, port: int, ca: str) -> dict[str, Any]:
    """A MutatingWebhookConfiguration as the operator's, but for the URL: there is no Service network here."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "pods.llmwarden.io",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Ignore",
                "reinvocationPolicy": "IfNeeded",
                "timeoutSeconds": 5,
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "clientConfig": {
                    "url": f"https://localhost:{port}{names.WEBHOOK_PATH}",
                    "caBundle": base64.b64encode(ca.encode()).decode(),
                },
            }
        ],
    }


@pytest.fixture
async def client(crds: ControlPlane) -> AsyncIterator[Client]:
    async with await kube.connect(str(crds.kubeconfig)) as connected:
        yield connected


@pytest.fixture
async def shop(client: Client, namespace: str) -> str:
    """A namespace in which pods can be made: its service account is there."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(NotFoundError):
                await client.get("v1", "serviceaccounts", "default", namespace)
                return namespace
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def webhook(client: Client, own_namespace: str, watched: str) -> AsyncIterator[asyncio.Event]:
    """The real role with its certificate in a Secret, and its configuration; yields the event that stops the role."""
    now = dt.datetime.now(dt.UTC)
    ca = pki.make_ca(now)
    leaf = pki.make_leaf(ca, ["localhost"], now)
    data = {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": ca.certificate}
    await client.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": names.SECRET_WEBHOOK_TLS, "namespace": own_namespace},
            "type": "kubernetes.io/tls",
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
        }
    )
    stop = asyncio.Event()
    https, http = servers.listen("127.0.0.1", 0), servers.listen("127.0.0.1", 0)
    port, health = https.getsockname()[1], http.getsockname()[1]
    config = Settings(namespace=own_namespace)
    role = asyncio.create_task(run(config, client, stop, sock=https, metrics_sock=http))
    name = f"test-{uuid.uuid4().hex[:8]}"
    try:
        await ready(health, role)
        await client.apply(configuration(name, watched, port, ca.certificate))
        yield stop
    finally:
        stop.set()
        await role
        await client.delete("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", name)


async def ready(port: int, role: asyncio.Task[None]) -> None:
    """Wait until /readyz says so."""
    async with asyncio.timeout(60):
        while not role.done():
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
                if answer.startswith(b"HTTP/1.1 200"):
                    return
            await asyncio.sleep(0.1)
    await role


async def injected(client: Client, namespace: str) -> dict[str, Any]:
    """Create pods until one gets the proxy: the API server takes a moment to know a new configuration."""
    async with asyncio.timeout(60):
        while True:
            made = await client.create(pod(f"probe-{uuid.uuid4().hex[:8]}", namespace))
            if made["spec"].get("initContainers"):
                return made
            await asyncio.sleep(0.2)


async def test_a_selected_pod_gets_the_proxy_and_another_namespace_does_not(
    client: Client, shop: str, namespace: str
) -> None:
    del namespace
    await client.apply(service("bot", shop))
    async with webhook(client, own_namespace="default", watched=shop):
        made = await injected(client, shop)
        proxy = made["spec"]["initContainers"][0]
        assert (proxy["name"], proxy["restartPolicy"]) == (names.PROXY_CONTAINER, "Always")
        contract = json.loads(proxy["env"][0]["value"])
        assert contract["routes"][0]["upstream"] == "https://api.openai.com"
        assert "BEGIN CERTIFICATE" in contract["ledger"]["ca"]
        env = {entry["name"]: entry.get("value") for entry in made["spec"]["containers"][0]["env"]}
        assert env["OPENAI_BASE_URL"] == "http://127.0.0.1:15100/v1"
        assert env["OPENAI_API_KEY"] == "llmwarden"
        assert made["metadata"]["annotations"][names.ANNOTATION_SERVICES] == "bot"

        other = pod("unselected", shop)
        other["metadata"]["labels"] = {"app": "other"}
        assert "initContainers" not in (await client.create(other))["spec"]
        assert "initContainers" not in (await client.create(pod("elsewhere", "default")))["spec"]
        await client.delete("v1", "pods", "elsewhere", "default")

        dry = await client.request("POST", f"/api/v1/namespaces/{shop}/pods", {"dryRun": "All"}, pod("dry", shop))
        assert dry["spec"]["initContainers"][0]["name"] == names.PROXY_CONTAINER


async def test_a_port_is_taken_by_name_and_its_probe_rewritten(client: Client, shop: str) -> None:
    spec = {
        "backend": {"type": "VLLM"},
        "workload": {
            "selector": {"matchLabels": {"app": "bot"}},
            "interception": {"type": "Port", "port": {"name": "http"}},
        },
    }
    await client.apply(service("chat", shop, **spec))
    async with webhook(client, own_namespace="default", watched=shop):
        made = await injected(client, shop)
    app, proxy = made["spec"]["containers"][0], made["spec"]["initContainers"][0]
    assert app["ports"][0]["name"] == "http-app"
    assert app["readinessProbe"]["httpGet"]["port"] == 8000
    assert {port["name"]: port["containerPort"] for port in proxy["ports"]}["http"] == 15200


async def test_pods_of_a_restricted_namespace_are_admitted_with_the_proxy(client: Client, shop: str) -> None:
    await client.patch(
        "v1", "namespaces", shop, None, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    )
    await client.apply(service("bot", shop))
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    restricted = pod("restricted", shop, securityContext=security)
    restricted["spec"]["containers"][0]["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    async with webhook(client, own_namespace="default", watched=shop), asyncio.timeout(60):
        while True:
            made = await client.create(restricted)
            if made["spec"].get("initContainers"):
                break
            await client.delete("v1", "pods", "restricted", shop)
            await asyncio.sleep(0.5)
    assert made["spec"]["initContainers"][0]["name"] == names.PROXY_CONTAINER


async def test_pods_start_without_the_proxy_while_the_webhook_is_down(client: Client, shop: str) -> None:
    await client.apply(service("bot", shop))
    async with webhook(client, own_namespace="default", watched=shop) as stop:
        await injected(client, shop)
        stop.set()
        async with asyncio.timeout(30):
            while True:  # until the API server's kept-alive connections are gone with the server
                made = await client.create(pod(f"later-{uuid.uuid4().hex[:8]}", shop))
                if "initContainers" not in made["spec"]:
                    break
                await asyncio.sleep(0.2)
    assert made["metadata"]["uid"]


async def test_a_stopped_injection_lets_pods_through_untouched(client: Client, shop: str) -> None:
    await client.apply(service("bot", shop))
    async with webhook(client, own_namespace="default", watched=shop):
        await injected(client, shop)
        status = {"injection": {"state": "Stopped", "reason": "ImagePull", "message": "it cannot be pulled"}}
        await client.patch_status(names.API_VERSION, "llmservices", "bot", shop, status)
        async with asyncio.timeout(30):
            while True:
                made = await client.create(pod(f"stopped-{uuid.uuid4().hex[:8]}", shop))
                if "initContainers" not in made["spec"]:
                    return
                await asyncio.sleep(0.2)
