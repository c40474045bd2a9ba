"""Alerts that every LLMService has without a word in its spec; `alerts.disable` takes one away, `alerts.enable` adds what is off at first.

Each is written once for all services; `wanted` says which hold for one, and its own rules record that.
"""

from collections.abc import Callable
from typing import Any, Final

from llmwarden import names
from llmwarden.api.v1alpha1.llmservice import OptionalAlert
from llmwarden.domain.objectives import SpendObjective
from llmwarden.manifests import promql
from llmwarden.manifests.alerts import vocabulary
from llmwarden.manifests.alerts.alert import ANY, FEW_CALLS, Rule, alert
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings

ERROR_LIMIT: Final = 0.05
P95_SECONDS: Final = 10
P99_SECONDS: Final = 2
SPEND_PER_HOUR: Final = 50
CACHE_LIMIT: Final = 0.9
QUEUE: Final = 5  # requests
GPU_MEMORY_LIMIT: Final = 0.95
GPU_CELSIUS: Final = 85
QUIET_CALLS: Final = 100  # a day: a service with fewer may well be silent for an hour

OFF: Final[frozenset[OptionalAlert]] = frozenset({"LLMLatencyP99High"})


def wanted(params: Params) -> tuple[OptionalAlert, ...]:
    """Return the default alerts that hold for a service: those that apply to it and that its spec has not switched off."""
    spec = params.service.spec.alerts
    disabled = set(spec.disable) if spec else set()
    enabled = set(spec.enable) if spec else set()
    return tuple(
        name
        for name, applies in APPLIES.items()
        if name not in disabled and (name not in OFF or name in enabled) and applies(params)
    )


def alerts(settings: Settings) -> list[Rule]:
    """Build those that look back over minutes."""
    return [builder(settings) for builder in BUILDERS]


def alerts_over_days(settings: Settings) -> list[Rule]:
    """Build those that look back over a day: their samples are many."""
    return [_quiet(settings)]


def gpu_records(params: Params) -> list[dict[str, Any]]:
    """Record which GPUs of a service's pods have a figure that is too high, as far as the service wants these alerts.

    Beside each service, because GPUs' series know the pod only, and a pod may be of two services: no rule for all could say whose they are. Exporters
    that do not honour labels call the pod `exported_pod`: our monitors honour them.
    """
    metadata = params.service.metadata
    pods = f"max by (namespace, pod) (last_over_time({names.METRIC_IN_FLIGHT}{{{promql.selector(metadata.namespace, metadata.name)}}}[15m]))"
    names_wanted = wanted(params)
    return [
        {
            "record": record,
            "expr": f"({series}) and on (namespace, pod) {pods}",
            "labels": {names.LABEL_M_SERVICE: metadata.name},
        }
        for name, (record, series) in _gpu_figures(metadata.namespace).items()
        if name in names_wanted
    ]


def _always(_params: Params) -> bool:
    return True


def _engine_tells(metric: str) -> Callable[[Params], bool]:
    def tells(params: Params) -> bool:
        engine = vocabulary.engine_of(params)
        return engine is not None and metric in engine.metrics

    return tells


def _has_gpus(params: Params) -> bool:
    return params.service.spec.gpu is not None and params.service.spec.gpu.exporter != "None"


def _enough() -> str:
    return f"({names.RECORD_REQUESTS} * 300 >= {FEW_CALLS})"


def _slow(settings: Settings, name: str, percent: int, limit: int) -> Rule:
    return alert(
        settings,
        name,
        f"({names.RECORD_PREFIX}request_duration_seconds:p{percent}_5m > {limit})\nand {_enough()}",
        wait="2m",
        optional=True,
        severity="warning",
        summary=f"{percent} % of calls take up to {{{{ $value | humanizeDuration }}}}, above {limit} s",
        description=(
            "Calls have been slow for two minutes. Look at the dashboard. A high time to first token means a queue or long prompts. A high time "
            "per output token means a busy engine or provider. If both are normal, answers became longer."
        ),
    )


def _errors(settings: Settings) -> Rule:
    return alert(
        settings,
        "LLMErrorRateHigh",
        f"({names.RECORD_ERROR_RATIO} > {ERROR_LIMIT})\nand {_enough()}",
        wait="5m",
        optional=True,
        severity="warning",
        summary="{{ $value | humanizePercentage }} of calls fail",
        description=(
            f"More than 5 % of calls in the last 5 minutes failed. Break {names.METRIC_REQUESTS} down by error_type and "
            "http_status_code: 401 is a wrong key, 429 a rate limit of the provider or an exhausted budget, 5xx a fault of the backend."
        ),
    )


