"""Self-hosted models over real HTTP and on both databases: from what the operator tells to prices, status, spend and metrics."""

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from llmwarden import names
from llmwarden.ledger.http import gpu_api
from tests import postgresql
from tests.ledger.test_http import Ledger, code, running
from tests.unit.ledger.objects import budget, service, view_of
from tests.unit.ledger.test_gpu import OLD, gpu_price

DOLLAR = 10**12
TEN = dt.datetime(2026, 11, 20, 10, tzinfo=dt.UTC)
BUCKET = int(TEN.timestamp())
OBJECTS = (service("bot", kind="VLLM", budgets=(budget(amount="100.00"),)), gpu_price((OLD, "3.60")))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite3") if request.param == "sqlite" else postgresql.shared().database()


@pytest_asyncio.fixture
async def ledger(tmp_path: Path, database: str) -> AsyncIterator[Ledger]:
    async with running(tmp_path, database=database) as made:
        made.clock.now = TEN + dt.timedelta(minutes=1)
        made.core.configure(view_of(*OBJECTS))
        yield made


def pod(until: dt.datetime, **changes: Any) -> dict[str, Any]:
    return {
        "service": "shop/bot",
        "uid": "u",
        "name": "bot-0",
        "resource": "nvidia.com/gpu",
        "product": "NVIDIA-L4",
        "gpus": 1,
        "since": TEN.isoformat(),
        "until": until.isoformat(),
        **changes,
    }


async def tell(ledger: Ledger, *pods: dict[str, Any], token: str | None = "operator", **more: Any) -> httpx.Response:  # noqa: S107 - no secret
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return await ledger.client.post(
        ledger.url + "/v1/gpus", json={"contract": 1, "pods": [*pods], **more}, headers=headers
    )


def row(**changes: Any) -> dict[str, Any]:
    return {
        "service": "bot", "provider": "vllm", "model": "llama", "priceId": None, "bucket": BUCKET, "requests": 1, "errors": 0,
        "tokens": {"input": 1_000_000, "output": 500_000}, "busyMs": 1_800_000, "prefillMs": 10, "decodeMs": 30, **changes,
    }  # fmt: skip


async def usage(ledger: Ledger) -> dict[str, Any]:
    found: dict[str, Any] = (await ledger.get("/v1/usage", token="operator")).json()["services"]["shop/bot"]
    return found


async def test_only_the_operator_may_tell(ledger: Ledger) -> None:
    told = pod(ledger.clock.now)
    assert code(await tell(ledger, told, token=None)) == (401, "unauthenticated")
    assert code(await tell(ledger, told, token="nobody")) == (401, "unauthenticated")
    assert code(await tell(ledger, told, token="pod")) == (403, "forbidden")
    assert code(await tell(ledger, told, contract=2)) == (409, "unsupported_contract")
    assert code(await tell(ledger, {"service": "shop/bot"})) == (400, "malformed")
    assert (await usage(ledger))["gpu"] is None


