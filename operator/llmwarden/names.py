"""Every name that two parts of the product must spell alike: labels, annotations, ports, objects, metrics.

Pure constants, imported by all roles; nothing here may import anything of ours.
"""

from typing import Final

GROUP: Final = "llmwarden.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
FIELD_MANAGER: Final = "llmwarden"
DEFAULT_NAMESPACE: Final = "llmwarden-system"

# Labels and annotations.
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
MANAGED_BY: Final = "llmwarden"
LABEL_SERVICE: Final = f"{GROUP}/llmservice"
LABEL_PROXY: Final = f"{GROUP}/proxy"  # "true" on every injected pod: the PodMonitor's selector
ANNOTATION_SERVICES: Final = f"{GROUP}/services"  # on injected pods: comma-separated LLMService names
ANNOTATION_INJECT: Final = f"{GROUP}/inject"  # "false" on a pod (template) opts out, where the namespace allows it
LABEL_ALLOW_OPT_OUT: Final = f"{GROUP}/allow-opt-out"  # "true" on a namespace: its pods may opt out
LABEL_NAMESPACE_INJECTION: Final = f"{GROUP}/injection"  # "disabled" on a namespace: nothing is injected there
ANNOTATION_SPEC_HASH: Final = f"{GROUP}/spec-hash"  # on owned objects: hash of what we applied
ANNOTATION_CONFIGURATION: Final = f"{GROUP}/configuration"  # on the collector's pods: hash of their configuration
ANNOTATION_DCGM_UNFIT: Final = (
    f"{GROUP}/dcgm-unfit"  # on the GPU exporter: NVIDIA's image was tried and did not run (JSON)
)
ANNOTATION_FINDINGS: Final = f"{GROUP}/findings"  # on injected pods: JSON list of what was noticed at injection

# Reasons that two parts name.
REASON_NOT_IN_CLUSTER: Final = "UpstreamNotInCluster"  # a key would leave the cluster without TLS

# Injected into pods.
PROXY_CONTAINER: Final = "llmwarden-proxy"
PROXY_ENV: Final = "LLMWARDEN_PROXY"
ADMIN_PORT_NAME: Final = "llmwarden-admin"  # 15 characters: the limit of a port name
ADMIN_PORT: Final = 15099  # not Istio's: its agent listens on 15020 without declaring it
ENV_PORT_BASE: Final = 15100  # one loopback port per Env service, upwards
PORT_PORT_BASE: Final = 15200  # one port per Port service, upwards
APP_PORT_SUFFIX: Final = "-app"  # what an intercepted container port's own name becomes, shortened to 15
VOLUME_TOKEN: Final = "llmwarden-token"  # noqa: S105 - a volume's name
VOLUME_JOURNAL: Final = "llmwarden-journal"
VOLUME_CREDENTIALS: Final = "llmwarden-credentials"
VOLUMES: Final = frozenset({VOLUME_TOKEN, VOLUME_JOURNAL, VOLUME_CREDENTIALS})
TOKEN_DIR: Final = "/var/run/llmwarden/token"  # noqa: S105 - a path
TOKEN_FILE: Final = f"{TOKEN_DIR}/token"
CREDENTIALS_DIR: Final = "/var/run/llmwarden/credentials"
CA_DIR: Final = "/var/run/llmwarden/ca"  # where the proxy sees the application's bundle of authorities
KEPT_PREFIX: Final = "LLMWARDEN_APP_"  # of a variable under which an application's own value is kept
JOURNAL_DIR: Final = "/var/lib/llmwarden"
TOKEN_AUDIENCE: Final = "llmwarden-ledger"  # noqa: S105 - an audience
TOKEN_SECONDS: Final = 3600

