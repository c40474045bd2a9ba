"""`kubectl llm explain`: the chain from pod to page as a checklist, each link with what helps. Pure: an LLMService in, links out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from rich.markup import escape
from rich.table import Table

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.api.v1alpha1.common import ConditionType
from llmwarden.api.v1alpha1.llmservice import EnforcementCheckType, LLMServiceStatus
from llmwarden.domain import conditions, upstream
from llmwarden.errors import InvalidSpecError

State = Literal["ok", "todo", "note", "unknown"]
LISTED: Final = 5  # pods that are named
_SIGNS: Final[Mapping[State, str]] = {
    "ok": "[green]✓[/green]",
    "todo": "[red]✗[/red]",
    "note": "[yellow]![/yellow]",
    "unknown": "[dim]?[/dim]",
}
_CHECKS: Final[Mapping[EnforcementCheckType, str]] = {
    "KeyInProxy": "The proxy has the key",
    "PodsMetered": "Every pod has a proxy",
    "KeyOnlyInProxy": "No other container gets the key",
    "VolumesApart": "No other container mounts the proxy's volumes",
    "ProcessesApart": "No other container sees the proxy's processes",
    "NodeApart": "No container reaches the node",
    "WayOutApart": "The application chooses no HTTP proxy for the key",
    "Encrypted": "The application cannot read the key on its way",
    "UpstreamInCluster": "A key without TLS stays in the cluster",
    "LedgerLossBounded": "The loss of the ledger is bounded",
    "UnmeasuredRefused": "What cannot be measured is refused",
}
_ANSWERS: Final[Mapping[str, str]] = {"Holds": "yes.", "Fails": "no.", "NotChecked": "not checked."}
_STATES: Final[Mapping[str, State]] = {"True": "ok", "False": "todo", "Unknown": "unknown"}


@dataclass(frozen=True, slots=True)
class Link:
    """One link of the chain. `todo` is broken, and the text says what helps; `note` works, with something to know; `unknown` cannot be checked."""

    name: str
    state: State
    text: str
    details: tuple[str, ...] = ()


def links(item: Mapping[str, Any]) -> list[Link]:
    """Return the chain of an LLMService (its JSON), from the operator to its objectives."""
    metadata, reported = item["metadata"], item.get("status")
    if not reported:
        text = "The operator has not written a status yet. That takes seconds. If it stays so, check that the operator is running: kubectl get deployments -A -l app.kubernetes.io/name=llmwarden"
        return [Link("Operator", "todo", text)]
    try:
        service = parse(LLMService, dict(item))
    except InvalidSpecError as error:
        return [Link("Spec", "todo", f"{error}. Edit the spec, or use the kubectl-llm of the installed version.")]
    status = service.status
    if status is None:
        text = "The status cannot be read. Use the kubectl-llm of the installed version."
        return [Link("Operator", "todo", text)]
    current = status.observed_generation >= metadata.get("generation", 0)
    late = "The operator has not seen the last edit of the spec yet. Check that it is running."
    return [
        Link("Operator", "ok", "It has seen the current spec.") if current else Link("Operator", "todo", late),
        *_watches(status),
        _spec(status),
        *_pods(service, status),
        *_engine(service, status),
        _condition(status, "ScrapeSelected", "Scraped"),
        _condition(status, "MetricsFresh", "Metrics"),
        _condition(status, "AlertsReady", "Rules"),
        _condition(status, "RulesSelected", "Rules evaluated"),
        _condition(status, "RouteMatched", "Alerts routed"),
        _condition(status, "DashboardReady", "Dashboard"),
        _condition(status, "DashboardSelected", "Dashboard shown"),
        _condition(status, "CostKnown", "Prices"),
        *(
            [_condition(status, "GPUMetricsReady", "GPUs")]
            if service.spec.gpu and service.spec.gpu.exporter != "None"
            else []
        ),
        *_budgets(status),
        _objectives(status),
        *_history(status),
    ]


def is_whole(chain: Sequence[Link]) -> bool:
    """Whether there is nothing to do."""
    return all(link.state != "todo" for link in chain)


def to_json(name: str, chain: Sequence[Link]) -> dict[str, Any]:
    """Return the chain for programs."""
    return {
        "service": name,
        "ok": is_whole(chain),
        "links": [
            {"name": link.name, "state": link.state, "text": link.text, "details": list(link.details)} for link in chain
        ],
    }


def table(chain: Sequence[Link]) -> Table:
    """Return the checklist."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for link in chain:
        made.add_row(_SIGNS[link.state], link.name, escape(link.text))
        for detail in link.details:
            made.add_row("", "", f"[dim]- {escape(detail)}[/dim]")
    return made


def summary(chain: Sequence[Link]) -> str:
    """Say in one line how it is."""
    broken = [link.name for link in chain if link.state == "todo"]
    unseen = sum(link.state == "unknown" for link in chain)
    text = f"To do: {', '.join(broken)}." if broken else "All checks passed."
    return f"{text} {unseen} of {len(chain)} cannot be checked." if unseen else text


# Links --------------------------------------------------------------------------------------------------------------


def _condition(status: LLMServiceStatus, kind: ConditionType, name: str, details: tuple[str, ...] = ()) -> Link:
    condition = conditions.find(status.conditions, kind)
    if condition is None:
        text = f"The operator does not report the condition {kind}. It may be older than this program."
        return Link(name, "unknown", text, details)
    return Link(name, _STATES[condition.status], condition.message or condition.reason, details)


