"""Forged usage against a real ledger: how far it reaches, who sees it, and how the platform takes it back. On both databases."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llmwarden import names
from llmwarden.domain.plausible import Pace
from tests import postgresql
from tests.ledger.test_http import DAILY, DOLLAR, POD, Ledger, code, row, running
from tests.unit.ledger.objects import BUCKET, NOW, budget, service, shared, view_of

AT = int(NOW.timestamp())
FORGED, BILLION = 2**40, 10**9
TEAM, ALL = "LLMBudget/shop/team", "ClusterLLMBudget/all"
WEB = {"namespace": "web", "name": "bot-0", "uid": "w"}
HONEST = 1_000_000 * 150_000 + 100_000 * 600_000  # what `row` costs
OBJECTS = (
    service(budgets=(budget(),)),
    service("bot", "web", budgets=(budget(),)),
    shared("LLMBudget", "team", {}, "10.00", "shop"),
    shared("ClusterLLMBudget", "all", {}, "10.00"),
)
SPAN = {"from": "2026-11-01T00:00:00Z", "to": "2026-11-30T00:00:00Z"}
Opened = Callable[[], AbstractAsyncContextManager[Ledger]]


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Starts a ledger; again, on the same database."""
    database = "" if request.param == "sqlite" else postgresql.shared().database()

    @asynccontextmanager
    async def start() -> AsyncIterator[Ledger]:
        async with running(tmp_path, database=database, pace=Pace()) as made:
            made.core.configure(view_of(*OBJECTS, namespaces={"shop": {}, "web": {}}))
            made.ages.update({"u": AT - 60, "w": AT - 3600})
            yield made

    return start


async def honest(ledger: Ledger, sequence: int = 1) -> None:
    response = await ledger.report(row(), token="web-pod", pod=WEB, journal="w", sequence=sequence)
    assert response.json()["accepted"] == 1


async def usage(ledger: Ledger) -> dict[str, Any]:
    found: dict[str, Any] = (await ledger.get("/v1/usage", token="operator")).json()
    return found


async def spent(ledger: Ledger) -> dict[str, tuple[str, int]]:
    """State and spending of the budgets, once what everybody is told agrees."""
    told = await usage(ledger)
    total = (await ledger.get("/v1/spend", token="operator", **SPAN)).json()["total"]
    services = [one["total"] for one in told["services"].values()]
    for field in (
        "picodollars",
        "quarantinedPicodollars",
        "quarantinedTokens",
        "writtenOffPicodollars",
        "writtenOffTokens",
    ):
        assert total.get(field, 0) == sum(one.get(field, 0) for one in services), field
    by_pod = (await ledger.get("/v1/spend", token="operator", by="pod,kind", **SPAN)).json()["total"]
    assert by_pod == total
    return {key: (one["state"], one["spent"]) for key, one in told["budgets"].items()}


def tokens(**kinds: int) -> dict[str, Any]:
    return {"tokens": {"input": 10, "output": 1, **kinds}}


