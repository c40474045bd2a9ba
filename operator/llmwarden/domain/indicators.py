"""The indicators of latency objectives, one row each. Rules, alerts, panels, status and the sidecar's contract read them here."""

from dataclasses import dataclass
from typing import Final, Literal

from llmwarden import names
from llmwarden.api.v1alpha1.common import Indicator

Short = Literal["ttft", "duration", "tpot"]


@dataclass(frozen=True, slots=True)
class LatencyIndicator:
    """One indicator.

    `name`: its name in a spec (`latency.indicator`). `short`: its name in our code and in the sidecar's contract (`thresholdsSeconds`).
    `histogram`: the proxies' metric, in seconds. `record`: the name of its recorded quantiles (`llmservice:RECORD:p95_5m`).
    `words`: its name in a sentence. `title`: its name over a panel. `alert`: fires if its 95th percentile is above an objective's threshold.
    """

    name: Indicator
    short: Short
    histogram: str
    record: str
    words: str
    title: str
    alert: str


LATENCIES: Final = (
    LatencyIndicator(
        name="TimeToFirstToken",
        short="ttft",
        histogram=names.METRIC_TTFT,
        record="ttft_seconds",
        words="the time to first token",
        title="Time to first token",
        alert="LLMTimeToFirstTokenHigh",
    ),
    LatencyIndicator(
        name="TimePerOutputToken",
        short="tpot",
        histogram=names.METRIC_TPOT,
        record="time_per_output_token_seconds",
        words="the time per output token",
        title="Time per output token",
        alert="LLMTimePerOutputTokenHigh",
    ),
    LatencyIndicator(
        name="RequestDuration",
        short="duration",
        histogram=names.METRIC_DURATION,
        record="request_duration_seconds",
        words="latency",
        title="Answer",
        alert="LLMLatencyHigh",
    ),
)
BY_NAME: Final = {item.name: item for item in LATENCIES}
BY_SHORT: Final = {item.short: item for item in LATENCIES}
