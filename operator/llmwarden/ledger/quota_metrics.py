"""How full quotas are, as metrics: the fullest namespaces only, since whoever may make namespaces must not make series."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from llmwarden import names
from llmwarden.ledger.store import Quotas

SHOWN: Final = 20  # namespaces


class QuotaState:
    """A prometheus_client collector."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: registering must not read the state."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        used = GaugeMetricFamily(
            names.METRIC_LEDGER_QUOTA,
            f"Share of its quota of the ledger's rows that a namespace uses: of the {SHOWN} namespaces that use most.",
            labels=["namespace"],
        )
        shares = {namespace: self._quotas.share(namespace) for namespace in list(self._quotas.used)}
        for namespace in sorted(shares, key=lambda name: (-shares[name], name))[:SHOWN]:
            used.add_metric([namespace], shares[namespace])
        yield used
