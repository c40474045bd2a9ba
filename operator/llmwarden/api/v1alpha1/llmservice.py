"""LLMService: one application that calls a provider, or one engine that serves a model."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from llmwarden.api.v1alpha1.common import (
    ATOMIC,
    BECOMES_A_LABEL,
    BUDGET_RULES,
    SET,
    BackendType,
    BudgetPolicy,
    BudgetScope,
    Conditions,
    Count,
    DnsLabel,
    Indicator,
    InterceptionType,
    LabelSelector,
    Metadata,
    Model,
    ModelName,
    Money,
    Percent,
    PositiveAmount,
    QuietTime,
    SecretKeyRef,
    Short,
    Status,
    Text,
    Threshold,
    Time,
    WholePercent,
    WholeWindow,
    cut,
    first,
    list_map,
    named,
    rule,
    rules,
    short_name,
)
from llmwarden.api.v1alpha1.gpu_status import GpuStatus
from llmwarden.api.v1alpha1.scraping import Scrape
from llmwarden.contracts.ledger import BudgetAction, BudgetState, Unit

_ENGINES = "['VLLM', 'SGLang', 'TGI', 'Ollama', 'NIM', 'TensorRTLLM', 'LlamaCpp']"
_TYPE_GIVEN = "has(self.workload.interception) && has(self.workload.interception.type)"
# The interception in effect: the type in the spec, else the default for the backend's type.
_IS_PORT = f"({_TYPE_GIVEN} ? self.workload.interception.type == 'Port' : self.backend.type in {_ENGINES})"

BackendUrl = Annotated[
    str,
    Field(
        max_length=512,
        json_schema_extra=rules(
            rule(
                r"!self.matches(r'^https?://[^@?#]*$') || "
                r"self.matches(r'^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~%!$&()*+,;=:/-]*)?$')",
                "must be scheme, host and an optional path prefix, such as https://api.openai.com",
            ),
            rule(
                "self.matches(r'^https?://')",
                "must begin with https:// (or http:// for a Service of the cluster)",
            ),
            rule(
                r"!self.matches(r'^[A-Za-z]+://[^/?#]*@')",
                "must not contain a user name or password: put the key into a Secret and name it in backend.credentialsSecretRef",
            ),
            rule("!self.matches(r'[?#]')", "must not have a query or a fragment: remove the text from '?' or '#' on"),
            rule(
                r"!self.matches(r'/v[0-9]+[a-z0-9]*/?$')",
                "must not end in the API version, which clients add themselves: remove it (such as /v1)",
            ),
        ),
    ),
]


class CertificateRef(Model):
    """A Secret of type kubernetes.io/tls in the same namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret, with the keys tls.crt and tls.key as cert-manager writes them. Required. Example:
    `support-bot-client-tls`.
    """


class Backend(Model):
    """The provider or engine that answers the calls."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.clientCertificateSecretRef) || !has(self.url) || self.url.startsWith('https://')",
                "clientCertificateSecretRef needs TLS: set a url that begins with https://, or remove clientCertificateSecretRef",
            )
        )
    )

    type: BackendType
    """The provider or engine, which decides the API that calls use. Required. Example: `OpenAI`."""
    url: BackendUrl | None = None
    """Address of the API: scheme, host and optional path prefix, without the API version. Required with type
    OpenAICompatible in mode Env. Default: the public address of OpenAI, Anthropic or Gemini; none for the other types.
    Example: `https://api.openai.com`.
    """
    credentials_secret_ref: SecretKeyRef | None = None
    """Secret with the API key. Set it so that only the proxy has the key and no call can avoid the budget. Default:
    none, so that applications send their own key.
    """
    client_certificate_secret_ref: CertificateRef | None = None
    """Client certificate that the proxy presents to a server that asks for one (mutual TLS). Only in mode Env. Default:
    none.
    """


class InterceptedPort(Model):
    """The container port that the proxy takes over."""

    name: Annotated[
        str,
        Field(
            max_length=15,
            json_schema_extra=rules(
                rule(
                    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && self.matches('[a-z]')",
                    "must be the name of a container port, such as http; give the port a name in the pod template if it has only a number",
                )
            ),
        ),
    ]
    """Name of the port in the pod's containers. A port without a name cannot be intercepted: give it one in the pod
    template. Required. Example: `http`.
    """


