"""Providers' own figures beside ours: over real HTTP to a simulator that speaks their recorded protocol (tests/ledger/billing.py)."""

import asyncio
import base64
import datetime as dt
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import openai
import prometheus_client
import pytest
import pytest_asyncio
from openapi_spec_validator import validate

from llmwarden.contracts import reconciliation
from llmwarden.errors import ForbiddenError, NotFoundError
from llmwarden.kube import Client
from llmwarden.ledger.providers import usage as providers
from llmwarden.ledger.providers.account_metrics import AccountState
from llmwarden.ledger.providers.reconciliation import Reconciler, SecretKeys
from llmwarden.ledger.providers.usage import ProviderError
from llmwarden.ledger.rating.rater import Rater
from llmwarden.ledger.store import Store
from llmwarden.ledger.store.accounts import Accounts
from tests import postgresql
from tests.ledger.billing import KEY, Billing, refusing, unauthorized
from tests.ledger.test_http import Ledger, code, row, running
from tests.ledger.test_kubectl_llm import kubectl_llm
from tests.proxy.fakes import Received
from tests.unit.ledger.objects import BUCKET, NOW, FakeClock, service, view_of

DAY = 86_400
MIDNIGHT = BUCKET - BUCKET % DAY  # of 2026-11-20; the newest settled day is the 19th
MINI = 0.15 + 0.06  # dollars of a million input and 100,000 output tokens of gpt-4o-mini


class Keys:
    """In place of the Secret."""

    key_ = KEY
    asked = 0

    async def key(self, name: str) -> str:
        del name
        self.asked += 1
        return self.key_


class Desk:
    """A ledger, its reconciler and a provider."""

    def __init__(
        self, ledger: Ledger, billing: Billing, reconciler: Reconciler, keys: Keys, http: httpx.AsyncClient
    ) -> None:
        self.ledger, self.billing, self.reconciler, self.keys, self.http = ledger, billing, reconciler, keys, http

    def account(
        self, name: str = "main", provider: str = "OpenAI", created: str = "2026-11-01T00:00:00Z", **spec: Any
    ) -> None:
        item = {
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"provider": provider, "adminKey": "openai", "baseUrl": self.billing.url, **spec},
        }
        self.reconciler.take(name, item)

    async def used(self, day: int, **changes: Any) -> None:
        """Let a proxy report a million input and 100,000 output tokens, so many days before today."""
        journal = f"{day}{changes}"
        response = await self.ledger.report(row(bucket=MIDNIGHT - day * DAY + 900, **changes), journal=journal)
        assert response.status_code == 200, response.text

    async def answer(self, name: str = "main") -> reconciliation.Account:
        return (await self.reconciler.answer()).accounts[name]

    async def looked(self, name: str = "main") -> reconciliation.Account:
        await self.reconciler.step()
        return await self.answer(name)


@asynccontextmanager
async def desk_of(path: Path) -> AsyncIterator[Desk]:
    made: list[Reconciler] = []
    billing, keys = Billing(), Keys()
    await billing.server.start()
    async with httpx.AsyncClient(timeout=60) as http:

        def reconciler(ledger_core: Any, store: Store, writer: Any) -> Reconciler:
            made.append(
                Reconciler(
                    Accounts(store.database), writer.alone, keys, http, clock=ledger_core.clock,
                    rater=ledger_core.history.rater, namespaces=lambda: {"shop": {}, "web": {"team": "b"}},
                )
            )  # fmt: skip
            return made[0]

        async with running(path, reconciler) as ledger:
            ledger.core.configure(view_of(service(), service("bot", "web"), service("claude", kind="Anthropic")))
            yield Desk(ledger, billing, made[0], keys, http)
    await billing.server.stop()


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_of(tmp_path) as made:
        yield made


