"""Whether our objects are selected by the Prometheus, Alertmanager and Grafana objects of the cluster: four conditions of an LLMService.

What was applied is compared, as the API server has it, with who is there to select it. A cluster may do without these objects (a plain
Prometheus reads none): then nothing can be proved, and the answer is Unknown, never False.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.api.v1alpha1.common import ConditionType
from llmwarden.domain import durations
from llmwarden.domain.selection_proof import Candidate, Chooser, choosing, matches, refusal
from llmwarden.settings import Settings
from llmwarden.snapshot import Verdict

Object = Mapping[str, Any]
SCRAPING: Final = ("serviceMonitorSelector", "podMonitorSelector", "probeSelector", "scrapeConfigSelector")
KEPT: Final = (
    *SCRAPING,
    "podMonitorNamespaceSelector",
    "serviceMonitorNamespaceSelector",
    "scrapeConfigNamespaceSelector",
    "ruleSelector",
    "ruleNamespaceSelector",
    "enforcedNamespaceLabel",
    "excludedFromEnforcement",
    "alertmanagerConfigSelector",
    "alertmanagerConfigNamespaceSelector",
    "retention",
    "retentionSize",
)  # all that we keep of another operator's spec

RETENTION: Final = "24h"  # the Prometheus Operator's own default, where neither a time nor a size is set
# Kinds by which an engine's own metrics are scraped, and the fields of a Prometheus that select each.
ENGINE: Final[Mapping[str, tuple[str, str]]] = {
    kind: (f"{field}Selector", f"{field}NamespaceSelector")
    for kind, field in (
        ("PodMonitor", "podMonitor"),
        ("ServiceMonitor", "serviceMonitor"),
        ("ScrapeConfig", "scrapeConfig"),
    )
}
MONITOR_LABELS: Final = "prometheus.monitorLabels"
RULE_LABELS: Final = "prometheus.ruleLabels"
ROUTE_LABELS: Final = "prometheus.alertmanagerConfigLabels"
INSTANCE_LABELS: Final = "grafana.instanceLabels"


@dataclass(frozen=True, slots=True)
class Around:
    """What is known of the objects beside a service, and of those who may select them.

    `prometheuses`, `alertmanagers`, `grafanas`: as `strip` leaves them; None while they are not known yet (or may not be read). `applied`: our
    objects by kind and (namespace, name), as they are in the cluster. `namespaces`: labels of the service's namespace and of ours, by name.
    """

    prometheuses: tuple[Object, ...] | None = None
    alertmanagers: tuple[Object, ...] | None = None
    grafanas: tuple[Object, ...] | None = None
    applied: Mapping[tuple[str, str, str], Object] | None = None
    namespaces: Mapping[str, Mapping[str, str]] | None = None


def strip(item: Object) -> dict[str, Any]:
    """Keep of another operator's object its selectors, for how long it keeps data, its name, and its labels, by which dashboards choose it."""
    metadata, spec = item["metadata"], item.get("spec") or {}
    return {
        "metadata": {key: metadata[key] for key in ("name", "namespace", "labels") if key in metadata},
        "spec": {key: spec[key] for key in KEPT if spec.get(key) is not None},
    }


def verdicts(service: LLMService, settings: Settings, around: Around) -> dict[ConditionType, Verdict]:
    """Judge what can be judged now; a condition that is left out is not known yet."""
    judged: dict[ConditionType, Verdict | None] = {
        "ScrapeSelected": _scraped(service, settings, around),
        "RulesSelected": _ruled(service, settings, around),
        "RouteMatched": _routed(service, around),
        "DashboardSelected": _shown(service, settings, around),
    }
    return {kind: verdict for kind, verdict in judged.items() if verdict is not None}


# Prometheus ---------------------------------------------------------------------------------------------------------


def _scraped(service: LLMService, settings: Settings, around: Around) -> Verdict | None:
    wanted = [("PodMonitor", settings.namespace, names.POD_MONITOR_PROXIES)]
    name = names.PREFIX_ENGINE + service.metadata.name
    engine = [(kind, service.metadata.namespace, name) for kind in ENGINE]
    wanted += [place for place in engine if _applied(around, *place) is not None]
    if around.prometheuses is None:
        return None
    if not around.prometheuses:
        return _nobody("Prometheus", "PodMonitors", "configure your scraper to find the proxies' pods")
    takers: list[str] = []
    for place in wanted:
        choosers = _prometheuses(around.prometheuses, *ENGINE[place[0]])
        candidate = _candidate(around, *place, MONITOR_LABELS)
        if candidate is None:
            return None  # it is not there yet
        choosing_it = choosing(choosers, candidate)
        if not choosing_it:
            by_hand = [item for item in around.prometheuses if not any(key in item["spec"] for key in SCRAPING)]
            if by_hand:
                text = f"Prometheus {_called(by_hand[0])} has no selectors, so its scrape configuration is written by hand and we cannot see what it scrapes."
                return "Unknown", "ConfiguredByHand", text
            reason = "EngineNotSelected" if place in engine else "NotSelected"
            return "False", reason, refusal(choosers, candidate)
        takers += [str(chooser) for chooser in choosing_it if str(chooser) not in takers]
    kinds = sorted({f"{kind}s" for kind, _, _ in wanted})
    return "True", "Selected", f"{_and(takers)} selects the {_and(kinds)}."