class PortPolicy(Model):
    """A NetworkPolicy that leaves only the proxy's ports of the injected pods open.

    No client can then call the engine directly.
    """

    open_ports: Annotated[
        tuple[
            Annotated[
                int,
                Field(
                    json_schema_extra=rules(
                        rule("self >= 1 && self <= 65535", "must be a port number from 1 to 65535"), format="int32"
                    )
                ),
            ],
            ...,
        ],
        Field(max_length=32, json_schema_extra=SET),
    ] = ()
    """Numbers of further ports of these pods that must stay reachable: the NetworkPolicy closes every other port.
    Default: none. Example: `[9090]`.
    """


class Interception(Model):
    """How calls reach the proxy."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.type) || self.type != 'Env' || !has(self.port)",
                "port is only for type Port: remove port, or set type: Port",
                ".port",
            ),
            rule(
                "!has(self.networkPolicy) || has(self.port)",
                "networkPolicy is only for Port interception: name the container port in port.name, or remove networkPolicy",
                ".networkPolicy",
            ),
        )
    )

    type: InterceptionType | None = None
    """Env sets the base-URL environment variables of SDKs, for pods that call a backend; Port puts the proxy in front
    of a named container port, for pods that are the engine. Default: Port for engines that run in the selected pods
    (VLLM, SGLang, TGI, Ollama, NIM, TensorRTLLM, LlamaCpp), otherwise Env. Example: `Env`.
    """
    port: InterceptedPort | None = None
    """Container port that the proxy takes over. Required with type Port, not allowed with type Env. Default: none."""
    network_policy: PortPolicy | None = None
    """Writes a NetworkPolicy that leaves only the proxy's ports open; `{}` is enough. Only with type Port. Set it to
    stop clients from calling the engine directly; it works only where the cluster's network enforces NetworkPolicies.
    Default: none, so that no NetworkPolicy is written.
    """


class Workload(Model):
    """The pods that get the proxy, and how calls reach it."""

    selector: Annotated[
        LabelSelector,
        Field(
            json_schema_extra=rules(
                rule(
                    "(has(self.matchLabels) && self.matchLabels.size() > 0) || "
                    "(has(self.matchExpressions) && self.matchExpressions.size() > 0)",
                    "must not be empty: set matchLabels or matchExpressions; an empty selector would take every pod of the namespace",
                )
            )
        ),
    ]
    """Labels of the pods in this namespace that get the proxy. It must not be empty. Required."""
    interception: Interception | None = None
    """How calls reach the proxy. Required for engines, with the name of their port; set it elsewhere to change the
    type. Default: follows from backend.type.
    """
    rollout: Literal["None", "Evict"] = "None"
    """What happens to pods that started before the LLMService: None leaves them without a proxy until they restart;
    Evict evicts them, within PodDisruptionBudgets. Default: `None`. Example: `Evict`.
    """


class Budget(BudgetPolicy):
    """A budget of this service."""

    model_config = ConfigDict(json_schema_extra=rules(*BUDGET_RULES))

    name: DnsLabel
    """Name of the budget, unique in the LLMService. Required. Example: `daily`."""


class LatencyObjective(Model):
    """How long calls may take."""

    indicator: Indicator
    """What is measured: TimeToFirstToken and TimePerOutputToken of streams, or RequestDuration of all calls. Required.
    Example: `TimeToFirstToken`.
    """
    threshold: Threshold
    """Longest time that counts as good, in ms, s or m. Required. Example: `500ms`."""


class ErrorsObjective(Model):
    """The share of calls that must not fail."""


class AvailabilityObjective(Model):
    """Whether calls are answered at all. Traffic that stops counts as an outage, whatever stopped it."""

    quiet_for: QuietTime = "5m"
    """How long no call may be answered before an outage begins: because pods are gone, nothing is scraped or nobody
    calls. If all calls fail, the outage begins at once. Default: `5m`. Example: `15m`.
    """


class ContextUseObjective(Model):
    """How much of the model's context window calls use."""

    threshold_percent: WholePercent
    """Highest share of the context window, in percent, that input and output of a call may use to count as good. Models
    whose window is unknown are left out. Required. Example: `80`.
    """


