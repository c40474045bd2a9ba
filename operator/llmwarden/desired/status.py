"""The status of an LLMService: snapshot in, status out. Pure; the clock is an argument.

Figures are quantised here, so that noise is no write. What is unknown keeps its last figure: unknown is not zero.
"""

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any, Final, Literal

from llmwarden import wire
from llmwarden.api.v1alpha1 import llmservice as api
from llmwarden.api.v1alpha1.common import Condition, ConditionType, Money
from llmwarden.desired import spending
from llmwarden.desired.snapshot import Engine, Figures, Outcome, Problem, Quantiles, Snapshot, Verdict
from llmwarden.domain import budgets, conditions, durations, money, objectives
from llmwarden.domain.objectives import SpendObjective
from llmwarden.errors import InvalidSpecError

MINUTE: Final = 60
FORECAST_SECONDS: Final = 300
LISTED: Final = 3  # how many of a kind a message names
SELECTED: Final[tuple[ConditionType, ...]] = ("ScrapeSelected", "RulesSelected", "RouteMatched", "DashboardSelected")


def build(
    snapshot: Snapshot, outcome: Outcome, injection: api.InjectionStatus, now: dt.datetime
) -> api.LLMServiceStatus:
    """Build the whole status. `injection` is decided elsewhere (`desired.injection`): it has effects."""
    old = snapshot.service.status or api.LLMServiceStatus()
    usage = _usage(snapshot.usage) if snapshot.usage is not None and snapshot.ledger.fresh else old.usage
    held = _budgets(snapshot) if snapshot.ledger.fresh else old.budgets
    fresh = snapshot.prometheus.fresh and snapshot.figures.scraped
    figures = snapshot.figures
    new = old.replace(
        observed_generation=snapshot.service.metadata.generation,
        as_of=_as_of(snapshot, old),
        usage=usage,
        budgets=held,
        latency=_latency(figures) if fresh else old.latency,
        errors=api.ErrorsStatus(rate_percent=_percent(figures.error_ratio)) if fresh else old.errors,
        throughput=_throughput(figures) if fresh else old.throughput,
        objectives=_objectives(snapshot, old),
        engine=_engine(snapshot, old),
        workload=_workload(snapshot, old),
        enforcement=_enforcement(snapshot, held),
        injection=injection,
    )
    new = new.replace(conditions=_conditions(snapshot, outcome, new, now))
    return new.replace(summary=_summary(new))


# Figures ------------------------------------------------------------------------------------------------------------


def _as_of(snapshot: Snapshot, old: api.LLMServiceStatus) -> dt.datetime | None:
    """Give the time of the oldest figure shown."""
    times = [
        source.as_of if source.fresh else old.as_of
        for source in (snapshot.prometheus, snapshot.ledger)
        if source.configured and (source.fresh or old.as_of)
    ]
    return min((time for time in times if time is not None), default=None)


def _usage(usage: wire.ServiceUsage) -> api.UsageStatus:
    day = usage.last24h
    costed = day.picodollars > 0 or day.uncosted_tokens == 0
    per_request = Money(amount=_significant_money(day.picodollars, day.requests)) if costed and day.requests else None
    return api.UsageStatus(
        requests=day.requests,
        errors=day.errors,
        tokens=api.TokenCounts(
            input=day.tokens.input,
            cached_input=day.tokens.cached_input,
            cache_write=day.tokens.cache_write,
            output=day.tokens.output,
            reasoning=day.tokens.reasoning,
        ),
        # Unknown is not zero: where nothing has a price, there is no cost to show.
        cost=Money(amount=money.to_decimal(day.picodollars)) if costed else None,
        cost_per_request=per_request,
        uncosted_tokens=day.uncosted_tokens,
        uncosted_models=usage.uncosted_models,
    )


def _budgets(snapshot: Snapshot) -> tuple[api.BudgetStatus, ...]:
    found = []
    for key in snapshot.usage.budgets if snapshot.usage else ():
        held = snapshot.budgets.get(key)
        if held is None:
            continue
        scope, _, _, name = budgets.split_key(key)
        found.append(
            api.BudgetStatus(
                scope=scope,
                name=name,
                unit=held.unit,
                limit=budgets.decimal(held.unit, held.limit),
                spent=budgets.decimal(held.unit, held.spent),
                remaining=budgets.decimal(held.unit, max(0, held.limit - held.spent)),
                used_percent=budgets.used_percent(held.limit, held.spent),
                state=held.state,
                action=held.action,
                window_start=held.window_start,
                resets_at=held.resets_at,
                forecast_exhausted_at=forecast(held),
            )
        )
    return tuple(sorted(found, key=lambda item: (item.scope, item.name)))