# Our own objects, in our namespace.
OPERATOR: Final = "llmwarden-operator"
WEBHOOK: Final = "llmwarden-webhook"
LEDGER: Final = "llmwarden-ledger"
GPU_EXPORTER: Final = "llmwarden-gpu-exporter"
COLLECTOR: Final = "llmwarden-collector"
WEBHOOK_CONFIGURATION: Final = "llmwarden-pods"  # the chart makes it, the operator fills it
OLD_WEBHOOK_CONFIGURATION: Final = "llmwarden"  # that operators of earlier versions made
SETTINGS: Final = "llmwarden-settings"  # the chart's ConfigMap
CORRECTOR: Final = "llmwarden-corrector"  # the service account that may write off usage and release what is quarantined
VERB_WRITE_OFF: Final = "writeoff"  # RBAC verbs on llmservices: what the platform may do with what was reported
VERB_RELEASE: Final = "release"
ROLE_VIEW: Final = "llmwarden-view"  # the ClusterRole by which people may see services and their spend
ROLE_AUDIT: Final = "llmwarden-audit"  # the ClusterRole by which people may see the audit
RESOURCE_AUDIT: Final = "audit"  # not served by the API server: what RBAC of the audit names
ROLE_ASK: Final = "llmwarden-ask"  # the Role by which people may reach the ledger through the API server
WEBHOOK_PATH: Final = "/mutate-pod"  # a random segment follows (`serving.pki`); earlier versions had none
WEBHOOK_PORT: Final = 9443
LEDGER_PORT: Final = 8443
GPU_EXPORTER_PORT: Final = 9400  # the port of dcgm-exporter, so that both are scraped alike
METRICS_PORT: Final = 9090  # plain HTTP /metrics, /livez, /readyz of operator, webhook and ledger
SECRET_CA: Final = "llmwarden-ca"  # noqa: S105 - a Secret's name
SECRET_WEBHOOK_TLS: Final = "llmwarden-webhook-tls"  # noqa: S105 - a Secret's name
SECRET_LEDGER_TLS: Final = "llmwarden-ledger-tls"  # noqa: S105 - a Secret's name
SECRET_PROVIDER_KEYS: Final = "llmwarden-provider-keys"  # noqa: S105 - a Secret's name
POD_MONITOR_PROXIES: Final = "llmwarden-proxies"
POD_MONITOR_COMPONENTS: Final = "llmwarden-components"
RULES_PLATFORM: Final = "llmwarden-platform"
RULES_SERVICES: Final = "llmwarden-services"  # the PrometheusRule that holds for all LLMServices
DASHBOARD_OVERVIEW: Final = "llmwarden-dashboard-overview"
DASHBOARD_LABEL: Final = "grafana_dashboard"

# Objects beside each LLMService, in its namespace: a prefix and the service's name.
PREFIX_ENGINE: Final = "llmwarden-engine-"  # PodMonitor of the engine itself
PREFIX_ALERTS: Final = "llmwarden-alerts-"  # PrometheusRule
PREFIX_ROUTE: Final = "llmwarden-route-"  # AlertmanagerConfig
PREFIX_DASHBOARD: Final = "llmwarden-dashboard-"  # ConfigMap
PREFIX_POLICY: Final = "llmwarden-port-"  # NetworkPolicy that leaves only the proxy's ports open

