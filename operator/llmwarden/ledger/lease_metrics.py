"""Metrics of who holds much of a shared budget and spends little: what the alert LLMBudgetHoarded is about."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from llmwarden import names
from llmwarden.ledger.core import Core


class LeaseState:
    """Figures as they are at the scrape: a prometheus_client collector. A few series for each shared budget, and none below a percent."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: registering must not read the state."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        unused = GaugeMetricFamily(
            names.METRIC_LEASE_UNUSED,
            "Share of a shared budget's limit that a namespace (or a service, in a namespace's budget) holds beyond what it used lately.",
            labels=["namespace", names.LABEL_M_SERVICE, "budget", "kind"],
        )
        standings = self._core.standings
        for key, standing in standings.by_key.items():
            limit = standings.bounds(key).limit
            for group, amount in standings.desk.holders.idle(key):
                namespace, _, service = group.name.partition("/")
                budget = standing.shared.budget
                unused.add_metric([namespace, service, budget.name, budget.scope], amount / limit)
        yield unused
