"""The collector's configuration, generated from the platform's settings and the LLMServices. Pure.

Two ways in: OTLP from inside (proxies and applications), and OTLP/HTTP from browsers, with CORS, on a port of its own, where nothing that
claims to be a model's call is believed. Content is taken out, spans are counted, whole traces are judged, and what is kept goes to all backends.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from llmwarden.api.collector import Collector, Exporter
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.api.v1alpha1.llmservice import KeptTraces
from llmwarden.domain import durations
from llmwarden.manifests.collector import content

GRPC_PORT: Final = 4317
HTTP_PORT: Final = 4318
BROWSER_PORT: Final = 4319
METRICS_PORT: Final = 8888  # the collector's own
SPAN_METRICS_PORT: Final = 8889
SOURCE: Final = "llmwarden.source"  # a resource's attribute: "browser" for what came from one
_BROWSER_BODY: Final = 1 << 20  # bytes
_SERIES: Final = 5000  # of span metrics, per service's name: names of spans come from outside
_NANOSECONDS: Final = 1_000_000
_BOUNDS: Final = ("10ms", "50ms", "100ms", "250ms", "500ms", "1s", "2500ms", "5s", "10s", "20s", "40s", "80s", "160s")
_DIMENSIONS: Final = (
    "service.namespace",
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "error.type",
)
# The namespace and the name of the LLMService whose proxy made a span.
_SERVICE: Final = 'Concat([resource.attributes["service.namespace"], resource.attributes["service.name"]], "/")'


def configuration(collector: Collector, services: Iterable[LLMService]) -> dict[str, Any]:
    """Return the configuration as the collector reads it (`otelcol --config`)."""
    services = sorted(services, key=_full_name)
    origins = sorted({origin for service in services for origin in service.spec.tracing.browser_origins})
    redact = ["transform/content"] if collector.content == "Redact" else []
    onward = ["forward"] if collector.exporters else []
    named = ["transform/resource"] if collector.resource_attributes and onward else []
    pipelines: dict[str, Any] = {
        "traces/in": {
            "receivers": ["otlp"],
            "processors": ["memory_limiter", *redact],
            "exporters": ["spanmetrics", *onward],
        },
        "metrics/spans": {"receivers": ["spanmetrics"], "exporters": ["prometheus"]},
    }
    if onward:
        pipelines["traces/out"] = {
            "receivers": list(onward),
            "processors": [*named, "tail_sampling", "batch"],
            "exporters": [_id(exporter) for exporter in collector.exporters],
        }
    browsers = bool(origins and onward)
    if browsers:
        pipelines["traces/browser"] = {
            "receivers": ["otlp/browser"],
            "processors": ["memory_limiter", "transform/browser", *redact],
            "exporters": list(onward),
        }
    return {
        "receivers": {
            "otlp": {
                "protocols": {"grpc": {"endpoint": f":{GRPC_PORT}"}, "http": {"endpoint": f":{HTTP_PORT}"}},
            },
            **({"otlp/browser": _browser_receiver(origins)} if browsers else {}),
        },
        "processors": {
            "memory_limiter": {"check_interval": "1s", "limit_percentage": 80, "spike_limit_percentage": 20},
            # An error here loses the batch rather than let through what should have been taken out.
            **({redact[0]: _transform(span=content.OF_SPANS, spanevent=content.OF_EVENTS)} if redact else {}),
            **(
                {"transform/browser": _transform(resource=_BROWSERS_RESOURCE, span=_BROWSERS_SPANS)} if browsers else {}
            ),
            **({named[0]: _transform(resource=_absent(collector.resource_attributes))} if named else {}),
            **({"tail_sampling": _sampling(collector, services), "batch": {}} if onward else {}),
        },
        "connectors": {
            **({"forward": {}} if onward else {}),
            "spanmetrics": _span_metrics(),
        },
        "exporters": {
            "prometheus": {
                "endpoint": f":{SPAN_METRICS_PORT}",
                "enable_open_metrics": True,
                "metric_expiration": "10m",
            },
            **{_id(exporter): _exporter(number, exporter) for number, exporter in enumerate(collector.exporters)},
        },
        "service": {
            "telemetry": {
                "logs": {"encoding": "json"},
                "metrics": {
                    "readers": [{"pull": {"exporter": {"prometheus": {"host": "", "port": METRICS_PORT}}}}],
                },
            },
            "pipelines": pipelines,
        },
    }


def variable(exporter: int, header: int) -> str:
    """Return the environment variable that holds the Secret's value of an exporter's header, both by number."""
    return f"EXPORTER_{exporter}_HEADER_{header}"


def ca_folder(exporter: Exporter) -> str:
    """Return where an exporter's authorities are mounted."""
    return f"/etc/collector/ca/{exporter.name}"


