"""LLMService: an application that calls a provider, or an engine that serves a model; one per application or model."""

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
# The interception that holds: the one given, else the default that follows from the backend's type.
_IS_PORT = f"({_TYPE_GIVEN} ? self.workload.interception.type == 'Port' : self.backend.type in {_ENGINES})"

BackendUrl = Annotated[
    str,
    Field(
        max_length=512,
        json_schema_extra=rules(
            rule(
                r"!self.matches(r'^https?://[^@?#]*$') || "
                r"self.matches(r'^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~%!$&()*+,;=:/-]*)?$')",
                "must be an origin with an optional path prefix, such as https://api.openai.com",
            ),
            rule(
                "self.matches(r'^https?://')",
                "must begin with https:// (or http:// for a Service of the cluster)",
            ),
            rule(
                r"!self.matches(r'^[A-Za-z]+://[^/?#]*@')",
                "must not carry user information; put the key into a Secret and name it in backend.credentialsSecretRef",
            ),
            rule("!self.matches(r'[?#]')", "must not have a query or a fragment; remove what follows '?' or '#'"),
            rule(
                r"!self.matches(r'/v[0-9]+[a-z0-9]*/?$')",
                "must not end in the API version; remove it (such as /v1): the client's own path is appended",
            ),
        ),
    ),
]


class CertificateRef(Model):
    """A Secret of type kubernetes.io/tls in the same namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """The Secret's name; it has tls.crt and tls.key, as cert-manager writes them."""


class Backend(Model):
    """What answers the calls."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.clientCertificateSecretRef) || !has(self.url) || self.url.startsWith('https://')",
                "a client certificate is shown over TLS only; let url begin with https://, or remove clientCertificateSecretRef",
            )
        )
    )

    type: BackendType
    """The provider's or engine's API."""
    url: BackendUrl | None = None
    """Origin and optional prefix, without the API version; the type's own unless set."""
    credentials_secret_ref: SecretKeyRef | None = None
    """A Secret with the API key: the proxy alone holds it, and the budget cannot be walked around."""
    client_certificate_secret_ref: CertificateRef | None = None
    """With which certificate the proxy says who it is, to a server that asks for one (mutual TLS). In mode Env only."""


class InterceptedPort(Model):
    """The container port that the proxy takes."""

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
    """Its name in the pod's containers; a number alone cannot be intercepted."""


class PortPolicy(Model):
    """A NetworkPolicy that closes the way around the proxy: of injected pods only the proxy's ports stay reachable."""

    open_ports: Annotated[
        tuple[
            Annotated[
                int,
                Field(
                    json_schema_extra=rules(
                        rule("self >= 1 && self <= 65535", "must be a port's number, 1 to 65535"), format="int32"
                    )
                ),
            ],
            ...,
        ],
        Field(max_length=32, json_schema_extra=SET),
    ] = ()
    """Numbers of other ports of these pods that must stay reachable: a NetworkPolicy closes all that it does not name."""


class Interception(Model):
    """How calls reach the proxy."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.type) || self.type != 'Env' || !has(self.port)",
                "port goes with type Port: remove it, or set type: Port",
                ".port",
            ),
            rule(
                "!has(self.networkPolicy) || has(self.port)",
                "networkPolicy goes with Port interception: name the container port in port.name, or remove it",
                ".networkPolicy",
            ),
        )
    )

    type: InterceptionType | None = None
    """Env sets the SDKs' base-URL variables; Port takes a named container port. Follows from backend.type unless set."""
    port: InterceptedPort | None = None
    """For Port: which container port."""
    network_policy: PortPolicy | None = None
    """For Port: write a NetworkPolicy that leaves only the proxy's ports open ({} suffices). It holds only where the cluster's network enforces policies."""


class Workload(Model):
    """Which pods, and how."""

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
    """Pods of this namespace that get the proxy."""
    interception: Interception | None = None
    """How calls reach the proxy."""
    rollout: Literal["None", "Evict"] = "None"
    """What to do with pods that were there before: None waits for their own restart; Evict evicts them, within disruption budgets."""


class Budget(BudgetPolicy):
    """A budget of this service."""

    model_config = ConfigDict(json_schema_extra=rules(*BUDGET_RULES))

    name: DnsLabel
    """Its name within the service."""