# Metrics (Prometheus spelling). The OpenTelemetry names are these with dots.
METRIC_DURATION: Final = "gen_ai_client_operation_duration_seconds"
METRIC_TTFT: Final = "gen_ai_server_time_to_first_token_seconds"
METRIC_TPOT: Final = "gen_ai_server_time_per_output_token_seconds"
METRIC_CHUNK_TIME: Final = "gen_ai_client_operation_time_per_output_chunk_seconds"
METRIC_OUTPUT_RATE: Final = "llmwarden_output_tokens_per_second"
METRIC_QUEUE: Final = "llmwarden_upstream_queue_seconds"
METRIC_CONTEXT: Final = "llmwarden_context_used_ratio"
METRIC_RETRIED: Final = "llmwarden_retried_requests_total"
METRIC_LIMIT_REMAINING: Final = "llmwarden_upstream_rate_limit_remaining"
METRIC_LIMIT_RESET: Final = "llmwarden_upstream_rate_limit_reset_timestamp_seconds"
METRIC_TOKENS: Final = "gen_ai_client_token_usage_tokens_total"
# The same by the GenAI conventions' next version (their own repository), beside the above where it is asked for.
STABILITY_ENV: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
LATEST_OPT_IN: Final = "gen_ai_latest_experimental"  # in STABILITY_ENV
LATEST: Final = {
    METRIC_DURATION: "gen_ai_client_inference_duration_seconds",
    METRIC_TTFT: "gen_ai_client_inference_time_to_first_chunk_seconds",
    METRIC_CHUNK_TIME: "gen_ai_client_inference_time_per_output_chunk_seconds",
}
LATEST_TOKENS: Final = {
    "input": "gen_ai_client_inference_usage_input_tokens_total",
    "cached_input": "gen_ai_client_inference_usage_cache_read_input_tokens_total",
    "cache_write": "gen_ai_client_inference_usage_cache_write_input_tokens_total",
    "output": "gen_ai_client_inference_usage_output_tokens_total",
    "reasoning": "gen_ai_client_inference_usage_reasoning_output_tokens_total",
}
METRIC_REQUESTS: Final = "llmwarden_requests_total"
METRIC_COST: Final = "llmwarden_cost_usd_total"
METRIC_UNCOSTED: Final = "llmwarden_uncosted_tokens_total"
METRIC_REFUSED: Final = "llmwarden_refused_requests_total"
METRIC_UNMEASURED: Final = "llmwarden_unmeasured_requests_total"
METRIC_IN_FLIGHT: Final = "llmwarden_requests_in_flight"
METRIC_LAST_REPORT: Final = "llmwarden_proxy_ledger_last_report_timestamp_seconds"
METRIC_SPANS_DROPPED: Final = "llmwarden_proxy_spans_dropped_total"
METRIC_COMPILED: Final = "llmwarden_proxy_compiled_modules"
METRIC_JOURNAL_ERRORS: Final = "llmwarden_proxy_journal_errors_total"
METRIC_JOURNAL_SKIPPED: Final = "llmwarden_proxy_journal_skipped_lines_total"
METRIC_JOURNAL_ORPHANS: Final = "llmwarden_proxy_journal_orphaned_calls_total"
METRIC_LEDGER_ERRORS: Final = "llmwarden_proxy_ledger_errors_total"
METRIC_SINK_ERRORS: Final = "llmwarden_proxy_sink_errors_total"
METRIC_CREDENTIAL_ERRORS: Final = "llmwarden_proxy_credential_errors_total"
METRIC_MALFORMED_EVENTS: Final = "llmwarden_proxy_malformed_events_total"
METRIC_LIMITED: Final = "llmwarden_proxy_limited_total"
METRIC_ESTIMATED: Final = "llmwarden_estimated_requests_total"
METRIC_BUDGET_USED: Final = "llmwarden_budget_used_ratio"
METRIC_BUDGET_EXCEEDED: Final = "llmwarden_budget_exceeded"
METRIC_LEASE_UNUSED: Final = "llmwarden_ledger_lease_unused_ratio"
METRIC_LEDGER_UNREPORTED: Final = "llmwarden_ledger_unreported_pods_total"
METRIC_LEDGER_QUOTA: Final = "llmwarden_ledger_quota_used_ratio"
METRIC_LEDGER_FOLDED: Final = "llmwarden_ledger_folded_rows_total"
METRIC_LEDGER_QUARANTINED: Final = "llmwarden_ledger_quarantined_tokens"
METRIC_LEDGER_QUARANTINED_REQUESTS: Final = "llmwarden_ledger_quarantined_requests"
METRIC_LEDGER_QUARANTINED_USD: Final = "llmwarden_ledger_quarantined_usd"
METRIC_LEDGER_WRITTEN_OFF_USD: Final = "llmwarden_ledger_written_off_usd"
METRIC_BUDGET_LIMIT: Final = "llmwarden_budget_limit"
METRIC_GPU_COST: Final = "llmwarden_gpu_cost_usd_per_hour"
METRIC_GPU_TOKENS: Final = "llmwarden_gpu_usd_per_million_tokens"
METRIC_GPU_UNPRICED: Final = "llmwarden_gpu_unpriced_gpu_hours"
METRIC_PROVIDER_COST: Final = "llmwarden_provider_cost_usd"
METRIC_PROVIDER_TOKENS: Final = "llmwarden_provider_tokens"
METRIC_PROVIDER_DRIFT: Final = "llmwarden_provider_cost_drift"
METRIC_PROVIDER_READ: Final = "llmwarden_provider_read_timestamp_seconds"
METRIC_WATCH_UP: Final = "llmwarden_watch_up"
METRIC_CONNECTIONS_CLOSED: Final = "llmwarden_connections_closed_total"
METRIC_WATCH_ERRORS: Final = "llmwarden_watch_errors_total"

