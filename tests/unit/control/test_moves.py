"""What the operator remembers of the pods that it evicted."""

import datetime as dt
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llmwarden.api.v1alpha1.llmservice import InjectionStatus
from llmwarden.control import reconcile
from llmwarden.injection import rollout
from tests.unit.control.test_scale import NOW, Cluster


async def test_pod_templates_that_were_tried_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new version of an application is another template."""
    cluster = Cluster(1)
    service = cluster.world.service(cluster.names[0])
    snapshot = cast("Any", SimpleNamespace(service=service, object={"metadata": {}}, pods=()))
    templates = iter(range(100))

    def to_evict(*_: object, **__: object) -> object:
        return SimpleNamespace(name="pod", uid="u", owner=SimpleNamespace(template=f"template-{next(templates)}"))

    async def evict(*_: object) -> bool:
        return False

    monkeypatch.setattr(rollout, "to_evict", to_evict)
    monkeypatch.setattr(reconcile, "evict", evict)
    monkeypatch.setattr(reconcile, "TRIED", 10)
    for minute in range(100):
        await cluster.reconciler._move(snapshot, InjectionStatus(state="Active"), NOW + dt.timedelta(minutes=minute))
    assert list(cluster.reconciler._tried) == [f"template-{number}" for number in range(90, 100)]
