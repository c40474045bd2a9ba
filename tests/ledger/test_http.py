"""The ledger contract over real HTTP: the app under the server of production, a real database, httpx as the client."""

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import prometheus_client
import pytest
import pytest_asyncio

from llmwarden.contracts import ledger as wire
from llmwarden.domain.plausible import Pace
from llmwarden.errors import UnavailableError
from llmwarden.ledger.audit import Trail
from llmwarden.ledger.core import Core
from llmwarden.ledger.gpu_metrics import GpuState
from llmwarden.ledger.http.app import MAX_BODY, create_app
from llmwarden.ledger.http.audit_api import AuditApi
from llmwarden.ledger.http.correction_api import CorrectionApi
from llmwarden.ledger.http.gpu_api import GpuApi
from llmwarden.ledger.http.query_api import SpendApi
from llmwarden.ledger.metrics import Metrics, State
from llmwarden.ledger.pods import Pods
from llmwarden.ledger.providers.reconciliation import Reconciler
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.store import Store
from llmwarden.ledger.writer import Writer
from llmwarden.serving import servers
from llmwarden.serving.auth import Caller
from tests.unit.ledger.objects import BUCKET, EveryPod, FakeClock, budget, model_price, service, view_of

DOLLAR = 10**12
DAILY = "LLMService/shop/bot/daily"
POD = {"namespace": "shop", "name": "bot-0", "uid": "u"}
CALLERS = {
    "pod": Caller("shop", "default", "bot-0", "u"),
    "other-pod": Caller("shop", "default", "bot-1", "v"),
    "web-pod": Caller("web", "default", "bot-0", "w"),
    "unbound": Caller("shop", "default"),
    "operator": Caller("llmwarden-system", "llmwarden-operator"),
    "shop-viewer": Caller("shop", "viewer"),
    "all-viewer": Caller("all", "viewer"),
    "auditor": Caller("llmwarden-system", "auditor"),
    "false-operator": Caller("shop", "llmwarden-operator"),
    "corrector": Caller("llmwarden-system", "llmwarden-corrector"),
}


class Tokens:
    """Authenticator whose tokens are names."""

    down = False

    async def caller(self, token: str) -> Caller | None:
        if self.down:
            message = "POST /apis/authentication.k8s.io/v1/tokenreviews: the API server did not answer"
            raise UnavailableError(message)
        if token.startswith("crowd-"):
            return Caller("shop", "default", token, token)
        return CALLERS.get(token)


class Rights:
    """Access by namespace, as RBAC would say it."""

    async def may_list(self, caller: Caller, namespace: str, resource: str = "llmservices") -> bool:
        if resource == "audit":
            return caller.account == "auditor"
        assert resource == "llmservices" or not namespace
        return caller.account == "viewer" and caller.namespace in {"all", namespace}

    async def may(self, caller: Caller, verb: str) -> bool:
        return verb in {"writeoff", "release"} and caller.account == "llmwarden-corrector"


@dataclass
class Ledger:
    """One running ledger."""

    url: str
    core: Core
    store: Store
    stop: asyncio.Event
    tokens: Tokens
    clock: FakeClock
    registry: prometheus_client.CollectorRegistry
    server: "asyncio.Task[None]"
    holdings: GpuApi
    trail: Trail
    ages: dict[str, int]  # when pods were created, by UID; one that is not in it long ago
    client: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=20))

    async def get(self, path: str, token: str | None = "pod", **query: str) -> httpx.Response:  # noqa: S107 - no secret
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.client.get(self.url + path, params={"contract": "1", **query}, headers=headers)

    async def report(self, *rows: Mapping[str, Any], token: str | None = "pod", **more: Any) -> httpx.Response:  # noqa: S107 - no secret
        body = {"contract": 1, "journal": "j", "sequence": 1, "pod": POD, "rows": [*rows], **more}
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.client.post(self.url + "/v1/report", json=body, headers=headers)

    async def correct(self, token: str = "corrector", **order: Any) -> httpx.Response:  # noqa: S107 - no secret
        body = {
            "contract": 1, "id": "an-order-1", "action": "WriteOff", "service": "shop/bot", "from": "2026-11-01T00:00:00Z",
            "to": "2026-12-01T00:00:00Z", "reason": "forged", **order,
        }  # fmt: skip
        return await self.client.post(self.url + "/v1/corrections", json=body, headers={"X-LLMWarden-Token": token})

    async def poll(self, wait: str) -> tuple[str, "asyncio.Task[httpx.Response]"]:
        """Start a long poll with the present generation; returns both once the ledger holds it."""
        known = (await self.get("/v1/config", services="bot")).json()["generation"]
        poll = asyncio.create_task(self.get("/v1/config", services="bot", generation=known, wait=wait))
        while not self.metric("llmwarden_ledger_long_polls"):
            await asyncio.sleep(0.01)
        return known, poll

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "service": "bot",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "priceId": None,
        "bucket": BUCKET,
        "requests": 1,
        "errors": 0,
        "tokens": {"input": 1_000_000, "output": 100_000},
        **changes,
    }


