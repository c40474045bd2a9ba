"""Spans of our own control plane: off unless an endpoint is named, and then free."""

import subprocess
import sys

import pytest

from llmwarden import tracing

ROLES = ("llmwarden.control.handlers.main", "llmwarden.ledger.main", "llmwarden.webhook.main", "llmwarden.proxy.main")


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)


def test_without_an_endpoint_there_are_no_spans() -> None:
    end = tracing.start("somebody", "1")
    assert tracing.tracer() is None
    assert tracing.span("one") is tracing.span("another") is tracing.step("a third")
    assert tracing.headers() == {}
    with tracing.span("one"):
        pass
    end()


@pytest.mark.parametrize("module", ROLES)
def test_without_an_endpoint_no_role_loads_opentelemetry(module: str) -> None:
    program = (
        f"import sys, {module}\n"
        "from llmwarden import tracing\n"
        "tracing.start('somebody', '1')\n"
        "print([name for name in sys.modules if name.split('.')[0] in {'opentelemetry', 'requests', 'google'}])"
    )
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_an_endpoint_switches_spans_on_and_the_end_switches_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there, and nobody waits
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    end = tracing.start("somebody", "1")
    try:
        assert tracing.tracer() is not None
        with tracing.span("one", {"a": 1}), tracing.step("a part of it"):
            assert set(tracing.headers()) == {"traceparent"}
    finally:
        end()
    assert tracing.tracer() is None