def _spend(settings: Settings) -> Rule:
    return alert(
        settings,
        "LLMSpendHigh",
        f"{promql.rate(names.METRIC_COST, ANY, '15m')} * 3600 > {SPEND_PER_HOUR}",
        wait="5m",
        optional=True,
        severity="warning",
        summary=f'spends ${{{{ printf "%.2f" $value }}}} an hour, above ${SPEND_PER_HOUR}',
        description=(
            "This service has no spend objective, so the default limit of $50 an hour applies. Find the model and the pod that spend. Check for "
            "retries and for longer prompts. To change the limit, set an objective `spend.perHour`. To enforce one, set a budget with action Block."
        ),
    )


def _quiet(settings: Settings) -> Rule:
    calls = f"{names.METRIC_REQUESTS}{{{ANY}}}"
    expr = (
        f"sum by ({promql.BY}) (increase({calls}[1d] offset 1h)) > {QUIET_CALLS}\n"
        f"and (sum by ({promql.BY}) (increase({calls}[1h])) == 0)\n"
        f"and on ({promql.BY}) (count by ({promql.BY}) ({names.METRIC_IN_FLIGHT}{{{ANY}}}) > 0)"
    )
    return alert(
        settings,
        "LLMNoTraffic",
        expr,
        wait="10m",
        optional=True,
        severity="warning",
        summary='no calls were measured in the last hour, after {{ printf "%.0f" $value }} in the day before',
        description=(
            "Pods with a proxy are running, but no call passes through it. Either there are no calls, or they bypass the proxy: the application sets "
            "a base URL in its code, or a Service targets a port by number. `kubectl describe llm` shows what was found."
        ),
    )


def _pods(window: str) -> str:
    """Which pods have a proxy for which service."""
    return f"max by ({promql.BY}, pod) (last_over_time({names.METRIC_IN_FLIGHT}{{{ANY}}}[{window}]))"


def _proxy_down(settings: Settings) -> Rule:
    # `up` knows the pod only; which pods are a service's, its proxies' own series told while they were scraped.
    down = f'up{{job=~".*/{names.POD_MONITOR_PROXIES}"}} == 0'
    return alert(
        settings,
        "LLMProxyDown",
        f"count by ({promql.BY}) ({_pods('1h')} and on (namespace, pod) ({down}))",
        wait="5m",
        optional=True,
        severity="warning",
        summary="{{ $value }} of its proxies cannot be scraped",
        description=(
            "The pods are running, but their proxies do not answer on the admin port. Their calls fail or are not measured. Check the container "
            f"{names.PROXY_CONTAINER} (kubectl logs, restarts, memory limit), and network policies that block Prometheus."
        ),
    )


def _journal(settings: Settings) -> Rule:
    # The counter knows the pod only, as `up` does.
    failed = f"increase({names.METRIC_JOURNAL_ERRORS}[10m]) > 0"
    return alert(
        settings,
        "LLMJournalFailing",
        f"count by ({promql.BY}) ({_pods('1h')} and on (namespace, pod) ({failed}))",
        wait="5m",
        optional=True,
        severity="warning",
        summary="{{ $value }} of its proxies cannot write their journal",
        description=(
            "Calls are still served and reported. But if such a proxy dies now, the usage since its last report is lost. Its disk is full or "
            f"read-only. Check the node's disk and the pods' volume {names.VOLUME_JOURNAL}."
        ),
    )


def _cache(settings: Settings) -> Rule:
    return alert(
        settings,
        "LLMKVCacheFull",
        f"{names.RECORD_ENGINE_CACHE} > {CACHE_LIMIT}",
        wait="5m",
        optional=True,
        severity="warning",
        summary="{{ $value | humanizePercentage }} of an engine's KV cache is in use",
        description=(
            "Above 90 %, an engine preempts requests and makes new ones wait, so the time to first token grows next. Add replicas, lower the "
            "context length or the number of concurrent sequences, or give the engine more GPU memory."
        ),
    )


def _queue(settings: Settings) -> Rule:
    waiting = names.RECORD_ENGINE_WAITING
    return alert(
        settings,
        "LLMEngineQueueGrowing",
        f"({waiting} >= {QUEUE})\nand (deriv({waiting}[10m]) > 0)",
        wait="10m",
        optional=True,
        severity="warning",
        summary="{{ $value }} requests are waiting in the engine's queue, and the queue is growing",
        description=(
            "Requests arrive faster than the engine answers them. Look at the KV cache and the GPUs on the dashboard. If they are full, add "
            "replicas. If they are idle, raise the limit of concurrent sequences, or look for one long request that blocks the others."
        ),
    )