@asynccontextmanager
async def running(
    path: Path,
    accounts: Callable[[Core, Store, Writer], Reconciler] | None = None,
    database: str = "",
    pods: Pods | None = None,
    pace: Pace | None = None,
) -> AsyncIterator[Ledger]:
    store = Store(database or str(path / "ledger.sqlite3"), pace)
    every = EveryPod()
    clock = FakeClock()
    core = Core(Catalogue(), store.prices(), clock, 5.0)
    core.rebuild(store.sums(), store.last_reports())

    async def rebuild() -> None:
        core.rebuild(store.sums(), store.last_reports())

    writer = Writer(store, core, rebuild)
    registry = prometheus_client.CollectorRegistry()
    registry.register(State(core, lambda: {"LLMService": core.synced}, store.size))
    registry.register(GpuState(core))
    stop, tokens = asyncio.Event(), Tokens()
    holdings = GpuApi(core, store, writer, namespace="llmwarden-system")
    await holdings.follow()
    trail = Trail(clock, time.monotonic)
    audit = AuditApi(trail, store.database, Rights(), namespace="llmwarden-system")
    app = create_app(
        core,
        writer,
        tokens,
        pods or every,
        Metrics(registry),
        namespace="llmwarden-system",
        ready=lambda: None if core.synced else "not yet read: LLMService",
        stopping=stop,
        questions=SpendApi(
            core,
            store,
            Rights(),
            namespace="llmwarden-system",
            accounts=accounts(core, store, writer) if accounts else None,
        ),
        holdings=holdings,
        audit=audit,
        corrections=CorrectionApi(
            core, store.database, writer, Rights(), namespace="llmwarden-system", corrected=audit.corrected
        ),
    )
    sock = servers.listen("127.0.0.1", 0)
    server = asyncio.create_task(servers.serve(app, sock=sock, stop=stop, grace_seconds=2))
    writing = asyncio.create_task(writer.run())
    ledger = Ledger(
        f"http://127.0.0.1:{sock.getsockname()[1]}",
        core,
        store,
        stop,
        tokens,
        clock,
        registry,
        server,
        holdings,
        trail,
        every.created,
    )
    try:
        async with ledger.client:
            yield ledger
            stop.set()
            core.stop()
        await server
    finally:
        server.cancel()
        writing.cancel()
        for task in (server, writing):
            with suppress(asyncio.CancelledError):
                await task
        store.close()


@pytest_asyncio.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with running(tmp_path) as made:
        made.core.configure(view_of(service(budgets=(budget(),))))
        yield made


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def test_config_names_services_budgets_and_released_ones(ledger: Ledger) -> None:
    response = await ledger.get("/v1/config", services="bot,gone")
    config = response.json()
    assert response.status_code == 200
    assert config["services"]["gone"]["state"] == "Released"
    assert config["services"]["bot"]["provider"] == "openai"
    assert config["services"]["bot"]["budgets"] == [DAILY]
    assert config["budgets"][DAILY] == {
        "unit": "USD",
        "limit": DOLLAR,
        "spent": 0,
        "state": "Open",
        "action": "Block",
        "windowStart": "2026-11-20T00:00:00Z",
        "resetsAt": "2026-11-21T00:00:00Z",
        "warnAtPercent": [50],
        "onUnknownPrice": "Deny",
        "onLedgerLoss": "Allow",
        "fallbackModel": None,
        "ceiling": None,
        "leased": config["budgets"][DAILY]["leased"],
    }


