"""The four conditions of selection, from other operators' objects as they stand in a cluster."""

from dataclasses import replace
from typing import Any

import pytest

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.settings import Settings
from llmwarden.status import selected
from llmwarden.status.selected import Around
from tests.unit.status.helpers import service

OWN = names.DEFAULT_NAMESPACE
LABELS = {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_NAME: names.MANAGED_BY}
PAGED = {"alerts": {"pagerDuty": {"routingKeySecretRef": {"name": "pd", "key": "key"}}}}
ALL: dict[str, Any] = {
    f"{kind}{what}": {}
    for kind in ("podMonitor", "rule", "alertmanagerConfig")
    for what in ("Selector", "NamespaceSelector")
}


def other(name: str = "main", namespace: str = "monitoring", labels: dict[str, str] | None = None, **spec: Any) -> Any:
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}, "uid": "u", "annotations": {"a": "b"}}
    return selected.strip({"metadata": metadata, "spec": {"replicas": 2, **spec}, "status": {"x": 1}})


def around(labels: dict[str, str] | None = None, **changes: Any) -> Around:
    places = (
        ("PodMonitor", OWN, names.POD_MONITOR_PROXIES),
        ("PrometheusRule", "shop", names.PREFIX_ALERTS + "bot"),
        ("PrometheusRule", OWN, names.RULES_SERVICES),
        ("AlertmanagerConfig", "shop", names.PREFIX_ROUTE + "bot"),
        ("GrafanaDashboard", "shop", names.PREFIX_DASHBOARD + "bot"),
    )
    base: dict[str, Any] = {
        "prometheuses": (other(**ALL),),
        "alertmanagers": (other(**ALL),),
        "grafanas": (other("grafana", labels={"dashboards": "grafana"}),),
        "applied": {place: {"metadata": {"labels": {**LABELS, **(labels or {})}}} for place in places},
        "namespaces": {OWN: {}, "shop": {"team": "a"}},
    }
    return Around(**{**base, **changes})


def verdicts(given: Around, of: LLMService | None = None, **settings: Any) -> dict[str, tuple[str, str, str]]:
    wanted = Settings(**{"grafana_delivery": "GrafanaDashboard", **settings})
    return {str(kind): verdict for kind, verdict in selected.verdicts(of or service(**PAGED), wanted, given).items()}


def test_all_is_selected() -> None:
    found = verdicts(around())
    assert {kind: verdict[:2] for kind, verdict in found.items()} == dict.fromkeys(
        ("ScrapeSelected", "RulesSelected", "RouteMatched", "DashboardSelected"), ("True", "Selected")
    )
    assert "Prometheus monitoring/main" in found["ScrapeSelected"][2]
    assert "Grafana monitoring/grafana" in found["DashboardSelected"][2]


def test_only_selectors_are_kept_of_other_operators_objects() -> None:
    assert other(**{**ALL, "podMetadata": {"labels": {}}, "ruleSelector": None}) == {
        "metadata": {"name": "main", "namespace": "monitoring", "labels": {}},
        "spec": {key: value for key, value in ALL.items() if key != "ruleSelector"},
    }


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("ScrapeSelected", "podMonitorSelector", "prometheus.monitorLabels"),
        ("RulesSelected", "ruleSelector", "prometheus.ruleLabels"),
        ("RouteMatched", "alertmanagerConfigSelector", "prometheus.alertmanagerConfigLabels"),
    ],
)
def test_a_missing_label_is_named_with_the_chart_s_value(kind: str, field: str, value: str) -> None:
    picky = (other(**{**ALL, field: {"matchLabels": {"release": "kps"}}}),)
    status, reason, message = verdicts(around(prometheuses=picky, alertmanagers=picky))[kind]
    assert (status, reason) == ("False", "NotSelected")
    assert f"its {field} wants the label release=kps: put it into the chart's {value}." in message
    given = around({"release": "kps"}, prometheuses=picky, alertmanagers=picky)
    assert verdicts(given)[kind][:2] == ("True", "Selected")


def test_where_nobody_selects_by_objects_nothing_is_claimed() -> None:
    found = verdicts(around(prometheuses=(), alertmanagers=(), grafanas=()))
    assert {kind: verdict[:2] for kind, verdict in found.items()} == {
        "ScrapeSelected": ("Unknown", "NoPrometheus"),
        "RulesSelected": ("Unknown", "NoPrometheus"),
        "RouteMatched": ("Unknown", "NoAlertmanager"),
        "DashboardSelected": ("Unknown", "NoGrafana"),
    }


def test_what_is_not_known_yet_is_left_out() -> None:
    assert verdicts(around(prometheuses=None, alertmanagers=None, grafanas=None)) == {}
    assert verdicts(around(applied={})) == {}


def test_one_of_several_is_enough() -> None:
    given = around(prometheuses=(other("agentless"), other("second", **ALL)))
    assert verdicts(given)["RulesSelected"][2] == "Prometheus monitoring/second selects the PrometheusRules."


