"""How an engine's own metrics are scraped: fields of an LLMService that become a PodMonitor, a ServiceMonitor or a ScrapeConfig."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from llmwarden.api.v1alpha1.common import ATOMIC, SET, LabelSelector, Model, SecretKeyRef, rule, rules

_LABEL_NAME = "[a-zA-Z_][a-zA-Z0-9_]*"
LabelName = Annotated[str, Field(max_length=128, pattern=f"^{_LABEL_NAME}$")]
Expression = Annotated[str, Field(max_length=512)]
Target = Annotated[
    str,
    Field(
        max_length=260,
        json_schema_extra=rules(
            rule(
                r"self.matches(r'^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$')",
                "must be HOST:PORT without a scheme or a path, such as gpu1.example.com:8000; those are scrape.scheme and scrape.path",
            )
        ),
    ),
]


class Relabeling(Model):
    """One step that changes, keeps or drops by labels, as Prometheus' relabel_config."""

    source_labels: Annotated[tuple[LabelName, ...], Field(max_length=16, json_schema_extra=ATOMIC)] = ()
    """Labels whose values are joined and matched."""
    separator: Annotated[str, Field(max_length=16)] | None = None
    """What they are joined by; ';' unless set."""
    regex: Expression | None = None
    """What the joined value must match; everything unless set."""
    target_label: Annotated[str, Field(max_length=128)] | None = None
    """The label that is written."""
    replacement: Expression | None = None
    """What is written; $1 is the first group."""
    modulus: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """For hashmod."""
    action: Literal[
        "replace",
        "keep",
        "drop",
        "hashmod",
        "labelmap",
        "labeldrop",
        "labelkeep",
        "lowercase",
        "uppercase",
        "keepequal",
        "dropequal",
    ] = "replace"
    """What is done; replace unless set."""


class TargetRelabeling(Relabeling):
    """One step on a target's labels; where it is scraped, and with what, is not a label's to change."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!has(self.targetLabel) || (self.targetLabel.matches('^{_LABEL_NAME}$') && "
                "(!self.targetLabel.startsWith('__') || self.targetLabel.startsWith('__tmp_')))",
                "targetLabel must be a plain label, not one that begins with __ (other than __tmp_): where and how the engine is scraped stands in scrape",
                ".targetLabel",
            ),
            rule(
                "!has(self.action) || self.action != 'labelmap'",
                "action labelmap could write labels that say where to scrape: name the labels one by one, or use it in metricRelabelings",
                ".action",
            ),
        )
    )


class ScrapeTls(Model):
    """TLS of a scrape."""

    ca_secret_ref: SecretKeyRef | None = None
    """A Secret with the authorities that the engine's certificate is checked against (PEM); the system's unless set."""
    cert_secret_ref: SecretKeyRef | None = None
    """A Secret with a client certificate (PEM)."""
    key_secret_ref: SecretKeyRef | None = None
    """A Secret with the client certificate's key (PEM)."""
    server_name: Annotated[str, Field(max_length=253)] | None = None
    """The name that the engine's certificate must have; the target's own unless set."""
    insecure_skip_verify: bool = False
    """Take any certificate."""


class ScrapeBasicAuth(Model):
    """User and password of a scrape."""

    username_secret_ref: SecretKeyRef
    """A Secret with the user's name."""
    password_secret_ref: SecretKeyRef
    """A Secret with the password."""


class ScrapedService(Model):
    """A Service of this namespace behind which the engine's metrics are."""

    selector: Annotated[
        LabelSelector,
        Field(
            json_schema_extra=rules(
                rule(
                    "(has(self.matchLabels) && self.matchLabels.size() > 0) || "
                    "(has(self.matchExpressions) && self.matchExpressions.size() > 0)",
                    "must not be empty: an empty selector would take every Service of the namespace",
                )
            )
        ),
    ]
    """Labels of the Service."""
    port: Annotated[str, Field(min_length=1, max_length=63)]
    """The name of the Service's port."""


class Scrape(Model):
    """How the engine's own metrics are scraped, where the selected pods' named port with the engine's usual path does not do."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.targets) || self.targets.size() == 0 || !has(self.service)",
                "set targets (an engine outside the cluster) or service (one behind a Service), not both",
            ),
            rule(
                "!has(self.basicAuth) || !has(self.bearerTokenSecretRef)",
                "set basicAuth or bearerTokenSecretRef, not both",
            ),
            rule(
                "!has(self.targets) || self.targets.size() == 0 || (!has(self.basicAuth) && !has(self.bearerTokenSecretRef)) || "
                "(has(self.scheme) && self.scheme == 'https')",
                "scheme: https is needed where targets get a password or token: it must not travel in the clear",
                ".scheme",
            ),
            rule(
                "!has(self.tls) || (has(self.scheme) && self.scheme == 'https')",
                "tls goes with scheme: https",
                ".tls",
            ),
        )
    )

    targets: Annotated[tuple[Target, ...], Field(max_length=64, json_schema_extra=SET)] = ()
    """Addresses of an engine outside the cluster, HOST:PORT: a ScrapeConfig. Hosts must be among the chart's allowedHosts."""
    service: ScrapedService | None = None
    """A Service of this namespace: a ServiceMonitor."""
    scheme: Literal["http", "https"] | None = None
    """http unless set."""
    path: Annotated[str, Field(max_length=256, pattern="^/[^?# ]*$")] | None = None
    """Where the metrics are; the engine's own path unless set."""
    interval: (
        Annotated[
            str,
            Field(
                max_length=8,
                json_schema_extra=rules(
                    rule("self.matches('^([1-9][0-9]{0,3}s|[1-9][0-9]?m)$')", 'must be such as "15s" or "1m"')
                ),
            ),
        ]
        | None
    ) = None
    """How often; as the chart's prometheus.scrapeInterval says unless set."""
    labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=16)] = {}  # noqa: RUF012 - pydantic copies defaults
    """Labels of the monitor itself, beside the chart's prometheus.monitorLabels: what a Prometheus selects by."""
    honor_labels: bool = False
    """Whether labels of the engine's series win over the target's; namespace and llmservice are ours in any case."""
    relabelings: Annotated[tuple[TargetRelabeling, ...], Field(max_length=32, json_schema_extra=ATOMIC)] = ()
    """Steps on the targets' labels, before those that name the service."""
    metric_relabelings: Annotated[tuple[Relabeling, ...], Field(max_length=32, json_schema_extra=ATOMIC)] = ()
    """Steps on the series' labels, such as to drop some."""
    tls: ScrapeTls | None = None
    """TLS."""
    basic_auth: ScrapeBasicAuth | None = None
    """User and password."""
    bearer_token_secret_ref: SecretKeyRef | None = None
    """A Secret with a bearer token."""

    @property
    def elsewhere(self) -> bool:
        """Whether the engine is not in the selected pods."""
        return bool(self.targets) or self.service is not None
