"""What happens past a limit that is not the end, and to calls whose tier has no price: real ledger, real proxies."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from tests.money import scenarios
from tests.money.stand import Stand, cost, dollars, hard
from tests.proxy.fakes import Received, Server, whole
from tests.unit.ledger.objects import model_price, service, shared

BODY = 200  # bytes of a request of the stand, at most


def fallback(limit: int, ceiling: int) -> dict[str, Any]:
    action = {"action": "Fallback", "model": "small", "ceiling": {"amount": dollars(ceiling)}}
    return {**hard(limit), "onExceeded": action}


class Collector:
    """An OTLP/HTTP collector that keeps each span's attributes."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.server = Server(self._take)

    async def _take(self, request: Received, writer: asyncio.StreamWriter) -> None:
        for resource in request.json()["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    self.spans.append({item["key"]: next(iter(item["value"].values())) for item in span["attributes"]})
        writer.write(whole(200, b"{}"))

    def told(self, model: str) -> list[str]:
        """The budgets that spans name, of calls that were answered by this model."""
        found = [span for span in self.spans if span.get("gen_ai.response.model") == model]
        return [span.get("llmwarden.budget", "") for span in found]


async def test_over_the_limit_calls_go_to_the_cheaper_model_up_to_the_ceiling_and_then_no_further(
    tmp_path: Path,
) -> None:
    each = cost(10, 10)
    limit, ceiling = 10 * each, 25 * each
    collector = Collector()
    await collector.server.start()
    otlp = f"http://127.0.0.1:{collector.server.port}"
    budget = fallback(limit, ceiling)
    async with Stand(tmp_path, pods=2, budget=budget, otlp=otlp) as stand:
        stand.say(budget, models=("m", "small"))
        for pod in stand.pods:
            await scenarios.until_answered(stand, pod, 200, max_tokens=10)
        answers: list[httpx.Response] = []
        refused = 0
        while refused < 6:  # one after the other: what a proxy knows of the other is as old as a report
            for pod in stand.pods:
                answer = await stand.call(pod, max_tokens=10)
                answers.append(answer)
                refused += answer.status_code == httpx.codes.TOO_MANY_REQUESTS
            await asyncio.sleep(0.1)
        good = [answer for answer in answers if answer.status_code == httpx.codes.OK]
        fallen = [answer for answer in good if answer.headers.get("x-llmwarden-fallback") == "small"]
        served = stand.provider.served
        assert served["small"] == len(fallen) > 0
        assert served["m"] > 0
        assert all(answer.json()["model"] == "small" for answer in fallen)
        for answer in answers:
            if answer.status_code != httpx.codes.OK:
                assert answer.json()["error"]["code"] == "insufficient_quota"
                assert answer.headers["x-should-retry"] == "false"
        spent = await stand.settled(sum(served.values()) * each)
        assert spent == sum(served.values()) * each  # exact, whichever model
        assert spent <= ceiling
        assert ceiling - spent <= max(ceiling * 2 // 100, scenarios.reservation(BODY, 10))
        assert served["m"] * each >= limit  # nothing falls back before the limit
        usage = await stand.ledger.usage()
        assert usage.services["shop/bot"].total.requests == sum(served.values())
        # The span says so, too: what was asked, the model that answered, and the budget by whose word it did.
        async with asyncio.timeout(20):
            while len(collector.told("small")) < len(fallen):
                await asyncio.sleep(0.1)
        assert collector.told("small") == ["LLMService/shop/bot/hard"] * len(fallen)
        assert {span["gen_ai.request.model"] for span in collector.spans} == {"m"}
    await collector.server.stop()


async def until_refused(stand: Stand, times: int = 4, **call: Any) -> list[httpx.Response]:
    """Calls of every pod in turn until so many were refused; returns all answers."""
    answers: list[httpx.Response] = []
    while sum(answer.status_code == httpx.codes.TOO_MANY_REQUESTS for answer in answers) < times:
        answers += [await stand.call(pod, max_tokens=10, **call) for pod in stand.pods]
        await asyncio.sleep(0.1)
    return answers


async def test_a_fallback_to_the_model_itself_is_no_way_past_the_ceiling(tmp_path: Path) -> None:
    each = cost(10, 10)
    budget = fallback(5 * each, 12 * each)
    async with Stand(tmp_path, pods=1, budget=budget) as stand:
        stand.say(budget, models=("m", "small"))
        answers = await until_refused(stand, model="small")
        good = [answer for answer in answers if answer.status_code == httpx.codes.OK]
        assert not any("x-llmwarden-fallback" in answer.headers for answer in good)  # nothing was changed
        spent = await stand.settled(len(good) * each)
        assert 5 * each < spent == stand.provider.served["small"] * each <= 12 * each


async def test_a_fallback_to_a_model_without_a_price_is_refused_where_unknown_prices_are(tmp_path: Path) -> None:
    """Else the ceiling would hold nothing. `onUnknownPrice: Allow` lets such calls pass, uncosted, as it says."""
    each = cost(10, 10)
    deny = {**fallback(5 * each, 12 * each), "onUnknownPrice": "Deny"}
    async with Stand(tmp_path, pods=1, budget=deny) as stand:
        stand.say(deny)  # "small" has no price
        answers = await until_refused(stand)
        assert stand.provider.served["small"] == 0
        spent = await stand.settled(stand.provider.served["m"] * each)
        assert spent == stand.provider.served["m"] * each <= 12 * each
        [last] = {answer.json()["error"]["code"] for answer in answers if answer.status_code != httpx.codes.OK}
        assert last == "unknown_price"


async def test_a_team_tightens_what_is_above_it_and_loosens_nothing(tmp_path: Path) -> None:
    """Its own budget, its namespace's and the platform's: a call must fit all, and the refusal names the strictest."""
    each = cost(10, 10)

    def of(kind: str, name: str, limit: int) -> dict[str, Any]:
        found = shared(kind, name, {}, dollars(limit), namespace="shop" if kind == "LLMBudget" else "")
        found["spec"] |= {"window": {"calendar": "Day"}, "onExceeded": {"action": "Block"}}
        return found

    def prices() -> dict[str, Any]:
        return model_price("contract", ["m"], ("2026-01-01T00:00:00Z", "1.00", "2.00"))

    def limits(own: int, namespace: int, platform: int) -> None:
        stand.ledger.say(
            service(budgets=(hard(own * each),)),
            of("LLMBudget", "team", namespace * each),
            of("ClusterLLMBudget", "platform", platform * each),
            prices(),
        )

    async with Stand(tmp_path, pods=1, budget=hard(1000 * each)) as stand:
        [pod] = stand.pods
        limits(1000, 1000, 10)
        await asyncio.sleep(2)
        first = await until_refused(stand)
        assert "platform" in first[-1].json()["error"]["message"]
        assert sum(stand.provider.served.values()) <= 10
        limits(10**6, 10**6, 10)  # the team raises all it may: the platform's still holds
        await asyncio.sleep(2)
        again = await until_refused(stand)
        assert {answer.status_code for answer in again} == {429}
        limits(10**6, 1, 10**6)  # the platform allows much: the team's own, tighter one is named
        await scenarios.until_answered(stand, pod, 429, max_tokens=10)
        await asyncio.sleep(2)
        tight = await stand.call(pod, max_tokens=10)
        assert tight.status_code == 429
        assert "team" in tight.json()["error"]["message"]
        limits(10**6, 10**6, 10**6)
        await scenarios.until_answered(stand, pod, 200, max_tokens=10)
        served = sum(stand.provider.served.values())
        assert await stand.settled(served * each) == served * each


async def test_a_tier_without_a_price_is_held_for_the_dearest_that_has_one(tmp_path: Path) -> None:
    """A budget must hold also against calls that the provider served in a tier of which nobody knows the price."""
    each = cost(10, 10)
    async with Stand(tmp_path, pods=2, budget=hard(20 * each)) as stand:
        allowed = refused = 0
        while refused < 6:
            for pod in stand.pods:
                answer = await stand.call(pod, max_tokens=10, service_tier="priority")
                allowed += answer.status_code == httpx.codes.OK
                refused += answer.status_code == httpx.codes.TOO_MANY_REQUESTS
            await asyncio.sleep(0.1)
        spent = await stand.settled(allowed * each)
        assert allowed == stand.provider.served["m"]
        assert spent == allowed * each <= 20 * each
        assert 20 * each - spent <= max(20 * each * 2 // 100, scenarios.reservation(BODY, 10))
        total = (await stand.ledger.usage()).services["shop/bot"].total
        assert (total.picodollars, total.uncosted_tokens) == (0, allowed * 20)