async def test_a_price_is_handed_out_kept_and_charged_for_good(ledger: Ledger, tmp_path: Path) -> None:
    contract = model_price("contract", ["gpt-4o-mini"], ("2026-01-01T00:00:00Z", "0.10", "0.40"))
    ledger.core.configure(view_of(service(budgets=(budget(),)), contract))
    price = (await ledger.get("/v1/price", service="bot", model="gpt-4o-mini")).json()
    assert price["picodollars"] == {
        "input": 100_000,
        "output": 400_000,
        "cached_input": 100_000,
        "cache_write": 100_000,
    }
    assert ledger.store.prices().keys() == {("openai", "gpt-4o-mini", price["priceId"])}
    # The price rises; what was counted at the old one keeps it.
    dearer = model_price("contract", ["gpt-4o-mini"], ("2026-01-01T00:00:00Z", "1.00", "4.00"))
    ledger.core.configure(view_of(service(budgets=(budget(),)), dearer))
    answer = (await ledger.report(row(priceId=price["priceId"]))).json()
    expected = 1_000_000 * 100_000 + 100_000 * 400_000
    assert answer["accepted"] == 1
    assert answer["generation"] == ledger.core.configuration.generation("shop")
    assert answer["budgets"] == {DAILY: {"spent": expected, "state": "Open", "resetsAt": "2026-11-21T00:00:00Z"}}
    # Also after a restart.
    ledger.stop.set()
    ledger.core.stop()
    await ledger.server
    ledger.store.close()
    async with running(tmp_path) as again:
        again.core.configure(view_of(service(budgets=(budget(),)), dearer))
        usage = (await again.get("/v1/usage", token="operator")).json()
        assert usage["services"]["shop/bot"]["total"]["picodollars"] == expected
        assert usage["budgets"][DAILY]["spent"] == expected


async def test_an_unknown_model_is_uncosted_never_free(ledger: Ledger) -> None:
    price = (await ledger.get("/v1/price", service="bot", model="weird")).json()
    config = (await ledger.get("/v1/config", services="bot")).json()
    assert price["generation"] == config["services"]["bot"]["priceGeneration"]
    assert (await ledger.get("/v1/price", service="not-there-yet", model="weird")).json()["generation"] == ""
    assert (price["priceId"], price["picodollars"]) == (None, None)
    await ledger.report(row(model="weird"))
    usage = (await ledger.get("/v1/usage", token="operator")).json()["services"]["shop/bot"]
    assert usage["uncostedModels"] == ["weird"]
    assert usage["total"]["picodollars"] == 0
    assert usage["total"]["uncostedTokens"] == 1_100_000
    assert ledger.metric("llmwarden_ledger_uncosted_tokens", namespace="shop", llmservice="bot") == 1_100_000


async def test_the_same_report_again_changes_nothing(ledger: Ledger) -> None:
    first = (await ledger.report(row())).json()
    assert (await ledger.report(row())).json() == first
    older = row(requests=0, tokens={"input": 1})
    assert (await ledger.report(older, sequence=0)).json() == first
    assert ledger.metric("llmwarden_ledger_backward_rows_total") == 1
    assert ledger.metric("llmwarden_ledger_reports_total", result="accepted") == 3