# Browsers -----------------------------------------------------------------------------------------------------------

# Anybody can send these: they say what people waited for, and nothing about models, money or our services.
_BROWSERS_RESOURCE: Final = (
    'delete_matching_keys(resource.attributes, "^(k8s|service[.]namespace|llmwarden)([.].*)?$")',
    f'set(resource.attributes["{SOURCE}"], "browser")',
)
_BROWSERS_SPANS: Final = (
    'delete_matching_keys(span.attributes, "^(gen_ai|llmwarden|llm|openinference|traceloop)[.].*")',
)


def _browser_receiver(origins: list[str]) -> dict[str, Any]:
    cors = {
        "allowed_origins": origins,
        "allowed_headers": ["Content-Type", "traceparent", "tracestate"],
        "max_age": 7200,
    }
    http = {"endpoint": f":{BROWSER_PORT}", "cors": cors, "max_request_body_size": _BROWSER_BODY}
    return {"protocols": {"http": http}}


# Judging traces -----------------------------------------------------------------------------------------------------


def _sampling(collector: Collector, services: Iterable[LLMService]) -> dict[str, Any]:
    """Keep a trace when any policy says so."""
    chosen = {_full_name(service): keep for service in services if (keep := service.spec.tracing.keep) is not None}
    default = collector.sampling
    policies = [
        _any_span("errors", f'status.code == STATUS_CODE_ERROR and resource.attributes["{SOURCE}"] == nil'),
        *_by_service("slow", str(round(default.slower_than_seconds * 1000)), _of(chosen, _slow), _slower),
        *_by_service("dear", default.dearer_than, _of(chosen, _dear), _dearer),
        *(
            {
                "name": f"share-{percent}",
                "type": "and",
                "and": {"and_sub_policy": [_any_span("of", _among(names)), _share("share", float(percent))]},
            }
            for percent, names in _grouped(_of(chosen, _percent)).items()
        ),
        _share("share", default.percent),
    ]
    return {
        "decision_wait": f"{default.decision_seconds}s",
        "num_traces": default.traces,
        # Spans that come after the decision go the way of their trace.
        "decision_cache": {"sampled_cache_size": default.traces * 4, "non_sampled_cache_size": default.traces * 4},
        "policies": policies,
    }


def _share(name: str, percent: float) -> dict[str, Any]:
    return {"name": name, "type": "probabilistic", "probabilistic": {"sampling_percentage": percent}}


def _any_span(name: str, condition: str) -> dict[str, Any]:
    # A condition that cannot be evaluated (an attribute of another type) is not met; the other policies still judge.
    return {"name": name, "type": "ottl_condition", "ottl_condition": {"error_mode": "ignore", "span": [condition]}}


def _slower(milliseconds: str) -> str:
    waited = f"end_time_unix_nano - start_time_unix_nano > {int(milliseconds) * _NANOSECONDS}"
    return f'attributes["gen_ai.request.model"] != nil and {waited}'


def _dearer(dollars: str) -> str:
    # OTTL tells 1 from 1.0.
    cost = 'attributes["gen_ai.usage.cost.amount"]'
    return f"{cost} != nil and {cost} > {Decimal(dollars):f}" + ("" if "." in dollars else ".0")


