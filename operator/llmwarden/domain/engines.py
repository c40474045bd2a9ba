"""Which inference engine answers, told by the names on its `/metrics`, and how each of them says the same thing.

Every engine has its own words; `ENGINES` is the one table from our stable names (`llmservice:*`, recorded by the
PrometheusRule for all LLMServices) to theirs. A metric's name may have a prefix that its host adds: `kserve_` (KServe's
aggregator) or `ray_` (Ray, which also turns the colon into an underscore).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from llmwarden.api.v1alpha1.common import BackendType

_PREFIX: Final = "(?:kserve_|ray_)?"
_NUMBER: Final = re.compile(r"[0-9.]+(?:e[+-]?[0-9]+)?")  # a bucket's bound; +Inf is none


@dataclass(frozen=True, slots=True)
class Metric:
    """One of an engine's metrics: the names it goes by in its versions, newest first, without prefix; `labels` narrow it (PromQL matchers).

    `divisor` brings its value to our unit (seconds, ratios of 0 to 1).
    """

    names: tuple[str, ...]
    labels: str = ""
    divisor: float = 1.0

    @property
    def pattern(self) -> str:
        """A regular expression (RE2) for the names, as a `__name__` matcher takes it."""
        # Ray's exporter allows no colon in a name.
        return "(kserve_|ray_)?(" + "|".join(name.replace(":", "[:_]") for name in self.names) + ")"

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name that the pattern matches, the likeliest first."""
        return tuple(
            dict.fromkeys(
                f"{prefix}{spelled}"
                for name in self.names
                for spelled in (name, name.replace(":", "_"))
                for prefix in ("", "kserve_", "ray_")
            )
        )


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of engine. None: it does not say.

    `signature`: a metric that no other engine has. `paths`: where its metrics and its version are, relative to its origin.
    Gauges: `running`, `waiting`, `cache_used` (0 to 1). Counters: `requests`, `prompt_tokens`, `generation_tokens`, `preemptions`,
    `prefix_queries`, `prefix_hits`. Histograms in seconds: `ttft`, `tpot`, `duration`, `queue`, `prefill`, `decode`.
    """

    type: BackendType
    signature: str
    paths: tuple[str, ...] = ("/metrics",)
    version_path: str = ""
    version_field: str = "version"
    metrics: Mapping[str, Metric] = field(default_factory=dict)


def _metrics(**names: str | tuple[str, ...] | Metric) -> dict[str, Metric]:
    return {
        key: value if isinstance(value, Metric) else Metric((value,) if isinstance(value, str) else value)
        for key, value in names.items()
    }


ENGINES: Final[tuple[Engine, ...]] = (
    Engine(
        "VLLM",
        signature=r"vllm[:_]\w+",
        version_path="/version",
        metrics=_metrics(
            running="vllm:num_requests_running",
            waiting="vllm:num_requests_waiting",
            cache_used=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            requests="vllm:request_success_total",
            prompt_tokens="vllm:prompt_tokens_total",
            generation_tokens="vllm:generation_tokens_total",
            preemptions="vllm:num_preemptions_total",
            prefix_queries=("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
            prefix_hits=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
            ttft="vllm:time_to_first_token_seconds",
            tpot=("vllm:request_time_per_output_token_seconds", "vllm:time_per_output_token_seconds"),
            duration="vllm:e2e_request_latency_seconds",
            queue="vllm:request_queue_time_seconds",
            prefill="vllm:request_prefill_time_seconds",
            decode="vllm:request_decode_time_seconds",
        ),
    ),
    Engine(
        "SGLang",
        signature=r"sglang[:_]\w+",
        version_path="/get_server_info",
        metrics=_metrics(
            running="sglang:num_running_reqs",
            waiting="sglang:num_queue_reqs",
            cache_used="sglang:token_usage",
            requests="sglang:num_requests_total",
            prompt_tokens="sglang:prompt_tokens_total",
            generation_tokens="sglang:generation_tokens_total",
            preemptions="sglang:num_retractions_total",
            prefix_queries="sglang:prompt_tokens_total",
            prefix_hits="sglang:cached_tokens_total",
            ttft="sglang:time_to_first_token_seconds",
            tpot=("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
            duration="sglang:e2e_request_latency_seconds",
            queue="sglang:queue_time_seconds",
        ),
    ),
    Engine(
        "TGI",
        signature=r"tgi_\w+",
        version_path="/info",
        metrics=_metrics(
            running="tgi_batch_current_size",
            waiting="tgi_queue_size",
            requests="tgi_request_success",
            prompt_tokens="tgi_request_input_length_sum",
            generation_tokens="tgi_request_generated_tokens_sum",
            tpot="tgi_request_mean_time_per_token_duration",
            duration="tgi_request_duration",
            queue="tgi_request_queue_duration",
        ),
    ),
    Engine(
        "TensorRTLLM",
        signature=r"nv_trt_llm_\w+",
        version_path="/v2",
        metrics=_metrics(
            running=Metric(("nv_trt_llm_request_metrics",), 'request_type="active"'),
            waiting=Metric(("nv_trt_llm_request_metrics",), 'request_type="waiting"'),
            cache_used=Metric(("nv_trt_llm_kv_cache_block_metrics",), 'kv_cache_block_type="fraction"'),
            requests="nv_inference_request_success",
        ),
    ),
    Engine(
        "LlamaCpp",
        signature=r"llamacpp[:_]\w+",
        version_path="/props",
        version_field="build_info",
        metrics=_metrics(
            running="llamacpp:requests_processing",
            waiting="llamacpp:requests_deferred",
            cache_used="llamacpp:kv_cache_usage_ratio",
            prompt_tokens="llamacpp:prompt_tokens_total",
            generation_tokens="llamacpp:tokens_predicted_total",
        ),
    ),
    # Last: its names have no prefix of their own, and its containers carry vLLM or TensorRT-LLM inside.
    Engine(
        "NIM",
        signature=r"(?:num_requests_running|gpu_cache_usage_perc|num_request_max)",
        paths=("/v1/metrics", "/metrics"),
        version_path="/v1/version",
        version_field="release",
        metrics=_metrics(
            running="num_requests_running",
            waiting="num_requests_waiting",
            cache_used="gpu_cache_usage_perc",
            requests="request_success_total",
            prompt_tokens="prompt_tokens_total",
            generation_tokens="generation_tokens_total",
            ttft="time_to_first_token_seconds",
            tpot="time_per_output_token_seconds",
            duration="e2e_request_latency_seconds",
        ),
    ),
)

BY_TYPE: Final[Mapping[str, Engine]] = {engine.type: engine for engine in ENGINES}
_SIGNATURES: Final = tuple(
    (engine, re.compile(rf"^({_PREFIX}){engine.signature}(?:\{{| )", re.MULTILINE)) for engine in ENGINES
)


@dataclass(frozen=True, slots=True)
class Recognised:
    """What an exposition tells: whose it is, and the prefix that its host put before the names ("", "kserve_" or "ray_")."""

    type: BackendType
    prefix: str = ""
    missing: tuple[str, ...] = ()  # of the engine's vocabulary: what this version, or its flags, leave out
    queue_bounds: tuple[float, ...] = ()  # of its histogram of time in the queue, in seconds, rising, without +Inf


def recognise(exposition: str) -> Recognised | None:
    """Return which engine a Prometheus exposition is of; None where it is none that is known."""
    for engine, signature in _SIGNATURES:
        match = signature.search(exposition)
        if match is not None:
            return Recognised(
                engine.type, match.group(1), _missing(engine, exposition), _bounds(engine, "queue", exposition)
            )
    return None


def metrics_of(key: str) -> tuple[Metric, ...]:
    """Return what all engines call one thing: of those that are told apart by name alone one metric, of the others one each."""
    metrics = [engine.metrics[key] for engine in ENGINES if key in engine.metrics]
    plain = tuple(name for metric in metrics if not metric.labels for name in metric.names)
    return (*((Metric(plain),) if plain else ()), *(metric for metric in metrics if metric.labels))


def _missing(engine: Engine, exposition: str) -> tuple[str, ...]:
    return tuple(
        name
        for name, metric in engine.metrics.items()
        if re.search(rf"^{metric.pattern}(?:_bucket|_count|_sum)?(?:\{{| )", exposition, re.MULTILINE) is None
    )


def _bounds(engine: Engine, key: str, exposition: str) -> tuple[float, ...]:
    """Return the finite bounds of a histogram, as the engine has them: they differ by version, and some engines let flags set them."""
    metric = engine.metrics.get(key)
    if metric is None:
        return ()
    texts = re.findall(rf'^{metric.pattern}_bucket\{{[^}}]*\ble="([^"]+)"', exposition, re.MULTILINE)
    bounds = {float(match[-1]) for match in texts if _NUMBER.fullmatch(match[-1])}
    return tuple(sorted(bounds))
