"""The proxy's resources: admitted by the namespace's limits, in the pod's own class of service, or not at all."""

import random
from fractions import Fraction
from typing import Any

import pytest

from llmwarden import names
from llmwarden.injection import quantities
from llmwarden.injection.fitting import Fit, fit
from llmwarden.injection.limits import Limits, limit_range, quota
from llmwarden.settings import Settings

SETTINGS = Settings()


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    every = [{"name": f"c{number}", "resources": given} for number, given in enumerate(containers)]
    return {"metadata": {}, "spec": {"containers": every, **spec}}


def ranges(*limits: dict[str, Any], name: str = "least") -> Limits:
    return Limits(limit_range({"metadata": {"name": name}, "spec": {"limits": list(limits)}}))


def quotas(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> Limits:
    used = dict.fromkeys(hard, "0") if used is None else used
    item = {"metadata": {"name": "team"}, "spec": {"hard": hard, **spec}, "status": {"used": used}}
    return Limits(quotas=(quota(item),))


BURSTABLE = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
GUARANTEED = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
MEMORY_ONLY = {"requests": {"memory": "512Mi"}}


def container(**limit: Any) -> dict[str, Any]:
    return {"type": "Container", **limit}


@pytest.mark.parametrize(
    ("given", "limits", "requests", "bounds"),
    [
        # Without rules: what the settings say, in the pod's class.
        (BURSTABLE, Limits(), {"cpu": "10m", "memory": "64Mi"}, {"cpu": "1", "memory": "256Mi"}),
        (MEMORY_ONLY, Limits(), {"cpu": "10m", "memory": "64Mi"}, {"memory": "256Mi"}),
        (GUARANTEED, Limits(), {"cpu": "200m", "memory": "256Mi"}, {"cpu": "200m", "memory": "256Mi"}),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, Limits(), *[{"cpu": "200m", "memory": "256Mi"}] * 2),
        ({}, Limits(), None, None),
        # Case 17: a least, a ratio, and the most of a pod.
        (
            BURSTABLE,
            ranges(container(min={"cpu": "100m", "memory": "128Mi"})),
            {"cpu": "100m", "memory": "128Mi"},
            {"cpu": "1", "memory": "256Mi"},
        ),
        (
            BURSTABLE,
            ranges(container(maxLimitRequestRatio={"cpu": "4", "memory": "2"})),
            {"cpu": "50m", "memory": "64Mi"},
            {"cpu": "200m", "memory": "128Mi"},
        ),
        (
            BURSTABLE,
            ranges({"type": "Pod", "max": {"cpu": "1", "memory": "512Mi"}}),
            {"cpu": "10m", "memory": "0"},
            None,
        ),
        # The most of a container: it demands a limit.
        (
            MEMORY_ONLY,
            ranges(container(max={"cpu": "2", "memory": "128Mi"})),
            {"cpu": "10m", "memory": "64Mi"},
            {"cpu": "200m", "memory": "128Mi"},
        ),
        # A default that would be filled in for us.
        (
            BURSTABLE,
            ranges(container(default={"cpu": "4", "nvidia.com/gpu": "1"}, defaultRequest={"nvidia.com/gpu": "1"})),
            {"cpu": "10m", "memory": "64Mi", "nvidia.com/gpu": "0"},
            {"cpu": "1", "memory": "256Mi", "nvidia.com/gpu": "0"},
        ),
        # Ratios that no binary fraction holds.
        (
            MEMORY_ONLY,
            ranges(container(maxLimitRequestRatio={"memory": "1.1"})),
            None,
            {"memory": None},
        ),
        # Quotas: demanded, and nearly used up.
        (
            MEMORY_ONLY,
            quotas({"limits.cpu": "8"}),
            {"cpu": "10m", "memory": "64Mi"},
            {"cpu": "200m", "memory": "256Mi"},
        ),
        (
            BURSTABLE,
            quotas({"limits.memory": "2Gi"}, {"limits.memory": "1376Mi"}),
            {"cpu": "10m", "memory": "64Mi"},
            {"cpu": "1", "memory": "160Mi"},
        ),
    ],
)
def test_what_the_proxy_asks_for(given: dict[str, Any], limits: Limits, requests: Any, bounds: Any) -> None:
    result = fit(pod(given), SETTINGS, limits)
    assert result.refused is None
    if requests is not None:
        assert result.resources.get("requests") == requests
    for name, value in (bounds or {}).items():
        assert value is None or result.resources["limits"][name] == value
    if not given:
        assert result.resources == {}


@pytest.mark.parametrize(
    ("given", "limits", "by"),
    [
        (BURSTABLE, ranges(container(max={"memory": "32Mi"})), "LimitRange least"),
        (BURSTABLE, ranges(container(max={"cpu": "20m"})), "LimitRange least"),
        (BURSTABLE, ranges(container(min={"nvidia.com/gpu": "1"})), "LimitRange least"),
        (GUARANTEED, ranges({"type": "Pod", "max": {"memory": "1Gi"}}), "LimitRange least"),
        (BURSTABLE, quotas({"limits.memory": "2Gi"}, {"limits.memory": "1500Mi"}), "ResourceQuota team"),
        (BURSTABLE, quotas({"requests.cpu": "4"}, {"requests.cpu": "3500m"}), None),
        ({}, quotas({"limits.memory": "2Gi"}, {"limits.memory": "2Gi"}, scopes=["NotBestEffort"]), None),
        (BURSTABLE, quotas({"limits.memory": "2Gi"}, {"limits.memory": "2Gi"}), None),  # refused with or without us
        (BURSTABLE, quotas({"limits.memory": "2Gi"}, {}), None),  # not counted yet
    ],
)
def test_a_pod_that_would_be_refused_gets_no_proxy(given: dict[str, Any], limits: Limits, by: str | None) -> None:
    refused = fit(pod(given), SETTINGS, limits).refused
    assert (refused[0] if refused else None) == by


