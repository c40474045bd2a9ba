"""Fields of an LLMService that say how an engine is scraped; they become a PodMonitor, ServiceMonitor or ScrapeConfig."""

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
                "must be HOST:PORT without a scheme or a path, such as gpu1.example.com:8000: set scrape.scheme and scrape.path for those",
            )
        ),
    ),
]


class Relabeling(Model):
    """One step that changes labels, or keeps or drops series by their labels, as in Prometheus' relabel_config."""

    source_labels: Annotated[tuple[LabelName, ...], Field(max_length=16, json_schema_extra=ATOMIC)] = ()
    """Labels whose values are joined and compared with `regex`. Default: none. Example: `[pod, container]`."""
    separator: Annotated[str, Field(max_length=16)] | None = None
    """Text that the values are joined with. Default: `;`. Example: `"/"`."""
    regex: Expression | None = None
    """Regular expression that the joined value must match. Default: `(.*)`, which matches everything. Example:
    `vllm-(.*)`.
    """
    target_label: Annotated[str, Field(max_length=128)] | None = None
    """Label that the result is written to. Required by the actions that write one label, such as replace. Default:
    none. Example: `model`.
    """
    replacement: Expression | None = None
    """Text that is written; $1 is the first group of `regex`. Default: `$1`. Example: `llm-$1`."""
    modulus: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Modulus of the hash. Only with action hashmod. Default: none. Example: `8`."""
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
    """What the step does, as in Prometheus' relabel_config. Default: `replace`. Example: `drop`."""


class TargetRelabeling(Relabeling):
    """One step on the labels of a target. It must not change where and with which credentials the target is scraped."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!has(self.targetLabel) || (self.targetLabel.matches('^{_LABEL_NAME}$') && "
                "(!self.targetLabel.startsWith('__') || self.targetLabel.startsWith('__tmp_')))",
                "targetLabel must be a plain label and not begin with __ (other than __tmp_): set the address, scheme and path in scrape instead",
                ".targetLabel",
            ),
            rule(
                "!has(self.action) || self.action != 'labelmap'",
                "action labelmap is not allowed here, because it could change what is scraped: name each label, or use labelmap in metricRelabelings",
                ".action",
            ),
        )
    )


class ScrapeTls(Model):
    """TLS settings of a scrape."""

    ca_secret_ref: SecretKeyRef | None = None
    """Secret with the certificate authorities (PEM) that the engine's certificate is checked with. Set it for a private
    authority. Default: the system's authorities.
    """
    cert_secret_ref: SecretKeyRef | None = None
    """Secret with a client certificate (PEM). Set it together with keySecretRef for an engine that asks for one.
    Default: none.
    """
    key_secret_ref: SecretKeyRef | None = None
    """Secret with the private key (PEM) of the client certificate. Set it together with certSecretRef. Default: none.
    """
    server_name: Annotated[str, Field(max_length=253)] | None = None
    """Host name that the engine's certificate must have. Default: the host of the target. Example: `gpu1.example.com`.
    """
    insecure_skip_verify: bool = False
    """Whether any certificate is accepted without a check. Default: `false`. Example: `true`."""


class ScrapeBasicAuth(Model):
    """User name and password of a scrape."""

    username_secret_ref: SecretKeyRef
    """Secret with the user name. Required."""
    password_secret_ref: SecretKeyRef
    """Secret with the password. Required."""


class ScrapedService(Model):
    """A Service of this namespace that leads to the engine's metrics."""

    selector: Annotated[
        LabelSelector,
        Field(
            json_schema_extra=rules(
                rule(
                    "(has(self.matchLabels) && self.matchLabels.size() > 0) || "
                    "(has(self.matchExpressions) && self.matchExpressions.size() > 0)",
                    "must not be empty, which would select every Service of the namespace: set matchLabels or matchExpressions",
                )
            )
        ),
    ]
    """Labels of the Service. It must not be empty. Required."""
    port: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the Service's port. Required. Example: `http-metrics`."""