async def test_reports_at_once_are_all_counted(ledger: Ledger) -> None:
    pods = [{"namespace": "shop", "name": name, "uid": name} for name in (f"crowd-{number}" for number in range(60))]
    answers = await asyncio.gather(
        *(ledger.report(row(), token=pod["name"], pod=pod, journal=f"j{pod['name']}") for pod in pods)
    )
    assert [answer.status_code for answer in answers] == [200] * 60
    usage = (await ledger.get("/v1/usage", token="operator")).json()["services"]["shop/bot"]
    assert usage["total"]["requests"] == 60
    assert usage["lastHour"] == usage["total"]
    assert usage["reportingPods"] == 60


async def test_a_long_poll_wakes_when_another_pod_exceeds_the_budget(ledger: Ledger) -> None:
    known, poll = await ledger.poll("25")
    # 1.5 million input and output tokens of gpt-4o at public prices: above a dollar.
    pod = {"namespace": "shop", "name": "bot-1", "uid": "v"}
    await ledger.report(row(model="gpt-4o"), token="other-pod", pod=pod)
    config = (await asyncio.wait_for(poll, 5)).json()
    assert config["generation"] != known
    assert config["budgets"][DAILY]["state"] == "Exceeded"


async def test_a_long_poll_without_a_change_is_304(ledger: Ledger) -> None:
    known = (await ledger.get("/v1/config", services="bot")).json()["generation"]
    response = await ledger.get("/v1/config", services="bot", generation=known, wait="0.05")
    assert (response.status_code, response.content) == (304, b"")


async def test_the_end_answers_long_polls_at_once(ledger: Ledger) -> None:
    _, poll = await ledger.poll("60")
    ledger.stop.set()
    ledger.core.stop()
    assert (await asyncio.wait_for(poll, 5)).status_code == 304
    await asyncio.wait_for(ledger.server, 5)


async def test_before_the_cluster_is_read_nothing_is_released(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        for path, query in (("/v1/config", {"services": "bot"}), ("/v1/price", {"service": "bot", "model": "m"})):
            response = await ledger.get(path, **query)
            assert code(response) == (503, "not_synced")
            assert int(response.headers["retry-after"]) > 0
        # But what was used is taken all the same.
        answer = await ledger.report(row())
        assert answer.status_code == 200
        assert (answer.json()["generation"], answer.json()["budgets"]) == ("", {})
        ready = await ledger.client.get(ledger.url + "/readyz")
        assert (ready.status_code, ready.text) == (503, "not yet read: LLMService\n")
        assert (await ledger.client.get(ledger.url + "/livez")).status_code == 200
        ledger.core.configure(view_of(service(budgets=(budget(),))))
        assert ledger.core.standings.by_key[DAILY].spent == 210_000_000_000
        assert (await ledger.client.get(ledger.url + "/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("nonsense", 401), ("other-pod", 403), ("web-pod", 403), ("unbound", 403)]
)
async def test_who_may_report(ledger: Ledger, token: str | None, status: int) -> None:
    response = await ledger.report(row(), token=token)
    assert response.status_code == status
    assert not ledger.core.history.aggregate.total("shop/bot").counts.requests


async def test_a_pod_of_another_namespace_sees_its_own_only(ledger: Ledger) -> None:
    config = (await ledger.get("/v1/config", token="web-pod", services="bot", namespace="shop")).json()
    assert config["services"]["bot"]["state"] == "Released"
    assert config["budgets"] == {}


async def test_who_may_read_all_usage(ledger: Ledger) -> None:
    found = {token: (await ledger.get("/v1/usage", token=token)).status_code for token in [*CALLERS, "nonsense"]}
    assert found == {**dict.fromkeys(CALLERS, 403), "operator": 200, "nonsense": 401}


async def test_the_operator_may_ask_for_any_namespace(ledger: Ledger) -> None:
    config = (await ledger.get("/v1/config", token="operator", services="bot", namespace="shop")).json()
    assert config["services"]["bot"]["state"] == "Active"


async def test_an_api_server_that_is_down_is_503_not_401(ledger: Ledger) -> None:
    ledger.tokens.down = True
    response = await ledger.report(row())
    assert code(response) == (503, "unavailable")
    assert "retry-after" in response.headers


async def test_another_version_of_the_contract_is_told_so(ledger: Ledger) -> None:
    assert code(await ledger.get("/v1/config", services="bot", contract="2")) == (409, "unsupported_contract")
    response = await ledger.client.post(
        ledger.url + "/v1/report", json={"contract": 2, "all": "different"}, headers={"Authorization": "Bearer pod"}
    )
    assert code(response) == (409, "unsupported_contract")


@pytest.mark.parametrize("changes", [{"requests": 1.5}, {"requests": "1"}, {"tokens": None}, {"bucket": None}])
async def test_a_malformed_row_is_400_and_nothing_of_the_report_is_kept(
    ledger: Ledger, changes: Mapping[str, Any]
) -> None:
    assert code(await ledger.report(row(), row(**changes))) == (400, "malformed")
    assert not [*ledger.store.sums()]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"service": "Not A Name"}, "service"),
        ({"service": "../web/bot"}, "service"),
        ({"bucket": BUCKET + 1}, "bucket"),
        ({"bucket": -900}, "bucket"),
        ({"bucket": BUCKET + 2 * 86_400}, "future"),
        ({"priceId": ""}, "price"),
    ],
)
async def test_a_row_that_cannot_be_meant_is_left_out_and_the_others_are_taken(
    ledger: Ledger, changes: Mapping[str, Any], reason: str
) -> None:
    answer = await ledger.report(row(), row(**changes))
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    assert [delta.counts.requests for delta in ledger.store.sums()] == [1]
    assert ledger.metric("llmwarden_ledger_odd_rows_total", reason=reason) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"requests": -1},
        {"requests": 2**70},
        {"model": "m" * 300},
        {"tokens": {"input": 10**30, "cached_input": -5}},
    ],
)
async def test_an_engine_that_claims_nonsense_does_not_stop_its_pods_reports(
    ledger: Ledger, changes: Mapping[str, Any]
) -> None:
    for _ in range(2):
        answer = await ledger.report(row(), row(**{"bucket": BUCKET - 900, **changes}))
        assert (answer.status_code, answer.json()["accepted"]) == (200, 2)
    assert ledger.metric("llmwarden_ledger_odd_rows_total", reason="changed") == 2
    assert len([*ledger.store.sums()]) == 2