def test_quotas_count_pods_of_their_scope_alone() -> None:
    full = {"hard": {"limits.memory": "2Gi"}, "used": {"limits.memory": "1500Mi"}}
    scoped = {
        "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}
    }
    limits = quotas(full["hard"], full["used"], **scoped)
    assert fit(pod(BURSTABLE), SETTINGS, limits).refused is None
    assert fit(pod(BURSTABLE, priorityClassName="high"), SETTINGS, limits).refused is not None
    assert fit(pod(BURSTABLE), SETTINGS, quotas(full["hard"], full["used"], scopes=["Terminating"])).refused is None


def test_resources_of_the_pod_bound_the_proxy_as_well() -> None:
    whole = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}
    assert fit(pod({}, resources=whole), SETTINGS).resources == {}
    least = ranges(container(min={"memory": "128Mi"}))
    inside = {"requests": {"memory": "512Mi"}}
    assert fit(pod(inside, resources=whole), SETTINGS, least).resources["requests"] == {"memory": "128Mi"}
    assert fit(pod({"requests": {"memory": "1Gi"}}, resources=whole), SETTINGS, least).refused is not None


def test_init_containers_and_sidecars_count_as_kubernetes_counts_them() -> None:
    init = [
        {"name": "early", "resources": {"limits": {"memory": "1Gi"}}},
        {"name": "mesh", "restartPolicy": "Always", "resources": {"limits": {"memory": "256Mi"}}},
        {"name": "late", "resources": {"limits": {"memory": "1Gi"}}},
    ]
    given = pod({"limits": {"memory": "512Mi"}}, initContainers=init)
    # 256Mi and 1Gi run together before the application does: 1280Mi.
    most = {"type": "Pod", "max": {"memory": "1536Mi"}}
    assert fit(given, SETTINGS, ranges(most)).resources["limits"]["memory"] == "256Mi"
    tight = {"type": "Pod", "max": {"memory": "1408Mi"}}
    assert fit(given, SETTINGS, ranges(tight)).resources["limits"]["memory"] == "128Mi"


AMOUNTS = {"cpu": ["0", "50m", "100m", "250m", "1", "2"], "memory": ["0", "64Mi", "100M", "256Mi", "1Gi", "4Gi"]}


def _class(containers: list[dict[str, Any]]) -> str:
    """The class of a pod, by the words of Kubernetes' documentation."""
    amounts = [
        {side: {n: quantities.parse(v) or 0 for n, v in (c.get(side) or {}).items()} for side in ("requests", "limits")}
        for c in containers
    ]
    asked = [{**c["limits"], **c["requests"]} for c in amounts]
    if not any(c.get(n) for c in [*asked, *(c["limits"] for c in amounts)] for n in ("cpu", "memory")):
        return "BestEffort"
    same = all(
        c["limits"].get(n) and c["limits"][n] == a.get(n)
        for c, a in zip(amounts, asked, strict=True)
        for n in ("cpu", "memory")
    )
    return "Guaranteed" if same else "Burstable"


@pytest.mark.parametrize("seed", range(300))
def test_the_class_is_kept_and_the_proxy_can_run(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - a test's own

    def amounts(share: float) -> dict[str, str]:
        return {name: rng.choice(values) for name, values in AMOUNTS.items() if rng.random() < share}

    def some(bounds: dict[str, str]) -> dict[str, str]:
        return {name: text for name, text in bounds.items() if rng.random() < 0.5}

    containers: list[dict[str, Any]] = []
    for _ in range(rng.randint(1, 3)):
        bounds = amounts(rng.choice([0.0, 0.5, 1.0]))
        containers.append({"limits": bounds, "requests": {**bounds} if rng.random() < 0.7 else some(bounds)})
    kinds = [
        {"type": rng.choice(["Container", "Pod"]), rng.choice(["min", "max"]): amounts(0.6)}
        for _ in range(rng.randint(0, 2))
    ]
    if rng.random() < 0.3:
        kinds.append(
            {"type": "Container", "maxLimitRequestRatio": {name: rng.choice(["1", "1.5", "3"]) for name in AMOUNTS}}
        )
    result: Fit = fit(pod(*containers), SETTINGS, ranges(*kinds))
    if result.refused is not None:
        assert kinds
        return
    own = result.resources
    assert _class([*containers, own]) == _class(containers)
    least = {"cpu": Fraction(50, 1000), "memory": Fraction(64 * 2**20)}
    for name, text in own.get("limits", {}).items():
        bound, request = quantities.parse(text), quantities.parse(own["requests"][name])
        assert bound is not None
        assert request is not None
        assert request <= bound
        assert not bound or bound >= least[name]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("250m", Fraction(1, 4)),
        ("1Gi", 2**30),
        ("1.5G", 1_500_000_000),
        ("1e3", 1000),
        ("2E", 2 * 10**18),
        ("12E2", 1200),
    ],
)
def test_quantities(text: str, value: Fraction) -> None:
    assert quantities.parse(text) == value


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1e", "9" * 100, "1e9999", None, {}])
def test_no_quantities(text: object) -> None:
    assert quantities.parse(text) is None


def test_the_proxys_own_container_does_not_count() -> None:
    once = fit(pod(GUARANTEED), SETTINGS).resources
    given = pod(
        GUARANTEED, initContainers=[{"name": names.PROXY_CONTAINER, "restartPolicy": "Always", "resources": once}]
    )
    assert fit(given, SETTINGS).resources == once