class QueueTimeObjective(Model):
    """How long calls wait in the engine's queue, from the engine's own histogram."""

    threshold: Threshold
    """Longest wait that counts as good, in ms, s or m. It must be a bucket bound of the engine's histogram. Required.
    Example: `500ms`.
    """


class KvCacheObjective(Model):
    """How full the engine's key-value cache is, from the engine's own gauge."""

    threshold_percent: WholePercent
    """Highest use of the key-value cache, in percent, that counts as good. Required. Example: `90`."""


class SpendObjective(Model):
    """How fast money may be spent."""

    per_hour: PositiveAmount
    """Highest spend in one hour in US dollars, as a decimal number in quotes. Required. Example: `"50.00"`."""


# Kinds that are measured as a share of calls or of time. To add a kind, such as quality of answers: add a field to `Objective` and name
# its type here, add a type in `domain.objectives`, and add its good and total queries in `manifests.alerts.indicators`; alerts, budgets and panels follow.
ShareKind = (
    LatencyObjective
    | ErrorsObjective
    | AvailabilityObjective
    | ContextUseObjective
    | QueueTimeObjective
    | KvCacheObjective
)
KINDS = ("latency", "errors", "availability", "contextUse", "queueTime", "kvCache", "spend")


class Objective(Model):
    """A service level objective of exactly one kind.

    Kinds are latency, errors, availability, contextUse, queueTime, kvCache and spend.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"{' + '.join(f'(has(self.{kind}) ? 1 : 0)' for kind in KINDS)} == 1",
                f"set exactly one of {', '.join(KINDS[:-1])} and {KINDS[-1]}",
            ),
            rule(
                "has(self.spend) || (has(self.targetPercent) && has(self.window))",
                'targetPercent and window are required with every kind but spend, such as targetPercent: "99" and window: 28d',
            ),
            rule(
                "!has(self.spend) || (!has(self.targetPercent) && !has(self.window))",
                "targetPercent and window are not for spend objectives: remove them",
            ),
        )
    )

    name: DnsLabel
    """Name of the objective, unique in the LLMService. Required. Example: `first-token`."""
    latency: LatencyObjective | None = None
    """Set it to require that a share of calls is faster than a threshold. Default: none."""
    errors: ErrorsObjective | None = None
    """Set it to require that a share of calls does not fail; it has no fields. Default: none. Example: `{}`."""
    availability: AvailabilityObjective | None = None
    """Set it to require that calls are answered in a share of the time; `{}` is enough. Default: none."""
    context_use: ContextUseObjective | None = None
    """Set it to require that a share of calls leaves room in the model's context window. Default: none."""
    queue_time: QueueTimeObjective | None = None
    """Set it to require that a share of calls does not wait too long in the engine's queue. Default: none."""
    kv_cache: KvCacheObjective | None = None
    """Set it to require that the engine's key-value cache has room in a share of the time. Default: none."""
    spend: SpendObjective | None = None
    """Set it to limit how fast money is spent. Default: none."""
    target_percent: Percent | None = None
    """Share of calls, or of time, that must be good, in percent and in quotes. Required with every kind but spend, not
    allowed with spend. Default: none. Example: `"99.9"`.
    """
    window: WholeWindow | None = None
    """Time over which the share is measured. Required with every kind but spend, not allowed with spend. Default: none.
    Example: `28d`.
    """

    @property
    def kinds(self) -> tuple[ShareKind | SpendObjective | None, ...]:
        """Return the fields of all kinds in the order of `KINDS`, None for each kind that is not set."""
        shares = (self.latency, self.errors, self.availability, self.context_use, self.queue_time, self.kv_cache)
        return (*shares, self.spend)


class PagerDuty(Model):
    """The PagerDuty service that gets the alerts."""

    routing_key_secret_ref: SecretKeyRef
    """Secret with the integration's routing key (Events API v2). Required."""
    url: (
        Annotated[
            str,
            Field(
                max_length=512,
                json_schema_extra=rules(
                    rule(
                        "self.matches('^https?://[^ @]+$')",
                        "must be an http or https URL without a user name or password",
                    )
                ),
            ),
        ]
        | None
    ) = None
    """Address that events are sent to; set it for accounts in the EU. Default: the address that Alertmanager is
    configured with. Example: `https://events.eu.pagerduty.com/v2/enqueue`.
    """