async def test_days_that_agree(desk: Desk) -> None:
    desk.account()
    for day in (1, 2):
        await desk.used(day)
    desk.billing.use("2026-11-19", input=1_000_000, output=100_000, dollars="0.21")
    desk.billing.use("2026-11-18", input=1_000_000, output=100_000, cached=5, dollars="0.21", other="3.5")
    found = await desk.looked()
    assert found.fault is None
    assert found.read_at == NOW
    assert [day.day for day in found.days] == [f"2026-11-{number}" for number in range(19, 12, -1)]
    newest = found.days[0]
    assert newest.provider == newest.ledger == reconciliation.Side(1_000_000, 100_000, int(MINI * 100) * 10**10)
    assert {day.verdict for day in found.days} == {"Agrees"}
    assert found.days[1].other_picodollars == 3_500_000_000_000


async def test_traffic_that_went_around_is_said(desk: Desk) -> None:
    desk.account()
    await desk.used(1)
    desk.billing.use("2026-11-19", input=9_000_000, output=2_000_000, dollars="2.55")
    found = await desk.looked()
    assert found.days[0].verdict == "ProviderHasMore"
    registry = prometheus_client.CollectorRegistry()
    registry.register(AccountState(lambda: desk.reconciler.shown))
    labels = {"account": "main", "gen_ai_provider_name": "OpenAI"}
    value = registry.get_sample_value
    assert value("llmwarden_provider_cost_drift", {**labels, "verdict": "ProviderHasMore"}) == 1
    assert value("llmwarden_provider_cost_drift", {**labels, "verdict": "LedgerHasMore"}) == 0
    assert value("llmwarden_provider_cost_usd", {**labels, "source": "provider"}) == pytest.approx(2.55)
    assert value("llmwarden_provider_cost_usd", {**labels, "source": "ledger"}) == pytest.approx(0.21)
    assert value("llmwarden_provider_tokens", {**labels, "source": "provider"}) == 11_000_000
    assert value("llmwarden_provider_read_timestamp_seconds", labels) == NOW.timestamp()


async def test_a_price_that_is_wrong_here_is_told_from_traffic_that_went_around(desk: Desk) -> None:
    desk.account()
    await desk.used(1, tokens={"input": 100_000_000})
    await desk.used(2, model="weird", tokens={"input": 100_000_000})
    desk.billing.use("2026-11-19", input=100_000_000, dollars="30")
    desk.billing.use("2026-11-18", input=100_000_000, dollars="15")
    newest, before, *_ = (await desk.looked()).days
    assert (newest.verdict, newest.uncosted_tokens) == ("ProviderDearer", 0)
    assert (before.verdict, before.uncosted_tokens) == ("ProviderDearer", 100_000_000)


async def test_the_first_day_is_partial_and_days_before_it_are_not_shown(desk: Desk) -> None:
    desk.account(created="2026-11-20T10:00:00Z")
    await desk.used(2)
    await desk.used(1)
    for day in ("2026-11-17", "2026-11-18", "2026-11-19"):
        desk.billing.use(day, input=1_000_000, output=100_000, dollars="0.21")
    assert [(day.day, day.verdict) for day in (await desk.looked()).days] == [
        ("2026-11-19", "Agrees"),
        ("2026-11-18", "Partial"),
    ]


async def test_an_account_through_which_nothing_came_is_judged_from_its_making_on(desk: Desk) -> None:
    desk.account(created="2026-11-17T10:00:00Z")
    desk.billing.use("2026-11-19", input=100_000_000, dollars="15")
    assert [(day.day, day.verdict) for day in (await desk.looked()).days] == [
        ("2026-11-19", "ProviderHasMore"),
        ("2026-11-18", "Agrees"),
        ("2026-11-17", "Partial"),
    ]


async def test_anthropic_in_cents_by_workspace(desk: Desk) -> None:
    desk.account(provider="Anthropic", projects=["wrkspc_01", "default"])
    await desk.used(1, service="claude", provider="anthropic", model="claude-sonnet-4-5")
    desk.billing.use("2026-11-19", input=900_000, cached=300_000, output=100_000, dollars="4.2", project="wrkspc_01")
    desk.billing.use("2026-11-19", input=100_000, output=0, dollars="0.3", other="1.25")
    desk.billing.use("2026-11-19", input=50_000_000, output=0, dollars="99", project="wrkspc_other")
    newest = (await desk.looked()).days[0]
    assert newest.provider == reconciliation.Side(1_000_000, 100_000, 4_500_000_000_000)
    assert newest.other_picodollars == 1_250_000_000_000
    assert newest.verdict == "Agrees"
    assert desk.billing.server.requests[0].headers["x-api-key"] == KEY


