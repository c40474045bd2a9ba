"""Providers' figures beside ours on /metrics: of the newest day that is compared."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from llmwarden import names
from llmwarden.contracts.reconciliation import DRIFTS, Account, Day


class AccountState:
    """A prometheus_client collector. `shown` gives what was last put together, by account."""

    def __init__(self, shown: Callable[[], Mapping[str, Account]]) -> None:
        self._shown = shown

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: registering must not read the state."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        labels = ["account", names.LABEL_M_PROVIDER]
        cost = GaugeMetricFamily(
            names.METRIC_PROVIDER_COST,
            "US dollars of the newest UTC day that is compared: billed by the provider, or counted by the ledger.",
            labels=[*labels, "source"],
        )
        tokens = GaugeMetricFamily(
            names.METRIC_PROVIDER_TOKENS,
            "Input and output tokens of that day: billed by the provider, or counted by the ledger.",
            labels=[*labels, "source"],
        )
        drift = GaugeMetricFamily(
            names.METRIC_PROVIDER_DRIFT,
            "1 if the two differ by more than the tolerance. `verdict` says how: ProviderHasMore, LedgerHasMore, ProviderDearer, LedgerDearer.",
            labels=[*labels, "verdict"],
        )
        read = GaugeMetricFamily(
            names.METRIC_PROVIDER_READ, "When the provider last answered, in Unix seconds; 0 if never.", labels=labels
        )
        for name, account in sorted(self._shown().items()):
            values = [name, account.provider]
            read.add_metric(values, account.read_at.timestamp() if account.read_at else 0.0)
            day = compared(account)
            if day is None:
                continue
            for source, side in (("provider", day.provider), ("ledger", day.ledger)):
                cost.add_metric([*values, source], side.picodollars / names.PICODOLLARS)
                tokens.add_metric([*values, source], side.tokens)
            for verdict in sorted(DRIFTS):
                drift.add_metric([*values, verdict], float(verdict == day.verdict))
        yield from (cost, tokens, drift, read)


def compared(account: Account) -> Day | None:
    """The newest day that could be compared."""
    return next((day for day in account.days if day.verdict != "Partial"), None)
