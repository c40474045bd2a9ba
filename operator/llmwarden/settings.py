"""Settings of operator, webhook and ledger: read once from the environment, frozen, passed as an argument.

The chart writes these variables; a person sets them in `values.yaml`. Lists and maps are JSON.
(The proxy has none of these: all it needs is in `LLMWARDEN_PROXY`, see `contracts/sidecar.py`.)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from llmwarden import names
from llmwarden.api.collector import Collector
from llmwarden.errors import InvalidSpecError


@dataclass(frozen=True, slots=True)
class Settings:
    """What the platform team decides.

    Durations are in seconds. `allowed_hosts` are hosts (exact, or `*.suffix`) that a `backend.url` may name besides the types' own
    and the cluster's Services.
    """

    namespace: str = names.DEFAULT_NAMESPACE
    image: str = "llmwarden:dev"
    image_pull_policy: str = "IfNotPresent"
    cluster_domain: str = "cluster.local"
    prometheus_url: str = ""
    prometheus_timeout: float = 10.0
    otlp_endpoint: str = ""
    collector: Collector = field(default_factory=Collector)
    allowed_hosts: tuple[str, ...] = ()
    runbook_base_url: str = ""  # what an alert's runbook_url begins with; empty: the path in this repository
    rule_labels: Mapping[str, str] = field(default_factory=dict)
    monitor_labels: Mapping[str, str] = field(default_factory=dict)
    grafana_url: str = ""  # where people open dashboards; empty: links begin at Grafana's root
    grafana_delivery: str = "ConfigMap"  # or GrafanaDashboard (the Grafana Operator's)
    grafana_folder: str = "LLM Warden"
    grafana_instance_labels: Mapping[str, str] = field(default_factory=lambda: {"dashboards": "grafana"})
    alertmanager_config_labels: Mapping[str, str] = field(default_factory=dict)
    dashboard_labels: Mapping[str, str] = field(default_factory=lambda: {names.DASHBOARD_LABEL: "1"})
    short_metric_names: bool = False  # record the names that guides use (llm_requests_total, ...) as well
    scrape_interval: str = "15s"
    sample_limit_proxy: int = 50_000  # samples of one scrape: more are given up, so that no pod fills Prometheus
    sample_limit_engine: int = 50_000
    sample_limit_platform: int = 1_000_000
    resync_seconds: float = 300.0
    status_seconds: float = 30.0
    status_writes_per_second: float = 10.0  # of all objects together, in the long run; changes of state do not wait
    workers: int = 8
    report_seconds: float = 5.0
    proxy_cpu_request: str = "10m"
    proxy_cpu_limit: str = "1"  # only in pods whose own containers all have a CPU limit
    proxy_cpu_guaranteed: str = "200m"  # request and limit in pods of the class Guaranteed
    proxy_memory_request: str = "64Mi"
    proxy_memory_limit: str = "256Mi"
    unbounded_input_tokens: int = (
        names.UNBOUNDED_INPUT_TOKENS
    )  # docs/money.md; 0 refuses such calls under a hard budget
    unbounded_output_tokens: int = names.UNBOUNDED_OUTPUT_TOKENS
    injection_stuck_seconds: float = 60.0  # a proxy that has not started for so long stops injection for its service
    injection_retry_seconds: float = 900.0  # a stopped injection is tried again after this
    webhook_timeout: int = 5
    webhook_client_ca: str = ""  # PEM of who signs the API servers' client certificates; empty: none is asked for
    webhook_client_names: tuple[str, ...] = ()  # names of which such a certificate must have one; empty: any
    gpu_enabled: bool = True  # whether GPU exporters are looked for and run; the chart then gives the rights for it
    dcgm_image: str = "nvcr.io/nvidia/k8s/dcgm-exporter:4.5.3-4.8.2-distroless"
    gpu_node_label: str = "nvidia.com/gpu.present"
    database_path: str = "/data/ledger.sqlite3"
    pod_detail_days: int = 35  # spend by pod is known for so long
    quota_journal_rows: int = 1000  # of one pod in a quarter of an hour; docs/money.md has all four
    quota_folded_rows: int = 4000
    quota_namespace_rows: int = 2_000_000
    quota_unpriced_rows: int = 100_000
    audit_days: int = 400  # audit entries are kept for so long
    plausible_tokens_per_second: int = 200_000  # of one pod: more is quarantined (domain/plausible.py)
    plausible_requests_per_second: int = 10_000
    # What a pod, a service and a namespace may hold of a budget that others share: so many percent of its limit, and `lease_factor` times
    # what it used in the last `lease_window_seconds` (docs/money.md).
    lease_pod_percent: int = 10
    lease_service_percent: int = 20
    lease_namespace_percent: int = 25
    lease_factor: int = 4
    lease_window_seconds: int = 900
    # RFC 3339. Until then the ledger believes balances that it never granted: only after its database was restored from a backup.
    lease_believe_until: str = ""
    database_url: str = field(
        default="", repr=False
    )  # postgresql://…, with its password; empty: SQLite at database_path
    log_level: str = "INFO"

    @property
    def ledger_url(self) -> str:
        """URL of the ledger as proxies and operator call it."""
        return f"https://{names.LEDGER}.{self.namespace}.svc:{names.LEDGER_PORT}"


def load(environ: Mapping[str, str]) -> Settings:
    """Read `LLMWARDEN_<FIELD>` for each field of `Settings`; absent or empty means the default.

    Raises InvalidSpecError naming the variable when a value does not parse.
    """
    values: dict[str, Any] = {}
    defaults = Settings()
    for name in Settings.__slots__:
        variable = f"LLMWARDEN_{name.upper()}"
        raw = environ.get(variable, "")
        if raw:
            default = getattr(defaults, name)
            values[name] = (
                _collector(variable, raw) if isinstance(default, Collector) else _parse(variable, raw, default)
            )
    return Settings(**values)


def _collector(variable: str, raw: str) -> Collector:
    try:
        return Collector.model_validate_json(raw)
    except ValidationError as error:
        message = f"{variable}: {error}"
        raise InvalidSpecError(message) from error


_BOOLEANS: Final = {"true": True, "false": False}


def _parse(variable: str, raw: str, default: object) -> object:
    try:
        if isinstance(default, str):
            return raw
        if isinstance(default, bool):
            return _BOOLEANS[raw.lower()]
        if isinstance(default, int):
            return int(raw)
        if isinstance(default, float):
            return float(raw)
        value = json.loads(raw)
    except (ValueError, KeyError) as error:
        message = f"{variable} is {raw!r}, which is not {_expected(default)}"
        raise InvalidSpecError(message) from error
    if isinstance(default, tuple):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return value
    message = f"{variable} is {raw!r}, which is not {_expected(default)}"
    raise InvalidSpecError(message)


def _expected(default: object) -> str:
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    if isinstance(default, float):
        return "a number"
    if isinstance(default, tuple):
        return "a JSON list of strings"
    return "a JSON object of strings"
