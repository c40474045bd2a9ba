"""Prometheus metrics of the proxy (docs/metrics.md), with children kept at hand.

`labels()` costs more than the observation itself, so the children of one (service, provider, operation, models) are made once.
Models are capped: names come from outside, and each would be a series for ever.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from llmwarden import names
from llmwarden.contracts.ledger import Tokens
from llmwarden.contracts.sidecar import Route
from llmwarden.proxy.record import Record
from llmwarden.proxy.telemetry import registry
from llmwarden.proxy.telemetry.registry import Counter, Distribution, Gauge, Histogram, Registry, Renamed, Value

OTHER: Final = "other"
_NANO: Final = 1e9
_RESERVED: Final = 10  # models that the ledger knows, as a multiple of the cap for all others
_ERRORS: Final = 50  # distinct error types per series

_CALL_LABELS: Final = (
    names.LABEL_M_SERVICE,
    names.LABEL_M_PROVIDER,
    names.LABEL_M_OPERATION,
    names.LABEL_M_REQUEST_MODEL,
    names.LABEL_M_RESPONSE_MODEL,
)
_KINDS: Final = ("input", "cached_input", "cache_write", "output", "reasoning")


def wants_latest(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for the names of the conventions' next version, as their transition plan says."""
    return names.LATEST_OPT_IN in [item.strip() for item in environ.get(names.STABILITY_ENV, "").split(",")]


class Series:
    """Children of one combination of labels."""

    __slots__ = (
        "_context",
        "_cost",
        "_durations",
        "_gaps",
        "_labels",
        "_metrics",
        "_queue",
        "_rare",
        "_rate",
        "_requests",
        "_tokens",
        "_tpot",
        "_ttft",
        "_uncosted",
    )

    def __init__(self, metrics: "Metrics", labels: tuple[str, ...]) -> None:
        self._metrics = metrics
        self._labels = labels
        self._durations: dict[str, Distribution] = {}
        self._requests: dict[tuple[int, str], Value] = {}
        self._tokens: list[Value] = [metrics.tokens.labels(*labels, kind) for kind in _KINDS]
        self._rare: dict[str, Value] = {}
        # Made when first needed: most series never have all of them.
        self._ttft: Distribution | None = None
        self._tpot: Distribution | None = None
        self._gaps: Distribution | None = None
        self._rate: Distribution | None = None
        self._queue: Distribution | None = None
        self._context: Distribution | None = None
        self._cost: Value = metrics.cost.labels(*labels)
        # Create the series at the first call, so that panels and rules read 0 instead of no data.
        self._uncosted: Value = metrics.uncosted.labels(*labels)

    def refused(self, error: str, status: int) -> None:
        """Count a call that a budget refused: it has no duration of its own."""
        self._request(status, error).inc()

    def record(self, call: Record) -> None:
        """Count a finished call."""
        exemplar = call.trace.trace_id if call.trace.sampled else ""
        at = call.ended / _NANO
        error = call.error
        duration = self._durations.get(error)
        if duration is None:
            if len(self._durations) >= _ERRORS:
                error = OTHER
            duration = self._durations[error] = self._metrics.duration.labels(*self._labels, error)
        duration.observe(call.duration, exemplar, at)
        self._request(call.status, error).value += 1.0
        if call.answer.pieces:
            self._stream(call, exemplar, at)
        self._seldom(call)
        tokens = call.tokens
        read, cached, written, output, reasoning = self._tokens
        read.value += tokens.input
        output.value += tokens.output
        if tokens.cached_input:
            cached.value += tokens.cached_input
        if tokens.cache_write:
            written.value += tokens.cache_write
        if tokens.reasoning:
            reasoning.value += tokens.reasoning
        if tokens.cache_write_1h or tokens.input_audio or tokens.output_audio:
            self._count_rare(tokens)
        if call.picodollars is not None:
            self._cost.value += call.picodollars / names.PICODOLLARS
        else:
            self._uncosted.value += tokens.input + tokens.output

    def _stream(self, call: Record, exemplar: str, at: float) -> None:
        """Observe what only an answer in pieces has."""
        answer = call.answer
        if call.first_token is not None:
            if self._ttft is None:
                self._ttft = self._metrics.ttft.labels(*self._labels)
            self._ttft.observe(call.first_token, exemplar, at)
        if call.per_token is not None:
            if self._tpot is None:
                self._tpot = self._metrics.tpot.labels(*self._labels)
            self._tpot.observe(call.per_token)
        if answer.gaps:
            if self._gaps is None:
                self._gaps = self._metrics.gaps.labels(*self._labels)
            self._gaps.add(answer.gaps, answer.last_content - answer.first_content)

    def _seldom(self, call: Record) -> None:
        """Observe what not every call has."""
        if call.tokens_per_second is not None:
            if self._rate is None:
                self._rate = self._metrics.rate.labels(*self._labels)
            self._rate.observe(call.tokens_per_second)
        if call.context_share is not None:
            if self._context is None:
                self._context = self._metrics.context.labels(*self._labels)
            self._context.observe(call.context_share)
        queued = call.answer.queue_seconds
        if queued is not None:
            if self._queue is None:
                self._queue = self._metrics.queue.labels(*self._labels)
            self._queue.observe(queued)

    def _count_rare(self, tokens: Tokens) -> None:
        for kind in ("cache_write_1h", "input_audio", "output_audio"):
            count = getattr(tokens, kind)
            if count:
                counter = self._rare.get(kind)
                if counter is None:
                    counter = self._rare[kind] = self._metrics.tokens.labels(*self._labels, kind)
                counter.inc(count)

    def _request(self, status: int, error: str) -> Value:
        counter = self._requests.get((status, error))
        if counter is None:
            counter = self._metrics.requests.labels(*self._labels, str(status), error)
            self._requests[status, error] = counter
        return counter


