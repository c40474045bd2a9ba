"""One vocabulary for all engines and proxies, `llmservice:*`: recording rules for all LLMServices at once.

Dashboards, alerts and people ask by these names, whatever an engine calls its metrics (`domain.engines` knows that); and a panel
over a thousand services reads one series of each, not all their buckets. Names follow Prometheus' `level:metric:operation`.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.domain import engines, indicators, upstream
from llmwarden.manifests import promql
from llmwarden.manifests.alerts.alert import ANY
from llmwarden.manifests.params import Params

WINDOW: Final = "5m"
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
# Of each of an engine's many histograms; what users feel is the proxies' to say.
ENGINE_QUANTILES: Final = {"p50": 0.5, "p95": 0.95}

_HISTOGRAMS: Final = {
    **{indicator.record: indicator.histogram for indicator in indicators.LATENCIES},
    "context_used_ratio": names.METRIC_CONTEXT,
}
_GAUGES: Final = {"running": "sum", "waiting": "sum", "cache_used": "max"}
GAUGE_NAMES: Final = {
    "running": names.RECORD_ENGINE_RUNNING,
    "waiting": names.RECORD_ENGINE_WAITING,
    "cache_used": names.RECORD_ENGINE_CACHE,
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


def calls() -> list[dict[str, Any]]:
    """Record what proxies count, of all services."""
    by_kind = f"{promql.BY}, {names.LABEL_M_TOKEN_TYPE}"
    answered = f'{ANY},{names.LABEL_M_STATUS}=~"2.."'
    return [
        _record(names.RECORD_REQUESTS, promql.rate(names.METRIC_REQUESTS, ANY, WINDOW)),
        _record(names.RECORD_ANSWERED, promql.rate(names.METRIC_REQUESTS, answered, WINDOW)),
        _record(names.RECORD_ERROR_RATIO, promql.error_ratio(ANY, WINDOW)),
        _record(names.RECORD_TOKENS, promql.rate(names.METRIC_TOKENS, ANY, WINDOW, by_kind)),
        _record(names.RECORD_COST, promql.rate(names.METRIC_COST, ANY, WINDOW)),
    ]


def lost() -> list[dict[str, Any]]:
    """Record what proxies lost or could not do. These counters know the pod only; which service's it is, its other series say."""
    pods = f"max by ({promql.BY}, pod) ({names.METRIC_IN_FLIGHT}{{{ANY}}})"
    parts = [
        f"label_replace(sum by ({promql.BY}) (0 * {pods} + on (namespace, pod) group_left () "
        f'sum by (namespace, pod) (rate({metric}[{WINDOW}]))), "what", "{what}", "", "")'
        for metric, what in (
            (names.METRIC_SPANS_DROPPED, "spans"),
            (names.METRIC_JOURNAL_ERRORS, "journal"),
            (names.METRIC_LEDGER_ERRORS, "ledger"),
        )
    ]
    return [_record(names.RECORD_LOST, "\nor ".join(parts))]


def latency() -> list[dict[str, Any]]:
    """Record quantiles and means of what proxies measure, of all services."""
    quantiles = [
        _record(f"{names.RECORD_PREFIX}{name}:{quantile}_5m", promql.quantile(q, metric, ANY, WINDOW))
        for name, metric in _HISTOGRAMS.items()
        for quantile, q in QUANTILES.items()
    ]
    tokens = f'sum by ({promql.BY}) ({names.RECORD_TOKENS}{{{names.LABEL_M_TOKEN_TYPE}="output"}})'
    return [
        *quantiles,
        # What an average call's time is made of: until the first token, and writing all of them.
        _record(names.RECORD_TTFT_MEAN, _mean(names.METRIC_TTFT)),
        _record(
            names.RECORD_WRITING_MEAN,
            f"{_mean(names.METRIC_TPOT)}\n* {tokens}\n/ ({names.RECORD_ANSWERED} > 0)",
        ),
    ]


def _mean(metric: str) -> str:
    return f"({promql.rate(f'{metric}_sum', ANY, WINDOW)} / ({promql.rate(f'{metric}_count', ANY, WINDOW)} > 0))"


def engine_figures() -> list[dict[str, Any]]:
    """Record what engines say of themselves, of all services.

    A service's type decides by which names its engine is read: an engine may have another one inside, and both sets of names on its page.
    """
    parts: dict[str, list[str]] = {}
    for engine in engines.ENGINES:
        for name, expr in _engine(engine):
            of_type = f'{names.RECORD_SPEC}{{engine="{engine.type}"}}'
            parts.setdefault(name, []).append(f"(({expr})\nand on ({promql.BY}) {of_type})")
    return [_record(name, "\nor ".join(exprs)) for name, exprs in parts.items()]


def short() -> list[dict[str, Any]]:
    """Record the names that guides use, as copies: sums over a service's pods keep what its labels tell apart."""
    records = []
    for name, metric in _SHORT.items():
        suffixes = ("_bucket", "_sum", "_count") if name in _SHORT_HISTOGRAMS else ("",)
        records += [
            _record(f"{name}{end}", f"sum without (pod, instance) ({metric}{end}{{{ANY}}})") for end in suffixes
        ]
    return records


def _record(name: str, expr: str) -> dict[str, Any]:
    return {"record": name, "expr": expr}


def _engine(engine: engines.Engine) -> list[tuple[str, str]]:
    rate = f"sum by ({promql.BY}) (rate({{}}[{WINDOW}]))"
    records = []
    for key, how in _GAUGES.items():
        if key in engine.metrics:
            records.append((GAUGE_NAMES[key], _of_all(engine.metrics[key], f"{how} by ({promql.BY}) ({{}})")))
    records += [
        (f"{names.RECORD_ENGINE}{key}:rate5m", _of_all(engine.metrics[key], rate))
        for key in _COUNTERS
        if key in engine.metrics
    ]
    if "prefix_hits" in engine.metrics:
        hits, queries = (_of_all(engine.metrics[key], rate) for key in ("prefix_hits", "prefix_queries"))
        records.append((names.RECORD_ENGINE_PREFIX_HITS, f"({hits})\n/ (({queries}) > 0)"))
    for key in _ENGINE_HISTOGRAMS:
        metric = engine.metrics.get(key)
        if metric is None or metric.divisor != 1.0:
            continue  # a counter of microseconds has no quantile
        for quantile, q in ENGINE_QUANTILES.items():
            form = f"histogram_quantile({q}, sum by ({promql.BY}, le) (rate({{}}[{WINDOW}])))"
            records.append(
                (f"{names.RECORD_ENGINE}{key}_seconds:{quantile}_5m", _of_all(metric, form, suffix="_bucket"))
            )
    return records


def _of_all(metric: engines.Metric, form: str, suffix: str = "") -> str:
    """Return a query for a metric of all services, under each spelling of each of its names: `form` has `{}` where the series' selector goes.

    Spelled out, not one regular expression: `rate` drops names, and one target that has a metric under two spellings would fail the rule for all.
    """
    matchers = f"{ANY},{metric.labels}" if metric.labels else ANY
    text = "\nor ".join(form.format(f"{name}{suffix}{{{matchers}}}") for name in metric.spellings)
    return text if metric.divisor == 1.0 else f"({text}) / {metric.divisor:g}"