FORGERIES: dict[str, list[dict[str, Any]]] = {
    "one row": [row(tokens={"input": FORGED})],
    "rows that add up": [row(labels={"team": f"t{number}"}, tokens={"input": 10**9}) for number in range(50)],
    "more than 64 bits": [row(tokens={"input": 2**62, "output": 2**62}), row(tokens={"input": 2**62}, model="gpt-4o")],
    "future": [row(tokens={"input": FORGED}, bucket=BUCKET + 86_400 // 2)],
    "calls": [row(requests=FORGED)],
    "errors": [row(errors=FORGED, requests=FORGED)],
    **{
        kind: [row(**tokens(**{kind: FORGED}))]
        for kind in (
            "cached_input",
            "cache_write",
            "cache_write_1h",
            "output",
            "reasoning",
            "input_audio",
            "output_audio",
        )
    },
    **{kind: [row(**{kind: FORGED})] for kind in ("busyMs", "prefillMs", "decodeMs")},
}


@pytest.mark.parametrize("how", FORGERIES)
async def test_a_shared_budget_counts_nothing_of_it_also_after_a_restart(opened: Opened, how: str) -> None:
    async with opened() as ledger:
        await honest(ledger)
        before = await spent(ledger)
        for _ in range(2):
            answer = (await ledger.report(*FORGERIES[how])).json()
            assert answer["accepted"] == len(FORGERIES[how])
        first = await spent(ledger)
        assert first[ALL] == before[ALL] == ("Open", HONEST)
        assert first["LLMService/web/bot/daily"] == before["LLMService/web/bot/daily"]
        assert first[DAILY][1] == first[TEAM][1]
    async with opened() as ledger:
        assert await spent(ledger) == first
        await ledger.report(*FORGERIES[how], sequence=3)
        assert await spent(ledger) == first
        # The reporter's own budgets count it at once; what has no price is counted as it is.
        if how in {"one row", "rows that add up", "more than 64 bits", "cached_input", "output", "reasoning"}:
            assert first[DAILY][0] == first[TEAM][0] == "Exceeded"
        await honest(ledger, sequence=2)
        assert (await spent(ledger))[ALL] == ("Open", HONEST)


async def test_it_is_shown(opened: Opened) -> None:
    async with opened() as ledger:
        await honest(ledger)
        await ledger.report(row(), row(model="gpt-4o", tokens={"input": FORGED}))
        found = (await ledger.get("/v1/spend", token="operator", by="service,model")).json()["rows"]
        (forged,) = [one for one in found if one["by"] == {"service": "shop/bot", "model": "gpt-4o"}]
        assert forged["quarantinedTokens"] == FORGED
        assert forged["quarantinedPicodollars"] == forged["picodollars"] == FORGED * 2_500_000
        labels = {"namespace": "shop", "llmservice": "bot"}
        assert ledger.metric(names.METRIC_LEDGER_QUARANTINED, **labels) == FORGED
        assert ledger.metric(names.METRIC_LEDGER_QUARANTINED_REQUESTS, **labels) == 1
        assert ledger.metric("llmwarden_ledger_quarantined_rows_total", namespace="shop") == 1
        # What is honest beside it counts everywhere.
        assert (await spent(ledger))[ALL][1] == 2 * HONEST


async def test_many_reports_and_journals_of_one_pod_have_one_allowance(opened: Opened) -> None:
    async with opened() as ledger:
        # A minute old, with half a minute of burst: 18 million tokens at 200,000 a second.
        for number in range(40):
            grown = row(model="gpt-4o-mini", tokens={"input": 1_000_000 * (number // 8 + 1)})
            await ledger.report(grown, journal=f"j{number % 8}", sequence=number)
        told = await usage(ledger)
        assert told["budgets"][ALL]["spent"] == 18_000_000 * 150_000
        assert told["budgets"][DAILY]["spent"] == 40_000_000 * 150_000


async def test_rows_older_than_the_pod_are_left_out_and_the_others_are_taken(opened: Opened) -> None:
    async with opened() as ledger:
        old = [row(bucket=BUCKET - 900 * number) for number in (2, 4, 960)]
        answer = (await ledger.report(row(), row(bucket=BUCKET - 900), *old)).json()
        assert answer["accepted"] == 2
        assert ledger.metric("llmwarden_ledger_odd_rows_total", reason="before_pod") == 3
        assert (await spent(ledger))[ALL][1] == 2 * HONEST


async def test_what_is_released_counts_everywhere_once(opened: Opened) -> None:
    async with opened() as ledger:
        await ledger.report(row(tokens={"input": FORGED}))
        done = (await ledger.correct(action="Release")).json()
        assert (done["tokens"]["input"], done["by"]) == (FORGED, "llmwarden-system:llmwarden-corrector")
        assert (await ledger.correct(action="Release")).json()["repeated"]
    async with opened() as ledger:
        await ledger.report(row(tokens={"input": FORGED}), sequence=2)
        told = await spent(ledger)
        assert told[ALL] == told[DAILY] == ("Exceeded", FORGED * 150_000)
        assert (await usage(ledger))["services"]["shop/bot"]["total"].get("quarantinedTokens", 0) == 0


async def test_a_write_off_opens_the_budgets_again_and_every_sum_shows_it(opened: Opened) -> None:
    async with opened() as ledger:
        await honest(ledger)
        await ledger.report(row(), row(model="gpt-4o", tokens={"input": BILLION}))
        assert (await spent(ledger))[DAILY][0] == "Exceeded"
        tried = (await ledger.correct(model="gpt-4o", dryRun=True)).json()
        assert tried["picodollars"] == BILLION * 2_500_000
        assert (await spent(ledger))[DAILY][0] == "Exceeded"
        done = (await ledger.correct(model="gpt-4o", onBehalfOf="ada")).json()
        assert done["picodollars"] == BILLION * 2_500_000
        assert (await ledger.correct(model="gpt-4o", onBehalfOf="ada")).json() == {**done, "repeated": True}
    async with opened() as ledger:
        told = await spent(ledger)
        assert told[DAILY] == told[TEAM] == ("Open", HONEST)
        assert told[ALL] == ("Open", 2 * HONEST)
        # The proxy reports the same again, and more: only what is more counts.
        await ledger.report(row(), row(model="gpt-4o", tokens={"input": BILLION + 100}), sequence=2)
        assert (await spent(ledger))[ALL][1] == 2 * HONEST + 100 * 2_500_000
        total = (await usage(ledger))["services"]["shop/bot"]["total"]
        assert (total["writtenOffPicodollars"], total["writtenOffTokens"]) == (done["picodollars"], BILLION)
        listed = await ledger.client.get(f"{ledger.url}/v1/corrections", headers={"X-LLMWarden-Token": "all-viewer"})
        (one,) = listed.json()["corrections"]
        assert (one["order"]["reason"], one["order"]["onBehalfOf"], one["by"]) == ("forged", "ada", done["by"])


async def test_what_is_quarantined_written_off_and_released_is_in_the_audit(opened: Opened) -> None:
    async with opened() as ledger:
        await ledger.report(row(), row(model="gpt-4o", tokens={"input": FORGED}))
        await ledger.correct(model="gpt-4o", tokens=1, dryRun=True)
        for _ in range(2):  # the second time it is no news
            await ledger.correct(model="gpt-4o", tokens=1, onBehalfOf="ada")
        await ledger.correct(id="an-order-2", action="Release", model="gpt-4o")
        entries = (await ledger.get("/v1/audit", token="operator")).json()["entries"]
        told = {entry["kind"]: entry for entry in reversed(entries)}
        assert [entry["kind"] for entry in reversed(entries)] == ["Quarantined", "WrittenOff", "Released"]
        assert told["Quarantined"]["object"] == "Pod/shop/bot-0"
        assert told["WrittenOff"]["object"] == told["Released"]["object"] == "LLMService/shop/bot"
        assert told["WrittenOff"]["by"] == "llmwarden-system:llmwarden-corrector"
        assert " dollars on behalf of ada: forged" in told["WrittenOff"]["text"]
        assert {entry["namespace"] for entry in entries} == {"shop"}


async def test_an_accepted_row_is_written_off_by_amount_and_never_below_zero(opened: Opened) -> None:
    async with opened() as ledger:
        await ledger.report(row(tokens={"input": 10_000_000}))
        assert (await spent(ledger))[ALL][1] == 10_000_000 * 150_000
        done = (await ledger.correct(picodollars=DOLLAR)).json()
        assert done["picodollars"] == 6_666_666 * 150_000
        assert (await spent(ledger))[ALL][1] == 3_333_334 * 150_000
        half = (await ledger.correct(id="an-order-2", tokens=333_334)).json()
        assert half["tokens"]["input"] == 333_334
        rest = (await ledger.correct(id="an-order-3", picodollars=100 * DOLLAR)).json()
        assert rest["tokens"]["input"] == 3_000_000
        nothing = (await ledger.correct(id="an-order-4")).json()
        assert (nothing["picodollars"], nothing["requests"]) == (0, 0)
        assert (await spent(ledger))[ALL][1] == 0


async def test_who_may_correct_and_what_cannot_be_meant(opened: Opened) -> None:
    async with opened() as ledger:
        await ledger.report(row())
        for token in ("pod", "operator", "all-viewer", "shop-viewer", "unbound"):
            assert code(await ledger.correct(token=token)) == (403, "forbidden")
        assert (await ledger.correct(token="nobody")).status_code == 401
        for order in (
            {"id": "short"}, {"service": "bot"}, {"service": "No/bot"}, {"reason": " "}, {"reason": "x" * 501},
            {"picodollars": 0}, {"tokens": -1}, {"tokens": 1, "picodollars": 1}, {"action": "Release", "tokens": 1},
            {"from": "2026-12-01T00:00:00Z"}, {"model": "x\0"}, {"action": "Delete"}, {"to": "2026-12-01T00:00:00"},
        ):  # fmt: skip
            assert code(await ledger.correct(**order)) == (400, "malformed"), order
        assert code(await ledger.correct(contract=2)) == (409, "unsupported_contract")
        await ledger.correct()
        assert code(await ledger.correct(reason="another")) == (409, "conflict")
        assert (await ledger.client.get(f"{ledger.url}/v1/corrections", headers={"X-LLMWarden-Token": "shop-viewer"})).status_code == 403  # fmt: skip


async def test_orders_and_reports_at_the_same_time_lose_nothing(opened: Opened) -> None:
    async with opened() as ledger:

        async def report() -> None:
            for number in range(1, 30):
                await ledger.report(row(requests=number, tokens={"input": number * 1000}), sequence=number)

        async def correct() -> None:
            for number in range(10):
                await ledger.correct(id=f"an-order-{number}", tokens=1500)

        await asyncio.gather(report(), correct())
        await spent(ledger)
        total = (await usage(ledger))["services"]["shop/bot"]["total"]
        assert total["tokens"]["input"] + total["writtenOffTokens"] == 29_000


async def test_a_lease_of_a_shared_budget_is_granted_beside_forged_usage(opened: Opened) -> None:
    async with opened() as ledger:
        blocking = shared("ClusterLLMBudget", "hard", {}, "10.00")
        blocking["spec"]["onExceeded"] = {"action": "Block"}
        ledger.core.configure(view_of(*OBJECTS, blocking, namespaces={"shop": {}, "web": {}}))
        await ledger.report(row(tokens={"input": FORGED}))
        wanted = {"budget": "ClusterLLMBudget/hard", "balance": 0, "wanted": DOLLAR, "needed": DOLLAR}
        # Forged and asked for in one report: what is not yet on the disk is not counted either.
        both = await ledger.report(row(tokens={"input": FORGED}, model="gpt-4o"), leases=[wanted], sequence=2)
        assert [one["granted"] for one in both.json()["leases"]] == [DOLLAR]
        answer = await ledger.report(row(), token="web-pod", pod=WEB, journal="w", leases=[wanted])
        assert [one["granted"] for one in answer.json()["leases"]] == [DOLLAR]


def test_the_pod_of_these_tests_is_young() -> None:
    assert POD["uid"] == "u"
