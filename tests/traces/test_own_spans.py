"""Our own spans, in a real Jaeger: of a reconcile against a real API server, and of a report in the ledger, down to its SQL."""

import asyncio
import json
from collections.abc import Callable

import pytest

from llmwarden import names
from tests.api.conftest import alone, blank, control_plane, crds, kubeconfig, namespace, start  # noqa: F401 - fixtures
from tests.api.operating import Operator, make, sample
from tests.api.support import ControlPlane
from tests.api.test_ledger import Ledger, apply, ledger, pod, report, service, token  # noqa: F401 - and a fixture
from tests.traces.backends import Jaeger, Tree


async def found(jaeger: Jaeger, holds: Callable[[Tree], bool], **query: str) -> Tree:
    """The first trace of which that holds, once Jaeger has it: spans come in batches, some seconds after their end."""
    async with asyncio.timeout(120):
        while True:
            for tree in await jaeger.search(**query):
                if holds(tree):
                    return tree
            await asyncio.sleep(0.5)


@pytest.mark.usefixtures("alone")
async def test_jaeger_shows_a_reconcile_and_each_request_that_it_made(
    crds: ControlPlane,  # noqa: F811
    namespace: str,  # noqa: F811
    start: Callable[..., Operator],  # noqa: F811
    jaeger: Jaeger,
) -> None:
    await asyncio.to_thread(lambda: start(OTEL_EXPORTER_OTLP_ENDPOINT=jaeger.otlp_http))
    await asyncio.to_thread(make, crds, sample("chat", namespace))
    status = f"/apis/llmwarden.io/v1alpha1/namespaces/{namespace}/llmservices/chat/status"
    tree = await found(
        jaeger,
        lambda tree: any(node.attributes.get("url.path") == status for node in tree.ordered()),
        service=names.OPERATOR,
        operation="reconcile LLMService",
        tags=json.dumps({"llmwarden.namespace": namespace, "llmwarden.name": "chat"}),
    )
    paths = tree.paths()
    assert "reconcile LLMService / build" in paths
    assert "reconcile LLMService / apply / kubernetes PATCH" in paths
    assert "reconcile LLMService / publish status / kubernetes PATCH" in paths


async def test_jaeger_shows_a_report_its_transaction_and_its_statements(
    ledger: Ledger,  # noqa: F811
    jaeger: Jaeger,
) -> None:
    def report_once() -> None:
        ledger.end()
        ledger.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = jaeger.otlp_http
        ledger.start()
        while not ledger.ready():
            pass
        apply(ledger.plane, service(ledger.namespace))
        bot = pod(ledger.plane, ledger.namespace, "bot-0")
        while True:
            answer = ledger.call("POST", "/v1/report", token(ledger.plane, bot), body=report(bot, 3))
            if answer.is_success and answer.json()["accepted"] == 1:
                return

    await asyncio.to_thread(report_once)
    merge = await found(jaeger, lambda _: True, service=names.LEDGER, operation="merge reports")
    assert "merge reports / transaction / INSERT" in merge.paths()
    statements = [node for node in merge.ordered() if node.name == "INSERT"]
    assert all("bot" not in str(node.attributes["db.query.text"]) for node in statements)
    # Before the ledger has read the service, a report is answered 503.
    status = "http.response.status_code"
    await found(
        jaeger,
        lambda tree: tree.ordered()[0].attributes[status] == 200,
        service=names.LEDGER,
        operation="POST /v1/report",
    )
