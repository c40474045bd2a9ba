"""What Prometheus knows: a constant number of questions for all services together, never one per service."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import httpx

from llmwarden import names, tracing
from llmwarden.domain import durations, engines, indicators
from llmwarden.errors import UnavailableError
from llmwarden.manifests import promql
from llmwarden.manifests.alerts import spending
from llmwarden.snapshot import Engine, Figures, Quantiles

WINDOWS: Final = ("5m", "1h")  # the second where the first has no traffic
COVERAGE_CALLS: Final = 100  # of an engine in an hour; below, single calls at the edges of scrapes would make the share
LONGEST_SHOWN: Final = 2000  # characters of a query in a span
AT_ONCE: Final = 4  # questions in flight: Prometheus has others to answer, too
ServiceName = tuple[str, str]  # namespace, service
Values = dict[ServiceName, float]


@dataclass(frozen=True, slots=True)
class Question:
    """One query, and how its answer (by service) enters a service's figures."""

    name: str
    query: str


def _quantile(q: float, metric: str) -> str:
    """Ask for a quantile over the first window in which the service had calls."""
    parts = []
    for window in WINDOWS:
        buckets = f"sum by ({promql.BY}, le) (rate({metric}_bucket[{window}]))"
        calls = f"sum by ({promql.BY}) (rate({metric}_count[{window}]))"
        parts.append(f"({buckets} and on ({promql.BY}) ({calls} > 0))")
    return f"histogram_quantile({q}, {' or '.join(parts)})"


def _engines(key: str, form: str) -> str:
    """Ask all engines by `domain.engines`' names: `form` has `{}` where the series' selector goes; their PodMonitors put the label on."""
    parts = []
    for metric in engines.metrics_of(key):
        more = f",{metric.labels}" if metric.labels else ""
        parts.append(form.format(f'{{__name__=~"{metric.pattern}",{names.LABEL_M_SERVICE}!=""{more}}}'))
    return " or ".join(parts)


def _gauge(key: str, how: str) -> str:
    return _engines(key, f"{how} by ({promql.BY}) ({{}})")


def _rate(key: str) -> str:
    # One name at a time: `rate` drops names, and a version that has the old one beside the new would answer the same series twice.
    queries = []
    for metric in engines.metrics_of(key):
        for name in metric.names:
            pattern = engines.Metric((name,)).pattern
            queries.append(f'sum by ({promql.BY}) (rate({{__name__=~"{pattern}",{names.LABEL_M_SERVICE}!=""}}[5m]))')
    return " or ".join(queries)


_QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

# Both recorded in one evaluation, so that their sums over an hour are of the same calls. Scrapes a moment apart make single calls differ.
_COVERAGE: Final = (
    f"sum by ({promql.BY}) (sum_over_time({names.RECORD_ANSWERED}[1h]))\n"
    f"/ (sum by ({promql.BY}) (sum_over_time({names.RECORD_ENGINE_REQUESTS}[1h])) > 0)\n"
    f"and sum by ({promql.BY}) (avg_over_time({names.RECORD_ENGINE_REQUESTS}[1h])) * 3600 >= {COVERAGE_CALLS}"
)

