"""The conditions of an LLMService: of each, whether it holds, why, and what to do."""

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from typing import Final

from llmwarden import names
from llmwarden.api.v1alpha1 import llmservice as api
from llmwarden.api.v1alpha1.common import Condition, ConditionType
from llmwarden.domain import conditions, durations, engine_objectives, objectives, upstream
from llmwarden.errors import InvalidSpecError
from llmwarden.manifests.alerts import spending
from llmwarden.snapshot import Outcome, Snapshot, Verdict, queue_bounds
from llmwarden.status import budgets
from llmwarden.status.objectives import readings

LISTED: Final = 3  # how many of a kind a message names
UNNAMED: Final = frozenset(
    {"NetworkPolicy", "PodMonitor", "ScrapeConfig", "ServiceMonitor"}
)  # children without a condition of their own
SELECTED: Final[tuple[ConditionType, ...]] = ("ScrapeSelected", "RulesSelected", "RouteMatched", "DashboardSelected")


def build(snapshot: Snapshot, outcome: Outcome, new: api.LLMServiceStatus, now: dt.datetime) -> tuple[Condition, ...]:
    """Build all conditions; the time of one that did not change stays."""
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
        "RetentionTooShort": _retention(snapshot),
        "CostKnown": _cost_known(snapshot, new),
        "Observed": _observed(snapshot),
    }
    verdicts["Ready"] = _ready(snapshot, outcome, verdicts)
    if snapshot.gpu is not None:
        is_known = snapshot.gpu[0] != "Unknown"
        verdicts["GPUMetricsReady"] = snapshot.gpu if is_known else _kept(snapshot, "GPUMetricsReady", snapshot.gpu)
    built = tuple(item for item in new.conditions if item.type != "GPUMetricsReady" or snapshot.gpu is not None)
    for kind, (status, reason, message) in verdicts.items():
        built = conditions.set_condition(
            built,
            kind,
            status,
            reason,
            message,
            generation=snapshot.service.metadata.generation,
            now=now,
        )
    return built


def _kept(snapshot: Snapshot, kind: str, fallback: Verdict) -> Verdict:
    """Keep what was said before: nothing is known yet, after a restart, and that is no news."""
    old = conditions.find(snapshot.service.status.conditions, kind) if snapshot.service.status else None
    return (old.status, old.reason, old.message) if old is not None else fallback


def _ready(snapshot: Snapshot, outcome: Outcome, verdicts: Mapping[ConditionType, Verdict]) -> Verdict:
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
    if verdicts["RetentionTooShort"][0] == "True":
        notes.append(f"RetentionTooShort: {verdicts['RetentionTooShort'][2]}")
    notes += [
        f"The {kind} could not be written: {why}" for kind, why in sorted(outcome.failed.items()) if kind in UNNAMED
    ]
    notes += [problem.message for problem in snapshot.warnings]
    if snapshot.unwatched:
        notes.append(f"Observed: {verdicts['Observed'][2]}")
    text = " ".join([*missing, *notes])
    if missing:
        kind = next(kind for kind in ("Instrumented", "AlertsReady", "DashboardReady") if verdicts[kind][0] != "True")
        return "False", f"Not{kind}", text
    if notes:
        return "True", "ReadyWithGaps", text
    return "True", "AsSpecified", "Calls are measured and priced, and budgets are enforced."


def _observed(snapshot: Snapshot) -> Verdict:
    """Whether the operator sees what happens in the cluster: a watch that fails must not look like a quiet cluster."""
    if not snapshot.unwatched:
        return "True", "Watching", "The operator can watch everything that it needs for this status."
    text = f"The operator cannot watch {'; '.join(snapshot.unwatched[:LISTED])}. This status may be out of date, and changes are not acted on. The operator keeps trying. If access is forbidden, compare the ClusterRole {names.OPERATOR} with the chart's."
    return "False", "WatchFailing", text


