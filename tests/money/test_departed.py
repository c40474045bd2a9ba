"""A service that is deleted, with real processes: its running pods stay in the budgets that are not its own, and lose our key."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.money.stand import Pod, Stand, cost, dollars, hard
from tests.unit.ledger.objects import model_price, service

EACH = cost(10, 10)
LABELS = {"team": "web"}
KEYS = {"LLMBudget": "LLMBudget/shop/team", "ClusterLLMBudget": "ClusterLLMBudget/team"}


def over(kind: str, limit: int) -> dict[str, Any]:
    """A shared budget that blocks, over the service and nothing else that it would need to be there."""
    selector = {"matchLabels": LABELS} if kind == "LLMBudget" else {}
    return {
        "apiVersion": "llmwarden.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "team", **({"namespace": "shop"} if kind == "LLMBudget" else {})},
        "spec": {
            "selector" if kind == "LLMBudget" else "namespaceSelector": selector,
            "limit": {"amount": dollars(limit)},
            "window": {"calendar": "Day"},
            "onExceeded": {"action": "Block"},
        },
    }


PRICE = model_price("contract", ["m"], ("2026-01-01T00:00:00Z", "1.00", "2.00"))
BOT = service(labels=LABELS)


def keys(stand: Stand, seen: int) -> set[str]:
    """Which keys calls brought to the provider, since it had seen so many."""
    return {request.headers.get("authorization", "") for request in stand.provider.server.requests[seen:]}


async def call(stand: Stand, pod: Pod, own: str = "") -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "user": "10/10", "max_tokens": 10}
    headers = {"Authorization": f"Bearer {own}"} if own else {}
    return await stand.client.post(f"{pod.url}/v1/chat/completions", json=body, headers=headers)


async def spent(stand: Stand, key: str, amount: int) -> None:
    """Wait until the ledger counts so much of a budget, and no more."""
    async with asyncio.timeout(30):
        while (found := await stand.ledger.spent(key)) < amount:
            await asyncio.sleep(0.05)
    assert found == amount


async def known(pod: Pod, text: str, *, there: bool = True) -> None:
    """Wait until a proxy's configuration has a text, or not."""
    saved = pod.journal / "config.json"
    async with asyncio.timeout(30):
        while not saved.exists() or (text in saved.read_text()) != there:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", KEYS)
async def test_a_deleted_services_pods_stay_gated_and_report_and_have_our_key_no_more(
    tmp_path: Path, kind: str
) -> None:
    ours = tmp_path / "key"
    ours.write_text("sk-ours")
    budget, key = over(kind, 8 * EACH), KEYS[kind]
    async with Stand(tmp_path, pods=1, budget=hard(10**12), route={"credentialFile": str(ours)}) as stand:
        [pod] = stand.pods
        stand.ledger.say(BOT, budget, PRICE)
        await known(pod, key)
        assert (await call(stand, pod)).status_code == 200
        assert keys(stand, 0) == {"Bearer sk-ours"}
        stand.ledger.say(budget, PRICE)  # an editor deletes it
        await known(pod, '"departed":true')
        seen = len(stand.provider.server.requests)
        for _ in range(2):
            assert (await call(stand, pod, "sk-own")).status_code == 200
        await spent(stand, key, 3 * EACH)
        # It is remembered over the ledger's death, before it has ever seen the service again.
        await stand.ledger.kill()
        await stand.ledger.start()
        answers = [await call(stand, pod, "sk-own") for _ in range(12)]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {answer.status_code for answer in refused} == {429}
        assert {answer.headers["x-llmwarden-budget"] for answer in refused} == {key}
        assert keys(stand, seen) == {"Bearer sk-own"}
        # One that brings no key goes without: what the provider says to that is the provider's.
        await spent(stand, key, sum(stand.provider.served.values()) * EACH)
        assert await stand.ledger.spent(key) <= 8 * EACH
        # Made again, it is taken up again.
        stand.ledger.say(BOT, over(kind, 100 * EACH), PRICE)
        await known(pod, '"departed":true', there=False)
        seen = len(stand.provider.server.requests)
        async with asyncio.timeout(20):
            while (await call(stand, pod, "sk-own")).status_code != 200:
                await asyncio.sleep(0.1)
        assert keys(stand, seen) == {"Bearer sk-ours"}


async def test_a_call_without_a_key_goes_without_one_once_the_service_is_gone(tmp_path: Path) -> None:
    ours = tmp_path / "key"
    ours.write_text("sk-ours")
    async with Stand(tmp_path, pods=1, budget=hard(10**12), route={"credentialFile": str(ours)}) as stand:
        [pod] = stand.pods
        stand.ledger.say(PRICE)
        await known(pod, '"departed":true')
        assert (await call(stand, pod)).status_code == 200
        assert keys(stand, 0) == {""}
        unmeasured = await stand.client.get(f"{pod.url}/v1/models")
        assert unmeasured.status_code
        assert keys(stand, 0) == {""}


async def test_a_pod_that_never_called_is_gated_after_the_service_and_the_ledger_went(tmp_path: Path) -> None:
    async with Stand(tmp_path, pods=1, budget=hard(10**12)) as stand:
        [pod] = stand.pods
        small: Mapping[str, Any] = over("LLMBudget", EACH // 2)
        stand.ledger.say(BOT, small, PRICE)
        await known(pod, "LLMBudget/shop/team")
        stand.ledger.say(small, PRICE)
        await known(pod, '"departed":true')
        await stand.ledger.kill()
        (pod.journal / "config.json").unlink()
        await stand.ledger.start()
        await pod.stop()
        await pod.start()
        await known(pod, '"departed":true')
        assert (await call(stand, pod, "sk-own")).status_code == 429
        assert not stand.provider.served
