"""What is measured, as status shows it: rounded, so that noise is no write."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Final, NamedTuple

from llmwarden.api.v1alpha1 import llmservice as api
from llmwarden.api.v1alpha1.common import Money
from llmwarden.contracts import ledger as wire
from llmwarden.domain import money, upstream
from llmwarden.snapshot import Engine, Figures, Quantiles, Snapshot
from llmwarden.status.gpus import gpus

MINUTE: Final = 60


class Cost(NamedTuple):
    """What a service cost, in picodollars, ready to be printed. None where it is unknown."""

    total: int | None
    per_request: int | None  # rounded to three significant digits


def cost(day: wire.UsageTotals) -> Cost:
    """Return what a day's usage cost in all and per call."""
    # Unknown is not zero: where nothing has a price, there is no cost to show.
    if day.picodollars <= 0 and day.uncosted_tokens:
        return Cost(None, None)
    return Cost(day.picodollars, _three_digits(day.picodollars, day.requests) if day.requests else None)


def _money(picodollars: int | None) -> Money | None:
    return None if picodollars is None else Money(amount=money.to_decimal(picodollars))


def usage(used: wire.ServiceUsage) -> api.UsageStatus:
    """Show what the ledger reports of the last day."""
    day = used.last24h
    spent = cost(day)
    return api.UsageStatus(
        requests=day.requests,
        errors=day.errors,
        tokens=api.TokenCounts(
            input=day.tokens.input,
            cached_input=day.tokens.cached_input,
            cache_write=day.tokens.cache_write,
            output=day.tokens.output,
            reasoning=day.tokens.reasoning,
        ),
        cost=_money(spent.total),
        cost_per_request=_money(spent.per_request),
        uncosted_tokens=day.uncosted_tokens,
        uncosted_models=used.uncosted_models,
        rerated=rerated(used.rerated),
        gpu=gpus(used.gpu),
    )


def rerated(rerating: wire.Rerating | None) -> api.ReratedStatus | None:
    """Show what a new price changed in history."""
    if rerating is None:
        return None
    return api.ReratedStatus(at=rerating.at, change=money.to_decimal(rerating.picodollars), tokens=rerating.tokens)


def latency(figures: Figures) -> api.LatencyStatus | None:
    """Show quantiles; None where none is known."""
    shown = api.LatencyStatus(
        time_to_first_token=_quantiles(figures.ttft),
        request_duration=_quantiles(figures.duration),
        time_per_output_token=_quantiles(figures.tpot),
    )
    return shown if shown.dump() else None


def _quantiles(values: Quantiles) -> api.Quantiles | None:
    shown = api.Quantiles(
        p50_milliseconds=milliseconds(values.p50),
        p95_milliseconds=milliseconds(values.p95),
        p99_milliseconds=milliseconds(values.p99),
    )
    return shown if shown.dump() else None


def milliseconds(seconds: float | None) -> int | None:
    """Round to two significant digits: what a histogram's buckets can tell at best."""
    return None if seconds is None else int(two_digits(Decimal(str(seconds)) * 1000))


def two_digits(value: Decimal) -> Decimal:
    """Round to two significant digits, half up."""
    if not value:
        return Decimal(0)
    return value.quantize(Decimal(1).scaleb(value.adjusted() - 1), rounding=ROUND_HALF_UP)


def percent(ratio: float | None) -> str | None:
    """Show a ratio in percent, to a tenth."""
    return None if ratio is None else _plain(_tenths(Decimal(str(ratio)) * 100))


def _tenths(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.1"), rounding=ROUND_HALF_UP)


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def throughput(figures: Figures) -> api.ThroughputStatus | None:
    """Show rates to two digits; None where none is known."""
    shown = api.ThroughputStatus(
        requests_per_minute=rate(figures.requests_per_second, MINUTE),
        output_tokens_per_second=rate(figures.output_tokens_per_second, 1),
    )
    return shown if shown.dump() else None


def rate(value: float | None, scale: int) -> str | None:
    """Round a rate to two significant digits, once multiplied by `scale`."""
    return None if value is None else _plain(two_digits(Decimal(str(value)) * scale))


def engine(snapshot: Snapshot, old: api.LLMServiceStatus) -> api.EngineStatus | None:
    """Show which engine it is, and its load."""
    shown = _load(snapshot.figures.engine) if snapshot.prometheus.fresh else old.engine or api.EngineStatus()
    identity = snapshot.engine
    if identity is not None:
        shown = shown.replace(
            type=identity.type or None, version=identity.version or None, message=identity.message or None
        )
    elif old.engine is not None:
        shown = shown.replace(type=old.engine.type, version=old.engine.version, message=old.engine.message)
    return shown if shown.dump() else None


def _load(engine: Engine) -> api.EngineStatus:
    return api.EngineStatus(
        requests_running=None if engine.running is None else round(engine.running),
        requests_waiting=None if engine.waiting is None else round(engine.waiting),
        kv_cache_used_percent=None if engine.cache_used is None else round(engine.cache_used * 100),
        prefix_cache_hit_percent=None if engine.prefix_hits is None else round(engine.prefix_hits * 100),
    )


def _three_digits(picodollars: int, calls: int) -> int:
    """Return the cost per call in picodollars, rounded to three significant digits."""
    each = picodollars // calls
    digits = len(str(each)) - 3
    return each if digits <= 0 else (each + 10**digits // 2) // 10**digits * 10**digits


def workload(snapshot: Snapshot, old: api.LLMServiceStatus) -> api.WorkloadStatus:
    """Show which pods are measured, and which are not and why."""
    pods = snapshot.pods
    # An engine elsewhere serves others, too: what it counts is not this service's.
    coverage = snapshot.figures.coverage if upstream.interception(snapshot.service) == "Port" else None
    percent = None if coverage is None else min(100, int(coverage * 100))
    if not snapshot.prometheus.fresh:
        percent = old.workload.coverage_percent if old.workload is not None else None
    lacking = [pod for pod in pods if pod.state != "Metered"]
    return api.WorkloadStatus(
        selected=len(pods),
        metered=len(pods) - len(lacking),
        coverage_percent=percent,
        unmetered=tuple(
            api.UnmeteredPod(pod=pod.name, reason=pod.reason, remedy=pod.remedy)
            for pod in sorted(lacking, key=lambda pod: (pod.state, pod.name))
        ),
    )


def human_count(value: int) -> str:
    """Return what a person reads: "950", "12.3k", "4.6M"."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{_plain(_tenths(Decimal(value) / size))}{unit}"
    return str(value)
