"""The Prometheus Operator's rules of selection, by table, and what is said where they do not hold."""

from typing import Any

import pytest

from llmwarden.domain.selection_proof import Candidate, Chooser, choosing, gaps, lacking, matches, refusal


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


def chooser(name: str = "k8s", namespace: str = "monitoring", **selectors: Any) -> Chooser:
    return Chooser(
        kind="Prometheus",
        namespace=namespace,
        name=name,
        selector=selectors.get("selector"),
        namespace_selector=selectors.get("namespaces"),
        field="ruleSelector",
        namespace_field="ruleNamespaceSelector",
    )


def candidate(
    labels: dict[str, str] | None = None, namespace: str = "shop", of: dict[str, str] | None = None
) -> Candidate:
    return Candidate(
        kind="PrometheusRule",
        namespace=namespace,
        name="llmwarden-alerts-bot",
        value="prometheus.ruleLabels",
        labels=labels or {},
        namespace_labels={"kubernetes.io/metadata.name": namespace, **(of or {})},
    )


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        (None, {}, False),
        (None, {"a": "1"}, False),
        ({}, {}, True),
        ({"matchLabels": {}}, {}, True),
        ({"matchLabels": None, "matchExpressions": None}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchLabels": {"a": ""}}, {"a": ""}, True),
        ({"matchLabels": {"a": ""}}, {}, False),
        ({"matchLabels": {"a": "1", "b": "2"}}, {"a": "1"}, False),
        (expression("a", "In", "1", "2"), {"a": "2"}, True),
        (expression("a", "In", "1", "2"), {"a": "3"}, False),
        (expression("a", "In", "1"), {}, False),
        (expression("a", "NotIn", "1"), {"a": "1"}, False),
        (expression("a", "NotIn", "1"), {"a": "2"}, True),
        (expression("a", "NotIn", "1"), {}, True),
        (expression("a", "Exists"), {"a": ""}, True),
        (expression("a", "Exists"), {}, False),
        (expression("a", "DoesNotExist"), {}, True),
        (expression("a", "DoesNotExist"), {"a": "1"}, False),
        ({"matchLabels": {"a": "1"}, **expression("b", "Exists")}, {"a": "1"}, False),
        # What their operators cannot parse stops them: nothing is selected.
        (expression("a", "In"), {"a": "1"}, False),
        (expression("a", "NotIn"), {}, False),
        (expression("a", "Exists", "1"), {"a": "1"}, False),
        (expression("a", "DoesNotExist", "1"), {}, False),
        (expression("a", "Gt", "1"), {"a": "2"}, False),
    ],
)
def test_selectors(selector: dict[str, Any] | None, labels: dict[str, str], expected: bool) -> None:  # noqa: FBT001
    assert matches(selector, labels) is expected
    if selector is not None:
        assert (lacking(selector, labels) == ()) is expected


@pytest.mark.parametrize(
    ("namespaces", "where", "labels", "expected"),
    [
        (None, "monitoring", {}, True),
        (None, "shop", {}, False),
        ({}, "shop", {}, True),
        ({"matchLabels": {"team": "a"}}, "shop", {"team": "a"}, True),
        ({"matchLabels": {"team": "a"}}, "shop", {}, False),
        # Its own namespace is no exception once there is a selector.
        ({"matchLabels": {"team": "a"}}, "monitoring", {}, False),
        ({"matchLabels": {"kubernetes.io/metadata.name": "shop"}}, "shop", {}, True),
    ],
)
def test_namespaces(namespaces: dict[str, Any] | None, where: str, labels: dict[str, str], expected: bool) -> None:  # noqa: FBT001
    one = chooser(selector={}, namespaces=namespaces)
    thing = candidate(namespace=where, of=labels)
    assert (gaps(one, thing) == ()) is expected
    assert choosing([one], thing) == ((one,) if expected else ())


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (
            chooser(selector={"matchLabels": {"release": "kps"}}, namespaces={}),
            ["its ruleSelector wants the label release=kps: put it into the chart's prometheus.ruleLabels"],
        ),
        (
            chooser(selector=expression("role", "In", "alerts", "rules"), namespaces={}),
            ["the label role with one of alerts, rules: put it into the chart's prometheus.ruleLabels"],
        ),
        (
            chooser(namespaces={}),
            ["its ruleSelector is not set, which selects nothing", "{} selects every PrometheusRule"],
        ),
        (
            chooser(selector={}),
            ["looks in its own namespace monitoring only, and this is in shop: set ruleNamespaceSelector"],
        ),
        (
            chooser(selector={}, namespaces={"matchLabels": {"monitored": "yes"}}),
            ["wants the label monitored=yes on the namespace shop: label that namespace"],
        ),
        (
            chooser(selector={"matchLabels": {"app.kubernetes.io/name": "kps"}}, namespaces={}),
            ["app.kubernetes.io/name=kps, which no setting of ours can give: change ruleSelector there"],
        ),
        (chooser(selector=expression("a", "In"), namespaces={}), ["a valid selector", "change ruleSelector there"]),
    ],
)
def test_what_is_missing_is_named_with_its_place(one: Chooser, says: list[str]) -> None:
    text = refusal((one,), candidate({"app.kubernetes.io/name": "llmwarden"}))
    assert text.startswith("Prometheus monitoring/k8s does not select PrometheusRule shop/llmwarden-alerts-bot: ")
    for part in says:
        assert part in text


def test_of_several_the_one_that_lacks_least_is_explained() -> None:
    far = chooser("a-far", selector={"matchLabels": {"x": "1", "y": "2"}})
    near = chooser("near", selector={"matchLabels": {"release": "kps"}}, namespaces={})
    text = refusal((far, near), candidate())
    assert text.startswith("None of 2 Prometheus objects selects")
    assert "nearest is Prometheus monitoring/near: its ruleSelector wants the label release=kps" in text
    assert "a-far" not in text