async def test_parts_larger_than_their_whole_are_charged_as_parts(ledger: Ledger) -> None:
    await ledger.report(row(tokens={"input": 1, "cached_input": 10, "output": 0, "reasoning": 7}))
    counts = ledger.core.history.aggregate.total("shop/bot").counts
    assert (counts.input, counts.output) == (10, 7)
    assert ledger.core.history.aggregate.total("shop/bot").picodollars == 10 * 75_000 + 7 * 600_000


@pytest.mark.parametrize("query", [{}, {"services": ""}, {"services": "a,B"}, {"services": "a", "wait": "-1"}, {"services": "a", "wait": "nan"}, {"services": "a", "contract": "x"}])  # fmt: skip
async def test_a_malformed_question_is_400(ledger: Ledger, query: Mapping[str, str]) -> None:
    assert code(await ledger.get("/v1/config", **query)) == (400, "malformed")


async def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(ledger: Ledger) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 65536 + 2):
            yield b" " * 65536

    headers = {"Authorization": "Bearer pod"}
    for content in (b" " * (MAX_BODY + 1), chunks()):
        response = await ledger.client.post(ledger.url + "/v1/report", content=content, headers=headers)
        assert code(response) == (413, "too_large")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"[" * 100_000, b'{"contract": 1}', b"\xff", b'{"contract": 1, "journal": "\xed\xa0\x80"}'],
)
async def test_a_body_that_is_no_report_is_400(ledger: Ledger, content: bytes) -> None:
    headers = {"Authorization": "Bearer pod"}
    response = await ledger.client.post(ledger.url + "/v1/report", content=content, headers=headers)
    assert code(response) == (400, "malformed")


async def test_what_is_not_there_is_an_error_in_our_shape(ledger: Ledger) -> None:
    assert code(await ledger.get("/v2/config")) == (404, "not_found")
    assert code(await ledger.get("/v1/report")) == (405, "not_found")


