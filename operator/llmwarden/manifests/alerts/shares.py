"""What is good and what there is of it, as PromQL, for each kind of objective that is a share.

Calls are counted: both are rates of counters, and a share over any window is one by the other. Time is judged at each evaluation: good is 1 or 0 and
the whole is 1, so that the same sums over the same records give a share of time. A kind that is added (quality) is one more case here.
"""

from typing import Final

from llmwarden import names
from llmwarden.domain import indicators
from llmwarden.domain.objectives import (
    AvailabilityObjective,
    CacheObjective,
    ContextObjective,
    LatencyObjective,
    QueueObjective,
    Share,
)
from llmwarden.manifests import promql
from llmwarden.manifests.alerts import vocabulary
from llmwarden.manifests.params import Params

FAILING: Final = "5m"  # calls come, and so long not one of them is answered
REMEMBERED: Final = "1d"  # for how long Prometheus may be away without an outage being forgotten


def good(params: Params, objective: Share, window: str) -> str:
    """Return the rate of good calls over a window; for a share of time, whether it is good now (1 or 0)."""
    of = _of(params)
    match objective:
        case LatencyObjective():
            metric = indicators.BY_NAME[objective.indicator].histogram
            return promql.rate(f"{metric}_bucket", f"{of},{promql.bound(objective.threshold_seconds)}", window)
        case ContextObjective():
            metric = f"{names.METRIC_CONTEXT}_bucket"
            return promql.rate(metric, f"{of},{promql.bound(objective.threshold_ratio)}", window)
        case QueueObjective():
            return _queue(params, window, "_bucket", promql.bound(objective.threshold_seconds))
        case AvailabilityObjective():
            return _available(of, objective)
        case CacheObjective():
            return f"{names.RECORD_ENGINE_CACHE}{{{of}}} <= bool {objective.threshold_ratio!r}"
        case _:
            answered = promql.rate(names.METRIC_REQUESTS, f'{of},{names.LABEL_M_ERROR}=""', window)
            # Where every call fails there is no series of good ones: that is none, not unknown.
            return f"({answered}) or 0 * ({total(params, objective, window)})"


def total(params: Params, objective: Share, window: str) -> str:
    """Return the rate of all calls over a window; for a share of time, 1 wherever it can be judged."""
    of = _of(params)
    match objective:
        case LatencyObjective():
            return promql.rate(f"{indicators.BY_NAME[objective.indicator].histogram}_count", of, window)
        case ContextObjective():
            return promql.rate(f"{names.METRIC_CONTEXT}_count", of, window)
        case QueueObjective():
            return _queue(params, window, "_count")
        case AvailabilityObjective():
            return _judged(of, objective)
        case CacheObjective():
            return f"{names.RECORD_ENGINE_CACHE}{{{of}}} >= bool 0"
        case _:
            return promql.rate(names.METRIC_REQUESTS, of, window)


def _available(of: str, objective: AvailabilityObjective) -> str:
    """Whether calls are answered: also 0 where there is no series at all, which is what `absent` is asked for elsewhere."""
    coming = f"sum(increase({names.METRIC_REQUESTS}{{{of}}}[{FAILING}])) > 0"
    quiet = promql.duration(objective.quiet_seconds)
    return (
        f"count(\n  ({_answered(of, quiet)})\n  unless (({coming}) unless ({_answered(of, FAILING)}))\n)\nor vector(0)"
    )


def _judged(of: str, objective: AvailabilityObjective) -> str:
    """1 from the first answered call on, and then for good, by what was recorded before: a service that nobody has called yet is no outage."""
    begun = f'max(max_over_time({names.RECORD_TOTAL}{{{of},objective="{objective.name}"}}[{REMEMBERED}]))'
    return f"count({_answered(of, promql.duration(objective.quiet_seconds))})\nor {begun}"


def _answered(of: str, window: str) -> str:
    return f'sum(increase({names.METRIC_REQUESTS}{{{of},{names.LABEL_M_ERROR}=""}}[{window}])) > 0'


def _queue(params: Params, window: str, suffix: str, *more: str) -> str:
    """Over the engine's own histogram, under each of its names."""
    form = f"sum by ({promql.BY}) (rate({{}}[{window}]))"
    engine = vocabulary.engine_of(params)
    if engine is None:
        message = f"{params.service.key} has no engine whose queue could be measured"
        raise LookupError(message)
    return vocabulary.expression(params, engine.metrics["queue"], form, *more, suffix=suffix)


def _of(params: Params) -> str:
    return promql.selector(params.service.metadata.namespace, params.service.metadata.name)
