"""A measured call without sockets."""

import time
from pathlib import Path
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families

from llmwarden.contracts import ledger as wire
from llmwarden.contracts.sidecar import Limits, Listen, Route
from llmwarden.proxy.calls.call import MeteredCall
from llmwarden.proxy.calls.route import Shared
from llmwarden.proxy.calls.service import MeteredService
from llmwarden.proxy.dialects import found
from llmwarden.proxy.main import fixed_sinks
from llmwarden.proxy.money.accounts import Accounts
from llmwarden.proxy.money.gate import Gate
from llmwarden.proxy.money.journal import Journal
from llmwarden.proxy.money.ledger_view import LedgerView
from llmwarden.proxy.seam import Forward, Header, Request
from llmwarden.proxy.settings import Identity
from llmwarden.proxy.telemetry.metrics import Metrics

SSE: list[Header] = [(b"content-type", b"Content-Type", b"text/event-stream; charset=utf-8")]
JSON: list[Header] = [(b"content-type", b"Content-Type", b"application/json")]


def service(
    directory: Path, backend: str = "OpenAI", limits: Limits | None = None, *, mode: Literal["Env", "Port"] = "Env"
) -> MeteredService:
    route = Route("bot", mode, backend, Listen("127.0.0.1", 0), "http://upstream.test")
    ledger, gate, journal = LedgerView(), Gate(), Journal(directory, "uid")
    metrics = Metrics([route], (limits or Limits()).models)
    accounts = Accounts(ledger, journal, metrics.capped)
    shared = Shared(
        identity=Identity("shop", "bot-1", "uid"),
        ledger=ledger,
        gate=gate,
        journal=journal,
        accounts=accounts,
        metrics=metrics,
        sinks=fixed_sinks(accounts, gate, metrics, None),
    )
    return MeteredService(route, found(), shared)


def begin(metered: MeteredService, body: bytes) -> tuple[MeteredCall, bytes]:
    """An admitted call, and the body for the upstream."""
    request = Request(b"POST", b"/v1/chat/completions", [], time.perf_counter(), length=len(body))
    call = metered.open(request)
    assert call is not None
    decision = call.admit(body)
    assert isinstance(decision, Forward)
    assert decision.body is not None
    return call, decision.body


def rows(metered: MeteredService) -> tuple[wire.Row, ...]:
    return metered.shared.journal.pending(1000)


def value(metered: MeteredService, name: str, **labels: str) -> float:
    total = 0.0
    text = metered.shared.metrics.expose("text/plain")[1].decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                total += sample.value
    return total


def stream(call: MeteredCall, pieces: list[bytes], headers: list[Header] | None = None) -> bytes:
    """What the client gets of a complete stream."""
    call.answered(200, headers or SSE)
    return b"".join([*(call.feed(piece) for piece in pieces), call.end()])
