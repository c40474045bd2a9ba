"""Pods that do not report any more: only the API server's word ends their leases."""

from typing import Any

import prometheus_client
import pytest

from llmwarden.contracts import ledger as wire
from llmwarden.errors import ForbiddenError, NotFoundError, UnavailableError
from llmwarden.ledger.lost import LostPods
from llmwarden.ledger.metrics import Metrics
from llmwarden.ledger.store import Store
from llmwarden.ledger.store.counts import Counts
from tests.unit.ledger.objects import granting
from tests.unit.ledger.test_merge import report, row

KEY = "LLMService/shop/bot/daily"


class Pods:
    """The API server's pods, by name."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any] | Exception] = {}
        self.asked: list[str] = []

    async def get(self, api_version: str, plural: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        assert (api_version, plural, namespace) == ("v1", "pods", "shop")
        self.asked.append(name)
        found = self.pods.get(name, NotFoundError(name))
        if isinstance(found, Exception):
            raise found
        return found


class Stand:
    """A store with one journal that holds 500 and last reported at 1000."""

    def __init__(self, database: str) -> None:
        self.store = Store(database)
        self.pods = Pods()
        self.registry = prometheus_client.CollectorRegistry()
        self.now = 1200.0
        self.lost = LostPods(
            self.pods, self.store, self, Metrics(self.registry), lambda: self.now, services=lambda: ["shop/quiet"]
        )
        sent = report(row(Counts(requests=1)), journal="j", sequence=1)
        self.pod = sent.pod
        self.send(sent, balance=500)

    def send(self, sent: wire.Report, *, balance: int, at: int = 1000) -> None:
        leased = wire.Report(
            contract=1,
            journal=sent.journal,
            sequence=sent.sequence,
            pod=sent.pod,
            rows=sent.rows,
            final=sent.final,
            leases=(wire.LeaseUse(KEY, 0, balance),),
        )
        self.store.merge([(leased, at)], granting(KEY, balance))

    async def release(self, journal_ids: Any) -> list[int]:
        return self.store.release(journal_ids)

    def held(self) -> int:
        return sum(one.outstanding for one in self.store.lease_state())

    def counted(self) -> float:
        labels = {"namespace": "shop", "llmservice": "bot"}
        return self.registry.get_sample_value("llmwarden_ledger_unreported_pods_total", labels) or 0.0


@pytest.fixture
def stand(database: str) -> Any:
    made = Stand(database)
    yield made
    made.store.close()


async def test_a_pod_that_is_gone_gives_its_lease_back_and_is_counted_once(stand: Stand) -> None:
    await stand.lost.sweep()
    assert (stand.held(), stand.counted()) == (0, 1)
    await stand.lost.sweep()
    assert stand.counted() == 1


@pytest.mark.parametrize(
    ("pod", "held"),
    [
        ({"metadata": {"uid": "SAME"}, "status": {"phase": "Running"}}, 500),
        ({"metadata": {"uid": "SAME"}, "status": {"phase": "Failed"}}, 0),
        ({"metadata": {"uid": "another"}, "status": {"phase": "Running"}}, 0),
        (ForbiddenError("no"), 500),
    ],
)
async def test_what_the_api_server_says_decides(stand: Stand, pod: Any, held: int) -> None:
    if isinstance(pod, dict) and pod["metadata"]["uid"] == "SAME":
        pod["metadata"]["uid"] = stand.pod.uid
    stand.pods.pods[stand.pod.name] = pod
    await stand.lost.sweep()
    assert stand.held() == held
    assert stand.counted() == (held == 0)


async def test_one_that_is_there_and_holds_nothing_is_not_asked_about_at_every_sweep(stand: Stand) -> None:
    stand.store.release([one.journal_id for one in stand.store.lease_state()])
    idle = report(row(Counts(requests=1)), journal="k", sequence=1)
    stand.send(idle, balance=0)
    stand.pods.pods[idle.pod.name] = {"metadata": {"uid": idle.pod.uid}, "status": {"phase": "Running"}}
    for _ in range(3):
        await stand.lost.sweep()
    assert len(stand.pods.asked) == 1


@pytest.mark.parametrize("now", [1001.0, 1050.0, 1000.0 + 30 * 86_400])
async def test_a_lease_is_taken_back_when_its_pod_is_gone_whatever_its_age(stand: Stand, now: float) -> None:
    """A pod that was deleted by force may still report; one that was silent for a month is not looked for otherwise."""
    stand.now = now
    await stand.lost.sweep()
    assert stand.held() == 0


async def test_one_that_reports_or_ended_or_cannot_be_asked_about_stays(stand: Stand) -> None:
    stand.now = 1050.0
    stand.pods.pods[stand.pod.name] = {"metadata": {"uid": stand.pod.uid}, "status": {"phase": "Running"}}
    await stand.lost.sweep()
    assert stand.held() == 500
    stand.now = 1200.0
    stand.pods.pods[stand.pod.name] = UnavailableError("down")
    with pytest.raises(UnavailableError):
        await stand.lost.sweep()
    assert stand.held() == 500
    last = report(row(Counts(requests=1)), journal="j", sequence=2)
    stand.send(wire.Report(1, "j", 2, last.pod, last.rows, final=True), balance=0, at=1010)
    stand.pods.pods.clear()
    await stand.lost.sweep()
    assert stand.counted() == 0


async def test_what_nobody_lost_is_counted_as_none(stand: Stand) -> None:
    await stand.lost.sweep()
    labels = {"namespace": "shop", "llmservice": "quiet"}
    assert stand.registry.get_sample_value("llmwarden_ledger_unreported_pods_total", labels) == 0
