"""The dashboard of one LLMService: one screen that answers "slow because of what" and "expensive because of what".

Sections: health at a glance; what is slow and which part of a call it is, beside what may be its cause (longer prompts and answers, one model); the
engine and its GPUs below that; errors, tokens and cost, the proxy itself. A service has the sections of its backend: an application that calls a provider
has no engine and no GPUs. Lines over hours read recorded series where there are such, as alerts do; exemplars are on the heatmaps.

What most queries share are hidden variables of the dashboard: `$of` selects the service's series. Counters that exist only once something has happened
are joined to `$zero`, a zero that is there as long as the service has a proxy.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.domain import engines, indicators, upstream
from llmwarden.domain.objectives import AvailabilityObjective
from llmwarden.manifests import promql
from llmwarden.manifests.alerts import slo, vocabulary
from llmwarden.manifests.dashboards.panels import (
    HALF,
    INTERVAL,
    SCHEMA_VERSION,
    THIRD,
    Panel,
    Query,
    bars,
    choices,
    constant,
    figure,
    figures,
    graph,
    heat,
    placed,
    repeated,
    row,
    source_variable,
)
from llmwarden.manifests.manifest import dashboard_uid
from llmwarden.manifests.params import Params

KIND: Final = names.LABEL_M_TOKEN_TYPE
MODEL: Final = names.LABEL_M_RESPONSE_MODEL
TAGS: Final = ("llmwarden", "llm")
OF: Final = "$of"
ZERO: Final = "$zero"
MINE: Final = "$mine"  # and only of pods that have a proxy of this service
CALLS: Final = f"(sum({names.RECORD_REQUESTS}{{{OF}}}) > 0)"


def build(params: Params) -> dict[str, Any]:
    """Build the dashboard."""
    metadata = params.service.metadata
    engine = vocabulary.engine_of(params)
    # Backticks: Grafana escapes quotes in a variable's value, and JSON in JSON does it twice.
    of = f"namespace=`{metadata.namespace}`,{names.LABEL_M_SERVICE}=`{metadata.name}`"
    in_flight = f"{names.METRIC_IN_FLIGHT}{{{of}}}"
    return {
        "uid": dashboard_uid(metadata.namespace, metadata.name),
        "title": f"LLM service {metadata.namespace}/{metadata.name}",
        "tags": list(TAGS),
        "editable": False,
        "schemaVersion": SCHEMA_VERSION,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": [
            {"type": "dashboards", "title": "All LLM services", "tags": [*TAGS, "overview"], "keepTime": True},
        ],
        "templating": {
            "list": [
                source_variable(),
                constant("of", of),
                constant("zero", f"0 * sum({in_flight})"),
                constant("mine", f"and on (namespace, pod) {in_flight}"),
                LATENCIES,
                HISTOGRAMS,
                *([_engine(engine)] if engine is not None else []),
                *([GPUS] if _has_gpus(params) else []),
            ]
        },
        "panels": placed(panel for title, panels in _sections(params) for panel in (row(title), *panels)),
    }


def _sections(params: Params) -> list[tuple[str, list[Panel]]]:
    engine = vocabulary.engine_of(params)
    namespace = params.service.metadata.namespace
    own_model = upstream.interception(params.service) == "Port"
    return [
        ("Health", _health(params)),
        ("Slow because of what", _latency()),
        *([(f"Engine ({engine.type})", _of_engine(engine))] if engine is not None else []),
        *([("GPUs", _of_gpus(namespace))] if _has_gpus(params) else []),
        ("Errors", _errors()),
        ("Tokens and cost", _money(own_model=own_model)),
        ("The proxy itself", _proxy(namespace)),
    ]


def _has_gpus(params: Params) -> bool:
    return params.service.spec.gpu is not None and params.service.spec.gpu.exporter != "None"


def _by(label: str) -> str:
    return f"{{{{{label}}}}}"


def _rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{OF}{more}}}[{INTERVAL}]))"


def _quantiles(recorded: str) -> tuple[Query, ...]:
    return tuple((f"{names.RECORD_PREFIX}{recorded}:{name}_5m{{{OF}}}", name) for name in vocabulary.QUANTILES)


def _health(params: Params) -> list[Panel]:
    panels = [
        figures(
            "Now",
            "Of five minutes. Cost is by the proxies' prices; status has the exact sum.",
            ("Calls per minute", f"60 * {names.RECORD_REQUESTS}{{{OF}}}", None),
            ("Failed calls, %", f"100 * {names.RECORD_ERROR_RATIO}{{{OF}}} or {ZERO}", (1, 5)),
            ("First token p95, s", f"{names.RECORD_TTFT_P95}{{{OF}}}", None),
            ("Answer p95, s", f"{names.RECORD_DURATION_P95}{{{OF}}}", None),
            ("Cost of 24 hours, $", f"sum(increase({names.METRIC_COST}{{{OF}}}[24h])) or {ZERO}", None),
            ("Calls in flight", f"sum({names.METRIC_IN_FLIGHT}{{{OF}}})", None),
            ("Context window p95, %", f"100 * {names.RECORD_CONTEXT_P95}{{{OF}}} or {ZERO}", None),
            ("Firing alerts", f"count(ALERTS{{{OF},alertstate=`firing`}}) or {ZERO}", None),
        )
    ]
    measured = slo.measured(params)
    used: list[Query] = []
    if params.budgets:
        used.append((f"max by (kind, budget) ({names.METRIC_BUDGET_USED}{{{OF}}})", "{{kind}} {{budget}}"))
    if measured:
        used.append((f"1 - clamp_min({names.RECORD_BUDGET_LEFT}{{{OF}}}, 0) or {ZERO}", "errors: {{objective}}"))
    if used:
        panels.append(
            bars(
                "Budgets used",
                "In the current window. Shared budgets include all their services.",
                "percentunit",
                *used,
                limits=(0.8, 1.0),
                span=HALF,
            )
        )
    if measured:
        windows = sorted({item.window_seconds for item in measured})
        panels.append(
            graph(
                "Burn rate of error budgets",
                "At 1 the error budget lasts exactly its window. Above 14.4 for an hour, the alert pages.",
                "suffix: x",
                *((_burn(window), "{{objective}}") for window in windows),
                span=HALF,
            )
        )
    available = [item.name for item in measured if isinstance(item, AvailabilityObjective)]
    if available:
        good = f"{names.RECORD_GOOD}{{{OF},objective=~`{'|'.join(available)}`}}"
        panels.append(
            figure(
                "Available, 24 hours",
                "Share of time in which calls were answered, for the strictest availability objective.",
                "percentunit",
                f"min(avg_over_time({good}[24h])) or {ZERO}",
                limits=(0.999, 0.99),
                span=THIRD,
            )
        )
    return panels


def _burn(seconds: int) -> str:
    window = promql.duration(slo.burns(seconds)[0].long)
    budget = f"{names.RECORD_ERROR_BUDGET}{{{OF},over=`{slo.over(seconds)}`}}"
    return f"{names.RECORD_BAD}{{{OF},window=`{window}`}} / on (objective) {budget} or {ZERO}"


LATENCIES: Final = choices("latency", {indicator.title: indicator.record for indicator in indicators.LATENCIES})


HISTOGRAMS: Final = choices("histogram", {"First tokens": names.METRIC_TTFT, "Answers": names.METRIC_DURATION})


def _latency() -> list[Panel]:
    answered = f"(sum({names.RECORD_ANSWERED}{{{OF}}}) > 0)"
    by_model = _rate(f"{names.METRIC_DURATION}_bucket", f"{MODEL}, le", f",{names.LABEL_M_ERROR}=``")
    return [
        repeated(LATENCIES, "Quantiles over 5 minutes.", *_quantiles("$latency"), unit="s", across=3),
        graph(
            "Where a call's time goes",
            "First token: a queue or longer prompts. Answer: a busy engine or longer answers.",
            "s",
            (f"{names.RECORD_TTFT_MEAN}{{{OF}}} or {ZERO}", "to the first token"),
            (f"{names.RECORD_WRITING_MEAN}{{{OF}}} or {ZERO}", "writing the answer"),
            stacked=True,
        ),
        graph(
            "Tokens per call",
            "Average of answered calls.",
            "short",
            (f"{names.RECORD_TOKENS}{{{OF}}} / on () group_left () {answered} or {ZERO}", _by(KIND)),
        ),
        graph(
            "Answer by model, p95",
            "A line above the others is a slow model.",
            "s",
            (f"histogram_quantile(0.95, {by_model})", _by(MODEL)),
            coarse=True,
        ),
        heat(HISTOGRAMS, "All calls. Points are traces of single calls.", "s", OF, across=2),
    ]


def _money(*, own_model: bool) -> list[Panel]:
    cost = f"(sum({names.RECORD_COST}{{{OF}}}) or {ZERO})"
    tokens = f"(sum({names.RECORD_TOKENS}{{{OF},{KIND}=~`input|output`}}) > 0)"
    of_gpus = (
        (f"GPUs: $ a million, {_by(KIND)}", f"max by ({KIND}) ({names.METRIC_GPU_TOKENS}{{{OF}}}) or {ZERO}", None),
        ("GPU-hours without a rate", f"max({names.METRIC_GPU_UNPRICED}{{{OF}}}) or {ZERO}", None),
    )
    return [
        figures(
            "Prices",
            "All tokens, cached ones included. Uncosted tokens need a ModelPrice.",
            ("$ per call", f"{cost} / {CALLS} or {ZERO}", None),
            ("$ per million tokens", f"1e6 * {cost} / {tokens} or {ZERO}", None),
            ("Uncosted tokens, 24 hours", f"sum(increase({names.METRIC_UNCOSTED}{{{OF}}}[24h])) or {ZERO}", None),
            *(of_gpus if own_model else ()),
        ),
        graph(
            "Tokens per second, by kind and model",
            "cached_input and cache_write are parts of input, reasoning is a part of output.",
            "short",
            (f"{_rate(names.METRIC_TOKENS, f'{KIND}, {MODEL}')} or {ZERO}", f"{_by(KIND)} {_by(MODEL)}"),
        ),
        graph(
            "Cost per hour, by model",
            "Priced by the proxies. Exact sums: kubectl llm cost.",
            "currencyUSD",
            (f"3600 * {_rate(names.METRIC_COST, MODEL)} or {ZERO}", _by(MODEL)),
            stacked=True,
        ),
        *([_gpu_cost()] if own_model else []),
    ]


def _gpu_cost() -> Panel:
    return graph(
        "GPU cost per hour, used and idle",
        "The last closed hour. Idle means that no call was in flight.",
        "currencyUSD",
        (f"max by (use) ({names.METRIC_GPU_COST}{{{OF}}}) or {ZERO}", "{{use}}"),
        stacked=True,
    )


def _errors() -> list[Panel]:
    status, error = names.LABEL_M_STATUS, names.LABEL_M_ERROR
    return [
        graph(
            "Calls per minute, by status and error",
            "429 is a rate limit of the provider. insufficient_quota is one of your budgets.",
            "reqpm",
            (f"60 * {_rate(names.METRIC_REQUESTS, f'{status}, {error}')}", f"{_by(status)} {_by(error)}"),
            span=HALF,
        ),
        graph(
            "Refused and unmeasured calls",
            "Calls per minute. Unmeasured calls passed without being understood.",
            "reqpm",
            (f"60 * {_rate(names.METRIC_REFUSED, 'budget')} or {ZERO}", "refused: {{budget}}"),
            (f"60 * {_rate(names.METRIC_UNMEASURED, 'reason')} or {ZERO}", "unmeasured: {{reason}}"),
            span=HALF,
        ),
    ]


# Of what an engine tells: how it is called, and the rest of the record's name.
ENGINE: Final = {
    "running": ("Running requests", "requests_running"),
    "waiting": ("Waiting requests", "requests_waiting"),
    "cache_used": ("KV cache (share)", "kv_cache_used:ratio"),
    "prefix_hits": ("Prefix hits (share)", "prefix_cache_hit:ratio5m"),
    "prompt_tokens": ("Prompt tokens/s", "prompt_tokens:rate5m"),
    "generation_tokens": ("Output tokens/s", "generation_tokens:rate5m"),
    "preemptions": ("Preemptions/s", "preemptions:rate5m"),
    "queue": ("Queue (p95 s)", "queue_seconds:p95_5m"),
    "prefill": ("Prefill (p95 s)", "prefill_seconds:p95_5m"),
    "decode": ("Decode (p95 s)", "decode_seconds:p95_5m"),
}
GPUS: Final = choices(
    "gpu",
    {
        "Utilisation (%)": "GPU_UTIL",
        "Memory used (MiB)": "FB_USED",
        "Memory free (MiB)": "FB_FREE",
        "Power (W)": "POWER_USAGE",
        "Temperature (°C)": "GPU_TEMP",
        "Last XID error": "XID_ERRORS",
    },
)


def _engine(engine: engines.Engine) -> dict[str, Any]:
    return choices("engine", dict(ENGINE[key] for key in ENGINE if key in engine.metrics))


def _of_engine(engine: engines.Engine) -> list[Panel]:
    return [
        repeated(
            _engine(engine),
            "Counted by the engine, calls that bypass the proxy included.",
            (f"{names.RECORD_ENGINE}$engine{{{OF}}} or {ZERO}", "$engine"),
            across=4,
        )
    ]


def _of_gpus(namespace: str) -> list[Panel]:
    return [
        repeated(
            GPUS,
            "GPUs of this service's pods.",
            (
                f"max by (pod, gpu, GPU_I_ID) (DCGM_FI_DEV_$gpu{{namespace=`{namespace}`}} {MINE})",
                "{{pod}} {{gpu}} {{GPU_I_ID}}",
            ),
            across=3,
        )
    ]


def _proxy(namespace: str) -> list[Panel]:
    return [
        graph(
            "Since the last report",
            "Every proxy reports at least once a minute.",
            "s",
            (f"time() - max by (pod) ({names.METRIC_LAST_REPORT}{{namespace=`{namespace}`}} {MINE})", "{{pod}}"),
        ),
        graph(
            "Lost or late",
            "Per minute: dropped spans, failed journal writes, unanswered requests.",
            "short",
            (f"60 * {names.RECORD_LOST}{{{OF}}} or {ZERO}", "{{what}}"),
        ),
    ]