async def test_projects_and_namespaces_narrow_both_sides(desk: Desk) -> None:
    desk.account("b", projects=["proj_b"], namespaceSelector={"matchLabels": {"team": "b"}})
    await desk.used(1)  # in the namespace shop
    pod = {"namespace": "web", "name": "bot-0", "uid": "w"}
    await desk.ledger.report(row(bucket=MIDNIGHT - 900, requests=2), token="web-pod", pod=pod, journal="w")
    desk.billing.use("2026-11-19", input=1_000_000, output=100_000, dollars="0.21", project="proj_b")
    desk.billing.use("2026-11-19", input=70_000_000, dollars="21", project="proj_a")
    found = (await desk.looked("b")).days[0]
    assert (found.verdict, found.ledger.tokens, found.provider.tokens) == ("Agrees", 1_100_000, 1_100_000)


async def test_many_pages_are_one_answer_and_only_what_may_change_is_asked_again(desk: Desk) -> None:
    desk.account()
    desk.billing.page = 4
    for day in range(1, 32):
        at = (NOW - dt.timedelta(days=day)).date()
        desk.billing.use(str(at), input=day, dollars="0.01")
    await desk.looked()
    assert len(desk.billing.asked) == 3 * 8  # 31 days, four of a page, of three kinds of report
    found = await desk.reconciler.answer(days=31)
    assert [day.provider.input for day in found.accounts["main"].days] == list(
        range(1, 20)
    )  # from the account's making on
    desk.billing.server.requests.clear()
    desk.billing.use("2026-11-18", input=5, dollars="0.01")  # settled late
    desk.ledger.clock.now += dt.timedelta(minutes=59)
    await desk.looked()
    assert desk.billing.asked == []
    desk.ledger.clock.now += dt.timedelta(minutes=2)
    again = await desk.looked()
    assert desk.billing.asked == [
        "/v1/organization/costs", "/v1/organization/usage/completions", "/v1/organization/usage/embeddings",
    ]  # fmt: skip
    assert [day.provider.input for day in again.days[:3]] == [1, 7, 3]


async def test_the_vendors_own_sdk_reads_the_simulator_and_asks_as_we_do(desk: Desk) -> None:
    desk.account(projects=["proj_a"])
    desk.billing.use("2026-11-19", input=1000, output=500, cached=800, dollars="0.06", project="proj_a")
    await desk.looked()
    ours = {request.target.partition("?")[0]: request.target for request in desk.billing.server.requests}
    client = openai.AsyncOpenAI(admin_api_key=KEY, api_key="none", base_url=f"{desk.billing.url}/v1", max_retries=0)
    asked: Any = {
        "start_time": MIDNIGHT - 31 * DAY, "end_time": MIDNIGHT, "bucket_width": "1d", "limit": 31, "project_ids": ["proj_a"],
    }  # fmt: skip
    async with client:
        desk.billing.server.requests.clear()
        costs = await client.admin.organization.usage.costs(**asked, group_by=["line_item"])
        usage = await client.admin.organization.usage.completions(**asked)
    (line,) = costs.data[-1].results
    assert line.object == "organization.costs.result"
    assert line.amount is not None
    assert (line.amount.value, line.amount.currency) == (0.06, "usd")
    (counted,) = usage.data[-1].results
    assert counted.object == "organization.usage.completions.result"
    assert (counted.input_tokens, counted.output_tokens) == (1000, 500)
    for request in desk.billing.server.requests:
        path, _, query = request.target.partition("?")
        assert sorted(query.split("&")) == sorted(ours[path].partition("?")[2].split("&"))
        assert request.headers["authorization"] == f"Bearer {KEY}"


def costs(value: Any, currency: str = "usd") -> bytes:
    """A page of costs with one line, of a day that is asked for."""
    bucket = {"start_time": MIDNIGHT - DAY, "results": [{"amount": {"value": value, "currency": currency}}]}
    return json.dumps({"data": [bucket], "has_more": False}).encode()