def thresholds(
    old: tuple[api.BudgetStatus, ...], new: tuple[api.BudgetStatus, ...], applying: tuple[budgets.Budget, ...]
) -> list[tuple[api.BudgetStatus, int]]:
    """Find the budgets' warning percentages that were reached since the last status, each with its budget: what is told once a window."""
    before = {(item.scope, item.name): item for item in old}
    found: list[tuple[api.BudgetStatus, int]] = []
    for budget in applying:
        key = (budget.scope, budget.name)
        item = next((item for item in new if (item.scope, item.name) == key), None)
        if item is None:
            continue
        last = before.get(key)
        # A rolling window begins anew every quarter of an hour, with most of what was spent.
        same = last is not None and (
            last.window_start == item.window_start or budget.window.rolling_seconds is not None
        )
        known = last.used_percent if last is not None and same else 0
        found += [(item, percent) for percent in budgets.newly_reached(budget.warn_at, known, item.used_percent)]
    return found


def forecast(held: wire.BudgetUsage) -> dt.datetime | None:
    """Give when a budget will be used up, rounded up to five minutes: it moves with every call, and is no better than that."""
    if held.forecast_exhausted_at is None or held.state == "Exceeded":
        return None
    return dt.datetime.fromtimestamp(
        -(-held.forecast_exhausted_at.timestamp() // FORECAST_SECONDS) * FORECAST_SECONDS, dt.UTC
    )


def _latency(figures: Figures) -> api.LatencyStatus | None:
    found = api.LatencyStatus(
        time_to_first_token=_quantiles(figures.ttft),
        request_duration=_quantiles(figures.duration),
        time_per_output_token=_quantiles(figures.tpot),
    )
    return found if found.dump() else None


def _quantiles(values: Quantiles) -> api.Quantiles | None:
    found = api.Quantiles(
        p50_milliseconds=_milliseconds(values.p50),
        p95_milliseconds=_milliseconds(values.p95),
        p99_milliseconds=_milliseconds(values.p99),
    )
    return found if found.dump() else None


def _milliseconds(seconds: float | None) -> int | None:
    """Round to two significant digits: what a histogram's buckets can tell at best."""
    return None if seconds is None else int(two_digits(Decimal(str(seconds)) * 1000))


def two_digits(value: Decimal) -> Decimal:
    """Round to two significant digits, half up."""
    if not value:
        return Decimal(0)
    return value.quantize(Decimal(1).scaleb(value.adjusted() - 1), rounding=ROUND_HALF_UP)


def _percent(ratio: float | None) -> str | None:
    return None if ratio is None else _plain(_tenths(Decimal(str(ratio)) * 100))


def _tenths(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.1"), rounding=ROUND_HALF_UP)


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def _throughput(figures: Figures) -> api.ThroughputStatus | None:
    found = api.ThroughputStatus(
        requests_per_minute=_rate(figures.requests_per_second, MINUTE),
        output_tokens_per_second=_rate(figures.output_tokens_per_second, 1),
    )
    return found if found.dump() else None


def _rate(value: float | None, scale: int) -> str | None:
    return None if value is None else _plain(two_digits(Decimal(str(value)) * scale))


def _engine(snapshot: Snapshot, old: api.LLMServiceStatus) -> api.EngineStatus | None:
    found = _load(snapshot.figures.engine) if snapshot.prometheus.fresh else old.engine or api.EngineStatus()
    identity = snapshot.engine
    if identity is not None:
        found = found.replace(
            type=identity.type or None, version=identity.version or None, message=identity.message or None
        )
    elif old.engine is not None:
        found = found.replace(type=old.engine.type, version=old.engine.version, message=old.engine.message)
    return found if found.dump() else None


def _load(engine: Engine) -> api.EngineStatus:
    return api.EngineStatus(
        requests_running=None if engine.running is None else round(engine.running),
        requests_waiting=None if engine.waiting is None else round(engine.waiting),
        kv_cache_used_percent=None if engine.cache_used is None else round(engine.cache_used * 100),
        prefix_cache_hit_percent=None if engine.prefix_hits is None else round(engine.prefix_hits * 100),
    )


def _significant_money(picodollars: int, calls: int) -> str:
    """Round a cost per call to three significant digits, exactly."""
    each = picodollars // calls
    digits = len(str(each)) - 3
    return money.to_decimal(each if digits <= 0 else (each + 10**digits // 2) // 10**digits * 10**digits)


# Pods ---------------------------------------------------------------------------------------------------------------


def _workload(snapshot: Snapshot, old: api.LLMServiceStatus) -> api.WorkloadStatus:
    pods = snapshot.pods
    coverage = snapshot.figures.coverage
    percent = None if coverage is None else min(100, int(coverage * 100))
    if not snapshot.prometheus.fresh:
        percent = old.workload.coverage_percent if old.workload is not None else None
    lacking = [pod for pod in pods if pod.state != "Metered"]
    return api.WorkloadStatus(
        selected=len(pods),
        metered=len(pods) - len(lacking),
        coverage_percent=percent,
        unmetered=tuple(
            api.UnmeteredPod(pod=pod.name, reason=pod.reason, remedy=pod.remedy)
            for pod in sorted(lacking, key=lambda pod: (pod.state, pod.name))
        ),
    )


def _enforcement(snapshot: Snapshot, held: tuple[api.BudgetStatus, ...]) -> Literal["Enforced", "Advisory", "None"]:
    spec = snapshot.service.spec
    actions = {budget.on_exceeded.action for budget in spec.budgets} | {budget.action for budget in held}
    if actions <= {"Alert"}:
        return "None"
    own_key = any(note.reason == "OwnKey" for pod in snapshot.pods for note in pod.notes)
    around = any(pod.state == "Unmetered" for pod in snapshot.pods)
    # Without the Secret a pod has a key, or an engine's address, with which it could go around the proxy.
    if spec.backend.credentials_secret_ref is None or own_key or around:
        return "Advisory"
    return "Enforced"


# Conditions ---------------------------------------------------------------------------------------------------------


def _conditions(
    snapshot: Snapshot, outcome: Outcome, new: api.LLMServiceStatus, now: dt.datetime
) -> tuple[Condition, ...]:
    verdicts: dict[ConditionType, Verdict] = {
        "Instrumented": _instrumented(snapshot, new),
        "MetricsFresh": _metrics_fresh(snapshot, new),
        "AlertsReady": _child(outcome, "PrometheusRule", installed=snapshot.capabilities.rules),
        "DashboardReady": _child(
            outcome,
            snapshot.dashboard_kind,
            installed=snapshot.dashboard_kind == "ConfigMap" or snapshot.capabilities.grafana_dashboards,
        ),
        "ScrapeSelected": _scrape_selected(snapshot),
        "RulesSelected": _selected(snapshot, "RulesSelected"),
        "RouteMatched": _route_matched(snapshot, outcome),
        "DashboardSelected": _selected(snapshot, "DashboardSelected"),
        "WithinBudget": _within_budget(snapshot, new),
        "MeetsObjectives": _meets_objectives(snapshot),
        "CostKnown": _cost_known(snapshot, new),
    }
    verdicts["Ready"] = _ready(snapshot, verdicts)
    found: tuple[Condition, ...] = new.conditions
    for kind, (status, reason, message) in verdicts.items():
        found = conditions.set_condition(
            found,
            kind,
            status,
            reason,
            message,
            generation=snapshot.service.metadata.generation,
            now=now,
        )
    return found


def _kept(snapshot: Snapshot, kind: str, fallback: Verdict) -> Verdict:
    """Keep what was said before: nothing is known yet, after a restart, and that is no news."""
    old = conditions.find(snapshot.service.status.conditions, kind) if snapshot.service.status else None
    return (old.status, old.reason, old.message) if old is not None else fallback


def _ready(snapshot: Snapshot, verdicts: Mapping[ConditionType, Verdict]) -> Verdict:
    """Measured and held to its budgets? What is optional and not installed is named, but keeps nobody from being ready."""
    if snapshot.problems:
        first = snapshot.problems[0]
        return "False", first.reason, " ".join(problem.message for problem in snapshot.problems)
    missing: list[str] = []
    notes: list[str] = []
    for kind in ("Instrumented", "AlertsReady", "DashboardReady", "MetricsFresh"):
        status, reason, message = verdicts[kind]
        if status == "True":
            continue
        optional = reason in {"NotInstalled", "NotConfigured"} or kind == "MetricsFresh"
        (notes if optional else missing).append(f"{kind}: {message}")
    notes += [f"{kind}: {verdicts[kind][2]}" for kind in SELECTED if verdicts[kind][0] == "False"]
    notes += [problem.message for problem in snapshot.warnings]
    text = " ".join([*missing, *notes])
    if missing:
        kind = next(kind for kind in ("Instrumented", "AlertsReady", "DashboardReady") if verdicts[kind][0] != "True")
        return "False", f"Not{kind}", text
    if notes:
        return "True", "ReadyWithGaps", text
    return "True", "AsSpecified", "Calls are measured, priced and held to their budgets."


def _instrumented(snapshot: Snapshot, new: api.LLMServiceStatus) -> Verdict:
    pods = snapshot.pods
    injection = new.injection
    if injection is not None and injection.state == "Stopped":
        return "False", "InjectionStopped", injection.message
    if not pods:
        text = (
            "No pod of this namespace matches workload.selector: compare it with the labels of the pods "
            f"(kubectl get pods -n {snapshot.service.metadata.namespace} --show-labels)."
        )
        return "False", "NoPods", text
    lacking = [pod for pod in pods if pod.state in {"Unmetered", "Hanging"}]
    metered = sum(pod.state == "Metered" for pod in pods)
    if lacking:
        reasons = Counter(pod.reason for pod in lacking)
        parts = []
        for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            example = next(pod for pod in lacking if pod.reason == reason)
            remedy = f"; {example.remedy}" if example.remedy else ""
            parts.append(f"{count} {reason} (such as {example.name}: {example.message}{remedy})")
        text = f"{len(lacking)} of {len(pods)} pods are not measured: {'; '.join(parts)}."
        return "False", next(iter(reasons)) if len(reasons) == 1 else "PodsNotMetered", text
    if not metered:
        return "False", "Starting", f"The proxies of {len(pods)} pods are starting."
    notes = sorted({f"{note.message}; {note.remedy}" for pod in pods for note in pod.notes})[:LISTED]
    text = "All pods that run are measured." + (f" Noticed: {' '.join(notes)}" if notes else "")
    return "True", "AllMetered", text


def _metrics_fresh(snapshot: Snapshot, new: api.LLMServiceStatus) -> Verdict:
    source = snapshot.prometheus
    if not source.configured:
        text = "No Prometheus is named in the chart's prometheus.url: there is no latency and no throughput to show."
        return "False", "NotConfigured", text
    if not source.asked:
        return _kept(snapshot, "MetricsFresh", ("Unknown", "NotAsked", "Prometheus was not asked yet."))
    if not source.fresh:
        return "False", source.reason, f"{source.message} The last figures are kept, with their time (asOf)."
    if not snapshot.figures.scraped:
        return _not_scraped(snapshot, new)
    if not snapshot.ledger.fresh and snapshot.ledger.asked:
        return (
            "False",
            snapshot.ledger.reason,
            f"{snapshot.ledger.message} Usage and cost are the last that were known.",
        )
    return "True", "Fresh", "Prometheus and ledger answer."


def _not_scraped(snapshot: Snapshot, new: api.LLMServiceStatus) -> Verdict:
    if not new.workload or not new.workload.metered:
        return "Unknown", "NothingToScrape", "No pod is measured yet."
    if not snapshot.capabilities.pod_monitors:
        text = "Prometheus has no series of this service: the Prometheus Operator, which would scrape it, is not installed."
        return "False", "NotScraped", text
    text = (
        "Prometheus answers, but has no series of this service. New pods take up to a minute; else it does not select the "
        "PodMonitor llmwarden-proxies: set the chart's prometheus.monitorLabels to the labels that it selects by."
    )
    return "False", "NotScraped", text


def _selected(snapshot: Snapshot, kind: ConditionType) -> Verdict:
    """Give what `desired.selected` found; what was said before while it is not known."""
    found = snapshot.selected.get(kind)
    text = "It is not known yet who selects it: either it is not applied, or the objects that might cannot be read."
    return found if found is not None else _kept(snapshot, kind, ("Unknown", "NotKnownYet", text))


def _scrape_selected(snapshot: Snapshot) -> Verdict:
    """Series that are there have been scraped, whoever selects what: an agent, or a configuration of its own."""
    status, reason, message = _selected(snapshot, "ScrapeSelected")
    there = snapshot.prometheus.fresh and snapshot.figures.scraped
    if there and (status == "Unknown" or reason == "NotSelected"):
        but = f" That is not by the PodMonitor: {message}" if status == "False" else ""
        return "True", "Scraped", f"The proxies' series are in Prometheus.{but}"
    return status, reason, message


def _route_matched(snapshot: Snapshot, outcome: Outcome) -> Verdict:
    if "AlertmanagerConfig" in outcome.failed:
        return "False", "ApplyFailed", outcome.failed["AlertmanagerConfig"]
    return _selected(snapshot, "RouteMatched")


def _child(outcome: Outcome, kind: str, *, installed: bool) -> Verdict:
    if not installed:
        whose = "Grafana Operator's custom resources (grafana.integreatly.org)"
        if kind == "PrometheusRule":
            whose = "Prometheus Operator's custom resources (monitoring.coreos.com)"
        text = f"The {whose} are not installed; this is made good as soon as they are."
        return "False", "NotInstalled", text
    if kind in outcome.failed:
        return "False", "ApplyFailed", outcome.failed[kind]
    return "True", "Applied", f"The {kind} is there."


_UNUSUAL: Final = " Unusual: "


def _within_budget(snapshot: Snapshot, new: api.LLMServiceStatus) -> Verdict:
    """Within the budgets, and spending as usual? What is unusual is only said: it may be wanted."""
    status, reason, message = _budgets_verdict(snapshot, new)
    unusual = [f"{spending.UNUSUAL[name]} ({name})" for name in snapshot.figures.unusual]
    message = message.partition(_UNUSUAL)[0]  # one that was kept may have it
    return status, reason, f"{message}{_UNUSUAL}{'; '.join(unusual)}." if unusual else message


def _budgets_verdict(snapshot: Snapshot, new: api.LLMServiceStatus) -> Verdict:
    if not snapshot.ledger.fresh:
        # Unknown is not zero: a blank answer must not clear an overspend.
        return _kept(snapshot, "WithinBudget", ("Unknown", "NotAsked", "The ledger was not asked yet."))
    if not new.budgets:
        return "True", "NoBudgets", "No budget applies."
    over = [budget for budget in new.budgets if budget.state == "Exceeded"]
    if over:
        parts = [f"{called(budget)} is used up ({budget.action})" for budget in over]
        return "False", "Exceeded", f"{'; '.join(parts)}."
    warned = [budget for budget in new.budgets if budget.state == "Warned"]
    if warned:
        parts = [f"{budget.used_percent} % of {called(budget)} is used" for budget in warned]
        return "True", "Warned", f"{'; '.join(parts)}."
    return "True", "Open", "Every budget has room."


def called(budget: api.BudgetStatus) -> str:
    """Name a budget as a sentence does."""
    return f"{budget.scope} budget {budget.name}" if budget.scope == "LLMService" else f"{budget.scope} {budget.name}"


def _meets_objectives(snapshot: Snapshot) -> Verdict:
    try:
        wanted = objectives.of_service(snapshot.service)
    except InvalidSpecError as error:
        return "Unknown", "InvalidSpec", str(error)
    if not wanted:
        return "True", "NoObjectives", "No objective is set."
    if not snapshot.prometheus.fresh and snapshot.prometheus.configured:
        return _kept(snapshot, "MeetsObjectives", ("Unknown", "NotAsked", "Prometheus was not asked yet."))
    results = objectives.evaluate(wanted, _readings(snapshot, wanted))
    missed = [result.sentence for result in results if result.met is False]
    if missed:
        return "False", "Missed", f"{'; '.join(missed)}."
    if objectives.all_met(results) is None:
        unknown = [result.sentence for result in results if result.met is None]
        return "Unknown", "NotMeasured", f"{'; '.join(unknown)}."
    return "True", "Met", "Every objective is met."


def _objectives(snapshot: Snapshot, old: api.LLMServiceStatus) -> tuple[api.ObjectiveStatus, ...]:
    try:
        wanted = objectives.of_service(snapshot.service)
    except InvalidSpecError:
        return ()
    if not snapshot.prometheus.fresh and snapshot.prometheus.configured:
        names = {objective.name for objective in wanted}
        return tuple(item for item in old.objectives if item.name in names)
    results = objectives.evaluate(wanted, _readings(snapshot, wanted))
    states: dict[bool | None, Literal["Met", "Missed", "Unknown"]] = {True: "Met", False: "Missed", None: "Unknown"}
    return tuple(
        api.ObjectiveStatus(
            name=result.name,
            state=states[result.met],
            measured=result.measured,
            target=result.target,
            error_budget_left_percent=result.budget_left_percent,
        )
        for result in results
    )


def _readings(snapshot: Snapshot, wanted: tuple[objectives.Objective, ...]) -> dict[str, objectives.Reading]:
    hour = snapshot.usage.last_hour if snapshot.usage is not None and snapshot.ledger.fresh else None
    found = {}
    for objective in wanted:
        if isinstance(objective, SpendObjective):
            reading = objectives.Reading(picodollars_last_hour=hour.picodollars if hour else None)
        else:
            good = snapshot.figures.good.get(objective.name)
            reading = objectives.Reading(good_percent=None if good is None else good * 100)
        found[objective.name] = reading
    return found


def _cost_known(snapshot: Snapshot, new: api.LLMServiceStatus) -> Verdict:
    if not snapshot.ledger.asked or (not snapshot.ledger.fresh and snapshot.service.status is not None):
        return _kept(snapshot, "CostKnown", ("Unknown", "NotAsked", "The ledger was not asked yet."))
    if not snapshot.ledger.fresh:
        return "Unknown", snapshot.ledger.reason, snapshot.ledger.message
    usage = new.usage
    if usage is None or not usage.uncosted_tokens:
        return "True", "Priced", "Every model that was used has a price."
    models = ", ".join(usage.uncosted_models[:LISTED]) or "some models"
    more = f" and {len(usage.uncosted_models) - LISTED} more" if len(usage.uncosted_models) > LISTED else ""
    text = f"The price of {models}{more} is not known: their tokens are in no cost. The platform team sets it with a ModelPrice."
    return "False", "PriceUnknown", text


def problems(snapshot_service: api.LLMService) -> tuple[Problem, ...]:
    """Find what CEL cannot know: budgets and objectives that can never work."""
    found = []
    for check, reason in ((budgets.of_service, "InvalidBudget"), (objectives.of_service, "InvalidObjective")):
        try:
            check(snapshot_service)
        except InvalidSpecError as error:
            found.append(Problem(reason, f"{error}."))
    return tuple(found)


# Summary ------------------------------------------------------------------------------------------------------------


def _summary(status: api.LLMServiceStatus) -> api.LLMServiceSummary:
    usage, latency, workload = status.usage, status.latency, status.workload
    first = latency.time_to_first_token if latency else None
    whole = latency.request_duration if latency else None
    shown = _nearest(status.budgets)
    ends = [item.forecast_exhausted_at for item in status.budgets if item.forecast_exhausted_at]
    per_second = status.throughput.output_tokens_per_second if status.throughput else None
    return api.LLMServiceSummary(
        pods=f"{workload.metered}/{workload.selected}" if workload else None,
        ttft_p95=_time(first.p95_milliseconds if first else None),
        p95=_time(whole.p95_milliseconds if whole else None),
        errors=f"{status.errors.rate_percent}%" if status.errors and status.errors.rate_percent else None,
        cost_per_request=money.human(money.parse(usage.cost_per_request.amount))
        if usage and usage.cost_per_request
        else None,
        spent=money.human(money.parse(usage.cost.amount)) if usage and usage.cost else None,
        budget=f"{shown.used_percent}% ({shown.name})" if shown else None,
        tokens=human_count(usage.tokens.input + usage.tokens.output) if usage else None,
        throughput=f"{per_second} tok/s" if per_second else None,
        exhausted=_short_time(min(ends)) if ends else None,
    )


def _nearest(held: tuple[api.BudgetStatus, ...]) -> api.BudgetStatus | None:
    """Give the budget of which the largest share is spent."""
    return max(held, key=lambda item: Fraction(Decimal(item.spent)) / Fraction(Decimal(item.limit)), default=None)


def _time(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else durations.human(milliseconds / 1000)


def _short_time(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%MZ")


def human_count(value: int) -> str:
    """Return what a person reads: "950", "12.3k", "4.6M"."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{_plain(_tenths(Decimal(value) / size))}{unit}"
    return str(value)


def significant(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a status (JSON) what is worth a write at once: states and conditions, and the first figures ever."""
    return {
        "generation": status.get("observedGeneration"),
        "conditions": [
            (item["type"], item["status"], item["reason"], item.get("observedGeneration"))
            for item in status.get("conditions") or []
        ],
        "budgets": [(item["scope"], item["name"], item["state"]) for item in status.get("budgets") or []],
        "injection": (status.get("injection") or {}).get("state"),
        "enforcement": status.get("enforcement"),
        "first": {key: key in status for key in ("usage", "latency")},
    }