async def test_a_service_that_is_gone_may_report_and_is_counted(ledger: Ledger) -> None:
    ledger.core.configure(view_of(service(), service("gone")))
    ledger.core.configure(view_of(service()))
    assert (await ledger.report(row(service="gone"))).status_code == 200
    assert ledger.metric("llmwarden_ledger_unknown_service_rows_total") == 1
    usage = (await ledger.get("/v1/usage", token="operator")).json()
    assert usage["services"]["shop/gone"]["total"]["requests"] == 1


async def test_a_price_id_that_was_never_handed_out_is_rated_by_the_ledger(ledger: Ledger) -> None:
    await ledger.report(row(priceId="genai-prices:openai:gpt-4o-mini@free"))
    assert ledger.metric("llmwarden_ledger_unknown_price_rows_total") == 1
    assert ledger.core.history.aggregate.total("shop/bot").picodollars == 210_000_000_000


async def test_a_service_that_never_was_cannot_be_reported(ledger: Ledger) -> None:
    answer = await ledger.report(row(service="ghost"), row())
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    assert ledger.metric("llmwarden_ledger_odd_rows_total", reason="unknown_service") == 1
    assert (await ledger.get("/v1/config", services="ghost")).json()["services"]["ghost"]["state"] == "Released"
    usage = (await ledger.get("/v1/usage", token="operator")).json()
    assert usage["services"].keys() == {"shop/bot"}
    assert ledger.core.usage.presence.by_service.keys() == {"shop/bot"}


async def test_a_dear_models_row_cannot_name_a_cheap_models_price(ledger: Ledger) -> None:
    cheap = (await ledger.get("/v1/price", service="bot", model="gpt-4o-mini")).json()
    dear = (await ledger.get("/v1/price", service="bot", model="gpt-4o")).json()
    await ledger.report(row(model="gpt-4o", priceId=cheap["priceId"]))
    assert ledger.metric("llmwarden_ledger_unknown_price_rows_total") == 1
    numbers = dear["picodollars"]
    expected = 1_000_000 * numbers["input"] + 100_000 * numbers["output"]
    assert ledger.core.history.aggregate.total("shop/bot").picodollars == expected


async def test_budget_metrics_have_the_service_that_an_alert_selects(ledger: Ledger) -> None:
    await ledger.report(row())
    labels = {"namespace": "shop", "llmservice": "bot", "budget": "daily", "kind": "LLMService"}
    assert ledger.metric("llmwarden_budget_used_ratio", **labels) == pytest.approx(0.21)
    assert ledger.metric("llmwarden_budget_limit", **labels, unit="USD") == 1.0
    text = prometheus_client.generate_latest(ledger.registry).decode()
    assert "llmwarden_ledger_report_duration_seconds_bucket" in text
    assert "llmwarden_ledger_database_bytes" in text


async def test_a_disk_that_fails_is_503_and_the_same_totals_are_taken_later(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> list[object]:
        message = "the database failed: database or disk is full"
        raise UnavailableError(message)

    with monkeypatch.context() as patch:
        patch.setattr(ledger.store, "merge", full)
        assert code(await ledger.report(row())) == (503, "unavailable")
    assert (await ledger.report(row())).status_code == 200
    assert ledger.core.history.aggregate.total("shop/bot").counts.requests == 1


async def test_answers_decode_as_the_proxys_types(ledger: Ledger) -> None:
    import msgspec  # noqa: PLC0415 - the one test that plays the proxy

    config = msgspec.json.decode((await ledger.get("/v1/config", services="bot")).content, type=wire.Config)
    assert config.budgets[DAILY].resets_at == dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    answer = msgspec.json.decode((await ledger.report(row())).content, type=wire.ReportAnswer)
    assert answer.budgets[DAILY].spent == 210_000_000_000
    usage = msgspec.json.decode((await ledger.get("/v1/usage", token="operator")).content, type=wire.Usage)
    assert usage.services["shop/bot"].total.requests == 1