FAULTS: dict[str, tuple[Callable[[Received], bytes], str, int]] = {
    "a rejected key": (lambda _: unauthorized(anthropic=False), "KeyRejected", 60),
    "an ordinary key": (refusing(403, body=b'{"error":{"message":"Missing scopes: api.usage.read"}}'), "Forbidden", 60),
    "too many questions": (refusing(429, "Retry-After: 700"), "RateLimited", 700),
    "too many for days": (refusing(429, "Retry-After: 999999999"), "RateLimited", 21_600),
    "a date to wait for": (refusing(503, "Retry-After: Fri, 20 Nov 2076 16:20:00 GMT"), "Unavailable", 21_600),
    "nonsense to wait for": (refusing(503, "Retry-After: soon"), "Unavailable", 60),
    "a page of HTML": (refusing(502, body=b"<html>bad gateway</html>"), "Unavailable", 60),
    "a wrong address": (refusing(404, body=b"{}"), "NotFound", 60),
    "a redirect": (refusing(302, "Location: http://127.0.0.1:1/v1/organization/costs"), "Refused", 60),
    "no JSON": (refusing(200, body=b"<html>"), "Malformed", 60),
    "another shape": (refusing(200, body=b'{"data":[{"results":[]}],"has_more":false}'), "Malformed", 60),
    "deep nonsense": (refusing(200, body=b"[" * 100_000), "Malformed", 60),
    "pages without end": (refusing(200, body=b'{"data":[],"has_more":true,"next_page":"page_1"}'), "Malformed", 60),
    "a next page without a name": (refusing(200, body=b'{"data":[],"has_more":true,"next_page":null}'), "Malformed", 60),
    "another currency": (refusing(200, body=costs(1, "eur")), "Malformed", 60),
    "an amount of a billion": (refusing(200, body=costs(10**9)), "Malformed", 60),
    "an amount that is a word": (refusing(200, body=costs("Infinity")), "Malformed", 60),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
async def test_what_a_provider_answers_is_said_and_tried_again_later(desk: Desk, name: str, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    fault, reason, seconds = FAULTS[name]
    desk.account()
    desk.billing.fault = fault
    found = await desk.looked()
    assert found.fault is not None
    assert found.fault.reason == reason
    assert found.days == ()
    assert found.retry_at is not None
    assert seconds <= (found.retry_at - NOW).total_seconds() <= seconds * 1.1
    asked = len(desk.billing.asked)
    await desk.looked()
    assert len(desk.billing.asked) == asked  # not before its time
    desk.billing.fault = lambda _request: None
    desk.ledger.clock.now = found.retry_at
    again = await desk.looked()
    assert again.fault is None
    assert len(again.days) == 7
    assert KEY not in caplog.text


async def test_each_failure_doubles_the_pause_to_six_hours_at_most(desk: Desk) -> None:
    desk.account()
    desk.billing.fault = refusing(500)
    pauses = []
    for _ in range(11):
        found = await desk.looked()
        assert found.retry_at is not None
        pauses.append((found.retry_at - desk.ledger.clock.now).total_seconds())
        desk.ledger.clock.now = found.retry_at
    for number, pause in enumerate(pauses):
        least = min(60 * 2**number, 21_600)
        assert least <= pause <= least * 1.1 + 1


async def test_a_fault_keeps_the_days_that_are_known(desk: Desk) -> None:
    desk.account()
    desk.billing.use("2026-11-19", input=100_000_000, dollars="15")
    assert (await desk.looked()).days[0].verdict == "ProviderHasMore"
    desk.billing.fault = refusing(500)
    desk.ledger.clock.now += dt.timedelta(hours=2)
    found = await desk.looked()
    assert found.fault is not None
    assert found.read_at == NOW
    assert found.days[0].verdict == "ProviderHasMore"


async def test_a_provider_that_is_not_there(desk: Desk) -> None:
    await desk.billing.server.stop()
    desk.account()
    found = await desk.looked()
    assert found.fault is not None
    assert found.fault.reason == "Unavailable"
    assert "did not answer" in found.fault.message


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "ключ", "x" * 2000])
async def test_a_key_that_is_none_is_never_sent(desk: Desk, key: str) -> None:
    desk.keys.key_ = key
    desk.account()
    found = await desk.looked()
    assert found.fault is not None
    assert found.fault.reason == "KeyMalformed"
    assert not key or key not in found.fault.message
    assert desk.billing.asked == []