class Scrape(Model):
    """How the engine's own metrics are scraped.

    Needed where the selected pods' named port at the engine's usual path does not work.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.targets) || self.targets.size() == 0 || !has(self.service)",
                "set targets (an engine outside the cluster) or service (an engine behind a Service), not both",
            ),
            rule(
                "!has(self.basicAuth) || !has(self.bearerTokenSecretRef)",
                "set basicAuth or bearerTokenSecretRef, not both",
            ),
            rule(
                "!has(self.targets) || self.targets.size() == 0 || (!has(self.basicAuth) && !has(self.bearerTokenSecretRef)) || "
                "(has(self.scheme) && self.scheme == 'https')",
                "scheme must be https if targets get a password or token, which must not be sent unencrypted: set scheme: https",
                ".scheme",
            ),
            rule(
                "!has(self.tls) || (has(self.scheme) && self.scheme == 'https')",
                "tls is only for scheme https: set scheme: https, or remove tls",
                ".tls",
            ),
        )
    )

    targets: Annotated[tuple[Target, ...], Field(max_length=64, json_schema_extra=SET)] = ()
    """Addresses of an engine outside the cluster, as HOST:PORT, which become a ScrapeConfig. Hosts must be in the
    chart's allowedHosts. Default: none. Example: `["gpu1.example.com:8000"]`.
    """
    service: ScrapedService | None = None
    """Service of this namespace that leads to the engine's metrics, which becomes a ServiceMonitor. Set it for an
    engine behind a Service. Default: none.
    """
    scheme: Literal["http", "https"] | None = None
    """Protocol of the scrape. https is required for tls, and for targets with a password or token. Default: `http`.
    Example: `https`.
    """
    path: Annotated[str, Field(max_length=256, pattern="^/[^?# ]*$")] | None = None
    """URL path of the metrics. Default: the engine's usual path. Example: `/metrics`."""
    interval: (
        Annotated[
            str,
            Field(
                max_length=8,
                json_schema_extra=rules(
                    rule(
                        "self.matches('^([1-9][0-9]{0,3}s|[1-9][0-9]?m)$')",
                        'must be a whole number of seconds (1s to 9999s) or minutes (1m to 99m), such as "15s"',
                    )
                ),
            ),
        ]
        | None
    ) = None
    """Time between two scrapes, in s or m. Default: the chart's prometheus.scrapeInterval. Example: `15s`."""
    labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=16)] = {}  # noqa: RUF012 - pydantic copies defaults
    """Labels that the PodMonitor, ServiceMonitor or ScrapeConfig gets besides the chart's prometheus.monitorLabels, so
    that a Prometheus selects it. Default: none. Example: `{release: kube-prometheus-stack}`.
    """
    honor_labels: bool = False
    """Whether a label of the engine's series wins over the same label of the target. LLM Warden always sets namespace
    and llmservice. Default: `false`. Example: `true`.
    """
    relabelings: Annotated[tuple[TargetRelabeling, ...], Field(max_length=32, json_schema_extra=ATOMIC)] = ()
    """Steps on the labels of the targets, before LLM Warden adds the labels of the service. Set it to drop targets or
    to add labels. Default: none.
    """
    metric_relabelings: Annotated[tuple[Relabeling, ...], Field(max_length=32, json_schema_extra=ATOMIC)] = ()
    """Steps on the labels of the series. Set it to drop series or to rename labels. Default: none."""
    tls: ScrapeTls | None = None
    """TLS settings. Set it for a private certificate authority or a client certificate; only with scheme https.
    Default: none, so that the system's authorities apply.
    """
    basic_auth: ScrapeBasicAuth | None = None
    """User name and password. Set it for an engine that asks for them; not together with bearerTokenSecretRef. Default:
    none.
    """
    bearer_token_secret_ref: SecretKeyRef | None = None
    """Secret with a bearer token. Set it for an engine that asks for one; not together with basicAuth. Default: none.
    """

    @property
    def elsewhere(self) -> bool:
        """Return whether the engine runs somewhere other than the selected pods."""
        return bool(self.targets) or self.service is not None