class Slack(Model):
    """The Slack channel that gets the alerts."""

    url_secret_ref: Annotated[SecretKeyRef, Field(alias="urlSecretRef")]
    """Secret with the URL of the incoming webhook. Required."""
    channel: Annotated[str, Field(max_length=80)] = ""
    """Channel that messages are posted to. Default: the channel of the incoming webhook. Example: `"#support-oncall"`.
    """


class AlertWebhook(Model):
    """A receiver of Alertmanager's webhook that gets the alerts."""

    url_secret_ref: Annotated[SecretKeyRef, Field(alias="urlSecretRef")]
    """Secret with the URL that alerts are posted to. Required."""


class Email(Model):
    """The people who get the alerts by e-mail, sent by Alertmanager's own mail server."""

    to: Annotated[
        tuple[Annotated[str, Field(max_length=254, pattern="^[^@ ,]+@[^@ ,]+$")], ...],
        Field(min_length=1, max_length=16, json_schema_extra=SET),
    ]
    """Addresses that e-mails are sent to. Required. Example: `[oncall@example.com]`."""


OptionalAlert = Literal[
    "LLMLatencyP95High",
    "LLMLatencyP99High",
    "LLMErrorRateHigh",
    "LLMSpendHigh",
    "LLMNoTraffic",
    "LLMProxyDown",
    "LLMJournalFailing",
    "LLMKVCacheFull",
    "LLMEngineQueueGrowing",
    "LLMEngineNotScraped",
    "LLMGPUMemoryHigh",
    "LLMGPUXid",
    "LLMGPUHot",
]


class Alerts(Model):
    """Which default alerts this service has, and who gets its alerts besides Alertmanager's own routes."""

    disable: Annotated[tuple[OptionalAlert, ...], Field(max_length=16, json_schema_extra=SET)] = ()
    """Default alerts that this service does not want. Default: none. Example: `[LLMNoTraffic]`."""
    enable: Annotated[tuple[OptionalAlert, ...], Field(max_length=16, json_schema_extra=SET)] = ()
    """Alerts that are off unless they are named here; today that is only LLMLatencyP99High. Default: none. Example:
    `[LLMLatencyP99High]`.
    """

    pager_duty: PagerDuty | None = None
    """Set it to send this service's alerts to PagerDuty. Default: none."""
    slack: Slack | None = None
    """Set it to send this service's alerts to a Slack channel. Default: none."""
    webhook: AlertWebhook | None = None
    """Set it to send this service's alerts to an HTTP receiver, in the format of Alertmanager's webhook. Default: none.
    """
    email: Email | None = None
    """Set it to send this service's alerts by e-mail. Default: none."""


class KeptTraces(Model):
    """Which traces LLM Warden's collector always keeps. Of other traces it keeps a share; see docs/traces.md."""

    slower_than: Threshold | None = None
    """Keep traces with a call of this service that took longer than this, in ms, s or m. Default: the chart's
    collector.sampling.slowerThanSeconds. Example: `5s`.
    """
    dearer_than: PositiveAmount | None = None
    """Keep traces with a call of this service that cost more than this many US dollars, as a decimal number in quotes.
    Default: the chart's collector.sampling.dearerThan. Example: `"0.50"`.
    """
    percent: WholePercent | None = None
    """Share of the traces with a call of this service that is kept at least, in whole percent. Default: the chart's
    collector.sampling.percent. Example: `100`.
    """


Origin = Annotated[
    str,
    Field(
        max_length=253,
        json_schema_extra=rules(
            rule(
                "self.matches('^https?://([*][.])?[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$')",
                "must be an origin as browsers send it: scheme, host in lower case and any port that is not the default, without a path, "
                'such as "https://shop.example.com" or "https://*.example.com"',
            )
        ),
    ),
]