async def test_a_provider_that_repeats_the_key_is_not_repeated(desk: Desk) -> None:
    desk.account()
    desk.billing.fault = refusing(
        401, body=json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
    )
    found = await desk.looked()
    assert found.fault is not None
    assert found.fault.message.endswith("Incorrect API key provided: ***")


async def test_an_answer_without_end_is_left(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "LARGEST", 10_000)
    desk.account()
    desk.billing.fault = refusing(200, body=b'{"data":[' + b" " * 20_000)
    found = await desk.looked()
    assert found.fault is not None
    assert found.fault.reason == "Malformed"


async def test_two_accounts_of_the_same_services_are_not_compared_twice(desk: Desk) -> None:
    desk.account("a")
    desk.account("b")
    await desk.reconciler.step()
    assert (await desk.answer("a")).fault is None
    second = await desk.answer("b")
    assert second.fault is not None
    assert second.fault.reason == "Overlapping"
    assert "ProviderAccount a" in second.fault.message
    desk.reconciler.take("a", None)
    assert (await desk.looked("b")).fault is None


async def test_an_account_that_cannot_be_read_is_said_and_gone_when_deleted(desk: Desk) -> None:
    desk.reconciler.take("odd", {"metadata": {"name": "odd"}, "spec": {"provider": "Cohere", "adminKey": "k"}})
    found = await desk.answer("odd")
    assert found.fault is not None
    assert found.fault.reason == "InvalidSpec"
    desk.reconciler.take("odd", None)
    assert (await desk.reconciler.answer()).accounts == {}


async def test_a_clock_that_was_put_back_does_not_silence_us(desk: Desk) -> None:
    desk.account()
    desk.ledger.clock.now += dt.timedelta(days=30)
    await desk.looked()
    desk.ledger.clock.now -= dt.timedelta(days=29)
    desk.billing.server.requests.clear()
    await desk.looked()
    assert desk.billing.asked


async def test_over_http_it_is_the_platforms_and_as_described(desk: Desk) -> None:
    desk.account()
    await desk.looked()
    response = await desk.ledger.get("/v1/reconciliation", token="operator", days="3")
    assert response.status_code == 200
    answer: Mapping[str, Any] = response.json()
    assert len(answer["accounts"]["main"]["days"]) == 3
    described = (await desk.ledger.get("/openapi.json", token=None)).json()
    validate(described)
    schema = {"$ref": "#/components/schemas/Reconciliation", "components": described["components"]}
    jsonschema.validate(answer, schema)
    assert (await desk.ledger.get("/v1/reconciliation", token="all-viewer")).status_code == 200
    assert code(await desk.ledger.get("/v1/reconciliation", token="shop-viewer")) == (403, "forbidden")
    assert code(await desk.ledger.get("/v1/reconciliation", token="pod")) == (403, "forbidden")
    assert code(await desk.ledger.get("/v1/reconciliation", token=None)) == (401, "unauthenticated")
    for days in ("0", "00003", "0001" + "9" * 5000, "36", "-1", "x", "²"):
        assert code(await desk.ledger.get("/v1/reconciliation", token="operator", days=days)) == (400, "malformed")


