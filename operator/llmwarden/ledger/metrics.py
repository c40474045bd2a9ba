"""The ledger's own metrics: counters of what it did, and figures read from `core` at each scrape.

A shared budget has one series per member service, so that a service's own alert can select it by its labels. The scrape
must honour our labels: `namespace` is the service's, not the ledger's.
"""

import logging
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.ledger.core import Core
from llmwarden.ledger.rating.aggregate import Aggregate, Sums
from llmwarden.serving import guard

logger = logging.getLogger(__name__)

MOST_NAMESPACES = 100  # series of `folded_rows`: more namespaces are counted as one
REPORT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Counters; registered once per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "llmwarden_ledger_requests", "Requests by path and status.", ["path", "code"], registry=registry
        )
        self.reports = Counter("llmwarden_ledger_reports", "Reports by result.", ["result"], registry=registry)
        self.report_seconds = Histogram(
            "llmwarden_ledger_report_duration_seconds",
            "Seconds from a report's arrival to its answer, the commit included.",
            buckets=REPORT_BOUNDS,
            registry=registry,
        )
        self.rows = Counter("llmwarden_ledger_rows", "Rows of accepted reports.", registry=registry)
        self.backwards = Counter(
            "llmwarden_ledger_backward_rows",
            "Rows whose total is lower than before: late reports, or a proxy that lost its journal. Nothing is subtracted.",
            registry=registry,
        )
        self.odd_rows = Counter(
            "llmwarden_ledger_odd_rows",
            "Implausible rows that were left out, by reason. `changed`: rows that were kept with values cut to plausible ones.",
            ["reason"],
            registry=registry,
        )
        self.unknown_service_rows = Counter(
            "llmwarden_ledger_unknown_service_rows", "Rows of services that no longer exist.", registry=registry
        )
        self.unknown_price_rows = Counter(
            "llmwarden_ledger_unknown_price_rows",
            "Rows whose price id was never issued for their model. They are priced as if they had no id.",
            registry=registry,
        )
        self._quarantined_rows = Counter(
            "llmwarden_ledger_quarantined_rows",
            "Rows whose growth is implausible, by the namespace that reported them.",
            ["namespace"],
            registry=registry,
        )
        self.unreported = Counter(
            names.METRIC_LEDGER_UNREPORTED,
            "Pods that were lost without a last report. Their usage since the report before is unknown.",
            ["namespace", names.LABEL_M_SERVICE],
            registry=registry,
        )
        self.folded_rows = Counter(
            names.METRIC_LEDGER_FOLDED,
            "Rows of reports that count together with others because a quota of their pod or namespace is used up.",
            ["namespace"],
            registry=registry,
        )
        self.unremembered_rows = Counter(
            "llmwarden_ledger_unremembered_rows",
            "Those of the folded rows that are too many to be remembered: each newer report counts them in full.",
            registry=registry,
        )
        self._namespaces: set[str] = set()
        self.long_polls = Gauge("llmwarden_ledger_long_polls", "Proxies that wait in a long poll.", registry=registry)

    def folded(self, namespace: str, rows: int, unremembered: int) -> None:
        """Count a report's rows that count together with others. None is a series, too: from nothing to the first rows is no increase."""
        if namespace not in self._namespaces and len(self._namespaces) >= MOST_NAMESPACES:
            namespace = names.FOLDED
        self._namespaces.add(namespace)
        self.folded_rows.labels(namespace).inc(rows)
        self.unremembered_rows.inc(unremembered)

    def quarantined(self, namespace: str, pod: str, rows: int) -> None:
        """Count rows that are quarantined, and say so."""
        if rows:
            logger.warning("pod %s/%s reported more than is plausible: %d rows are quarantined", namespace, pod, rows)
            self._quarantined_rows.labels(namespace).inc(rows)

    def answered(self, path: str, status: int, code: str, seconds: float) -> None:
        """Count a request; `path` is one of the table of endpoints, `code` that of its refusal ("" for none)."""
        self.requests.labels(path, str(status)).inc()
        if path == wire.REPORT_PATH and code != guard.NOT_FOUND:  # by another method it is no report
            self.reports.labels(code or "accepted").inc()
            self.report_seconds.observe(seconds)