class Tracing(Model):
    """Spans of the service's calls."""

    sample_percent: Annotated[
        int | float,
        Field(
            json_schema_extra={
                "type": "number",
                **rules(rule("double(self) >= 0.0 && double(self) <= 100.0", "must be a percentage from 0 to 100")),
            }
        ),
    ] = 100
    """Share of calls that are traced, in percent from 0 to 100. Default: `100`. Example: `0.5`."""
    keep: KeptTraces | None = None
    """Which traces LLM Warden's collector always keeps. Set it where this service needs other rules than the
    platform's. Default: the chart's collector.sampling.
    """
    browser_origins: Annotated[tuple[Origin, ...], Field(max_length=16, json_schema_extra=SET)] = ()
    """Origins of web pages whose browsers may send spans to LLM Warden's collector, so that a trace begins with the
    user's click. Default: none. Example: `["https://shop.example.com"]`.
    """
    capture_content: Annotated[
        bool,
        Field(
            json_schema_extra=rules(
                rule(
                    "!self",
                    "captureContent cannot be true in this version, which does not store prompts and answers: remove captureContent",
                )
            )
        ),
    ] = False
    """Whether prompts and answers are stored. Only false is possible in this version. Default: `false`. Example:
    `false`.
    """


class Gpu(Model):
    """How the GPUs of the pods are measured."""

    exporter: Literal["Auto", "DCGM", "NVML", "None"] = "Auto"
    """Which exporter measures the GPUs: DCGM is NVIDIA's dcgm-exporter, NVML is LLM Warden's own; Auto takes
    dcgm-exporter where it is installed or can run, otherwise NVML; None starts no exporter. Default: `Auto`. Example:
    `NVML`.
    """


class LLMServiceSpec(Model):
    """The desired state: which pods are measured, and their budgets, objectives and alerts."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!{_IS_PORT} || (has(self.workload.interception) && has(self.workload.interception.port))",
                "workload.interception.port.name is required with Port interception, the default for engines such as VLLM: "
                "name the engine's container port, or set workload.interception.type: Env for pods that call the engine",
                ".workload",
            ),
            rule(
                f"!has(self.objectives) || {_IS_PORT} || has(self.scrape) || !self.objectives.exists(item, has(item.queueTime) || has(item.kvCache))",
                "objectives queueTime and kvCache need the metrics of an engine, and the selected pods are its clients: "
                "set them on the LLMService of the engine itself, or set scrape to where its metrics are",
                ".objectives",
            ),
            rule(
                f"self.backend.type != 'OpenAICompatible' || {_IS_PORT} || has(self.backend.url)",
                "backend.url is required with type OpenAICompatible, which has no default address: set it to the server's origin",
                ".backend",
            ),
        )
    )

    backend: Backend
    """The provider or engine that answers the calls. Required."""
    workload: Workload
    """The pods that get the proxy, and how calls reach it. Required."""
    budgets: Annotated[tuple[Budget, ...], Field(max_length=16, json_schema_extra=named("budgets"))] = ()
    """Budgets of this service. Set it to be warned of spend or to limit it. Default: none."""
    objectives: Annotated[tuple[Objective, ...], Field(max_length=16, json_schema_extra=named("objectives"))] = ()
    """Service level objectives. Each gets alerts and an error budget. Set it to say how fast and how reliable
    calls must be. Default: none.
    """
    alerts: Alerts | None = None
    """Which default alerts this service has, and who gets its alerts. Set it to change either. Default: none, so that
    all default alerts are on and Alertmanager's own routes apply.
    """
    tracing: Tracing = Tracing()
    """How calls are traced. Set it to trace fewer calls or to choose which traces are kept. Default: `{samplePercent:
    100, browserOrigins: [], captureContent: false}`.
    """
    scrape: Scrape | None = None
    """How the engine's own metrics are scraped. Set it only where the engine is not in the selected pods, or needs TLS
    or a password. Default: the selected pods' named port, at the engine's usual path.
    """
    gpu: Gpu | None = None
    """How the GPUs of the pods are measured. Set it to measure GPUs; `{}` is enough. Default: none, so that GPUs are
    not measured.
    """


class TokenCounts(Model):
    """Numbers of tokens by kind. cachedInput and cacheWrite are parts of input, reasoning is a part of output."""

    input: Count = 0
    """Number of input tokens, cached ones included."""
    cached_input: Count = 0
    """Number of input tokens that were read from a cache; included in input."""
    cache_write: Count = 0
    """Number of input tokens that were written to a cache; included in input."""
    output: Count = 0
    """Number of output tokens, reasoning included."""
    reasoning: Count = 0
    """Number of output tokens that were reasoning; included in output."""


class ReratedStatus(Model):
    """How a new price changed the cost of past use."""

    at: Time
    """When the cost was computed again."""
    change: Short
    """Change of the cost in US dollars, as a decimal number; negative where the cost fell. Example: `-0.42`."""
    tokens: int
    """Number of tokens that got a price and had none before; negative where tokens lost their price."""


class UsageStatus(Model):
    """What the service used."""

    window: Short = "24h"
    """The time that the figures cover. Example: `24h`."""
    requests: Count = 0
    """Number of calls, failed ones included."""
    errors: Count = 0
    """Number of calls that failed."""
    tokens: TokenCounts = TokenCounts()
    """Numbers of tokens by kind."""
    cost: Money | None = None
    """Cost of the calls in US dollars. Absent where no price is known."""
    cost_per_request: Money | None = None
    """Average cost of a call in US dollars. Absent where no price is known."""
    uncosted_tokens: Count = 0
    """Number of tokens whose price is unknown and which `cost` leaves out."""
    uncosted_models: Annotated[tuple[ModelName, ...], Field(max_length=32, json_schema_extra=ATOMIC), first(32)] = ()
    """Models whose price is unknown: add a ModelPrice for them. Example: `[my-finetune]`."""
    rerated: ReratedStatus | None = None
    """The last time that a new price changed the cost of past use. Absent where that has not happened."""
    gpu: GpuStatus | None = None
    """GPUs that the service's own pods hold. Absent where they hold none."""


