"""Spans of our own control plane: reconciles, requests of the ledger, its transactions. Off unless the environment names an endpoint.

The names of the variables are OpenTelemetry's own, so that its documentation holds: `OTEL_EXPORTER_OTLP_ENDPOINT` switches spans on
(OTLP over HTTP, protobuf), `OTEL_TRACES_SAMPLER` thins them out. While spans are off, `span` costs a function call, and no module of
OpenTelemetry is imported: it would be 20 MiB. Spans of the LLM calls themselves are the proxy's (`llmwarden.proxy.telemetry`).
"""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Attributes = Mapping[str, str | int | float | bool]

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_OFF: Final[AbstractContextManager[Any]] = nullcontext()
_tracer: "Tracer | None" = None


def tracer() -> "Tracer | None":
    """Return what makes spans; None while they are off."""
    return _tracer


def start(service: str, version: str) -> Callable[[], None]:
    """Switch spans on if the environment names an endpoint. Returns what sends the last of them, at the end of the process.

    `service` becomes `service.name`. The pod's name and namespace come from the environment (the chart sets them).
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return lambda: None
    # Imported only here: whoever does not want spans must not pay for them.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    attributes = {
        "service.name": service,
        "service.version": version,
        "k8s.namespace.name": os.environ.get("LLMWARDEN_NAMESPACE", ""),
        "k8s.pod.name": os.environ.get("LLMWARDEN_POD_NAME", ""),
    }
    provider = TracerProvider(resource=Resource.create({name: value for name, value in attributes.items() if value}))
    # Its queue is bounded, and it sends from a thread of its own: a collector that is down slows nobody.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    global _tracer  # noqa: PLW0603 - one process has one
    _tracer = provider.get_tracer(service, version)

    def end() -> None:
        global _tracer  # noqa: PLW0603
        _tracer = None
        provider.shutdown()

    return end


def span(name: str, attributes: Attributes | None = None) -> AbstractContextManager[Any]:
    """Make a span of what is done inside `with`. An error that leaves it is recorded and marks the span as failed."""
    if _tracer is None:
        return _OFF
    return _tracer.start_as_current_span(name, attributes=attributes)


def step(name: str, attributes: Attributes | None = None) -> AbstractContextManager[Any]:
    """Make a span as `span` does, but only as a part of one that is being recorded: watches and leases would be noise."""
    if _tracer is None:
        return _OFF
    from opentelemetry.trace import get_current_span  # noqa: PLC0415 - see `start`

    return span(name, attributes) if get_current_span().is_recording() else _OFF


def headers() -> dict[str, str]:
    """Return the headers (`traceparent`) by which the server of a request joins its span to the current one."""
    carrier: dict[str, str] = {}
    if _tracer is not None:
        from opentelemetry.propagate import inject  # noqa: PLC0415 - see `start`

        inject(carrier)
    return carrier