def _instrumented(snapshot: Snapshot, new: api.LLMServiceStatus) -> Verdict:
    pods = snapshot.pods
    injection = new.injection
    if injection is not None and injection.state == "Stopped":
        return "False", "InjectionStopped", injection.message
    if not snapshot.pods_known:
        return _kept(
            snapshot, "Instrumented", ("Unknown", "PodsNotRead", "Pods cannot be read; see the condition Observed.")
        )
    if not pods:
        text = (
            "No pod in this namespace matches workload.selector. Compare it with the pods' labels "
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
    text = "All running pods are measured." + (f" Noticed: {' '.join(notes)}" if notes else "")
    return "True", "AllMetered", text


def _metrics_fresh(snapshot: Snapshot, new: api.LLMServiceStatus) -> Verdict:
    source = snapshot.prometheus
    if not source.configured:
        text = "The chart's prometheus.url is empty, so latency and throughput are unknown."
        return "False", "NotConfigured", text
    if not source.asked:
        return _kept(snapshot, "MetricsFresh", ("Unknown", "NotAsked", "Prometheus was not asked yet."))
    if not source.fresh:
        return "False", source.reason, f"{source.message} The last figures are shown, with their time (asOf)."
    if not snapshot.figures.scraped:
        return _not_scraped(snapshot, new)
    if not snapshot.ledger.fresh and snapshot.ledger.asked:
        return (
            "False",
            snapshot.ledger.reason,
            f"{snapshot.ledger.message} Usage and cost are the last known ones.",
        )
    return "True", "Fresh", "Prometheus and the ledger answer."


def _not_scraped(snapshot: Snapshot, new: api.LLMServiceStatus) -> Verdict:
    if not new.workload or not new.workload.metered:
        return "Unknown", "NothingToScrape", "No pod is measured yet."
    if not snapshot.capabilities.pod_monitors:
        text = "Prometheus has no series of this service: the Prometheus Operator, which would scrape it, is not installed."
        return "False", "NotScraped", text
    text = f"Prometheus answers, but has no series of this service. New pods take up to a minute. If it stays so, Prometheus does not select the PodMonitor {names.POD_MONITOR_PROXIES}: set the chart's prometheus.monitorLabels to the labels that your Prometheus selects."
    return "False", "NotScraped", text


def _selected(snapshot: Snapshot, kind: ConditionType) -> Verdict:
    """Give what `desired.selected` found; what was said before while it is not known."""
    verdict = snapshot.selected.get(kind)
    text = "Unknown so far: either the object is not applied yet, or the objects that could select it cannot be read."
    return verdict if verdict is not None else _kept(snapshot, kind, ("Unknown", "NotKnownYet", text))


def _scrape_selected(snapshot: Snapshot) -> Verdict:
    """Series that are there have been scraped, whoever selects what: an agent, or a configuration of its own."""
    status, reason, message = _selected(snapshot, "ScrapeSelected")
    there = snapshot.prometheus.fresh and snapshot.figures.scraped
    if there and (status == "Unknown" or reason == "NotSelected"):
        but = f" They do not come through our PodMonitor: {message}" if status == "False" else ""
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
        text = f"The {whose} are not installed. As soon as they are, the object is created."
        return "False", "NotInstalled", text
    if kind in outcome.failed:
        return "False", "ApplyFailed", outcome.failed[kind]
    return "True", "Applied", f"The {kind} exists."


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
        parts = [f"{budgets.called(budget)} is used up ({budget.action})" for budget in over]
        return "False", "Exceeded", f"{'; '.join(parts)}."
    warned = [budget for budget in new.budgets if budget.state == "Warned"]
    if warned:
        parts = [f"{budget.used_percent} % of {budgets.called(budget)} is used" for budget in warned]
        return "True", "Warned", f"{'; '.join(parts)}."
    return "True", "Open", "No budget is close to its limit."


def _meets_objectives(snapshot: Snapshot) -> Verdict:
    try:
        wanted = objectives.of_service(snapshot.service)
    except InvalidSpecError as error:
        return "Unknown", "InvalidSpec", str(error)
    if not wanted:
        return "True", "NoObjectives", "No objective is set."
    if not snapshot.prometheus.fresh and snapshot.prometheus.configured:
        return _kept(snapshot, "MeetsObjectives", ("Unknown", "NotAsked", "Prometheus was not asked yet."))
    bounds = queue_bounds(snapshot.engine, snapshot.figures)
    refused = engine_objectives.refusals(wanted, upstream.scraped_engine(snapshot.service), bounds)
    results = objectives.evaluate(wanted, readings(snapshot, wanted))
    missed = [result.sentence for result in results if result.met is False]
    if missed:
        return "False", "Missed", f"{'; '.join(missed)}."
    if refused or objectives.all_met(results) is None:
        unknown = [result.sentence for result in results if result.met is None]
        text = " ".join(item.message for item in refused) or f"{'; '.join(unknown)}."
        return "Unknown", refused[0].reason if refused else "NotMeasured", text
    return "True", "Met", "Every objective is met."


def _retention(snapshot: Snapshot) -> Verdict:
    """Whether Prometheus forgets before an objective's window ends: then its share is of what is kept, which must be said."""
    try:
        windows = {
            item.name: item.window_seconds
            for item in objectives.of_service(snapshot.service)
            if isinstance(item, objectives.Share)
        }
    except InvalidSpecError as error:
        return "Unknown", "InvalidSpec", str(error)
    if not windows:
        return "False", "NothingLooksBack", "No objective has a window."
    kept = snapshot.retention
    if kept is None:
        text = "Prometheus's retention is unknown: no Prometheus object selects the rules, or it keeps data by size."
        return _kept(snapshot, "RetentionTooShort", ("Unknown", "NotKnown", text))
    said = durations.human_whole(kept)
    short = [f"{name} ({durations.human_whole(window)})" for name, window in windows.items() if window > kept]
    if not short:
        return "False", "LongEnough", f"Prometheus keeps data for {said}, and no objective has a longer window."
    text = f"Prometheus keeps data for {said}, which is shorter than the window of {', '.join(short)}: their shares and error budgets cover only the last {said}. Raise its retention (spec.retention of the Prometheus object), or set a shorter window."
    return "True", "WindowLongerThanRetention", text


def _cost_known(snapshot: Snapshot, new: api.LLMServiceStatus) -> Verdict:
    if not snapshot.ledger.asked or (not snapshot.ledger.fresh and snapshot.service.status is not None):
        return _kept(snapshot, "CostKnown", ("Unknown", "NotAsked", "The ledger was not asked yet."))
    if not snapshot.ledger.fresh:
        return "Unknown", snapshot.ledger.reason, snapshot.ledger.message
    usage = new.usage
    unpriced = usage.gpu.unpriced_products if usage is not None and usage.gpu is not None else ()
    if unpriced and usage is not None and (usage.uncosted_tokens or not usage.requests):
        text = (
            f"An hour of {', '.join(unpriced[:LISTED])} has no known price: what these GPUs cost, and the tokens that they made, are in no cost. "
            "The platform team sets it with a ModelPrice (spec.gpu.product), or installs OpenCost."
        )
        return "False", "GpuRateUnknown", text
    if usage is None or not usage.uncosted_tokens:
        more = f" What an hour of {', '.join(unpriced[:LISTED])} costs is not known." if unpriced else ""
        return "True", "Priced", f"Every model in use has a price.{more}"
    models = ", ".join(usage.uncosted_models[:LISTED]) or "some models"
    more = f" and {len(usage.uncosted_models) - LISTED} more" if len(usage.uncosted_models) > LISTED else ""
    text = f"The price of {models}{more} is unknown, so their tokens are missing from every cost. The platform team can add it with a ModelPrice."
    return "False", "PriceUnknown", text
