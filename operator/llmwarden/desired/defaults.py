"""Alerts that every LLMService has without a word in its spec; `alerts.disable` takes one away, `alerts.enable` adds what is off at first.

Each builder returns None where it does not apply: no engine metrics, no GPU asked for, or an objective of the service's own that says it
better.
"""

from collections.abc import Callable
from typing import Final

from llmwarden import names
from llmwarden.api.v1alpha1.llmservice import OptionalAlert
from llmwarden.desired import promql, vocabulary
from llmwarden.desired.alerting import FEW_CALLS, WINDOW, Rule, alert, of, title
from llmwarden.desired.params import Params
from llmwarden.domain.objectives import SpendObjective

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


def alerts(params: Params) -> list[Rule]:
    """Build those that apply and are wanted."""
    spec = params.service.spec.alerts
    disabled = set(spec.disable) if spec else set()
    enabled = set(spec.enable) if spec else set()
    found = []
    for name, builder in BUILDERS.items():
        if name in disabled or (name in OFF and name not in enabled):
            continue
        rule = builder(params)
        if rule is not None:
            found.append(rule)
    return found


def _enough(params: Params) -> str:
    return f"({promql.rate(names.METRIC_REQUESTS, of(params), WINDOW)} * 300 >= {FEW_CALLS})"


def _slow(params: Params, name: str, q: float, limit: int) -> Rule:
    quantile = promql.quantile(q, names.METRIC_DURATION, of(params), WINDOW)
    return alert(
        params,
        name,
        f"({quantile} > {limit})\nand {_enough(params)}",
        wait="2m",
        severity="warning",
        summary=f"{title(params)}: {q * 100:.0f} % of calls take up to {{{{ $value | humanizeDuration }}}}, above {limit} s",
        description=(
            "Calls have been slow for two minutes. Look at the dashboard: time to first token high means a queue or long prompts, time per "
            "output token high a busy engine or provider, neither of both longer answers."
        ),
    )


def _errors(params: Params) -> Rule:
    return alert(
        params,
        "LLMErrorRateHigh",
        f"({promql.error_ratio(of(params), WINDOW)} > {ERROR_LIMIT})\nand {_enough(params)}",
        wait="5m",
        severity="warning",
        summary=f"{title(params)}: {{{{ $value | humanizePercentage }}}} of calls fail",
        description=(
            "More than 5 % of calls in the last 5 minutes failed. Break llmwarden_requests_total down by error_type and "
            "http_status_code: 401 is a wrong key, 429 a limit of the provider or of a budget, 5xx the backend's own fault."
        ),
    )


def _spend(params: Params) -> Rule | None:
    if any(isinstance(item, SpendObjective) for item in params.objectives):
        return None
    return alert(
        params,
        "LLMSpendHigh",
        f"{promql.rate(names.METRIC_COST, of(params), '15m')} * 3600 > {SPEND_PER_HOUR}",
        wait="5m",
        severity="warning",
        summary=f'{title(params)}: spends ${{{{ printf "%.2f" $value }}}} an hour, above ${SPEND_PER_HOUR}',
        description=(
            "No objective of this service says how fast it may spend, so the default of $50 an hour holds. Look for the model and the pod that "
            "spend, for retries and for prompts that grew; set an objective `spend.perHour`, or a budget with action Block."
        ),
    )


def _quiet(params: Params) -> Rule:
    calls = f"{names.METRIC_REQUESTS}{{{of(params)}}}"
    expr = (
        f"sum by ({promql.BY}) (increase({calls}[1d] offset 1h)) > {QUIET_CALLS}\n"
        f"and (sum by ({promql.BY}) (increase({calls}[1h])) == 0)\n"
        f"and on ({promql.BY}) (count by ({promql.BY}) ({names.METRIC_IN_FLIGHT}{{{of(params)}}}) > 0)"
    )
    return alert(
        params,
        "LLMNoTraffic",
        expr,
        wait="10m",
        severity="warning",
        summary=f'{title(params)}: no call was measured in the last hour, after {{{{ printf "%.0f" $value }}}} in the day before',
        description=(
            "Pods with a proxy run, but nothing passes through it. Either nobody calls, or calls go around: a base URL that the application sets in "
            "its code, a Service that targets a port by number. `kubectl describe llm` names what it sees."
        ),
    )


