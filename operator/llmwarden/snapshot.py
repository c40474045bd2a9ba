"""What was observed, as frozen values: `observe` makes them, the builders here read them."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from llmwarden.api.v1alpha1 import LLMService
from llmwarden.api.v1alpha1.common import ConditionStatus, ConditionType
from llmwarden.contracts import ledger as wire
from llmwarden.injection.pods import PodView

COVERED: Final = 0.99  # of the calls that an engine counts; where the proxies see fewer, some go around them
Verdict = tuple[ConditionStatus, str, str]  # of a condition: status, reason, message


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds; None is unknown."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine says of itself; ratios are 0 to 1, None is unknown."""

    running: float | None = None
    waiting: float | None = None
    cache_used: float | None = None
    prefix_hits: float | None = None


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What an engine is, by its own metrics (not by the spec). Empty strings are unknown; `message` says what is missing or wrong.

    `missing`: what of its vocabulary (`domain.engines`) it leaves out. `queue_bounds`: of its histogram of time in the queue, in seconds.
    """

    type: str
    version: str = ""
    message: str = ""
    missing: tuple[str, ...] = ()
    queue_bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """One service's figures out of Prometheus. None is unknown, which is not zero.

    `scraped`: whether Prometheus has any series of the service's proxies. `good`: share of good calls (0 to 1) by objective.
    `credential_errors`: whether a proxy could not read the key that it should add. `coverage`: calls that the proxies saw, of those that the
    engine counted in the last hour (0 to about 1); None where it does not say, or had next to none.
    """

    scraped: bool = False
    ttft: Quantiles = Quantiles()
    duration: Quantiles = Quantiles()
    tpot: Quantiles = Quantiles()
    requests_per_second: float | None = None
    error_ratio: float | None = None
    output_tokens_per_second: float | None = None
    credential_errors: bool = False
    engine: Engine = Engine()
    coverage: float | None = None
    good: Mapping[str, Decimal] = field(default_factory=dict)
    queue_bounds: tuple[
        float, ...
    ] = ()  # of the engine's histogram of time in the queue, in seconds, rising, without +Inf
    unusual: tuple[str, ...] = ()  # alerts of `spending.UNUSUAL` that fire


def queue_bounds(engine: EngineIdentity | None, figures: Figures) -> tuple[float, ...]:
    """Return the bounds of the engine's histogram of time in its queue: as it shows them itself, else as Prometheus has them; empty is unknown."""
    return engine.queue_bounds if engine is not None and engine.queue_bounds else figures.queue_bounds


@dataclass(frozen=True, slots=True)
class Source:
    """How fresh what we know from Prometheus, or from the ledger, is.

    `asked` is False until the first question is answered or has failed. `fresh`: the last one was answered, wholly, at `as_of`.
    `reason` and `message` say why it is not.
    """

    asked: bool = False
    configured: bool = True
    fresh: bool = False
    as_of: dt.datetime | None = None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Which optional APIs the cluster has now."""

    pod_monitors: bool = False
    service_monitors: bool = False
    scrape_configs: bool = False
    rules: bool = False
    alertmanager_configs: bool = False
    grafana_dashboards: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps a service from working as its spec asks, and what helps."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a service's status is made of. `object` is its JSON; `service` the same as a value."""

    service: LLMService
    object: Mapping[str, Any]
    pods: tuple[PodView, ...] = ()
    pods_known: bool = True  # False where they cannot be read: `pods` is empty then
    capabilities: Capabilities = Capabilities()
    prometheus: Source = Source()
    figures: Figures = Figures()
    engine: EngineIdentity | None = None
    ledger: Source = Source()
    usage: wire.ServiceUsage | None = None
    budgets: Mapping[str, wire.BudgetUsage] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()  # the spec cannot work as written
    warnings: tuple[Problem, ...] = ()  # it works, but not for all calls
    selected: Mapping[ConditionType, Verdict] = field(default_factory=dict)  # what is not in it is not known yet
    retention: int | None = (
        None  # for how many seconds the Prometheus that evaluates the rules keeps data; None is unknown
    )
    dashboard_kind: str = "ConfigMap"  # what the dashboard is delivered as
    unwatched: tuple[str, ...] = ()  # watches that fail, each with why: what rests on them is not news
    gpu: Verdict | None = None  # of GPUMetricsReady; None where the spec asks for no GPU metrics


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of applying the children: by kind, the sentence of what went wrong; absent is well."""

    failed: Mapping[str, str] = field(default_factory=dict)