QUESTIONS: Final[tuple[Question, ...]] = (
    Question("scraped", f"count by ({promql.BY}) ({names.METRIC_IN_FLIGHT})"),
    *(
        Question(f"{indicator.short}.{quantile}", _quantile(q, indicator.histogram))
        for indicator in indicators.LATENCIES
        for quantile, q in _QUANTILES.items()
    ),
    Question("requests_per_second", promql.rate(names.METRIC_REQUESTS, "", WINDOWS[0])),
    Question("error_ratio", " or ".join(promql.error_ratio("", window) for window in WINDOWS)),
    Question(
        "output_tokens_per_second",
        promql.rate(names.METRIC_TOKENS, f'{names.LABEL_M_TOKEN_TYPE}="output"', WINDOWS[0]),
    ),
    Question("credential_errors", f"sum by ({promql.BY}) (increase({names.METRIC_CREDENTIAL_ERRORS}[15m])) > 0"),
    Question("engine.running", _gauge("running", "sum")),
    Question("engine.waiting", _gauge("waiting", "sum")),
    Question("engine.cache_used", _gauge("cache_used", "max")),
    Question("engine.prefix_hits", f"({_rate('prefix_hits')}) / (({_rate('prefix_queries')}) > 0)"),
    Question("coverage", _COVERAGE),
    *(
        Question(f"unusual.{name}", f'max by ({promql.BY}) (ALERTS{{alertname="{name}",alertstate="firing"}})')
        for name in spending.UNUSUAL
    ),
)
OBJECTIVES: Final = Question("objectives", f"max by ({promql.BY}, objective) ({names.RECORD_RATIO})")
# Engines' own bounds, also of engines that nobody here may ask: one series for each bound of each service.
BOUNDS: Final = Question(
    "queue_bounds",
    " or ".join(
        f'group by ({promql.BY}, le) ({{__name__=~"{metric.pattern}_bucket",{names.LABEL_M_SERVICE}!=""}})'
        for metric in engines.metrics_of("queue")
    ),
)


class Prometheus:
    """Asks one Prometheus (or compatible store). Close it."""

    def __init__(self, url: str, timeout: float, transport: httpx.AsyncBaseTransport | None = None) -> None:
        # One slow question must not hold the tick longer than `timeout` seconds.
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/") + "/",
            timeout=httpx.Timeout(timeout),
            transport=transport,
            trust_env=False,
            verify=not url.startswith("http://"),  # without TLS, the authorities would be 4 MiB for nothing
        )
        # As statuses and logs may say it: a password in the URL is the platform's.
        self._called = str(self._http.base_url.copy_with(username=None, password=None))
        self._timeout = timeout
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def figures(self) -> dict[ServiceName, Figures]:
        """Ask everything, for all services.

        Raises UnavailableError where Prometheus does not answer in time, answers an error, or answers with warnings, which
        mean that some of the data is missing: half an answer would make figures drop that did not.
        """
        try:
            async with asyncio.timeout(self._timeout * 2):
                answers, good, bounds = await asyncio.gather(
                    asyncio.gather(*(self._by_service(question) for question in QUESTIONS)),
                    self._objectives(),
                    self._bounds(),
                )
        except TimeoutError as error:
            message = f"Prometheus did not answer all questions within {self._timeout * 2:g} s"
            raise UnavailableError(message) from error
        by_name = {question.name: answer for question, answer in zip(QUESTIONS, answers, strict=True)}
        keys = {key for answer in answers for key in answer} | set(good) | set(bounds)
        return {
            key: _figures(lambda name, key=key: by_name[name].get(key), good.get(key, {}), bounds.get(key, ()))  # type: ignore[misc]
            for key in keys
        }

    async def _by_service(self, question: Question) -> Values:
        values: Values = {}
        for labels, text in await self.query(question.query):
            value = float(text)
            if math.isfinite(value):  # NaN: a quantile of nothing
                values[_key(labels)] = value
        return values

    async def _bounds(self) -> dict[ServiceName, tuple[float, ...]]:
        bounds: dict[ServiceName, set[float]] = defaultdict(set)
        for labels, _ in await self.query(BOUNDS.query):
            try:
                value = float(labels.get("le", ""))
            except ValueError:
                continue
            if math.isfinite(value):
                bounds[_key(labels)].add(value)
        return {key: tuple(sorted(values)) for key, values in bounds.items()}

    async def _objectives(self) -> dict[ServiceName, dict[str, Decimal]]:
        ratios: dict[ServiceName, dict[str, Decimal]] = defaultdict(dict)
        for labels, text in await self.query(OBJECTIVES.query):
            try:
                value = Decimal(text)
            except InvalidOperation:
                continue
            if value.is_finite():
                ratios[_key(labels)][labels.get("objective", "")] = value
        return dict(ratios)

    async def retention(self) -> int | None:
        """Return for how many seconds this Prometheus keeps data; None where it does not say, or keeps it by size alone. Raises UnavailableError.

        Stores that only look like one (Thanos, Mimir) have no such page: that is None, too.
        """
        try:
            response = await self._http.get("api/v1/status/runtimeinfo")
        except httpx.HTTPError as error:
            message = f"Prometheus at {self._called} did not answer: {str(error) or type(error).__name__}."
            raise UnavailableError(message) from error
        try:
            said = str(response.json()["data"]["storageRetention"])
        except (ValueError, KeyError, TypeError):
            return None
        # "15d", "15d or 10GiB", "10GiB": what holds first is what holds.
        return next(
            (seconds for part in said.split(" or ") if (seconds := durations.prometheus(part)) is not None), None
        )

    async def query(self, promql_text: str) -> list[tuple[Mapping[str, str], str]]:
        """Ask one instant query; returns labels and value of each series. Raises UnavailableError."""
        async with self._gate:
            try:
                with tracing.step("prometheus query", {"db.query.text": promql_text[:LONGEST_SHOWN]}):
                    # POST: a long query would not fit a URL.
                    response = await self._http.post("api/v1/query", data={"query": promql_text})
                    body: Any = response.json()
            except httpx.HTTPError as error:
                message = f"Prometheus at {self._called} did not answer: {str(error) or type(error).__name__}."
                raise UnavailableError(message) from error
            except ValueError as error:
                message = f"Prometheus at {self._called} answered {response.status_code} and no JSON."
                raise UnavailableError(message) from error
        return _series(body, response.status_code)