class State:
    """Figures as they are at the scrape: a prometheus_client collector."""

    def __init__(self, core: Core, synced: Callable[[], Mapping[str, bool]], database_bytes: Callable[[], int]) -> None:
        """Take what tells, by kind, whether it has been read, and what tells the size of the database."""
        self._core = core
        self._synced = synced
        self._database_bytes = database_bytes

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: registering must not read the state."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield from self._budgets()
        core = self._core
        uncosted = GaugeMetricFamily(
            "llmwarden_ledger_uncosted_tokens",
            "Tokens of a service that have no price, in total.",
            labels=["namespace", names.LABEL_M_SERVICE],
        )
        for name in sorted(core.history.aggregate.services):
            namespace, _, service = name.partition("/")
            uncosted.add_metric([namespace, service], core.history.aggregate.total(name).uncosted)
        yield uncosted
        yield from self._corrected()
        yield CounterMetricFamily(
            "llmwarden_ledger_rerated_usd",
            "US dollars by which new prices changed past spending, up or down.",
            value=core.history.rerated_picodollars / names.PICODOLLARS,
        )
        yield CounterMetricFamily(
            "llmwarden_ledger_trued_up_usd",
            "US dollars by which the cost of closed GPU hours differs from what their tokens were charged before.",
            value=core.history.trued_up_picodollars / names.PICODOLLARS,
        )
        synced = GaugeMetricFamily(
            "llmwarden_ledger_informer_synced", "1 if a watched kind has been read.", labels=["kind"]
        )
        for kind, done in self._synced().items():
            synced.add_metric([kind], float(done))
        yield synced
        for name, text, value in (
            ("services", "LLMServices that exist.", len(core.view.services)),
            ("budgets", "Budgets that exist.", len(core.view.budgets)),
            (
                "invalid_objects",
                "Invalid objects that are ignored, in whole or in part.",
                len(core.view.invalid),
            ),
            ("reporting_pods", "Pods that reported or asked recently.", len(core.usage.presence.by_pod)),
            ("prices_handed_out", "Prices of models that were ever issued.", len(core.history.prices)),
            ("contested_models", "Models with more than one ModelPrice.", core.history.catalogue.contested),
            (
                "rounded_prices",
                "Published prices that are finer than one picodollar per token.",
                core.history.catalogue.rounded,
            ),
            ("database_bytes", "Size of the database in bytes, its log included.", self._database_bytes()),
        ):
            yield GaugeMetricFamily(f"llmwarden_ledger_{name}", text, value=float(value))

    def _corrected(self) -> Iterator[Metric]:
        aggregate = self._core.history.aggregate
        figures: tuple[tuple[str, str, Aggregate, Callable[[Sums], float]], ...] = (
            (
                names.METRIC_LEDGER_QUARANTINED,
                "Tokens that a service's pods reported and that are implausible, neither released nor written off.",
                aggregate.quarantined,
                lambda sums: sums.counts.budgeted_tokens,
            ),
            (
                names.METRIC_LEDGER_QUARANTINED_REQUESTS,
                "Calls that a service's pods reported and that are implausible, neither released nor written off.",
                aggregate.quarantined,
                lambda sums: sums.counts.requests,
            ),
            (
                names.METRIC_LEDGER_QUARANTINED_USD,
                "What quarantined usage of a service costs, in US dollars.",
                aggregate.quarantined,
                lambda sums: sums.picodollars / names.PICODOLLARS,
            ),
            (
                names.METRIC_LEDGER_WRITTEN_OFF_USD,
                "What the platform wrote off of a service's usage, in US dollars.",
                aggregate.written_off,
                lambda sums: -sums.picodollars / names.PICODOLLARS,
            ),
        )
        for name, text, of, figure in figures:
            metric = GaugeMetricFamily(name, text, labels=["namespace", names.LABEL_M_SERVICE])
            for key in sorted(of.services):
                metric.add_metric([*key.split("/")], figure(of.total(key)))
            yield metric

    def _budgets(self) -> Iterator[Metric]:
        labels = ["namespace", names.LABEL_M_SERVICE, "budget", "kind"]
        used = GaugeMetricFamily(
            names.METRIC_BUDGET_USED, "Share of a budget that is spent in its current window.", labels=labels
        )
        limit = GaugeMetricFamily(
            names.METRIC_BUDGET_LIMIT, "Limit of a budget, in US dollars or tokens.", labels=[*labels, "unit"]
        )
        exceeded = GaugeMetricFamily(
            names.METRIC_BUDGET_EXCEEDED,
            "1 if a budget is used up: its limit is reached, or the rest is too small for the calls that arrive.",
            labels=labels,
        )
        for standing in self._core.standings.by_key.values():
            budget = standing.shared.budget
            amount = budget.limit / names.PICODOLLARS if budget.unit == "USD" else float(budget.limit)
            for member in standing.shared.members:
                if member not in self._core.view.services:
                    continue  # it is gone: nobody's alert selects it
                namespace, _, service = member.partition("/")
                values = [namespace, service, budget.name, budget.scope]
                used.add_metric(values, standing.spent / budget.limit)
                exceeded.add_metric(values, float(self._core.standings.shown_state(standing) == "Exceeded"))
                limit.add_metric([*values, budget.unit], amount)
        yield used
        yield exceeded
        yield limit
