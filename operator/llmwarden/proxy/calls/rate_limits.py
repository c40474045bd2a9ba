"""What the upstream's answers say about its rate limits, by model, until somebody scrapes it."""

import time

from llmwarden.proxy.calls import signals
from llmwarden.proxy.seam import Header
from llmwarden.proxy.telemetry.metrics import Metrics


class RateLimits:
    """Remembers the headers as they come, and reads them when `/metrics` is asked for: a call pays for remembering only."""

    def __init__(self, service: str, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics
        self._latest: dict[str, tuple[list[Header], float]] = {}  # by model: the headers, and when they came
        metrics.before_scrape.append(self.show)

    def note(self, model: str, limits: list[Header]) -> None:
        """Remember the rate limits of one answer."""
        model = self._metrics.capped(model)
        latest = self._latest.get(model)
        if latest is not None and len(latest[0]) > len(limits):  # what is missing now came a moment ago
            present = {header[0] for header in limits}
            limits = limits + [header for header in latest[0] if header[0] not in present]
        self._latest[model] = (limits, time.time())

    def show(self) -> None:
        """Set the gauges."""
        metrics = self._metrics
        for model, (limits, at) in self._latest.items():
            for name, _, value in limits:
                limit = signals.RATE_LIMITS[name]
                number = signals.limit_value(limit, value, at)
                if number is not None:
                    family = metrics.limit_reset if limit.reset else metrics.limit_remaining
                    family.labels(self._service, model, limit.what).set(number)
        self._latest.clear()