def _by_service(name: str, default: str, own: Mapping[str, str], condition: Any) -> list[dict[str, Any]]:
    """One policy for all services without a word of their own, and one for each word: not one per service."""
    excepted = f"not {_among(list(own))} and " if own else ""
    return [
        _any_span(name, excepted + condition(default)),
        *(
            _any_span(f"{name}-{value}", f"{_among(names)} and {condition(value)}")
            for value, names in _grouped(own).items()
        ),
    ]


def _of(chosen: Mapping[str, KeptTraces], value: Any) -> dict[str, str]:
    return {name: text for name, keep in chosen.items() if (text := value(keep)) is not None}


def _slow(keep: KeptTraces) -> str | None:
    return None if keep.slower_than is None else str(durations.milliseconds(keep.slower_than))


def _dear(keep: KeptTraces) -> str | None:
    return None if keep.dearer_than is None else f"{Decimal(keep.dearer_than).normalize():f}"


def _percent(keep: KeptTraces) -> str | None:
    return None if keep.percent is None else str(keep.percent)


def _grouped(own: Mapping[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, value in own.items():
        groups.setdefault(value, []).append(name)
    return {value: groups[value] for value in sorted(groups, key=Decimal)}


def _among(names: list[str]) -> str:
    # Names of Kubernetes objects hold nothing that a regular expression minds but the dot.
    return f'IsMatch({_SERVICE}, "^({"|".join(re.sub("[.]", "[.]", name) for name in names)})$")'


# The rest -----------------------------------------------------------------------------------------------------------


def _absent(attributes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
        f'set(resource.attributes["{key}"], "{value}") where resource.attributes["{key}"] == nil'
        for key, value in sorted(attributes.items())
    )


def _transform(**statements: tuple[str, ...]) -> dict[str, Any]:
    listed = [{"context": context, "statements": list(texts)} for context, texts in statements.items()]
    return {"error_mode": "propagate", "trace_statements": listed}


def _span_metrics() -> dict[str, Any]:
    return {
        "namespace": "llmwarden.traces",
        "dimensions": [{"name": name} for name in _DIMENSIONS],
        "histogram": {"unit": "s", "explicit": {"buckets": list(_BOUNDS)}},
        "exemplars": {"enabled": True, "max_per_data_point": 1},
        "metrics_flush_interval": "15s",
        "metrics_expiration": "10m",
        "aggregation_cardinality_limit": _SERIES,
    }


def _id(exporter: Exporter) -> str:
    return f"{'otlp' if exporter.protocol == 'GRPC' else 'otlphttp'}/{exporter.name}"


def _exporter(number: int, exporter: Exporter) -> dict[str, Any]:
    tls: dict[str, Any] = {}
    if exporter.insecure and exporter.protocol == "GRPC":
        tls["insecure"] = True
    if exporter.ca is not None:
        tls["ca_file"] = f"{ca_folder(exporter)}/{exporter.ca.key}"
    headers = {
        header.name: _literal(header.value)
        if header.secret is None
        else f"{_literal(header.prefix)}${{env:{variable(number, index)}}}"
        for index, header in enumerate(exporter.headers)
    }
    out: dict[str, Any] = {"endpoint": _literal(exporter.endpoint)}
    if exporter.encoding == "JSON" and exporter.protocol == "HTTP":
        out["encoding"] = "json"
    if exporter.traces_endpoint and exporter.protocol == "HTTP":
        out["traces_endpoint"] = _literal(exporter.traces_endpoint)
    if headers:
        out["headers"] = headers
    if tls:
        out["tls"] = tls
    return out


def _literal(text: str) -> str:
    # The collector expands $NAME and ${...} in every value.
    return text.replace("$", "$$")


def _full_name(service: LLMService) -> str:
    return f"{service.metadata.namespace}/{service.metadata.name}"