# What the PrometheusRules record for each objective (label `objective`), so that status asks one question for all.
RECORD_GOOD: Final = "llmwarden:objective:good_rate5m"
RECORD_TOTAL: Final = "llmwarden:objective:total_rate5m"
RECORD_RATIO: Final = "llmwarden:objective:good_ratio"
RECORD_BAD: Final = "llmwarden:objective:bad_ratio"  # by label `window`, for burn rates
RECORD_BUDGET_LEFT: Final = (
    "llmwarden:objective:error_budget_left_ratio"  # 1 at first, 0 when used up, below when overspent
)

RECORD_BURN: Final = "llmwarden:objective:burn_rate"  # by label `severity`, where an error budget burns too fast
RECORD_BURNING: Final = "llmwarden:objective:burning"  # the same, and a while after it: what the alert fires by

# GPUs of a service's pods, where a figure is too high.
RECORD_GPU_MEMORY: Final = "llmservice:gpu_memory_used:high_ratio"
RECORD_GPU_XID: Final = "llmservice:gpu_xid:error"
RECORD_GPU_HOT: Final = "llmservice:gpu_celsius:high"

# What rules for all services must know of one, recorded beside it: a value where there is one, and words as labels.
RECORD_SPEC: Final = "llmservice:spec:info"  # engine, dashboard (its UID), alerts (default alerts that hold: ",A,B,")
RECORD_ERROR_BUDGET: Final = "llmwarden:objective:error_budget_ratio"  # the share that may be bad; objective, over, target, bad, indicator, threshold
RECORD_SPEND_LIMIT: Final = "llmwarden:objective:spend_limit_usd_per_hour"  # objective, limit
RECORD_BUDGET: Final = "llmwarden:budget:info"  # budget, kind, action, consequence, window, calendar
RECORD_BUDGET_WARN: Final = "llmwarden:budget:warn_ratio"  # budget, kind, threshold (percent)

# Recorded for each service: calls that the backend answered, by our count and by the engine's own.
RECORD_ANSWERED: Final = "llmservice:requests_answered:rate5m"
RECORD_ENGINE_REQUESTS: Final = "llmservice:engine_requests:rate5m"
RECORD_LOST: Final = "llmservice:proxies_lost:rate5m"  # by label `what`

LABEL_M_SERVICE: Final = "llmservice"
LABEL_M_PROVIDER: Final = "gen_ai_provider_name"
LABEL_M_OPERATION: Final = "gen_ai_operation_name"
LABEL_M_REQUEST_MODEL: Final = "gen_ai_request_model"
LABEL_M_RESPONSE_MODEL: Final = "gen_ai_response_model"
LABEL_M_TOKEN_TYPE: Final = "gen_ai_token_type"  # noqa: S105 - a label
LABEL_M_ERROR: Final = "error_type"
LABEL_M_STATUS: Final = "http_status_code"