def _proxy_down(params: Params) -> Rule:
    # `up` knows the pod only; which pods are the service's, its proxies' own series told while they were scraped.
    pods = f"max by (namespace, pod) (last_over_time({names.METRIC_IN_FLIGHT}{{{of(params)}}}[1h]))"
    up = f'up{{namespace="{params.service.metadata.namespace}",job=~".*/{names.POD_MONITOR_PROXIES}"}}'
    return alert(
        params,
        "LLMProxyDown",
        f"count by (namespace) (({up} == 0) and on (namespace, pod) ({pods}))",
        wait="5m",
        severity="warning",
        summary=f"{title(params)}: {{{{ $value }}}} of its proxies cannot be scraped",
        description=(
            "The pods run, their proxies do not answer on the admin port: their calls fail or are not measured. Look at the container "
            f"{names.PROXY_CONTAINER} (kubectl logs, restarts, memory limit), and at network policies that keep Prometheus away."
        ),
    )


def _journal(params: Params) -> Rule:
    # The counter knows the pod only, as `up` does.
    pods = f"max by (namespace, pod) (last_over_time({names.METRIC_IN_FLIGHT}{{{of(params)}}}[1h]))"
    failed = f'increase({names.METRIC_JOURNAL_ERRORS}{{namespace="{params.service.metadata.namespace}"}}[10m]) > 0'
    return alert(
        params,
        "LLMJournalFailing",
        f"count by (namespace) (({failed}) and on (namespace, pod) ({pods}))",
        wait="5m",
        severity="warning",
        summary=f"{title(params)}: {{{{ $value }}}} of its proxies cannot write their journal",
        description=(
            "Calls are served and reported all the same; but what a proxy has counted since its last report is lost if it dies now. Its disk is "
            "full, or cannot be written: look at the node's disk and at the volume llmwarden-journal of the pods."
        ),
    )


def _cache(params: Params) -> Rule | None:
    engine = vocabulary.engine_of(params)
    if engine is None or "cache_used" not in engine.metrics:
        return None
    return alert(
        params,
        "LLMKVCacheFull",
        f"llmservice:engine_kv_cache_used:ratio{{{of(params)}}} > {CACHE_LIMIT}",
        wait="5m",
        severity="warning",
        summary=f"{title(params)}: {{{{ $value | humanizePercentage }}}} of an engine's KV cache is in use",
        description=(
            "Above 90 % an engine preempts requests and lets new ones wait: time to first token grows next. Add replicas, lower the "
            "context or the number of concurrent sequences, or give the engine more GPU memory."
        ),
    )


def _queue(params: Params) -> Rule | None:
    engine = vocabulary.engine_of(params)
    if engine is None or "waiting" not in engine.metrics:
        return None
    waiting = f"llmservice:engine_requests_waiting{{{of(params)}}}"
    return alert(
        params,
        "LLMEngineQueueGrowing",
        f"({waiting} >= {QUEUE})\nand (deriv({waiting}[10m]) > 0)",
        wait="10m",
        severity="warning",
        summary=f"{title(params)}: {{{{ $value }}}} requests wait in the engine's queue, and it grows",
        description=(
            "More comes in than the engine answers. Look at the KV cache and the GPUs on the same dashboard: full means add replicas, idle "
            "means a limit of concurrent sequences, or one long request that holds the others."
        ),
    )


def _engine_down(params: Params) -> Rule | None:
    if vocabulary.engine_of(params) is None:
        return None
    # Our monitors put the service's name on the target itself, so that `up` has it: no other target does.
    return alert(
        params,
        "LLMEngineNotScraped",
        f"count by ({promql.BY}) (up{{{of(params)}}} == 0)",
        wait="5m",
        severity="warning",
        summary=f"{title(params)}: the metrics of {{{{ $value }}}} of its engines cannot be scraped",
        description=(
            "Prometheus has the engine as a target and gets no answer: its queue and KV cache are not known, and their alerts are silent. The "
            "engine is down or too busy, its metrics are switched off or elsewhere, or a password or certificate of spec.scrape is wrong."
        ),
    )


