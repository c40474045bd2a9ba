"""Pods that can only run on Windows nodes get no proxy, however they say so."""

from typing import Any

import pytest

from llmwarden.control.observe.stripping import strip_pod
from llmwarden.injection.selection import needs_windows


def affinity(*terms: list[dict[str, Any]], required: bool = True) -> dict[str, Any]:
    given = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    kind = "requiredDuringSchedulingIgnoredDuringExecution"
    if not required:
        kind = "preferredDuringSchedulingIgnoredDuringExecution"
        return {"affinity": {"nodeAffinity": {kind: [{"weight": 1, "preference": given["nodeSelectorTerms"][0]}]}}}
    return {"affinity": {"nodeAffinity": {kind: given}}}


def system(operator: str, *values: str, key: str = "kubernetes.io/os") -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


ZONE = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]}


@pytest.mark.parametrize(
    "spec",
    [
        {"os": {"name": "windows"}},
        {"nodeSelector": {"kubernetes.io/os": "windows"}},
        {"nodeSelector": {"beta.kubernetes.io/os": "windows"}},
        {"nodeSelector": {"node.kubernetes.io/windows-build": "10.0.20348"}},
        affinity([system("In", "windows")]),
        affinity([ZONE, system("In", "windows")]),
        affinity([system("NotIn", "linux")]),
        affinity([system("In", "windows", key="beta.kubernetes.io/os")]),
        affinity([{"key": "node.kubernetes.io/windows-build", "operator": "Exists"}]),
        affinity([system("In", "windows")], [system("NotIn", "linux"), ZONE]),
    ],
)
def test_it_needs_windows(spec: dict[str, Any]) -> None:
    assert needs_windows(spec)
    # So the operator finds as well, which keeps little of a pod.
    assert needs_windows(strip_pod({"metadata": {"name": "bot"}, "spec": {**spec, "containers": []}})["spec"])


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"os": {"name": "linux"}, **affinity([system("In", "windows")])},
        {"nodeSelector": {"kubernetes.io/os": "linux"}},
        affinity(),
        affinity([]),
        affinity([ZONE]),
        affinity([system("In", "windows", "linux")]),
        affinity([system("NotIn", "windows")]),
        affinity([system("Exists")]),
        affinity([system("In", "windows")], [ZONE]),
        affinity([system("In", "windows")], required=False),
        {"affinity": {"nodeAffinity": None}},
        {"affinity": None},
    ],
)
def test_it_can_run_on_linux(spec: dict[str, Any]) -> None:
    assert not needs_windows(spec)