class LatencyObjective(Model):
    """How long something may take."""

    indicator: Indicator
    """What is measured."""
    threshold: Threshold
    """How long it may take."""


class ErrorsObjective(Model):
    """Calls that fail."""


class AvailabilityObjective(Model):
    """Whether calls are answered at all: traffic that stops is an outage, whoever stopped it."""

    quiet_for: QuietTime = "5m"
    """An outage begins where no call was answered for so long (pods gone, nothing scraped, nobody calling), 5m unless set; calls that all fail are one at once."""


class ContextUseObjective(Model):
    """How much of the model's context window calls take."""

    threshold_percent: WholePercent
    """The share that a call's input and output may take, of models whose window is known."""


class QueueTimeObjective(Model):
    """How long calls wait in the engine's queue, by the engine's own histogram."""

    threshold: Threshold
    """How long they may wait; it must be one of the bounds that the engine's histogram has."""


class KvCacheObjective(Model):
    """How full the engine's key-value cache is, by its own gauge."""

    threshold_percent: WholePercent
    """Up to where it is well."""


class SpendObjective(Model):
    """How fast money may be spent."""

    per_hour: PositiveAmount
    """US dollars an hour, as a decimal string."""


# What is measured as a share of calls or of time. Quality (judged answers) is to be one more: a field of `Objective` named here, a type in
# `domain.objectives`, and its good and total in `desired.indicators`; alerts, budgets and panels follow from those.
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
    """A service level objective, of exactly one kind: latency, errors, availability, contextUse, queueTime, kvCache or spend."""

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
                "targetPercent and window go with the other kinds; remove them beside spend",
            ),
        )
    )

    name: DnsLabel
    """Its name within the service."""
    latency: LatencyObjective | None = None
    """A share of calls that must be faster than a threshold."""
    errors: ErrorsObjective | None = None
    """A share of calls that must not fail."""
    availability: AvailabilityObjective | None = None
    """A share of time in which calls must be answered."""
    context_use: ContextUseObjective | None = None
    """A share of calls that must leave room in the model's context window."""
    queue_time: QueueTimeObjective | None = None
    """A share of calls that must not wait longer in the engine's queue."""
    kv_cache: KvCacheObjective | None = None
    """A share of time in which the engine's key-value cache must not be fuller."""
    spend: SpendObjective | None = None
    """A bound on the rate of spending."""
    target_percent: Percent | None = None
    """The share of calls, or of time, that must be good."""
    window: WholeWindow | None = None
    """Over what time the share is taken."""

    @property
    def kinds(self) -> tuple[ShareKind | SpendObjective | None, ...]:
        """Every kind that it could be, in `KINDS`' order; None for those that it is not."""
        shares = (self.latency, self.errors, self.availability, self.context_use, self.queue_time, self.kv_cache)
        return (*shares, self.spend)


class PagerDuty(Model):
    """Where PagerDuty is told."""

    routing_key_secret_ref: SecretKeyRef
    """A Secret with the integration's routing key (Events API v2)."""
    url: (
        Annotated[
            str,
            Field(
                max_length=512,
                json_schema_extra=rules(
                    rule("self.matches('^https?://[^ @]+$')", "must be an http or https URL without user information")
                ),
            ),
        ]
        | None
    ) = None
    """Where events go, such as https://events.eu.pagerduty.com/v2/enqueue for accounts in the EU; Alertmanager's own unless set."""


class Slack(Model):
    """Which channel of Slack is told."""

    url_secret_ref: Annotated[SecretKeyRef, Field(alias="urlSecretRef")]
    """A Secret with the incoming webhook's URL."""
    channel: Annotated[str, Field(max_length=80)] = ""
    """The channel; the webhook's own unless set."""


class AlertWebhook(Model):
    """What else is told, by Alertmanager's webhook."""

    url_secret_ref: Annotated[SecretKeyRef, Field(alias="urlSecretRef")]
    """A Secret with the URL."""