def _gpu(
    params: Params, name: str, series: str, *, wait: str, severity: str, summary: str, description: str
) -> Rule | None:
    """An alert on the GPUs of the service's pods. Exporters that do not honour labels call the pod `exported_pod`: our monitors honour them."""
    if params.service.spec.gpu is None or params.service.spec.gpu.exporter == "None":
        return None
    pods = f"max by (namespace, pod) (last_over_time({names.METRIC_IN_FLIGHT}{{{of(params)}}}[15m]))"
    expr = f"({series})\nand on (namespace, pod) ({pods})"
    return alert(
        params,
        name,
        expr,
        wait=wait,
        severity=severity,
        summary=f"{title(params)}: GPU {{{{ $labels.gpu }}}} of pod {{{{ $labels.pod }}}}: {summary}",
        description=description,
    )


def _gpu_memory(params: Params) -> Rule | None:
    of = f'{{namespace="{params.service.metadata.namespace}"}}'
    used, free = f"DCGM_FI_DEV_FB_USED{of}", f"DCGM_FI_DEV_FB_FREE{of}"
    return _gpu(
        params,
        "LLMGPUMemoryHigh",
        f"{used} / ({used} + {free}) > {GPU_MEMORY_LIMIT}",
        wait="10m",
        severity="warning",
        summary="{{ $value | humanizePercentage }} of its memory is in use",
        description=(
            "An engine takes its share at its start (vLLM 90 % by default); more than 95 % leaves nothing for activations: the next long "
            "prompt may end in an out-of-memory error. Lower --gpu-memory-utilization, or look who else is on the GPU."
        ),
    )


def _gpu_xid(params: Params) -> Rule | None:
    series = f'DCGM_FI_DEV_XID_ERRORS{{namespace="{params.service.metadata.namespace}"}}'
    return _gpu(
        params,
        "LLMGPUXid",
        f"{series} > 0",
        wait="",
        severity="critical",
        summary="XID error {{ $value }}",
        description=(
            "The driver reported an error of the GPU. XID 31 and 13 are mostly the program's, 48, 63, 64, 74, 79, 92, 94 and 95 the hardware's: drain the "
            "node, and see NVIDIA's XID catalogue for the number."
        ),
    )


def _gpu_hot(params: Params) -> Rule | None:
    series = f'DCGM_FI_DEV_GPU_TEMP{{namespace="{params.service.metadata.namespace}"}}'
    return _gpu(
        params,
        "LLMGPUHot",
        f"{series} > {GPU_CELSIUS}",
        wait="5m",
        severity="warning",
        summary="{{ $value }} degrees Celsius",
        description="Near its limit a GPU slows its clocks: tokens come slower with no other sign. Look at the node's cooling and at the power limit.",
    )


BUILDERS: Final[dict[OptionalAlert, Callable[[Params], Rule | None]]] = {
    "LLMLatencyP95High": lambda params: _slow(params, "LLMLatencyP95High", 0.95, P95_SECONDS),
    "LLMLatencyP99High": lambda params: _slow(params, "LLMLatencyP99High", 0.99, P99_SECONDS),
    "LLMErrorRateHigh": _errors,
    "LLMSpendHigh": _spend,
    "LLMNoTraffic": _quiet,
    "LLMProxyDown": _proxy_down,
    "LLMJournalFailing": _journal,
    "LLMKVCacheFull": _cache,
    "LLMEngineQueueGrowing": _queue,
    "LLMEngineNotScraped": _engine_down,
    "LLMGPUMemoryHigh": _gpu_memory,
    "LLMGPUXid": _gpu_xid,
    "LLMGPUHot": _gpu_hot,
}
