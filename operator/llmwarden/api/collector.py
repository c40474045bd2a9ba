"""What the platform says of its trace collector: the chart's `collector` values, as the operator gets them (JSON in `LLMWARDEN_COLLECTOR`)."""

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
    # Written by a person, read by nobody else: a misspelt word must not be lost.
    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid"
    )


class SecretKey(_Strict):
    """One key of a Secret in the release's namespace."""

    name: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]


class Header(_Strict):
    """A header of an exporter's requests. What a Secret holds reaches the collector as an environment variable, never the ConfigMap."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    value: str = ""
    secret: SecretKey | None = None
    prefix: str = ""  # before the Secret's value, such as "Bearer "

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.value) == (self.secret is not None):
            message = f"header {self.name}: give exactly one of value and secret"
            raise ValueError(message)
        return self


class Exporter(_Strict):
    """A backend that speaks OTLP. `endpoint`: host:port for GRPC, a URL without /v1/traces for HTTP."""

    name: _Name
    protocol: Literal["GRPC", "HTTP"] = "GRPC"
    endpoint: Annotated[str, Field(min_length=1)]
    traces_endpoint: str = ""  # HTTP only: the whole URL, where a backend wants another path than /v1/traces
    encoding: Literal["Protobuf", "JSON"] = "Protobuf"  # HTTP only
    insecure: bool = False  # GRPC without TLS
    ca: SecretKey | None = None  # authorities to trust instead of the system's
    headers: tuple[Header, ...] = ()


class Sampling(_Strict):
    """Which traces go on. Errors always do."""

    percent: _Percent = 10.0  # of traces that nothing else keeps
    slower_than_seconds: Annotated[float, Field(gt=0)] = 10.0
    dearer_than: Annotated[str, Field(pattern=AMOUNT_PATTERN)] = "0.10"  # US dollars, of one call
    decision_seconds: Annotated[int, Field(gt=0)] = 30  # from a trace's first span on
    traces: Annotated[int, Field(gt=0)] = 50_000  # held while undecided


class PodSecurity(_Strict):
    """Ids of the collector's process; None leaves them to the platform."""

    run_as_user: int | None = 65532
    run_as_group: int | None = 65532


class Collector(_Strict):
    """The collector: one for the cluster."""

    enabled: bool = False
    image: str = IMAGE
    image_pull_policy: str = "IfNotPresent"
    content: Literal["Redact", "Keep"] = "Redact"
    sampling: Sampling = Sampling()
    # Of every span that has none of its own: what backends sort by, such as a project's name. Their text becomes a part of a statement.
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