def _watches(status: LLMServiceStatus) -> list[Link]:
    """Say what the operator cannot watch: then everything that follows may be out of date."""
    condition = conditions.find(status.conditions, "Observed")
    return [Link("Watches", "todo", condition.message)] if condition is not None and condition.status == "False" else []


def _spec(status: LLMServiceStatus) -> Link:
    """Say whether the spec is valid. Ready has a reason of its own for an invalid spec; reasons `Not...` are missing parts."""
    ready = conditions.find(status.conditions, "Ready")
    if ready is not None and ready.status == "False" and not ready.reason.startswith("Not"):
        return Link("Spec", "todo", ready.message)
    return Link("Spec", "ok", "The spec is valid.")


def _pods(service: LLMService, status: LLMServiceStatus) -> list[Link]:
    workload = status.workload
    if workload is None:
        return [_condition(status, "Instrumented", "Pods metered")]
    links_of_pods = []
    if workload.selected:
        links_of_pods.append(
            Link("Pods selected", "ok", f"workload.selector matches {_count(workload.selected, 'pod')}.")
        )
        lacking = [f"{pod.pod}: {pod.reason}{f'; {pod.remedy}' if pod.remedy else ''}" for pod in workload.unmetered]
        more = len(lacking) - LISTED
        details = (*lacking[:LISTED], *([f"and {more} more"] if more > 0 else []))
        links_of_pods.append(_condition(status, "Instrumented", "Pods metered", details))
    else:
        text = f"workload.selector matches no pod of this namespace. Compare it with kubectl get pods -n {service.metadata.namespace} --show-labels"
        links_of_pods.append(Link("Pods selected", "todo", text))
    if workload.coverage_percent is not None:
        text = f"The proxies saw {workload.coverage_percent} % of the calls that the engine counted."
        around = workload.coverage_percent < 99  # noqa: PLR2004 - world.COVERED
        remedy = " The others bypass the proxies. The condition Ready names the Services that allow it, and the remedy."
        links_of_pods.append(Link("Calls measured", "todo" if around else "ok", text + (remedy if around else "")))
    return links_of_pods


def _engine(service: LLMService, status: LLMServiceStatus) -> list[Link]:
    """Only where we stand in front of one: a provider has no metrics to read."""
    engine = status.engine
    if upstream.interception(service) != "Port":
        if service.spec.scrape is None or not service.spec.scrape.elsewhere:
            return []
        if engine is not None and (engine.requests_running, engine.requests_waiting) != (None, None):
            return [Link("Engine", "ok", "The external engine's metrics are in Prometheus.")]
        text = "Prometheus has no metrics of the external engine. See ScrapeSelected, and check in Prometheus that its target is up (Status, Targets)."
        return [Link("Engine", "unknown", text)]
    if engine is None or not engine.type:
        why = (
            engine.message
            if engine is not None and engine.message
            else "No pod answered with metrics of a supported engine."
        )
        return [Link("Engine", "unknown", why)]
    text = f"{engine.type} {engine.version or '(version unknown)'}."
    return [Link("Engine", "note" if engine.message else "ok", f"{text} {engine.message}" if engine.message else text)]


def _budgets(status: LLMServiceStatus) -> list[Link]:
    details = []
    for budget in status.budgets:
        until = f", until {budget.resets_at:%Y-%m-%d %H:%M} UTC" if budget.resets_at else ""
        details.append(
            f"{budget.scope} {budget.name}: {budget.used_percent} % of {budget.limit} {budget.unit} ({budget.state}, {budget.action}{until})"
        )
    links_of_budgets = [_condition(status, "WithinBudget", "Budgets", tuple(details))]
    if status.enforcement is not None:
        links_of_budgets.append(_enforcement(status))
    return links_of_budgets


def _enforcement(status: LLMServiceStatus) -> Link:
    if status.enforcement == "None":
        text = "No budget stops calls. To enforce one, set onExceeded.action to something other than Alert."
        return Link("Enforcement", "note", text)
    details = tuple(
        f"{_CHECKS[check.check]}: {_ANSWERS[check.state]}{f' {check.message}' if check.message else ''}"
        for check in status.enforcement_checks
    )
    if status.enforcement == "Enforced":
        text = "Enforced: the application cannot bypass the budgets. This does not hold against an editor of the namespace, who can read the key."
        return Link("Enforcement", "ok", text, details)
    failed = sum(check.state == "Fails" for check in status.enforcement_checks)
    return Link(
        "Enforcement",
        "note",
        f"Advisory: the application could bypass the budgets. {_count(failed, 'check')} failed.",
        details,
    )


def _objectives(status: LLMServiceStatus) -> Link:
    details = []
    for objective in status.objectives:
        parts: list[str] = [objective.state]
        if objective.measured and objective.target:
            parts.append(f"{objective.measured} measured, {objective.target} wanted")
        if objective.error_budget_left_percent is not None:
            parts.append(f"{objective.error_budget_left_percent} % of the error budget left")
        details.append(f"{objective.name}: {', '.join(parts)}")
    return _condition(status, "MeetsObjectives", "Objectives", tuple(details))


def _history(status: LLMServiceStatus) -> list[Link]:
    """Say whether Prometheus keeps data for as long as the objectives need. True means that it does not."""
    condition = conditions.find(status.conditions, "RetentionTooShort")
    if condition is None or condition.reason == "NothingLooksBack":
        return []
    states: Mapping[str, State] = {"True": "todo", "False": "ok", "Unknown": "unknown"}
    return [Link("History kept", states[condition.status], condition.message)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