async def test_kubectl_llm_reconcile_shows_both_figures_and_fails_where_they_part(desk: Desk, tmp_path: Path) -> None:
    status, out, err = await kubectl_llm(desk.ledger, tmp_path, command="reconcile")
    assert (status, err) == (0, "")
    assert "There is no ProviderAccount" in out
    desk.account()
    desk.account("second")
    desk.billing.use("2026-11-19", input=100_000_000, dollars="15", other="2.5")
    await desk.looked()
    status, out, err = await kubectl_llm(desk.ledger, tmp_path, "--days", "2", command="reconcile")
    assert (status, err) == (1, "")
    line = next(line for line in out.splitlines() if "2026-11-19" in line)
    for part in ("main", "$15.00", "$0.00", "+100.0 %", "100,000,000", "$2.50", "ProviderHasMore"):
        assert part in line
    assert "bypassed the proxies" in out
    assert "second: not read (Overlapping)" in out
    status, out, _ = await kubectl_llm(desk.ledger, tmp_path, "-o", "csv", "--days", "1", command="reconcile")
    assert out.splitlines() == [
        "account,provider,day,billed_usd,counted_usd,other_usd,billed_tokens,counted_tokens,uncosted_tokens,verdict",
        "main,OpenAI,2026-11-19,15.00,0.00,2.50,100000000,0,0,ProviderHasMore",
    ]
    status, out, _ = await kubectl_llm(desk.ledger, tmp_path, "-o", "json", command="reconcile")
    assert json.loads(out)["accounts"]["main"]["days"][0]["otherPicodollars"] == 2_500_000_000_000
    status, _, err = await kubectl_llm(desk.ledger, tmp_path, "--days", "99", command="reconcile")
    assert status == 2
    assert "1 to 35" in err
    mine = {"shop/viewer": "shop-viewer"}
    refused = await kubectl_llm(
        desk.ledger, tmp_path, "--service-account", "shop/viewer", command="reconcile", mintable=mine
    )
    assert refused[0] == 1
    assert "may not list provideraccounts" in refused[2]


async def test_replicas_on_postgresql_ask_once_and_all_know(tmp_path: Path) -> None:
    del tmp_path
    url = postgresql.shared().database()
    billing, clock = Billing(), FakeClock()
    billing.use("2026-11-19", input=100_000_000, dollars="15")
    await billing.server.start()
    stores = [Store(url), Store(url)]

    async def alone(work: Any) -> Any:
        return await asyncio.to_thread(work)

    async with httpx.AsyncClient() as http:
        replicas = [
            Reconciler(
                Accounts(store.database), alone, Keys(), http, clock=clock,
                rater=Rater(lambda _: None, lambda *_: None), namespaces=dict,
            )
            for store in stores
        ]  # fmt: skip
        spec = {"provider": "OpenAI", "adminKey": "k", "baseUrl": billing.url}
        for replica in replicas:
            replica.take("main", {"metadata": {"name": "main"}, "spec": spec})
        await asyncio.gather(*(replica.step() for replica in replicas))
        assert len(billing.asked) == 3
        for replica in replicas:
            found = (await replica.answer()).accounts["main"]
            assert found.days[0].verdict == "ProviderHasMore"
    for store in stores:
        store.close()
    await billing.server.stop()


class Cluster:
    """In place of the API server: one Secret, or an error."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def get(self, *what: str) -> Any:
        assert what == ("v1", "secrets", "llmwarden-provider-keys", "ours")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def secret(raw: bytes) -> dict[str, Any]:
    return {"data": {"openai": base64.b64encode(raw).decode()}}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (NotFoundError("no"), "KeyMissing"),
        (ForbiddenError("no"), "KeyMissing"),
        ({}, "KeyMissing"),
        ({"data": {"other": "eA=="}}, "KeyMissing"),
        ({"data": {"openai": "%%%"}}, "KeyMalformed"),
        (secret(b"\xff\xfe"), "KeyMalformed"),
    ],
)
async def test_a_key_that_is_not_there_is_said_by_name(answer: Any, reason: str) -> None:
    client: Client = Cluster(answer)  # type: ignore[assignment]
    with pytest.raises(ProviderError) as caught:
        await SecretKeys(client, "ours").key("openai")
    assert caught.value.reason == reason
    assert "'openai'" in str(caught.value)
    assert "namespace ours" in str(caught.value)


async def test_a_key_with_its_files_last_line_break_is_good() -> None:
    client: Client = Cluster(secret(KEY.encode() + b"\n"))  # type: ignore[assignment]
    assert await SecretKeys(client, "ours").key("openai") == KEY