def _ruled(service: LLMService, settings: Settings, around: Around) -> Verdict | None:
    """One Prometheus must evaluate both: alerts for all services read what is recorded beside each."""
    if around.prometheuses is None:
        return None
    if not around.prometheuses:
        return _nobody("Prometheus", "PrometheusRules", "load the rules into whatever evaluates them")
    choosers = _prometheuses(around.prometheuses, "ruleSelector", "ruleNamespaceSelector")
    places = (
        (service.metadata.namespace, names.PREFIX_ALERTS + service.metadata.name, "NotSelected"),
        (settings.namespace, names.RULES_SERVICES, "SharedNotSelected"),
    )
    takers: list[tuple[Chooser, ...]] = []
    for namespace, name, reason in places:
        candidate = _candidate(around, "PrometheusRule", namespace, name, RULE_LABELS)
        if candidate is None:
            return None
        choosing_it = choosing(choosers, candidate)
        if not choosing_it:
            text = refusal(choosers, candidate)
            shared = (
                " It has the alerts of all LLMServices: without it, no alert fires." if reason != "NotSelected" else ""
            )
            return "False", reason, text + shared
        takers.append(choosing_it)
    return _by_one(takers[0], takers[1], around.prometheuses, settings)


def _by_one(
    own: tuple[Chooser, ...], shared: tuple[Chooser, ...], prometheuses: tuple[Object, ...], settings: Settings
) -> Verdict:
    """Whether one of those who select a service's rules selects those for all services too, and lets them see all namespaces."""
    called = f"PrometheusRule {settings.namespace}/{names.RULES_SERVICES}"
    both = [chooser for chooser in own if chooser in shared]
    if not both:
        text = (
            f"{own[0]} selects the service's PrometheusRule, and {shared[0]} the {called}, which holds for all LLMServices: its alerts read "
            "what the other records, so one Prometheus must select both."
        )
        return "False", "SelectedApart", text
    free = [chooser for chooser in both if not _confined(prometheuses, chooser, settings.namespace)]
    if not free:
        text = f"{both[0]} has an enforcedNamespaceLabel, by which the {called} sees its own namespace only: name it in excludedFromEnforcement there."
        return "False", "NamespaceEnforced", text
    return "True", "Selected", f"{_and([str(chooser) for chooser in free])} selects the PrometheusRules."


def _confined(prometheuses: tuple[Object, ...], chooser: Chooser, namespace: str) -> bool:
    """Whether a Prometheus lets rules see their own namespace only, ours for all services among them."""
    for item in prometheuses:
        spec = item["spec"]
        if (item["metadata"].get("namespace", ""), item["metadata"]["name"]) != (chooser.namespace, chooser.name):
            continue
        if not spec.get("enforcedNamespaceLabel"):
            return False
        return not any(
            excluded.get("resource") == "prometheusrules"
            and excluded.get("namespace") == namespace
            and excluded.get("name") in {None, "", names.RULES_SERVICES}
            for excluded in spec.get("excludedFromEnforcement") or ()
        )
    return False


def retention(service: LLMService, around: Around) -> int | None:
    """Return for how many seconds the Prometheus that evaluates a service's rules keeps data; None where none is known to, or by size alone.

    Of several the longest: status and dashboards may ask that one.
    """
    place = (service.metadata.namespace, names.PREFIX_ALERTS + service.metadata.name)
    candidate = _candidate(around, "PrometheusRule", *place, RULE_LABELS)
    if candidate is None or not around.prometheuses:
        return None
    choosers = _prometheuses(around.prometheuses, "ruleSelector", "ruleNamespaceSelector")
    taken = {(chooser.namespace, chooser.name) for chooser in choosing(choosers, candidate)}
    seconds_kept = [
        durations.prometheus(item["spec"].get("retention", "" if "retentionSize" in item["spec"] else RETENTION))
        for item in around.prometheuses
        if (item["metadata"].get("namespace", ""), item["metadata"]["name"]) in taken
    ]
    return max((seconds for seconds in seconds_kept if seconds is not None), default=None)