# Histogram bounds in seconds: those of the OpenTelemetry GenAI conventions, with two or three between each pair, so that a quantile
# interpolated between bounds is within about 5 % of the measured one; a service's own thresholds are added.
DURATION_BOUNDS: Final = (
    0.01, 0.0125, 0.016, 0.02, 0.025, 0.032, 0.04, 0.05, 0.064, 0.08, 0.1, 0.128, 0.16, 0.2, 0.256, 0.32, 0.4, 0.512, 0.64, 0.8, 1.0,
    1.28, 1.6, 2.0, 2.56, 3.2, 4.0, 5.12, 6.4, 8.0, 10.24, 12.8, 16.0, 20.48, 25.6, 32.0, 40.96, 51.2, 64.0, 81.92,
)  # fmt: skip
TTFT_BOUNDS: Final = (
    0.001, 0.002, 0.005, 0.0075, 0.01, 0.0125, 0.016, 0.02, 0.025, 0.032, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.125, 0.16, 0.2, 0.25,
    0.32, 0.4, 0.5, 0.64, 0.75, 1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.4, 7.5, 10.0,
)  # fmt: skip
TPOT_BOUNDS: Final = (
    0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.016, 0.02, 0.025, 0.032, 0.04, 0.05, 0.064, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25,
    0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)  # fmt: skip

OUTPUT_RATE_BOUNDS: Final = (
    1.0,
    2.0,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    75.0,
    100.0,
    150.0,
    200.0,
    300.0,
    500.0,
    1000.0,
    2000.0,
)
QUEUE_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CONTEXT_BOUNDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)

FOLDED: Final = "(other)"  # a model, a provider or a label of usage beyond the ledger's quotas; nobody reports it

CONTRACT: Final = 1  # version of the sidecar and ledger contracts
BUCKET_SECONDS: Final = 900
UNBOUNDED_INPUT_TOKENS: Final = (
    131_072  # reserved where a call's input has no bound, unless the platform says otherwise
)
UNBOUNDED_OUTPUT_TOKENS: Final = 32_768  # the same of its output
PICODOLLARS: Final = 10**12  # picodollars in one US dollar

# What is recorded of every service (`manifests.alerts`), beside the records above; alerts, panels and status read it.
RECORD_PREFIX: Final = "llmservice:"
RECORD_ENGINE: Final = "llmservice:engine_"  # of what an engine says of itself
RECORD_REQUESTS: Final = "llmservice:requests:rate5m"
RECORD_ERROR_RATIO: Final = "llmservice:errors:ratio5m"
RECORD_TOKENS: Final = "llmservice:tokens:rate5m"
RECORD_COST: Final = "llmservice:cost_usd:rate5m"
RECORD_TTFT_MEAN: Final = "llmservice:ttft_seconds:mean_5m"
RECORD_WRITING_MEAN: Final = "llmservice:writing_seconds:mean_5m"
RECORD_TTFT_P95: Final = "llmservice:ttft_seconds:p95_5m"
RECORD_DURATION_P95: Final = "llmservice:request_duration_seconds:p95_5m"
RECORD_CONTEXT_P95: Final = "llmservice:context_used_ratio:p95_5m"
RECORD_ENGINE_RUNNING: Final = "llmservice:engine_requests_running"
RECORD_ENGINE_WAITING: Final = "llmservice:engine_requests_waiting"
RECORD_ENGINE_CACHE: Final = "llmservice:engine_kv_cache_used:ratio"
RECORD_ENGINE_PREFIX_HITS: Final = "llmservice:engine_prefix_cache_hit:ratio5m"
RECORD_SPEND: Final = "llmservice:cost_usd_per_hour:rate1h"
RECORD_SPEND_SAME_HOUR: Final = "llmservice:cost_usd_per_hour:same_hour"
RECORD_COST_PER_REQUEST: Final = "llmservice:cost_usd_per_request:rate1h"
RECORD_MODEL_SHARE: Final = "llmservice:model_tokens:share1h"
RECORD_MODEL_COST_PER_TOKEN: Final = "llmservice:model_cost_usd_per_token:rate1h"  # noqa: S105 - a series

# Our own HTTP headers.
HEADER_FEATURE: Final = b"x-llmwarden-feature"
HEADER_TEAM: Final = b"x-llmwarden-team"
HEADER_COHORT: Final = b"x-llmwarden-cohort"
HEADER_FALLBACK: Final = b"x-llmwarden-fallback"
HEADER_BUDGET: Final = b"x-llmwarden-budget"
HEADER_CODE: Final = b"x-llmwarden-code"
HEADER_TOKEN: Final = "x-llmwarden-token"  # noqa: S105 - a header
