"""What one service costs does not grow with how many there are. Calls of functions are counted, not seconds."""

import copy
import datetime as dt
import itertools
import sys
from collections.abc import Callable, Coroutine
from typing import Any, cast

from llmwarden import names
from llmwarden.clients.ledger import DirectClient
from llmwarden.contracts import ledger as wire
from llmwarden.control.observe.engines import Engines
from llmwarden.control.observe.gpus import Gpus
from llmwarden.control.observe.prometheus import Prometheus
from llmwarden.control.observe.resources import NAMESPACE, WorkKey
from llmwarden.control.observe.world import World
from llmwarden.control.reconcile import Reconciler
from llmwarden.control.sources import Sources
from llmwarden.kube import Client
from llmwarden.settings import Settings
from llmwarden.snapshot import Figures, Quantiles
from tests.api.operating import sample

FEW, MANY = 10, 600
SPACES = 5
CHAT = sample("chat", "")
NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)
Object = dict[str, Any]


class Server:
    """Stores what is applied, and counts. It refuses nothing and asks nothing: all that is counted is ours."""

    def __init__(self) -> None:
        self.version = itertools.count(1000)
        self.writes: list[str] = []
        self.objects: dict[tuple[str, str, str], Object] = {}

    async def apply(self, manifest: Object) -> Object:
        metadata = {**manifest["metadata"], "uid": f"u{next(self.version)}", "resourceVersion": str(next(self.version))}
        self.writes.append(f"{manifest['kind']}/{metadata['name']}")
        return {**manifest, "metadata": metadata}

    async def apply_status(self, manifest: Object) -> Object:
        self.writes.append(f"status/{manifest['metadata']['name']}")
        metadata = manifest["metadata"]
        stored = self.objects[manifest["kind"], metadata["namespace"], metadata["name"]]
        new = {**stored, "status": manifest["status"]}
        return {**new, "metadata": {**new["metadata"], "resourceVersion": str(next(self.version))}}

    async def create_event(self, *_: object, **__: object) -> None:
        """Drop an Event."""


class Cluster:
    """So many services in five namespaces, a pod of each, and what is marked."""

    def __init__(self, count: int) -> None:
        self.server = Server()
        self.marked: list[tuple[WorkKey, bool]] = []
        self.world = World(cast("Client", self.server), Settings(), self.mark, lambda: NOW)
        self.reconciler = Reconciler(
            cast("Client", self.server), Settings(), self.world, lambda: NOW, itertools.count(0, 1000).__next__
        )
        for informer in self.world._needed:
            informer.synced.set()
        for number in range(SPACES):
            self.world.take(NAMESPACE, {"metadata": {"name": f"team-{number}", "uid": "u"}}, ("", f"team-{number}"))
        self.names = [(f"team-{number % SPACES}", f"chat-{number}") for number in range(count)]
        for name in self.names:
            self.put(name)
            self.put_pod(name)
        self.marked.clear()

    def mark(self, key: WorkKey, *, urgent: bool = True) -> None:
        self.marked.append((key, urgent))

    def put(self, name: tuple[str, str], generation: int = 1, **spec: Any) -> None:
        item = copy.deepcopy(CHAT)
        labels = {"app": name[1]}
        item["spec"]["workload"]["selector"] = {"matchLabels": labels}
        item["spec"] |= spec
        item["metadata"] |= {
            "name": name[1],
            "namespace": name[0],
            "uid": f"uid-{name[1]}",
            "generation": generation,
            "creationTimestamp": "2026-11-30T11:00:00Z",
            "resourceVersion": str(next(self.server.version)),
        }
        self.server.objects["LLMService", *name] = item
        self.world.take("LLMService", item, name)

    def put_pod(self, name: tuple[str, str], **labels: str) -> None:
        pod = {
            "metadata": {
                "name": f"{name[1]}-0",
                "namespace": name[0],
                "uid": f"pod-{name[1]}",
                "labels": {"app": name[1], **labels},
                "creationTimestamp": "2026-11-30T11:00:00Z",
                "resourceVersion": str(next(self.server.version)),
            },
            "spec": {"containers": [{"name": "engine", "image": "engine"}]},
            "status": {"phase": "Running"},
        }
        self.world._pods._take({"type": "MODIFIED", "object": pod})

    async def settle(self) -> None:
        for name in self.names:
            await self.reconciler.reconcile_once(WorkKey("LLMService", *name))
            await self.reconciler.reconcile_once(WorkKey("LLMService", *name))
        self.server.writes.clear()
        self.marked.clear()