def test_one_prometheus_must_select_the_rules_beside_a_service_and_those_for_all() -> None:
    of_team = {**ALL, "ruleNamespaceSelector": {"matchLabels": {"team": "a"}}}
    status, reason, message = verdicts(around(prometheuses=(other(**of_team),)))["RulesSelected"]
    assert (status, reason) == ("False", "SharedNotSelected")
    assert f"does not select PrometheusRule {OWN}/{names.RULES_SERVICES}: its ruleNamespaceSelector wants" in message
    of_ours = {**ALL, "ruleNamespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}
    apart = around(prometheuses=(other("teams", **of_team), other("ours", **of_ours)))
    assert verdicts(apart)["RulesSelected"][1] == "SelectedApart"
    assert "one Prometheus must select both" in verdicts(apart)["RulesSelected"][2]
    assert verdicts(replace(apart, prometheuses=(*(apart.prometheuses or ()), other(**ALL))))["RulesSelected"] == (
        "True",
        "Selected",
        "Prometheus monitoring/main selects the PrometheusRules.",
    )


def test_rules_for_all_services_must_see_all_namespaces() -> None:
    confined = {**ALL, "enforcedNamespaceLabel": "namespace"}
    status, reason, message = verdicts(around(prometheuses=(other(**confined),)))["RulesSelected"]
    assert (status, reason) == ("False", "NamespaceEnforced")
    assert "excludedFromEnforcement" in message
    for name in (names.RULES_SERVICES, None):
        exception = {"group": "monitoring.coreos.com", "resource": "prometheusrules", "namespace": OWN, "name": name}
        excepted = other(**confined, excludedFromEnforcement=[exception])
        assert verdicts(around(prometheuses=(excepted,)))["RulesSelected"][:2] == ("True", "Selected")


def test_the_engine_s_own_podmonitor_must_be_selected_too() -> None:
    given = around()
    place = ("PodMonitor", "shop", names.PREFIX_ENGINE + "bot")
    given = replace(given, applied={**(given.applied or {}), place: {"metadata": {"labels": LABELS}}})
    only_ours = other(podMonitorSelector={})
    assert verdicts(replace(given, prometheuses=(other(**ALL),)))["ScrapeSelected"][0] == "True"
    status, reason, message = verdicts(
        replace(given, prometheuses=({**only_ours, "metadata": {"name": "x", "namespace": OWN}},))
    )["ScrapeSelected"]
    assert (status, reason) == ("False", "EngineNotSelected")
    assert "PodMonitor shop/llmwarden-engine-bot" in message
    assert "set podMonitorNamespaceSelector there" in message


def test_a_namespace_s_label_is_asked_for_where_it_is_missing() -> None:
    selector = {"matchLabels": {"monitored": "yes"}}
    given = around(prometheuses=(other(**{**ALL, "ruleNamespaceSelector": selector}),))
    assert "the label monitored=yes on the namespace shop: label that namespace" in verdicts(given)["RulesSelected"][2]
    labelled = replace(given, namespaces={OWN: {}, "shop": {"monitored": "yes"}})
    assert f"on the namespace {OWN}: label that namespace" in verdicts(labelled)["RulesSelected"][2]
    both = replace(given, namespaces={OWN: {"monitored": "yes"}, "shop": {"monitored": "yes"}})
    assert verdicts(both)["RulesSelected"][0] == "True"


def test_a_prometheus_without_any_selector_is_configured_by_hand() -> None:
    found = verdicts(around(prometheuses=(other(ruleSelector={}, ruleNamespaceSelector={}),)))
    assert found["ScrapeSelected"][:2] == ("Unknown", "ConfiguredByHand")
    assert found["RulesSelected"][0] == "True"


def test_a_service_that_names_no_receiver_has_no_route() -> None:
    status, reason, message = verdicts(around(), service())["RouteMatched"]
    assert (status, reason) == ("Unknown", "NoReceiver")
    assert "spec.alerts" in message


def test_a_grafana_is_chosen_by_its_labels() -> None:
    given = around(grafanas=(other("grafana", labels={"app": "grafana"}),))
    status, _, message = verdicts(given)["DashboardSelected"]
    assert status == "False"
    assert "No Grafana has the labels dashboards=grafana" in message
    assert "Grafana monitoring/grafana has app=grafana" in message
    assert "grafana.instanceLabels" in message
    assert verdicts(given, grafana_instance_labels={"app": "grafana"})["DashboardSelected"][0] == "True"


def test_a_configmap_s_way_to_grafana_cannot_be_proved() -> None:
    status, reason, message = verdicts(around(), grafana_delivery="ConfigMap")["DashboardSelected"]
    assert (status, reason) == ("Unknown", "BySidecar")
    assert "grafana_dashboard=1" in message


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ({"retention": "15d"}, 15 * 86400),
        ({"retention": "1d12h"}, 36 * 3600),
        ({}, 86400),  # the Prometheus Operator's own default
        ({"retentionSize": "50GB"}, None),
        ({"retention": "2w", "retentionSize": "50GB"}, 14 * 86400),
    ],
)
def test_how_long_data_is_kept_stands_in_the_prometheus_that_selects_the_rules(
    spec: dict[str, Any], seconds: int | None
) -> None:
    stranger = other("stranger", **{**ALL, "ruleSelector": {"matchLabels": {"x": "y"}}, "retention": "5y"})
    assert selected.retention(service(), around(prometheuses=(stranger, other(**ALL, **spec)))) == seconds


def test_of_several_prometheuses_the_longest_memory_counts_and_of_none_nothing_is_known() -> None:
    two = (other("a", **ALL, retention="2d"), other("b", **ALL, retention="9d"))
    assert selected.retention(service(), around(prometheuses=two)) == 9 * 86400
    for nobody in ((), None):
        assert selected.retention(service(), around(prometheuses=nobody)) is None