def _series(body: Any, status: int) -> list[tuple[Mapping[str, str], str]]:
    if not isinstance(body, dict) or body.get("status") != "success":
        why = body.get("error") if isinstance(body, dict) else None
        message = f"Prometheus answered {status}: {why or 'no reason given'}."
        raise UnavailableError(message)
    # Remarks about the query itself come in the same list before Prometheus 3 (such as buckets scraped a moment apart): all data is there.
    missing = [str(text) for text in body.get("warnings") or [] if not str(text).startswith("PromQL info:")]
    if missing:
        message = f"Prometheus answered in part: {'; '.join(missing)[:300]}."
        raise UnavailableError(message)
    try:
        return [(item["metric"], item["value"][1]) for item in body["data"]["result"]]
    except (KeyError, IndexError, TypeError) as error:
        message = "Prometheus's answer could not be read."
        raise UnavailableError(message) from error


def _key(labels: Mapping[str, str]) -> ServiceName:
    return labels.get("namespace", ""), labels.get(names.LABEL_M_SERVICE, "")


def _figures(
    value: Callable[[str], float | None], good: Mapping[str, Decimal], queue_bounds: tuple[float, ...]
) -> Figures:
    quantiles = {
        figure: Quantiles(**{quantile: value(f"{figure}.{quantile}") for quantile in _QUANTILES})
        for figure in indicators.BY_SHORT
    }
    return replace(
        Figures(),
        scraped=bool(value("scraped")),
        **quantiles,
        requests_per_second=value("requests_per_second"),
        error_ratio=value("error_ratio"),
        output_tokens_per_second=value("output_tokens_per_second"),
        credential_errors=bool(value("credential_errors")),
        engine=Engine(
            running=value("engine.running"),
            waiting=value("engine.waiting"),
            cache_used=value("engine.cache_used"),
            prefix_hits=value("engine.prefix_hits"),
        ),
        coverage=value("coverage"),
        good=good,
        queue_bounds=queue_bounds,
        unusual=tuple(name for name in spending.UNUSUAL if value(f"unusual.{name}")),
    )