async def counted(work: Callable[[], Coroutine[Any, Any, object]]) -> int:
    """Count the calls of Python's and C's functions that a piece of work makes."""
    calls = 0

    def seen(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(seen)
    try:
        await work()
    finally:
        sys.setprofile(None)
    return calls


async def test_one_services_work_costs_the_same_among_ten_and_among_hundreds() -> None:
    costs: dict[str, list[int]] = {}
    for count in (FEW, MANY):
        cluster = Cluster(count)
        await cluster.settle()
        one = cluster.names[3]
        key = WorkKey("LLMService", *one)

        async def reconcile(cluster: Cluster = cluster, key: WorkKey = key) -> None:
            await cluster.reconciler.reconcile_once(key)

        async def edit(cluster: Cluster = cluster, one: tuple[str, str] = one) -> None:
            cluster.put(one, 2, alerts={"disable": ["LLMNoTraffic"]})

        async def pod(cluster: Cluster = cluster, one: tuple[str, str] = one) -> None:
            cluster.put_pod(one, more="labels")

        await reconcile()  # the value that was parsed is kept, in both sizes
        for what, work in (
            ("a look that finds nothing new", reconcile),
            ("an edit that arrives", edit),
            ("the edited service", reconcile),
            ("a pod that changes", pod),
            ("the service with the changed pod", reconcile),
        ):
            costs.setdefault(what, []).append(await counted(work))
        assert cluster.server.writes, "the edit was written"
    grown = {what: cost for what, cost in costs.items() if cost[1] > cost[0] * 1.1 + 20}
    assert not grown, costs


async def test_an_edit_and_a_pod_mark_the_services_that_they_concern_and_no_others() -> None:
    cluster = Cluster(MANY)
    await cluster.settle()
    one = cluster.names[7]
    cluster.put(one, 2)
    cluster.put_pod(one, more="labels")
    assert {key for key, _ in cluster.marked} == {WorkKey("LLMService", *one)}
    assert all(urgent for _, urgent in cluster.marked)
    # A pod that two services select concerns both, and so does the end of the one.
    cluster.marked.clear()
    other = (one[0], "also")
    cluster.put(other, 1, workload=CHAT["spec"]["workload"] | {"selector": {"matchLabels": {"app": one[1]}}})
    assert {key for key, _ in cluster.marked if key.kind == "LLMService"} == {
        WorkKey("LLMService", *one),
        WorkKey("LLMService", *other),
    }
    cluster.marked.clear()
    cluster.world.take("LLMService", None, other)
    assert WorkKey("LLMService", *one) in {key for key, _ in cluster.marked}


async def test_our_own_status_wakes_nobody() -> None:
    cluster = Cluster(FEW)
    await cluster.settle()
    item = cluster.world.raw("LLMService", cluster.names[0])
    assert item is not None
    assert item["status"]["conditions"]
    again = {**item, "metadata": {**item["metadata"], "resourceVersion": str(next(cluster.server.version))}}
    cluster.world.take("LLMService", again, cluster.names[0])
    assert cluster.marked == []


def usage(requests: int, *budgets: str) -> wire.ServiceUsage:
    totals = wire.UsageTotals(requests=requests, picodollars=requests)
    return wire.ServiceUsage(totals, totals, totals, budgets=budgets)


def spent_of(spent: int, state: wire.BudgetState = "Open") -> wire.BudgetUsage:
    return wire.BudgetUsage("USD", 1000, spent, state, "Block", NOW, NOW + dt.timedelta(days=1))


async def test_a_tick_marks_only_what_would_change() -> None:
    cluster = Cluster(FEW)
    world, postponed = cluster.world, []
    no_client = cast("Client", cluster.server)
    sources = Sources(
        world,
        cast("Prometheus", None),
        cast("DirectClient", None),
        cast("Engines", None),
        gpus=Gpus(no_client, None),
        mark=cluster.mark,
        postpone=lambda *key: postponed.append(WorkKey(*key)),
        now=lambda: NOW,
    )
    key = "LLMBudget/team-0/all"
    budget = spent_of(10)

    async def tick(
        figures: dict[tuple[str, str], Figures], used: dict[str, wire.ServiceUsage], spent: wire.BudgetUsage
    ) -> None:
        cluster.marked.clear()
        postponed.clear()
        world.figures = figures
        world.usage = wire.Usage(names.CONTRACT, NOW, used, {key: spent})
        await sources._mark_moved()

    def services() -> set[WorkKey]:
        return {marked for marked, _ in cluster.marked if marked.kind == "LLMService"}

    figures = {name: Figures(scraped=True, ttft=Quantiles(p95=0.5), requests_per_second=1.0) for name in cluster.names}
    used = {f"{namespace}/{name}": usage(10, key) for namespace, name in cluster.names}
    await tick(figures, used, budget)
    assert len(services()) == FEW, "the first time everything is news"
    await tick(figures, used, budget)
    assert (services(), postponed) == (set(), [])
    assert all(not urgent for _, urgent in cluster.marked), "a tick overtakes nobody"
    one, other, third = cluster.names[:3]
    # Less than a status shows is nothing; what it shows takes its turn; what may change a state is looked at soon.
    figures[one] = Figures(scraped=True, ttft=Quantiles(p95=0.5001), requests_per_second=1.0)
    await tick(figures, used, budget)
    assert (services(), postponed) == (set(), [])
    figures[one] = Figures(scraped=True, ttft=Quantiles(p95=0.7), requests_per_second=1.0)
    used[f"{other[0]}/{other[1]}"] = usage(11, key)
    figures[third] = Figures(scraped=False)
    await tick(figures, used, budget)
    assert services() == {WorkKey("LLMService", *third)}
    assert postponed == [WorkKey("LLMService", *one), WorkKey("LLMService", *other)]
    # A budget that is used up is a change of state of everybody under it; a little more spent is a figure of theirs.
    await tick(figures, used, spent_of(101))
    await tick(figures, used, spent_of(102))
    assert (services(), len(postponed)) == (set(), FEW)
    await tick(figures, used, spent_of(1000, "Exceeded"))
    assert len(services()) == FEW
