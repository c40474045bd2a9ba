"""One vocabulary for all engines and proxies, `llmservice:*`: recording rules beside each LLMService.

Dashboards, alerts and people ask by these names, whatever an engine calls its metrics (`domain.engines` knows that); and a panel
over a thousand services reads one series of each, not all their buckets. Names follow Prometheus' `level:metric:operation`.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.desired import promql
from llmwarden.desired.params import Params
from llmwarden.domain import engines, upstream

WINDOW: Final = "5m"
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
# Of each of an engine's many histograms; what users feel is the proxies' to say.
ENGINE_QUANTILES: Final = {"p50": 0.5, "p95": 0.95}

_HISTOGRAMS: Final = {
    "ttft_seconds": names.METRIC_TTFT,
    "request_duration_seconds": names.METRIC_DURATION,
    "time_per_output_token_seconds": names.METRIC_TPOT,
    "context_used_ratio": names.METRIC_CONTEXT,
}
_GAUGES: Final = {"running": "sum", "waiting": "sum", "cache_used": "max"}
GAUGE_NAMES: Final = {
    "running": "llmservice:engine_requests_running",
    "waiting": "llmservice:engine_requests_waiting",
    "cache_used": "llmservice:engine_kv_cache_used:ratio",
}
_COUNTERS: Final = ("requests", "prompt_tokens", "generation_tokens", "preemptions")
_ENGINE_HISTOGRAMS: Final = ("ttft", "tpot", "duration", "queue", "prefill", "decode")
_SHORT: Final = {
    "llm_requests_total": names.METRIC_REQUESTS,
    "llm_tokens_total": names.METRIC_TOKENS,
    "llm_cost_usd_total": names.METRIC_COST,
    "llm_request_duration_seconds": names.METRIC_DURATION,
    "llm_time_to_first_token_seconds": names.METRIC_TTFT,
}
_SHORT_HISTOGRAMS: Final = frozenset({"llm_request_duration_seconds", "llm_time_to_first_token_seconds"})


def records(params: Params) -> list[dict[str, Any]]:
    """Build the recording rules of one service: its proxies' figures, and its engine's where it has one."""
    found = [_record(name, expr) for name, expr in _proxies(params)]
    engine = engine_of(params)
    if engine is not None:
        found += [_record(name, expr) for name, expr in _engine(params, engine)]
    if params.settings.short_metric_names:
        found += _short(params)
    return found


def engine_of(params: Params) -> engines.Engine | None:
    """Return the engine whose metrics are scraped beside a service; None for applications, and for engines without metrics."""
    return upstream.scraped_engine(params.service)


def expression(params: Params, metric: engines.Metric, form: str, *more: str, suffix: str = "") -> str:
    """Return a query for a metric under each of its names: `form` has `{}` where the series' selector goes, `more` are matchers in it.

    Alternatives are joined by `or`, not by one regular expression: `rate` drops names, and two of them would collide.
    """
    matchers = promql.selector(params.service.metadata.namespace, params.service.metadata.name, *more)
    if metric.labels:
        matchers = f"{matchers},{metric.labels}"
    parts = []
    for name in metric.names:
        pattern = engines.Metric((name,)).pattern
        parts.append(form.format(f'{{__name__=~"{pattern}{suffix}",{matchers}}}'))
    text = "\nor ".join(parts)
    if metric.divisor != 1.0:
        text = f"({text}) / {metric.divisor:g}"
    return text


def _record(name: str, expr: str) -> dict[str, Any]:
    return {"record": name, "expr": expr}


def _proxies(params: Params) -> list[tuple[str, str]]:
    of = promql.selector(params.service.metadata.namespace, params.service.metadata.name)
    by_kind = f"{promql.BY}, {names.LABEL_M_TOKEN_TYPE}"
    found = [
        ("llmservice:requests:rate5m", promql.rate(names.METRIC_REQUESTS, of, WINDOW)),
        (
            names.RECORD_ANSWERED,
            promql.rate(names.METRIC_REQUESTS, f'{of},{names.LABEL_M_STATUS}=~"2.."', WINDOW),
        ),
        ("llmservice:errors:ratio5m", promql.error_ratio(of, WINDOW)),
        ("llmservice:tokens:rate5m", promql.rate(names.METRIC_TOKENS, of, WINDOW, by_kind)),
        ("llmservice:cost_usd:rate5m", promql.rate(names.METRIC_COST, of, WINDOW)),
    ]
    for name, metric in _HISTOGRAMS.items():
        found += [
            (f"llmservice:{name}:{quantile}_5m", promql.quantile(q, metric, of, WINDOW))
            for quantile, q in QUANTILES.items()
        ]
    return found


def _engine(params: Params, engine: engines.Engine) -> list[tuple[str, str]]:
    found = []
    for key, how in _GAUGES.items():
        if key in engine.metrics:
            found.append((GAUGE_NAMES[key], expression(params, engine.metrics[key], f"{how} by ({promql.BY}) ({{}})")))
    for key in _COUNTERS:
        if key in engine.metrics:
            form = f"sum by ({promql.BY}) (rate({{}}[{WINDOW}]))"
            found.append((f"llmservice:engine_{key}:rate5m", expression(params, engine.metrics[key], form)))
    if "prefix_hits" in engine.metrics:
        form = f"sum by ({promql.BY}) (rate({{}}[{WINDOW}]))"
        hits = expression(params, engine.metrics["prefix_hits"], form)
        queries = expression(params, engine.metrics["prefix_queries"], form)
        found.append(("llmservice:engine_prefix_cache_hit:ratio5m", f"({hits})\n/ (({queries}) > 0)"))
    for key in _ENGINE_HISTOGRAMS:
        metric = engine.metrics.get(key)
        if metric is None or metric.divisor != 1.0:
            continue  # a counter of microseconds has no quantile
        for quantile, q in ENGINE_QUANTILES.items():
            form = f"histogram_quantile({q}, sum by ({promql.BY}, le) (rate({{}}[{WINDOW}])))"
            name = f"llmservice:engine_{key}_seconds:{quantile}_5m"
            found.append((name, expression(params, metric, form, suffix="_bucket")))
    return found


def _short(params: Params) -> list[dict[str, Any]]:
    """The names that guides use, as copies: sums over a service's pods keep what its labels tell apart."""
    of = promql.selector(params.service.metadata.namespace, params.service.metadata.name)
    found = []
    for name, metric in _SHORT.items():
        suffixes = ("_bucket", "_sum", "_count") if name in _SHORT_HISTOGRAMS else ("",)
        found += [_record(f"{name}{end}", f"sum without (pod, instance) ({metric}{end}{{{of}}})") for end in suffixes]
    return found