async def test_a_self_hosted_hour_from_its_first_call_to_its_bill(
    ledger: Ledger, tmp_path: Path, database: str
) -> None:
    unknown = (await ledger.get("/v1/price", service="bot", model="llama")).json()
    assert (unknown["priceId"], unknown["provisional"]) == (None, False)
    generation = (await ledger.get("/v1/config", services="bot")).json()["generation"]
    assert (await tell(ledger, pod(ledger.clock.now))).json() == {"contract": 1, "accepted": 1}
    assert (await ledger.get("/v1/config", services="bot")).json()["generation"] != generation
    price = (await ledger.get("/v1/price", service="bot", model="llama")).json()
    assert (price["priceId"], price["provisional"]) == (None, True)
    assert price["picodollars"]["input"] == price["picodollars"]["output"] == 1_000_000
    await ledger.report(row())
    # The operator was away until after the hour; its report is doubled, and an older one comes after it.
    ledger.clock.now = TEN + dt.timedelta(hours=1, seconds=150)
    late = pod(TEN + dt.timedelta(hours=1))
    for one in (late, late, pod(TEN + dt.timedelta(minutes=20))):
        await tell(ledger, one)
    ledger.core.tick()
    found = await usage(ledger)
    assert found["total"]["picodollars"] == 18 * DOLLAR // 10
    assert (found["gpu"]["picodollars"], found["gpu"]["idle"]) == (36 * DOLLAR // 10, 18 * DOLLAR // 10)
    price = (await ledger.get("/v1/price", service="bot", model="llama")).json()
    assert (price["picodollars"]["input"], price["picodollars"]["output"]) == (450_000, 2_700_000)
    spend = (await ledger.get("/v1/spend", token="operator", **{"from": "2h", "by": "model,hour"})).json()
    assert spend["total"]["picodollars"] == 18 * DOLLAR // 10
    assert spend["gpu"] == [
        {
            "service": "shop/bot", "gpuHours": "1", "picodollars": 36 * DOLLAR // 10, "usd": "3.60",
            "idlePicodollars": 18 * DOLLAR // 10, "idleUsd": "1.80", "coveredPicodollars": 0, "unpricedGpuHours": "0",
        }
    ]  # fmt: skip
    for use in ("used", "idle"):
        assert ledger.metric(names.METRIC_GPU_COST, namespace="shop", llmservice="bot", use=use) == 1.8
    labels = {"namespace": "shop", "llmservice": "bot", names.LABEL_M_TOKEN_TYPE: "output"}
    assert ledger.metric(names.METRIC_GPU_TOKENS, **labels) == 2.7
    assert ledger.metric("llmwarden_ledger_trued_up_usd_total") == pytest.approx(0.3)
    # A restart comes to the same.
    ledger.stop.set()
    ledger.core.stop()
    await ledger.server
    ledger.store.close()
    async with running(tmp_path, database=database) as again:
        again.clock.now = ledger.clock.now
        again.core.configure(view_of(*OBJECTS))
        again.core.tick()
        assert (await usage(again))["gpu"] == found["gpu"]
        assert (await usage(again))["total"] == found["total"]


async def test_another_replica_learns_of_it(tmp_path: Path) -> None:
    shared = postgresql.shared().database()
    async with running(tmp_path, database=shared) as one, running(tmp_path, database=shared) as other:
        for each in (one, other):
            each.clock.now = TEN + dt.timedelta(hours=1, seconds=150)
            each.core.configure(view_of(*OBJECTS))
        await tell(one, pod(TEN + dt.timedelta(hours=1)))
        await other.holdings.follow()
        other.core.tick()
        assert (await usage(other))["gpu"]["picodollars"] == 36 * DOLLAR // 10


async def test_nobody_holds_gpus_in_the_future_or_by_the_million(ledger: Ledger) -> None:
    ahead = ledger.clock.now + dt.timedelta(days=3)  # the operator's clock is wrong
    told = [
        pod(ahead),
        pod(ledger.clock.now, uid="a", gpus=10**6),
        pod(ledger.clock.now, uid="b", service="shop/../x"),
        pod(ledger.clock.now, uid="c", rate=-1),
        pod(ledger.clock.now, uid="d", product="x" * 500),
        pod(ledger.clock.now, uid="e", since="2026-11-20T10:00:00"),
    ]
    assert (await tell(ledger, *told)).json()["accepted"] == 1
    ledger.clock.now = TEN + dt.timedelta(hours=1, seconds=150)
    ledger.core.tick()
    assert (await usage(ledger))["gpu"]["milliseconds"] == 60_000


async def test_a_pod_that_vanished_unseen_counts_until_it_was_seen_and_is_said(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    await tell(ledger, pod(ledger.clock.now), pod(ledger.clock.now, uid="v", name="bot-1"))
    # The operator comes back after an hour; one of the two is not there any more.
    for minute in (70, 71, 72, 73, 74, 75, 76):
        ledger.clock.now = TEN + dt.timedelta(minutes=minute)
        await tell(ledger, pod(ledger.clock.now))
        await ledger.holdings.lose()
    await ledger.holdings.follow()
    found = (await usage(ledger))["gpu"]
    assert found["lostPods"] == 1
    assert found["milliseconds"] == 3_600_000 + 60_000
    assert caplog.text.count("bot-1 of bot held GPUs and vanished unseen") == 1


async def test_while_the_operator_is_away_nobody_is_called_lost(ledger: Ledger) -> None:
    await tell(ledger, pod(ledger.clock.now))
    ledger.clock.now = TEN + dt.timedelta(hours=5)
    await ledger.holdings.lose()
    await tell(ledger, pod(ledger.clock.now))
    await ledger.holdings.lose()
    await ledger.holdings.follow()
    assert (await usage(ledger))["gpu"]["lostPods"] == 0
    assert gpu_api.LOST_SECONDS > gpu_api.STEADY_SECONDS > gpu_api.PAUSE_SECONDS


async def test_the_description_has_the_gpus(ledger: Ledger) -> None:
    described = (await ledger.get("/openapi.json")).json()["components"]["schemas"]
    assert "idlePicodollars" in described["GpuSpend"]["properties"]
    assert "gpu" in described["Spend"]["properties"]