def _prometheuses(items: tuple[Object, ...], field: str, namespace_field: str) -> tuple[Chooser, ...]:
    return tuple(_chooser("Prometheus", item, field, namespace_field) for item in items)


# Alertmanager -------------------------------------------------------------------------------------------------------


def _routed(service: LLMService, around: Around) -> Verdict | None:
    alerts = service.spec.alerts
    if alerts is None or not (alerts.pager_duty or alerts.slack or alerts.webhook or alerts.email):
        text = "spec.alerts names no receiver: alerts go where your Alertmanager's own routes send them, which we cannot see. To route them here, set alerts.pagerDuty, slack, webhook or email."
        return "Unknown", "NoReceiver", text
    if around.alertmanagers is None:
        return None
    if not around.alertmanagers:
        return _nobody("Alertmanager", "AlertmanagerConfigs", "without one, the receivers of spec.alerts do not work")
    place = (service.metadata.namespace, names.PREFIX_ROUTE + service.metadata.name)
    candidate = _candidate(around, "AlertmanagerConfig", *place, ROUTE_LABELS)
    if candidate is None:
        return None
    field, namespace_field = "alertmanagerConfigSelector", "alertmanagerConfigNamespaceSelector"
    choosers = tuple(_chooser("Alertmanager", item, field, namespace_field) for item in around.alertmanagers)
    takers = choosing(choosers, candidate)
    if not takers:
        return "False", "NotSelected", refusal(choosers, candidate)
    return "True", "Selected", f"{_and([str(chooser) for chooser in takers])} selects the AlertmanagerConfig."


# Grafana ------------------------------------------------------------------------------------------------------------


def _shown(service: LLMService, settings: Settings, around: Around) -> Verdict | None:
    """The Grafana Operator selects the other way round: a dashboard by Grafanas' labels, in all namespaces as we write it."""
    if settings.grafana_delivery != "GrafanaDashboard":
        labels = _words(settings.dashboard_labels) or "no labels"
        text = (
            f"The dashboard is a ConfigMap with {labels}: Grafana's sidecar loads it where it looks for that label in namespace "
            f"{service.metadata.namespace}, which stands in the settings of Grafana's chart (sidecar.dashboards.label, searchNamespace)."
        )
        return "Unknown", "BySidecar", text
    if around.grafanas is None:
        return None
    if not around.grafanas:
        return _nobody(
            "Grafana", "GrafanaDashboards", "set the chart's grafana.delivery to ConfigMap for a Grafana with a sidecar"
        )
    place = (service.metadata.namespace, names.PREFIX_DASHBOARD + service.metadata.name)
    if _applied(around, "GrafanaDashboard", *place) is None:
        return None
    wanted = settings.grafana_instance_labels
    grafanas = [
        item for item in around.grafanas if matches({"matchLabels": wanted}, item["metadata"].get("labels") or {})
    ]
    if grafanas:
        return (
            "True",
            "Selected",
            f"{_and([f'Grafana {_called(item)}' for item in grafanas])} is selected by the dashboard.",
        )
    first = min(around.grafanas, key=_called)
    own = _words(first["metadata"].get("labels") or {})
    text = (
        f"No Grafana has the labels {_words(wanted)} that the dashboard asks for: Grafana {_called(first)} has {own or 'none'}. Put labels that it has "
        f"into the chart's {INSTANCE_LABELS}, or these onto the Grafana."
    )
    return "False", "NotSelected", text


# Parts --------------------------------------------------------------------------------------------------------------


def _nobody(kind: str, ours: str, remedy: str) -> Verdict:
    text = f"There is no {kind} object in the cluster that could select {ours}; {remedy}."
    return "Unknown", f"No{kind}", text


def _chooser(kind: str, item: Object, field: str, namespace_field: str) -> Chooser:
    metadata, spec = item["metadata"], item["spec"]
    return Chooser(
        kind=kind,
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        selector=spec.get(field),
        namespace_selector=spec.get(namespace_field),
        field=field,
        namespace_field=namespace_field,
    )


def _applied(around: Around, kind: str, namespace: str, name: str) -> Object | None:
    return (around.applied or {}).get((kind, namespace, name))


def _candidate(around: Around, kind: str, namespace: str, name: str, value: str) -> Candidate | None:
    item = _applied(around, kind, namespace, name)
    if item is None:
        return None
    return Candidate(
        kind=kind,
        namespace=namespace,
        name=name,
        value=value,
        labels=item["metadata"].get("labels") or {},
        namespace_labels=(around.namespaces or {}).get(namespace, {}),
    )


def _called(item: Object) -> str:
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def _words(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _and(parts: list[str]) -> str:
    return " and ".join(parts)