class Email(Model):
    """Who is written to, by Alertmanager's own mail server."""

    to: Annotated[
        tuple[Annotated[str, Field(max_length=254, pattern="^[^@ ,]+@[^@ ,]+$")], ...],
        Field(min_length=1, max_length=16, json_schema_extra=SET),
    ]
    """Addresses."""


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
    """Which of the default alerts this service has, and who is told of its alerts besides Alertmanager's own routes."""

    disable: Annotated[tuple[OptionalAlert, ...], Field(max_length=16, json_schema_extra=SET)] = ()
    """Default alerts that it does without."""
    enable: Annotated[tuple[OptionalAlert, ...], Field(max_length=16, json_schema_extra=SET)] = ()
    """Alerts that are off unless named here: LLMLatencyP99High."""

    pager_duty: PagerDuty | None = None
    """PagerDuty."""
    slack: Slack | None = None
    """Slack."""
    webhook: AlertWebhook | None = None
    """Any receiver of Alertmanager's webhook."""
    email: Email | None = None
    """E-mail."""


class KeptTraces(Model):
    """Which traces LLM Warden's collector always keeps; of the rest it keeps a share. Unset: as the platform says (docs/traces.md)."""

    slower_than: Threshold | None = None
    """Traces with a call of this service that took longer."""
    dearer_than: PositiveAmount | None = None
    """Traces with a call of this service that cost more US dollars, as a decimal string."""
    percent: WholePercent | None = None
    """At least this share of the traces with a call of this service."""


