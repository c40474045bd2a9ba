"""Simulated series of many services, as OpenMetrics text: what their proxies, engines and GPUs say, and what our rules record of it.

One service is large (ten pods, two models) and sampled as often as Prometheus scrapes by default. Of the others, what is recorded is there once a
minute, and what proxies say every ten minutes (it makes the index as large as it would be); around now, where rules are evaluated, once a minute.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TextIO

from llmwarden import names

SCRAPE_SECONDS: Final = 15
RECORDED_SECONDS: Final = 60
SELDOM_SECONDS: Final = 600
OFTEN_SECONDS: Final = 60
LARGE_PODS: Final = 10
MODELS: Final = ("meta-llama/Llama-3.3-70B-Instruct", "Qwen/Qwen3-32B")
KINDS: Final = ("input", "cached_input", "cache_write", "output", "reasoning")
STATUSES: Final = (("200", ""), ("429", "rate_limit_exceeded"), ("500", "server_error"))
GPUS: Final = 8
# Medians in seconds (or shares, or tokens a second): the histograms' values lie around them.
HISTOGRAMS: Final = (
    (names.METRIC_DURATION, names.DURATION_BOUNDS, 3.0),
    (names.METRIC_TTFT, names.TTFT_BOUNDS, 0.4),
    (names.METRIC_TPOT, names.TPOT_BOUNDS, 0.02),
    (names.METRIC_CHUNK_TIME, names.TPOT_BOUNDS, 0.02),
    (names.METRIC_OUTPUT_RATE, names.OUTPUT_RATE_BOUNDS, 50.0),
    (names.METRIC_CONTEXT, names.CONTEXT_BOUNDS, 0.2),
)
GPU_METRICS: Final = (
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_XID_ERRORS",
)
OBJECTIVES: Final = ("first-token", "per-token", "answer", "errors")
# What no rule reads.
UNREAD: Final = (names.METRIC_CHUNK_TIME, names.METRIC_OUTPUT_RATE, "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_POWER_USAGE")
# Labels that a record has besides those of its service and its rule.
MORE_LABELS: Final[dict[str, tuple[dict[str, str], ...]]] = {
    "llmservice:tokens:rate5m": tuple({names.LABEL_M_TOKEN_TYPE: kind} for kind in KINDS),
    "llmservice:model_tokens:share1h": tuple({names.LABEL_M_REQUEST_MODEL: model} for model in MODELS),
    "llmservice:model_cost_usd_per_token:rate1h": tuple({names.LABEL_M_REQUEST_MODEL: model} for model in MODELS),
    names.RECORD_LOST: tuple({"what": what} for what in ("spans", "journal", "ledger")),
    **{
        record: tuple({"objective": name} for name in OBJECTIVES)
        for record in (names.RECORD_RATIO, names.RECORD_BAD, names.RECORD_BUDGET_LEFT)
    },
}
# Recorded only where something is wrong.
WRONG: Final = frozenset(
    {names.RECORD_BURN, names.RECORD_BURNING, names.RECORD_GPU_MEMORY, names.RECORD_GPU_XID, names.RECORD_GPU_HOT}
)


@dataclass(frozen=True, slots=True)
class Series:
    """One series: `rate` a second for a counter, else a value that moves a little."""

    name: str
    labels: dict[str, str]
    value: float
    counter: bool
    every: int  # seconds between two samples

    def write(self, file: TextIO, start: int, end: int, phase: int, often: range = range(0)) -> None:
        """Write the samples from `start` to before `end`, Unix seconds. Counters began at `phase` seconds of the day's count.

        In `often` what comes seldom comes at least as often as its step.
        """
        times: Iterable[int] = range(start, end, self.every)
        if self.every > OFTEN_SECONDS and often and not self.name.startswith(UNREAD):
            more = range(max(often.start, start), min(often.stop, end), often.step)
            times = sorted({*times, *more})
        inner = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        head = f"{self.name}{{{inner}}}"
        if self.counter:
            lines = [f"{head} {int(self.value * (at - phase))} {at}\n" for at in times]
        else:
            lines = [f"{head} {self.value * (1 + 0.2 * math.sin(at / 700 + phase)):.6g} {at}\n" for at in times]
        file.writelines(lines)


def place(number: int) -> tuple[str, str]:
    """Return namespace and name of a service: ten in a namespace. The first is the large one."""
    return f"team-{number // 10:03d}", f"service-{number:04d}"


def of_service(number: int, records: list[dict[str, Any]]) -> Iterator[Series]:
    """Yield all series of a service; `records` are the recording rules of one like it."""
    namespace, name = place(number)
    large = number == 0
    every = SCRAPE_SECONDS if large else SELDOM_SECONDS
    for pod in range(LARGE_PODS if large else 1):
        target = {
            "namespace": namespace,
            "pod": f"{name}-7d9c6b5f48-{pod:05d}",
            "instance": f"10.1.{number % 250}.{pod}:15099",
        }
        yield from _proxy(target, name, every, models=MODELS if large else MODELS[:1])
        yield from _gpus(target, every)
    mine = {"namespace": namespace, names.LABEL_M_SERVICE: name}
    for record in records:
        if record["record"] in WRONG:
            continue
        for more in MORE_LABELS.get(record["record"], ({},)):
            labels = {**record.get("labels", {}), **more, **mine}
            yield Series(record["record"], labels, 0.3, counter=False, every=RECORDED_SECONDS)
    for budget, kind in (("daily", "LLMService"), ("team", "LLMBudget")):
        labels = {**mine, "budget": budget, "kind": kind}
        yield Series(names.METRIC_BUDGET_USED, labels, 0.6, counter=False, every=RECORDED_SECONDS)
    if number % 20 == 0:
        labels = {**mine, "alertname": "LLMErrorRateHigh", "alertstate": "firing", "severity": "warning"}
        yield Series("ALERTS", labels, 1.0, counter=False, every=RECORDED_SECONDS)


def _proxy(target: dict[str, str], service: str, every: int, models: tuple[str, ...]) -> Iterator[Series]:
    mine = {**target, "job": "llmwarden-system/llmwarden-proxies", names.LABEL_M_SERVICE: service}

    def counter(name: str, value: float, **more: str) -> Series:
        return Series(name, {**mine, **more}, value, counter=True, every=every)

    yield Series(names.METRIC_IN_FLIGHT, mine, 3.0, counter=False, every=every)
    yield Series(names.METRIC_LAST_REPORT, target, 1.7e9, counter=False, every=every)
    for name in (names.METRIC_SPANS_DROPPED, names.METRIC_JOURNAL_ERRORS, names.METRIC_LEDGER_ERRORS):
        yield Series(name, target, 0.001, counter=True, every=every)
    for model in models:
        call = {
            names.LABEL_M_PROVIDER: "vllm",
            names.LABEL_M_OPERATION: "chat",
            names.LABEL_M_REQUEST_MODEL: model,
            names.LABEL_M_RESPONSE_MODEL: model,
        }
        for status, error in STATUSES:
            share = 1.0 if not error else 0.01
            yield counter(
                names.METRIC_REQUESTS, share, **call, **{names.LABEL_M_STATUS: status, names.LABEL_M_ERROR: error}
            )
        for kind in KINDS:
            yield counter(names.METRIC_TOKENS, 500.0, **call, **{names.LABEL_M_TOKEN_TYPE: kind})
        yield counter(names.METRIC_COST, 0.001, **call)
        yield counter(names.METRIC_UNCOSTED, 0.01, **call)
        for name, bounds, median in HISTOGRAMS:
            errors = [{names.LABEL_M_ERROR: error} for _, error in STATUSES] if name == names.METRIC_DURATION else [{}]
            for more in errors:
                for bound in bounds:
                    below = 1 / (1 + (median / bound) ** 2)
                    yield counter(f"{name}_bucket", below, **call, **more, le=repr(float(bound)))
                yield counter(f"{name}_bucket", 1.0, **call, **more, le="+Inf")
                yield counter(f"{name}_count", 1.0, **call, **more)
                yield counter(f"{name}_sum", median, **call, **more)


def _gpus(target: dict[str, str], every: int) -> Iterator[Series]:
    for gpu in range(GPUS):
        labels = {
            **target,
            "gpu": str(gpu),
            "UUID": f"GPU-{target['pod']}-{gpu}",
            "GPU_I_ID": "",
            "modelName": "NVIDIA H100",
        }
        for name in GPU_METRICS:
            yield Series(name, labels, 60.0, counter=False, every=every)
