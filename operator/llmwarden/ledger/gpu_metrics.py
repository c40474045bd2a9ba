"""What GPUs cost, as metrics: figures of the newest closed hour, the same on every replica and after every restart."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from llmwarden import names
from llmwarden.ledger.core import Core

MILLION = 10**6


class GpuState:
    """A prometheus_client collector. A shown figure is known: what is not has no series."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: registering must not read the state."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        labels = ["namespace", names.LABEL_M_SERVICE]
        cost = GaugeMetricFamily(
            names.METRIC_GPU_COST,
            "US dollars that a service's GPUs cost in the last closed hour, used by calls or idle.",
            labels=[*labels, "use"],
        )
        tokens = GaugeMetricFamily(
            names.METRIC_GPU_TOKENS,
            "US dollars per million tokens by GPU-hours: the rate at which calls are charged now.",
            labels=[*labels, names.LABEL_M_TOKEN_TYPE],
        )
        unpriced = GaugeMetricFamily(
            names.METRIC_GPU_UNPRICED,
            "GPU-hours of the last closed hour without a known rate.",
            labels=labels,
        )
        gpu = self._core.history.gpu
        for service in gpu.services():
            values = list(service.split("/", 1))
            share = gpu.newest(service)
            if share is not None:
                unpriced.add_metric(values, share.unpriced_gpu_ms / 3_600_000)
                if not share.unpriced_gpu_ms:
                    cost.add_metric([*values, "used"], (share.cost - share.idle) / names.PICODOLLARS)
                    cost.add_metric([*values, "idle"], share.idle / names.PICODOLLARS)
            present = gpu.present(service)
            if present is not None and (share is not None or service in self._core.view.services):
                tokens.add_metric([*values, "input"], present.input * MILLION / names.PICODOLLARS)
                tokens.add_metric([*values, "output"], present.output * MILLION / names.PICODOLLARS)
        yield cost
        yield tokens
        yield unpriced
