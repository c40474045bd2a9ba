"""Settings of the trace collector: the chart's `collector` values, which the operator gets as JSON in `LLMWARDEN_COLLECTOR`."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from llmwarden.api.v1alpha1.common import AMOUNT_PATTERN, Model

# otel/opentelemetry-collector-contrib of this version is what the traces tier builds and validates with (cluster/build/traces).
IMAGE = "otel/opentelemetry-collector-contrib:0.140.1"

_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$")]
_Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
_Plain = Annotated[str, Field(pattern=r'^[^"\\$\n]{1,256}$')]
_Percent = Annotated[float, Field(ge=0, le=100)]


class _Strict(Model):
    # People write these values and no API server checks them: a misspelt field must be an error.
    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid"
    )


class SecretKey(_Strict):
    """One key of a Secret in the release's namespace."""

    name: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]


class Header(_Strict):
    """A header of an exporter's requests. A Secret's value reaches the collector as an environment variable and is never in the ConfigMap."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    value: str = ""
    secret: SecretKey | None = None
    prefix: str = ""  # before the Secret's value, such as "Bearer "

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.value) == (self.secret is not None):
            message = f"header {self.name}: set exactly one of value and secret"
            raise ValueError(message)
        return self


class Exporter(_Strict):
    """A backend that speaks OTLP. `endpoint`: host:port for GRPC, a URL without /v1/traces for HTTP."""

    name: _Name
    protocol: Literal["GRPC", "HTTP"] = "GRPC"
    endpoint: Annotated[str, Field(min_length=1)]
    traces_endpoint: str = ""  # HTTP only: the whole URL, if the path is not /v1/traces
    encoding: Literal["Protobuf", "JSON"] = "Protobuf"  # HTTP only
    insecure: bool = False  # GRPC without TLS
    ca: SecretKey | None = None  # authorities to trust instead of the system's
    headers: tuple[Header, ...] = ()


class Sampling(_Strict):
    """Which traces are exported. Traces with errors always are."""

    percent: _Percent = 10.0  # share of the traces that no other rule keeps
    slower_than_seconds: Annotated[float, Field(gt=0)] = 10.0
    dearer_than: Annotated[str, Field(pattern=AMOUNT_PATTERN)] = "0.10"  # US dollars, of one call
    decision_seconds: Annotated[int, Field(gt=0)] = 30  # counted from a trace's first span
    traces: Annotated[int, Field(gt=0)] = 50_000  # kept in memory until they are decided on


class PodSecurity(_Strict):
    """User and group ids of the collector's process; None lets the platform choose."""

    run_as_user: int | None = 65532
    run_as_group: int | None = 65532


class Collector(_Strict):
    """The collector. A cluster has one."""

    enabled: bool = False
    image: str = IMAGE
    image_pull_policy: str = "IfNotPresent"
    content: Literal["Redact", "Keep"] = "Redact"
    sampling: Sampling = Sampling()
    # Added to spans that lack them, such as the project name that a backend sorts by. `_Plain`: they become part of an OTTL statement.
    resource_attributes: dict[_Key, _Plain] = Field(default_factory=dict)
    exporters: tuple[Exporter, ...] = ()
    resources: dict[str, Any] = Field(
        default_factory=lambda: {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    )
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    affinity: dict[str, Any] = Field(default_factory=dict)
    priority_class_name: str = ""
    image_pull_secrets: tuple[dict[str, str], ...] = ()
    pod_security: PodSecurity = PodSecurity()

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [exporter.name for exporter in self.exporters]
        if len(names) != len(set(names)):
            message = "two exporters have the same name: give each its own"
            raise ValueError(message)
        return self