class Quantiles(Model):
    """Quantiles in whole milliseconds. A quantile is absent where nothing was measured."""

    p50_milliseconds: Count | None = None
    """Time in milliseconds that half of the calls did not exceed. Absent where nothing was measured. Example: `180`."""
    p95_milliseconds: Count | None = None
    """Time in milliseconds that 95 % of the calls did not exceed. Absent where nothing was measured. Example: `420`."""
    p99_milliseconds: Count | None = None
    """Time in milliseconds that 99 % of the calls did not exceed. Absent where nothing was measured. Example: `900`."""


class LatencyStatus(Model):
    """How long calls took in the last minutes."""

    time_to_first_token: Quantiles | None = None
    """Time from a call's start to its first token of content, for streams only."""
    request_duration: Quantiles | None = None
    """Time from a call's start to the end of its answer."""
    time_per_output_token: Quantiles | None = None
    """Time between two output tokens, for streams only."""


class ErrorsStatus(Model):
    """Calls that failed in the last minutes."""

    rate_percent: Short | None = None
    """Share of calls that failed, in percent, as a decimal number. Absent where there were no calls. Example: `0.3`."""


class ThroughputStatus(Model):
    """How many calls and tokens there were in the last minutes."""

    requests_per_minute: Short | None = None
    """Calls a minute, as a decimal number. Absent where nothing was measured. Example: `12.5`."""
    output_tokens_per_second: Short | None = None
    """Output tokens a second, as a decimal number. Absent where nothing was measured. Example: `340`."""


class EngineStatus(Model):
    """What the engine reports about itself."""

    type: Short | None = None
    """The engine, recognized by its metrics. Absent where it is not recognized. Example: `VLLM`."""
    version: Short | None = None
    """Version that the engine reports. Absent where it reports none. Example: `0.11.0`."""
    message: Text | None = None
    """Which figures the engine's metrics do not have, or why there are no metrics. Absent where nothing is missing."""
    requests_running: Count | None = None
    """Number of requests that the engine works on. Absent where its metrics do not say."""
    requests_waiting: Count | None = None
    """Number of requests in the engine's queue. Absent where its metrics do not say."""
    kv_cache_used_percent: Count | None = None
    """Share of the key-value cache that is in use, in whole percent. Absent where its metrics do not say."""
    prefix_cache_hit_percent: Count | None = None
    """Share of lookups that the prefix cache answered, in whole percent. Absent where its metrics do not say."""