def _engine_down(settings: Settings) -> Rule:
    # Our monitors put the service's name on the target itself, so that `up` has it: no other target does.
    return alert(
        settings,
        "LLMEngineNotScraped",
        f"count by ({promql.BY}) (up{{{ANY}}} == 0)",
        wait="5m",
        optional=True,
        severity="warning",
        summary="{{ $value }} of its engines cannot be scraped",
        description=(
            "Prometheus gets no metrics from the engine, so its queue and KV cache are unknown and their alerts cannot fire. The engine is down or "
            "too busy, its metrics are disabled or at another address, or a password or certificate in spec.scrape is wrong."
        ),
    )


def _gpu_alert(
    settings: Settings, name: str, record: str, *, wait: str, severity: str, summary: str, description: str
) -> Rule:
    return alert(
        settings,
        name,
        record,
        wait=wait,
        severity=severity,
        summary=f"GPU {{{{ $labels.gpu }}}} of pod {{{{ $labels.pod }}}}: {summary}",
        description=description,
    )


def _gpu_memory(settings: Settings) -> Rule:
    return _gpu_alert(
        settings,
        "LLMGPUMemoryHigh",
        names.RECORD_GPU_MEMORY,
        wait="10m",
        severity="warning",
        summary="{{ $value | humanizePercentage }} of its memory is in use",
        description=(
            "An engine allocates its share of GPU memory when it starts (vLLM 90 % by default). Above 95 %, there is no room for activations, and "
            "the next long prompt may cause an out-of-memory error. Lower --gpu-memory-utilization, or find what else uses the GPU."
        ),
    )


def _gpu_xid(settings: Settings) -> Rule:
    return _gpu_alert(
        settings,
        "LLMGPUXid",
        names.RECORD_GPU_XID,
        wait="",
        severity="critical",
        summary="XID error {{ $value }}",
        description=(
            "The driver reported a GPU error. XID 13 and 31 are usually caused by the program. XID 48, 63, 64, 74, 79, 92, 94 and 95 are hardware "
            "errors: drain the node. NVIDIA's XID catalogue explains each number."
        ),
    )


def _gpu_hot(settings: Settings) -> Rule:
    return _gpu_alert(
        settings,
        "LLMGPUHot",
        names.RECORD_GPU_HOT,
        wait="5m",
        severity="warning",
        summary="{{ $value }} degrees Celsius",
        description="A GPU near its temperature limit lowers its clocks, so tokens become slower. Check the node's cooling and the power limit.",
    )


def _gpu_figures(namespace: str) -> dict[OptionalAlert, tuple[str, str]]:
    """By alert: what is recorded, and the series of all GPUs of a namespace whose figure is too high."""
    of = f'{{namespace="{namespace}"}}'
    used, free = f"DCGM_FI_DEV_FB_USED{of}", f"DCGM_FI_DEV_FB_FREE{of}"
    return {
        "LLMGPUMemoryHigh": (names.RECORD_GPU_MEMORY, f"{used} / ({used} + {free}) > {GPU_MEMORY_LIMIT}"),
        "LLMGPUXid": (names.RECORD_GPU_XID, f"DCGM_FI_DEV_XID_ERRORS{of} > 0"),
        "LLMGPUHot": (names.RECORD_GPU_HOT, f"DCGM_FI_DEV_GPU_TEMP{of} > {GPU_CELSIUS}"),
    }


BUILDERS: Final[tuple[Callable[[Settings], Rule], ...]] = (
    lambda settings: _slow(settings, "LLMLatencyP95High", 95, P95_SECONDS),
    lambda settings: _slow(settings, "LLMLatencyP99High", 99, P99_SECONDS),
    _errors,
    _spend,
    _proxy_down,
    _journal,
    _cache,
    _queue,
    _engine_down,
    _gpu_memory,
    _gpu_xid,
    _gpu_hot,
)
APPLIES: Final[dict[OptionalAlert, Callable[[Params], bool]]] = {
    "LLMLatencyP95High": _always,
    "LLMLatencyP99High": _always,
    "LLMErrorRateHigh": _always,
    # An objective of the service's own says it better.
    "LLMSpendHigh": lambda params: not any(isinstance(item, SpendObjective) for item in params.objectives),
    "LLMNoTraffic": _always,
    "LLMProxyDown": _always,
    "LLMJournalFailing": _always,
    "LLMKVCacheFull": _engine_tells("cache_used"),
    "LLMEngineQueueGrowing": _engine_tells("waiting"),
    "LLMEngineNotScraped": lambda params: vocabulary.engine_of(params) is not None,
    "LLMGPUMemoryHigh": _has_gpus,
    "LLMGPUXid": _has_gpus,
    "LLMGPUHot": _has_gpus,
}
