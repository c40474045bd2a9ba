"""Who may ask and report: over real HTTP, with a token that is good and a pod that was, or was not, injected."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmwarden.errors import UnavailableError
from llmwarden.ledger.http import reporters
from llmwarden.ledger.pods import Injected
from llmwarden.ledger.store import Remembered
from llmwarden.serving.auth import Caller
from tests.ledger.test_http import DAILY, Ledger, code, ledger, row, running  # noqa: F401 - a fixture
from tests.unit.ledger.objects import NOW, budget, service, shared, view_of


class Known:
    """What the API server says of pods, by their names."""

    def __init__(self, **services: str) -> None:
        self.services = services
        self.created = 0.0
        self.down = False

    async def injected(self, caller: Caller) -> Injected:
        if self.down:
            message = "the API server did not answer"
            raise UnavailableError(message)
        names = self.services.get(caller.pod_uid, "")
        return Injected(frozenset(filter(None, names.split(","))), self.created)


OBJECTS = (
    service(budgets=(budget(),)),
    service("chat", budgets=(budget(),)),
    shared("LLMBudget", "chats", {"team": "chat"}, namespace="shop"),
)


@pytest.mark.parametrize("asked", ["report", "config", "price", "lease"])
async def test_a_token_alone_is_no_proof(tmp_path: Path, asked: str) -> None:
    async with running(tmp_path, pods=Known(v="bot")) as ledger:  # noqa: F811 - the same thing
        ledger.core.configure(view_of(*OBJECTS))
        lease = {"budget": DAILY, "balance": 0, "wanted": 10**9}
        answer = await {
            "report": lambda: ledger.report(row()),
            "lease": lambda: ledger.report(leases=[lease]),
            "config": lambda: ledger.get("/v1/config", services="bot"),
            "price": lambda: ledger.get("/v1/price", service="bot", model="gpt-4o-mini"),
        }[asked]()
        assert code(answer) == (403, "not_injected")
        assert not list(ledger.store.sums())
        assert not ledger.store.lease_state()


async def test_a_pod_asks_and_reports_only_for_what_it_was_injected_for(tmp_path: Path) -> None:
    async with running(tmp_path, pods=Known(u="bot")) as ledger:  # noqa: F811
        ledger.core.configure(view_of(*OBJECTS))
        assert code(await ledger.get("/v1/config", services="bot,chat")) == (403, "not_injected")
        assert code(await ledger.get("/v1/price", service="chat", model="gpt-4o-mini")) == (403, "not_injected")
        answer = await ledger.report(row(), row(service="chat"))
        assert answer.json()["accepted"] == 1
        assert [delta.service for delta in ledger.store.sums()] == ["shop/bot"]
        assert ledger.metric("llmwarden_ledger_odd_rows_total", reason="not_injected") == 1


async def test_a_lease_is_only_of_budgets_of_the_pods_services(tmp_path: Path) -> None:
    async with running(tmp_path, pods=Known(u="bot")) as ledger:  # noqa: F811
        ledger.core.configure(view_of(*OBJECTS))
        keys = (DAILY, "LLMService/shop/chat/daily", "LLMBudget/shop/chats")
        answer = await ledger.report(leases=[{"budget": key, "balance": 0, "wanted": 10**9} for key in keys])
        assert [grant["budget"] for grant in answer.json()["leases"]] == [DAILY]
        assert {holding.budget for holding in ledger.store.lease_state()} == {DAILY}


async def test_a_pod_of_a_service_that_is_gone_still_reports(tmp_path: Path) -> None:
    """Also after a restart, and also where the service had not spent anything."""
    for life in range(2):
        async with running(tmp_path, pods=Known(u="bot")) as ledger:  # noqa: F811
            if not life:
                ledger.core.configure(view_of(*OBJECTS))
                ledger.store.remember({"shop/bot": Remembered({}, "openai")})
            ledger.core.remember_services(ledger.store.remembered())
            ledger.core.configure(view_of())
            assert (await ledger.report(row(requests=1 + life), sequence=life)).json()["accepted"] == 1


async def test_a_service_that_never_was_is_not_made_by_its_name(tmp_path: Path) -> None:
    async with running(tmp_path, pods=Known(u="ghost")) as ledger:  # noqa: F811
        ledger.core.configure(view_of(*OBJECTS))
        assert (await ledger.report(row(service="ghost"))).json()["accepted"] == 0
        assert not list(ledger.store.sums())


async def test_a_pod_that_is_ahead_of_our_copy_reports_again(tmp_path: Path) -> None:
    known = Known(u="fresh")
    known.created = NOW.timestamp() - 1
    async with running(tmp_path, pods=known) as ledger:  # noqa: F811
        ledger.core.configure(view_of(*OBJECTS))
        answer = await ledger.report(row(service="fresh"))
        assert code(answer) == (503, "unknown_service")
        assert answer.headers["Retry-After"]
        ledger.core.configure(view_of(*OBJECTS, service("fresh")))
        assert (await ledger.report(row(service="fresh"))).json()["accepted"] == 1


async def test_an_api_server_that_does_not_answer_is_no_refusal(tmp_path: Path) -> None:
    known = Known(u="bot")
    known.down = True
    async with running(tmp_path, pods=known) as ledger:  # noqa: F811
        ledger.core.configure(view_of(*OBJECTS))
        answer = await ledger.report(row())
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        known.down = False
        assert (await ledger.report(row())).json()["accepted"] == 1


async def test_a_pod_has_few_journals_and_few_reports_under_way(tmp_path: Path) -> None:
    async with running(tmp_path, pods=Known(u="bot")) as ledger:  # noqa: F811
        ledger.core.configure(view_of(*OBJECTS))
        answers: list[Any] = [
            await ledger.report(row(), journal=f"j{number}") for number in range(reporters.MOST_JOURNALS + 2)
        ]
        assert [answer.status_code for answer in answers] == [200] * reporters.MOST_JOURNALS + [429, 429]
        assert code(answers[-1]) == (429, "too_many_journals")
        assert (await ledger.report(row(), journal="j0")).status_code == 200
        together = await asyncio.gather(*(ledger.report(row(), journal="j1", sequence=n) for n in range(40)))
        refused = {code(answer)[1] for answer in together if answer.status_code != 200}
        assert refused <= {"too_many_reports"}
        assert any(answer.status_code == 200 for answer in together)


async def test_prices_that_one_namespace_has_recorded_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporters, "MOST_PRICES", 3)
    async with running(tmp_path, pods=Known(u="bot")) as ledger:  # noqa: F811
        ledger.core.configure(view_of(*OBJECTS))
        for number in range(10):
            answer = await ledger.get("/v1/price", service="bot", model=f"gpt-4o-mini-2024-07-{18 + number}")
            assert answer.status_code == 200
        assert len(ledger.store.prices()) <= 3