Origin = Annotated[
    str,
    Field(
        max_length=253,
        json_schema_extra=rules(
            rule(
                "self.matches('^https?://([*][.])?[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$')",
                "must be an origin as browsers send it: scheme, host in lower case and, if not the scheme's own, port, without a path, "
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
                **rules(rule("double(self) >= 0.0 && double(self) <= 100.0", "must be between 0 and 100")),
            }
        ),
    ] = 100
    """Share of calls that are traced."""
    keep: KeptTraces | None = None
    """Which traces LLM Warden's collector, where it runs, always keeps."""
    browser_origins: Annotated[tuple[Origin, ...], Field(max_length=16, json_schema_extra=SET)] = ()
    """Origins of web pages whose browsers may send their spans to LLM Warden's collector, so that a trace begins at the click."""
    capture_content: Annotated[
        bool,
        Field(
            json_schema_extra=rules(
                rule(
                    "!self",
                    "cannot be true in this version: prompts and answers are not captured until they can be scrubbed; remove it",
                )
            )
        ),
    ] = False
    """Whether prompts and answers are kept; not yet possible."""


class Gpu(Model):
    """Measurement of the GPUs that the pods use."""

    exporter: Literal["Auto", "DCGM", "NVML", "None"] = "Auto"
    """Auto uses dcgm-exporter where it is there already or can run, else our own NVML exporter."""


class LLMServiceSpec(Model):
    """What is wanted."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!{_IS_PORT} || (has(self.workload.interception) && has(self.workload.interception.port))",
                "workload.interception.port.name is required with Port interception, which is the default of engines such as VLLM: "
                "name the engine's container port, or set workload.interception.type: Env for pods that call the engine",
                ".workload",
            ),
            rule(
                f"!has(self.objectives) || {_IS_PORT} || has(self.scrape) || !self.objectives.exists(item, has(item.queueTime) || has(item.kvCache))",
                "objectives of kind queueTime and kvCache are measured by an engine's own metrics, and the selected pods are its clients: "
                "set them on the LLMService of the engine itself, or say in scrape where its metrics are",
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
    """What answers the calls."""
    workload: Workload
    """Which pods, and how."""
    budgets: Annotated[tuple[Budget, ...], Field(max_length=16, json_schema_extra=named("budgets"))] = ()
    """What may be spent."""
    objectives: Annotated[tuple[Objective, ...], Field(max_length=16, json_schema_extra=named("objectives"))] = ()
    """How fast and how free of errors it must be."""
    alerts: Alerts | None = None
    """Who is told."""
    tracing: Tracing = Tracing()
    """Spans of the calls."""
    scrape: Scrape | None = None
    """How the engine's own metrics are scraped; needed only for engines elsewhere, or behind TLS or a password."""
    gpu: Gpu | None = None
    """Measurement of GPUs; none unless set."""


class TokenCounts(Model):
    """Tokens by kind; cachedInput and cacheWrite are parts of input, reasoning is a part of output."""

    input: Count = 0
    """All input tokens, cached included."""
    cached_input: Count = 0
    """The part of input that was read from a cache."""
    cache_write: Count = 0
    """The part of input that was written to a cache."""
    output: Count = 0
    """All output tokens, reasoning included."""
    reasoning: Count = 0
    """The part of output that was reasoning."""


class ReratedStatus(Model):
    """What a new price changed in the history of a service."""

    at: Time
    """When."""
    change: Short
    """Decimal US dollars by which what was spent became more; negative where it became less."""
    tokens: int
    """How many tokens have a price that had none; negative where they lost it."""


class UsageStatus(Model):
    """What the service used."""

    window: Short = "24h"
    """Over what time."""
    requests: Count = 0
    """Calls, failed ones included."""
    errors: Count = 0
    """Calls that failed."""
    tokens: TokenCounts = TokenCounts()
    """Tokens by kind."""
    cost: Money | None = None
    """What they cost; absent where nothing has a known price."""
    cost_per_request: Money | None = None
    """Cost by calls."""
    uncosted_tokens: Count = 0
    """Tokens whose price is unknown: not in `cost`."""
    uncosted_models: Annotated[tuple[ModelName, ...], Field(max_length=32, json_schema_extra=ATOMIC), first(32)] = ()
    """Models whose price is unknown."""
    rerated: ReratedStatus | None = None
    """The last time that a price arrived for what was used before; it is rated by its date."""
    gpu: GpuStatus | None = None
    """GPUs that its own pods hold; absent where they hold none."""


class Quantiles(Model):
    """Quantiles in whole milliseconds; absent is unknown."""

    p50_milliseconds: Count | None = None
    """Half of calls took no longer."""
    p95_milliseconds: Count | None = None
    """95 % of calls took no longer."""
    p99_milliseconds: Count | None = None
    """99 % of calls took no longer."""


class LatencyStatus(Model):
    """How long calls took, in the last minutes."""

    time_to_first_token: Quantiles | None = None
    """Until the first token of content, of streams."""
    request_duration: Quantiles | None = None
    """Until the end of the answer."""
    time_per_output_token: Quantiles | None = None
    """Between tokens."""


class ErrorsStatus(Model):
    """Calls that failed, in the last minutes."""

    rate_percent: Short | None = None
    """Share of calls, decimal."""


class ThroughputStatus(Model):
    """How much is going on, in the last minutes."""

    requests_per_minute: Short | None = None
    """Calls a minute, decimal."""
    output_tokens_per_second: Short | None = None
    """Output tokens a second, decimal."""


class EngineStatus(Model):
    """What the engine says of itself."""

    type: Short | None = None
    """Which it is, by its own metrics."""
    version: Short | None = None
    """Its version, as it says."""
    message: Text | None = None
    """What its metrics leave out, or why there are none."""
    requests_running: Count | None = None
    """Requests that it works on."""
    requests_waiting: Count | None = None
    """Requests that wait in its queue."""
    kv_cache_used_percent: Count | None = None
    """Share of its key-value cache in use."""
    prefix_cache_hit_percent: Count | None = None
    """Share of lookups that its prefix cache answered."""


class BudgetStatus(Model):
    """One budget that applies to the service, in its present window."""

    scope: BudgetScope
    """Whose budget it is."""
    name: Short
    """Its name within the scope."""
    unit: Unit
    """USD or tokens."""
    limit: Short
    """Decimal, in `unit`."""
    spent: Short
    """Decimal, in `unit`; of all services that share the budget."""
    remaining: Short
    """Decimal, in `unit`; never below zero."""
    used_percent: Count
    """Whole percent of the limit that is spent, rounded down."""
    state: BudgetState
    """Open, Warned or Exceeded."""
    action: BudgetAction
    """What happens once it is exceeded."""
    window_start: Time | None = None
    """When the present window began."""
    resets_at: Time | None = None
    """When the present window ends."""
    forecast_exhausted_at: Time | None = None
    """When it will be used up at the present rate; absent where that is not in the present window."""


class ObjectiveStatus(Model):
    """One objective, over its window."""

    name: Short
    """Its name."""
    state: Literal["Met", "Missed", "Unknown"]
    """Whether it is met."""
    measured: Short | None = None
    """The share of good calls in percent, or what was spent in the last hour in US dollars; decimal."""
    target: Short | None = None
    """What it must be, likewise."""
    error_budget_left_percent: Annotated[int, Field(ge=-10000, le=100)] | None = None
    """What is left of the share of calls that may be bad, in whole percent rounded down; below zero where it is overspent."""


class UnmeteredPod(Model):
    """A selected pod whose calls are not measured."""

    pod: Short
    """Its name."""
    reason: Annotated[str, Field(max_length=64)]
    """Why, in one CamelCase word."""
    remedy: Text = ""
    """What helps."""


class WorkloadStatus(Model):
    """The selected pods."""

    selected: Count = 0
    """Pods that the selector matches."""
    metered: Count = 0
    """Those with a working proxy."""
    coverage_percent: Count | None = None
    """Calls that the proxies saw in the last hour, of those that the engine itself counted; absent where it does not say."""
    unmetered: Annotated[tuple[UnmeteredPod, ...], Field(max_length=20, json_schema_extra=ATOMIC), first(20)] = ()
    """The others, the first twenty."""


class InjectionStatus(Model):
    """Whether new pods get the proxy."""

    state: Literal["Active", "Stopped"] = "Active"
    """Stopped where injected pods did not start: applications go first."""
    reason: Annotated[str, Field(max_length=64)] = ""
    """Why, in one CamelCase word."""
    message: Text = ""
    """Why, in a sentence, and what helps."""
    since: Time | None = None
    """Since when."""
    image: Text = ""
    """The proxy's image that did not start."""


class LLMServiceSummary(Model):
    """Figures as `kubectl get` shows them."""

    pods: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Pods with a working proxy, of those selected."""
    ttft_p95: Annotated[str | None, Field(alias="ttftP95", max_length=32), cut(32)] = None
    """95 % of streams have their first token within."""
    p95: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """95 % of calls are answered within."""
    errors: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Share of calls that fail."""
    cost_per_request: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """What a call costs on average over 24 h."""
    spent: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """What calls cost in the last 24 h."""
    budget: Annotated[str, Field(max_length=128), cut(128)] | None = None
    """Share spent of the budget nearest its end."""
    tokens: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Tokens in the last 24 h."""
    throughput: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """Output tokens a second."""
    exhausted: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """When that budget will be used up."""


class LLMServiceStatus(Status):
    """What is."""

    observed_generation: Count = 0
    """The generation of the spec that this status is of."""
    as_of: Time | None = None
    """When the figures were taken. Over all services together a fixed number of statuses is written a second: among thousands figures are minutes old."""
    summary: LLMServiceSummary | None = None
    """Figures as `kubectl get` shows them."""
    usage: UsageStatus | None = None
    """What the service used."""
    latency: LatencyStatus | None = None
    """How long calls took."""
    errors: ErrorsStatus | None = None
    """Calls that failed."""
    throughput: ThroughputStatus | None = None
    """How much is going on."""
    engine: EngineStatus | None = None
    """What the engine says of itself."""
    budgets: Annotated[
        tuple[BudgetStatus, ...], Field(max_length=64, json_schema_extra=list_map("scope", "name")), first(64)
    ] = ()
    """Every budget that applies, shared ones included."""
    objectives: Annotated[
        tuple[ObjectiveStatus, ...], Field(max_length=16, json_schema_extra=list_map("name")), first(16)
    ] = ()
    """Each objective, and what is left of its error budget."""
    workload: WorkloadStatus | None = None
    """The selected pods."""
    enforcement: Literal["Enforced", "Advisory", "None"] | None = None
    """Enforced: the proxy alone holds the key. Advisory: a pod could call the backend directly. None: no budget blocks."""
    injection: InjectionStatus | None = None
    """Whether new pods get the proxy."""
    conditions: Conditions = ()
    """What holds and what does not."""


class LLMService(Model):
    """An application that calls a provider, or an engine that serves a model: measured, priced and held to its budgets."""

    model_config = ConfigDict(json_schema_extra=rules(short_name(BECOMES_A_LABEL)))

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["LLMService"] = "LLMService"
    metadata: Metadata
    spec: LLMServiceSpec
    status: LLMServiceStatus | None = None

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