class BudgetStatus(Model):
    """One budget that applies to the service, in its present window."""

    scope: BudgetScope
    """Kind of the object that has the budget: LLMService, LLMBudget or ClusterLLMBudget."""
    name: Short
    """Name of the budget in its scope. Example: `daily`."""
    unit: Unit
    """Unit of the figures: USD or tokens."""
    limit: Short
    """How much may be used in one window, as a decimal number in `unit`. Example: `25.00`."""
    spent: Short
    """How much all services that share the budget used in the present window, as a decimal number in `unit`. Example:
    `20.75`.
    """
    remaining: Short
    """What is left of the limit, as a decimal number in `unit`; never below zero. Example: `4.25`."""
    used_percent: Count
    """Share of the limit that is used, in whole percent rounded down. Example: `83`."""
    state: BudgetState
    """Open (nothing reached), Warned (a percentage in warnAtPercent is reached) or Exceeded (the limit is reached)."""
    action: BudgetAction
    """What happens to calls once the budget is exceeded."""
    window_start: Time | None = None
    """When the present window began. Absent where it is unknown."""
    resets_at: Time | None = None
    """When the present window ends; a rolling window moves on by 15 minutes then. Absent where it is unknown."""
    forecast_exhausted_at: Time | None = None
    """When the budget will be used up at the present rate. Absent where that is not within the present window."""


class ObjectiveStatus(Model):
    """One objective, measured over its window."""

    name: Short
    """Name of the objective. Example: `first-token`."""
    state: Literal["Met", "Missed", "Unknown"]
    """Whether the objective is met: Met, Missed, or Unknown where nothing was measured."""
    measured: Short | None = None
    """Share of good calls in percent, or for spend the US dollars of the last hour, as a decimal number. Absent where
    nothing was measured. Example: `99.4`.
    """
    target: Short | None = None
    """What `measured` is compared with, in the same unit. Example: `99`."""
    error_budget_left_percent: Annotated[int, Field(ge=-10000, le=100)] | None = None
    """What is left of the allowed share of bad calls, in whole percent rounded down; negative where more calls were
    bad. Absent for spend and where nothing was measured. Example: `60`.
    """


class UnmeteredPod(Model):
    """A selected pod whose calls are not measured."""

    pod: Short
    """Name of the pod."""
    reason: Annotated[str, Field(max_length=64)]
    """Why its calls are not measured, as one CamelCase word."""
    remedy: Text = ""
    """What to do so that its calls are measured. Empty where nothing can be done."""


class WorkloadStatus(Model):
    """The pods that the selector matches."""

    selected: Count = 0
    """Number of pods that the selector matches."""
    metered: Count = 0
    """Number of these pods with a working proxy."""
    coverage_percent: Count | None = None
    """Calls that the proxies saw in the last hour, in percent of those that the engine itself counted. Absent where the
    engine does not count them. Example: `100`.
    """
    unmetered: Annotated[tuple[UnmeteredPod, ...], Field(max_length=20, json_schema_extra=ATOMIC), first(20)] = ()
    """The first twenty selected pods whose calls are not measured, with the reason."""


EnforcementCheckType = Literal[
    "KeyInProxy",
    "PodsMetered",
    "KeyOnlyInProxy",
    "VolumesApart",
    "ProcessesApart",
    "NodeApart",
    "WayOutApart",
    "Encrypted",
    "UpstreamInCluster",
    "LedgerLossBounded",
    "UnmeasuredRefused",
]


class EnforcementCheck(Model):
    """One thing that must hold so that the application cannot bypass the budgets."""

    check: EnforcementCheckType
    """What was checked, such as `KeyOnlyInProxy`: no other container gets the key."""
    state: Literal["Holds", "Fails", "NotChecked"]
    """Holds, Fails, or NotChecked where this version does not check it."""
    message: Text = ""
    """What fails, with the first pods that it concerns. Empty where the check holds."""


class InjectionStatus(Model):
    """Whether new pods get the proxy."""

    state: Literal["Active", "Stopped"] = "Active"
    """Active, or Stopped where injected pods did not start: new pods then start without the proxy, so that applications
    run.
    """
    reason: Annotated[str, Field(max_length=64)] = ""
    """Why injection stopped, as one CamelCase word. Empty while it is active."""
    message: Text = ""
    """Why injection stopped and what to do about it, in a sentence. Empty while it is active."""
    since: Time | None = None
    """When the state last changed. Absent where it never changed."""
    image: Text = ""
    """The proxy's image that did not start. Empty while injection is active."""