class Metrics:
    """All metrics of one proxy, in a registry of their own."""

    def __init__(self, routes: Iterable[Route], models: int, *, latest: bool = False) -> None:
        self.registry = Registry()
        self.before_scrape: list[Callable[[], None]] = []  # what sets gauges that are read only then
        self._cap = models
        self._models: set[str] = set()  # that have a label of their own
        self._unknown: set[str] = set()  # those of them that nobody vouches for
        self._series: dict[tuple[str, ...], Series] = {}
        routes = tuple(routes)
        service = (names.LABEL_M_SERVICE,)
        thresholds = [route.thresholds_seconds for route in routes]
        self.duration = self._histogram(
            names.METRIC_DURATION,
            "Time from a call's first byte to its answer's last",
            (*_CALL_LABELS, names.LABEL_M_ERROR),
            names.DURATION_BOUNDS,
            [bound for item in thresholds for bound in item.duration],
        )
        self.ttft = self._histogram(
            names.METRIC_TTFT,
            "Time from a call's first byte to the first content of its stream",
            _CALL_LABELS,
            names.TTFT_BOUNDS,
            [bound for item in thresholds for bound in item.ttft],
        )
        self.tpot = self._histogram(
            names.METRIC_TPOT,
            "Time per output token after the first, of streams",
            _CALL_LABELS,
            names.TPOT_BOUNDS,
            [bound for item in thresholds for bound in item.tpot],
        )
        self.gaps = self._histogram(
            names.METRIC_CHUNK_TIME,
            "Time between two pieces of a stream's content",
            _CALL_LABELS,
            names.TPOT_BOUNDS,
            (),
        )
        self.rate = self._histogram(
            names.METRIC_OUTPUT_RATE,
            "Output tokens per second: of a stream from its first content on, of a whole answer over all its time",
            _CALL_LABELS,
            names.OUTPUT_RATE_BOUNDS,
            (),
        )
        self.queue = self._histogram(
            names.METRIC_QUEUE,
            "Time in the upstream's queue, where its answer says so",
            _CALL_LABELS,
            names.QUEUE_BOUNDS,
            (),
        )
        self.context = self._histogram(
            names.METRIC_CONTEXT,
            "Share of the model's context window that a call's input and output took, where the window is known",
            _CALL_LABELS,
            names.CONTEXT_BOUNDS,
            [bound for route in routes for bound in route.context_thresholds],
        )
        self.retried = self._counter(
            names.METRIC_RETRIED, "Calls that were seen to be retries, by what showed it", (*service, "by")
        )
        limit = (*service, names.LABEL_M_REQUEST_MODEL, "limit")
        self.limit_remaining = Gauge(
            self.registry, names.METRIC_LIMIT_REMAINING, "What the upstream's last answer left of a rate limit", limit
        )
        self.limit_reset = Gauge(
            self.registry, names.METRIC_LIMIT_RESET, "When a rate limit of the upstream is whole again", limit
        )
        self.tokens = self._counter(
            names.METRIC_TOKENS,
            "Tokens by kind; cached and written ones are parts of input, reasoning of output",
            (*_CALL_LABELS, names.LABEL_M_TOKEN_TYPE),
        )
        self.requests = self._counter(
            names.METRIC_REQUESTS, "Measured calls", (*_CALL_LABELS, names.LABEL_M_STATUS, names.LABEL_M_ERROR)
        )
        self.cost = self._counter(
            names.METRIC_COST, "What calls cost, by the prices known then; the ledger's sums are exact", _CALL_LABELS
        )
        self.uncosted = self._counter(names.METRIC_UNCOSTED, "Tokens of models without a known price", _CALL_LABELS)
        self.refused = self._counter(names.METRIC_REFUSED, "Calls that a budget refused", (*service, "budget"))
        self.unmeasured = self._counter(
            names.METRIC_UNMEASURED,
            "Requests and connections passed through without being understood",
            (*service, "reason"),
        )
        self.limited = self._counter(
            names.METRIC_LIMITED,
            "Requests and connections that a limit of the proxy's own turned away",
            (*service, "reason"),
        )
        self.estimated = self._counter(names.METRIC_ESTIMATED, "Calls whose answer brought no usage", service)
        self.malformed = self._counter(
            names.METRIC_MALFORMED_EVENTS, "Events and answers that were not understood; their bytes pass", service
        )
        self.in_flight = Gauge(self.registry, names.METRIC_IN_FLIGHT, "Measured calls under way", service)
        self.last_report = Gauge(
            self.registry, names.METRIC_LAST_REPORT, "When the ledger last took a report; 0: never"
        ).labels()
        self.spans_dropped = self._counter(names.METRIC_SPANS_DROPPED, "Spans that could not be delivered", ()).labels()
        self.compiled = Gauge(
            self.registry, names.METRIC_COMPILED, "Modules that run compiled; 0: all are interpreted"
        ).labels()
        self.journal_errors = self._counter(
            names.METRIC_JOURNAL_ERRORS, "Writes to the journal that failed; the calls were served", ()
        ).labels()
        self.journal_skipped = self._counter(
            names.METRIC_JOURNAL_SKIPPED, "Lines of the journal that could not be read at the start", ()
        ).labels()
        self.journal_orphans = self._counter(
            names.METRIC_JOURNAL_ORPHANS,
            "Calls that the process before this one did not finish; they were charged by an estimate",
            (),
        ).labels()
        self.sink_errors = self._counter(
            names.METRIC_SINK_ERRORS,
            "Finished calls that one of the proxy's sinks failed on, by the sink's class; the calls were served",
            ("sink",),
        )
        self.ledger_errors = self._counter(
            names.METRIC_LEDGER_ERRORS, "Questions to the ledger that it did not answer, by reason", ("reason",)
        )
        self.credential_errors = self._counter(
            names.METRIC_CREDENTIAL_ERRORS,
            "Requests sent with the application's own key because ours could not be read",
            service,
        )
        if latest:
            self._add_latest()
        for route in routes:
            self.in_flight.labels(route.service).set(0)

    def _add_latest(self) -> None:
        """The same under the names of the conventions' next version; ours stay, since rules and dashboards ask for them."""
        for family in (self.duration, self.ttft, self.gaps):
            Renamed(self.registry, names.LATEST[family.name], family)
        for kind, name in names.LATEST_TOKENS.items():
            Renamed(self.registry, name, self.tokens, only=(names.LABEL_M_TOKEN_TYPE, kind))

    def finished(self, record: Record) -> None:
        """Count a finished or refused call (the metrics are a sink)."""
        service, answer = record.service, record.answer
        if record.retry:
            self.retried.labels(service, record.retry).inc()
        if record.refused:
            self.refused.labels(service, record.budget).inc()
            series = self.series(service, record.provider, record.operation, record.asked.model, "")
            series.refused(record.error, record.status)
            return
        if record.estimated:
            self.estimated.labels(service).inc()
        if answer.malformed:
            self.malformed.labels(service).inc(answer.malformed)
        model = record.asked.model or answer.model
        self.series(service, record.provider, record.operation, model, answer.model).record(record)

    def count_sink_failure(self, sink: str) -> None:
        """Count a finished call that a sink failed on."""
        self.sink_errors.labels(sink).inc()

    def series(self, service: str, provider: str, operation: str, request_model: str, response_model: str) -> Series:
        """The children of these labels; a model beyond the cap is `other`."""
        key = (service, provider, operation, request_model, response_model)
        series = self._series.get(key)
        if series is None:
            capped = (service, provider, operation, self.capped(request_model), self.capped(response_model))
            series = self._series.get(capped)
            if series is None:
                series = self._series[capped] = Series(self, capped)
        return series

    def expose(self, accept: str) -> tuple[str, bytes]:
        """Content type and text; OpenMetrics, with exemplars, for who asks for it."""
        for refresh in self.before_scrape:
            refresh()
        openmetrics = "application/openmetrics-text" in accept
        return registry.OPENMETRICS if openmetrics else registry.TEXT, self.registry.expose(openmetrics=openmetrics)

    def capped(self, model: str) -> str:
        """The model as a label: what is new beyond the cap is `other`."""
        if not model or model in self._models:
            return model
        if len(self._unknown) >= self._cap:
            return OTHER
        self._unknown.add(model)
        self._models.add(model)
        return model

    def reserve(self, model: str) -> None:
        """Let a model that the ledger knows have its own label, however many names clients have made up before.

        A price can cover a family of names, so these are bounded as well, at ten times the cap.
        """
        if len(self._models) < self._cap * _RESERVED:
            self._models.add(model)
            self._unknown.discard(model)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(self.registry, name, text, labels)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], bounds: Iterable[float], more: Iterable[float]
    ) -> Histogram:
        return Histogram(self.registry, name, text, labels, sorted({*bounds, *more}))