class LLMServiceSummary(Model):
    """Figures in the form that `kubectl get` shows."""

    pods: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Pods with a working proxy, of those selected. Absent where unknown. Example: `2/3`."""
    ttft_p95: Annotated[str | None, Field(alias="ttftP95", max_length=32), cut(32)] = None
    """Time to first token that 95 % of streams did not exceed. Absent where nothing was measured. Example: `120ms`."""
    p95: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Duration that 95 % of calls did not exceed. Absent where nothing was measured. Example: `1.2s`."""
    errors: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Share of calls that failed. Absent where there were no calls. Example: `0.3%`."""
    cost_per_request: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Average cost of a call in the last 24 hours. Absent where no price is known. Example: `$0.00042`."""
    spent: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Cost of the calls in the last 24 hours. Absent where no price is known. Example: `$12.30`."""
    budget: Annotated[str, Field(max_length=128), cut(128)] | None = None
    """Used share and name of the budget that has the largest used share. Absent without a budget. Example: `83%
    (daily)`.
    """
    tokens: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Number of tokens in the last 24 hours. Absent where unknown. Example: `1.2M`."""
    throughput: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Output tokens a second. Absent where nothing was measured. Example: `34 tok/s`."""
    exhausted: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """When the first of the budgets will be used up at the present rate, in UTC. Absent where no budget will be within
    its window. Example: `2026-12-01T10:00Z`.
    """


class LLMServiceStatus(Status):
    """The observed state. Only the operator writes it."""

    observed_generation: Count = 0
    """The metadata.generation of the spec that this status describes."""
    as_of: Time | None = None
    """When the figures were taken. The operator writes a fixed number of statuses a second, so that among thousands of
    services figures are minutes old.
    """
    summary: LLMServiceSummary | None = None
    """Figures in the form that `kubectl get` shows."""
    usage: UsageStatus | None = None
    """What the service used. Absent before the first figures."""
    latency: LatencyStatus | None = None
    """How long calls took. Absent where nothing was measured."""
    errors: ErrorsStatus | None = None
    """Calls that failed. Absent where nothing was measured."""
    throughput: ThroughputStatus | None = None
    """How many calls and tokens there were. Absent where nothing was measured."""
    engine: EngineStatus | None = None
    """What the engine reports about itself. Absent where there is no engine."""
    budgets: Annotated[
        tuple[BudgetStatus, ...], Field(max_length=64, json_schema_extra=list_map("scope", "name")), first(64)
    ] = ()
    """Every budget that applies to the service, shared budgets included."""
    objectives: Annotated[
        tuple[ObjectiveStatus, ...], Field(max_length=16, json_schema_extra=list_map("name")), first(16)
    ] = ()
    """Every objective, with what is left of its error budget."""
    workload: WorkloadStatus | None = None
    """The pods that the selector matches."""
    enforcement: Literal["Enforced", "Advisory", "None"] | None = None
    """Enforced: no check in enforcementChecks fails. Advisory: one fails, so a pod could call the backend directly. None: no
    budget blocks calls. Absent before the first look.
    """
    enforcement_against: Literal["Application"] | None = None
    """Against whom Enforced holds. Application: code in a selected pod. It does not hold against an editor of the
    namespace, who can read the key's Secret. Absent where no budget blocks calls.
    """
    enforcement_checks: Annotated[
        tuple[EnforcementCheck, ...], Field(max_length=16, json_schema_extra=list_map("check")), first(16)
    ] = ()
    """What was checked for enforcement. Empty where no budget blocks calls."""
    injection: InjectionStatus | None = None
    """Whether new pods get the proxy. Absent before the first look."""
    conditions: Conditions = ()
    """Kubernetes conditions, such as Ready, with a reason and a remedy where one does not hold."""


class LLMService(Model):
    """An application that calls a provider, or an engine that serves a model, with its measurement, prices and budgets."""

    model_config = ConfigDict(json_schema_extra=rules(short_name(BECOMES_A_LABEL)))

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["LLMService"] = "LLMService"
    metadata: Metadata
    spec: LLMServiceSpec
    status: LLMServiceStatus | None = None

    @property
    def key(self) -> str:
        """Return `namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
