"""The ledger's contract: what proxies and operator write is what the ledger reads, and the other way round; now, and as it was before."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest

from llmwarden.clients.ledger import DirectClient
from llmwarden.contracts import ledger as wire
from llmwarden.contracts import sidecar
from llmwarden.ledger.core import Core
from llmwarden.ledger.http import app, gpu_api
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.proxy.http.client import Answer
from llmwarden.proxy.money.ledger_view import decode_config
from llmwarden.proxy.reporter import Reporter
from llmwarden.serving import answers
from llmwarden.serving.answers import Refusal
from tests.golden.contracts import promise
from tests.unit.ledger.objects import NOW, FakeClock, budget, service, spend, view_of
from tests.unit.proxy.support import JSON, begin, rows
from tests.unit.proxy.support import service as metered_service

LATER = NOW + dt.timedelta(hours=7)
DAILY = "LLMService/shop/bot/daily"
TOKENS = wire.Tokens(1000, 200, 100, 50, 20, 10, 5, 4)
LABELS = wire.Labels("search", "checkout", "b")
PRICE = wire.Picodollars(150, 600, 75, 190, 5, 300, 700, 800, 900)
TOTALS = wire.UsageTotals(3, 1, TOKENS, 123_456, 7, 50, 6, 40, 5)
EXAMPLES: dict[str, msgspec.Struct] = {
    "ledger-config": wire.Config(
        1,
        "abc",
        5.0,
        {"bot": wire.ServiceConfig("Active", "openai", 12.5, (DAILY,), "p1", LABELS, departed=True)},
        {
            DAILY: wire.BudgetConfig(
                "USD",
                10**12,
                5,
                "Warned",
                "Fallback",
                NOW,
                LATER,
                (50, 90),
                "Deny",
                "Deny",
                "small",
                2 * 10**12,
                leased=True,
            )
        },
        NOW,
        (200_000,),
    ),
    "ledger-price": wire.Price(
        1,
        "openai:gpt",
        PRICE,
        (wire.PriceVariant(200_000, "batch", PRICE),),
        128_000,
        LATER,
        provisional=True,
        generation="p1",
    ),
    "ledger-report": wire.Report(
        1,
        "journal",
        7,
        wire.PodRef("shop", "bot-0", "uid"),
        (wire.Row("bot", "openai", "gpt", "openai:gpt", 900, 3, 1, TOKENS, 2, 200_000, "batch", LABELS, 11, 12, 13),),
        final=True,
        leases=(wire.LeaseUse(DAILY, 5, 10, 7),),
    ),
    "ledger-report-answer": wire.ReportAnswer(
        1,
        7,
        "abc",
        {DAILY: wire.BudgetUpdate(5, "Open", LATER)},
        (wire.LeaseGrant(DAILY, 5, recall=True, retry_seconds=0.5),),
        NOW,
        2.5,
    ),
    "ledger-gpus": wire.GpuReport(
        1,
        (
            wire.GpuPod(
                "shop/chat",
                "uid",
                "chat-0",
                "nvidia.com/gpu",
                "NVIDIA-H200",
                2,
                NOW,
                LATER,
                ended=True,
                rate=4 * 10**12,
            ),
            wire.GpuPod("shop/chat", "uid-2", "chat-1", "nvidia.com/gpu", "NVIDIA-H200", 2, NOW, LATER, serves=False),
        ),
    ),
    "ledger-gpus-answer": wire.GpuAnswer(1, 2),
    "ledger-usage": wire.Usage(
        1,
        NOW,
        {
            "shop/chat": wire.ServiceUsage(
                TOTALS,
                TOTALS,
                TOTALS,
                ("weird",),
                (DAILY,),
                2,
                NOW,
                wire.Rerating(NOW, -5, 1000),
                wire.GpuUsage(3_600_000, 100, 10, 20, 1000, 5, ("NVIDIA-H200",), 3, 4, 1),
            )
        },
        {
            DAILY: wire.BudgetUsage(
                "tokens", 100, 50, "Open", "Block", NOW, LATER, LATER, (wire.ServiceShare("shop/chat", 50),)
            )
        },
    ),
    "ledger-error": wire.ErrorAnswer(wire.ErrorDetail("malformed", "a sentence")),
}
VERSIONS = [(name, path) for name in EXAMPLES for path in promise.versions(name)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_version_is_written_as_it_was(name: str, golden: Callable[[Path, str], None]) -> None:
    promise.check(golden, name, msgspec.json.encode(EXAMPLES[name]).decode())


@pytest.mark.parametrize(("name", "path"), VERSIONS, ids=[f"{path.parent.name}-{name}" for name, path in VERSIONS])
def test_every_version_is_read(name: str, path: Path) -> None:
    promise.read(path, msgspec.json.decode(path.read_bytes(), type=type(EXAMPLES[name])), EXAMPLES[name])


def test_the_examples_have_every_field() -> None:
    # Of the two pods, each has one field's default.
    found = {where for name, value in EXAMPLES.items() for where in promise.unsaid(value, name)}
    assert found == {
        "ledger-gpus.pods[0].serves",
        "ledger-gpus.pods[1].ended",
        "ledger-gpus.pods[1].rate",
    }


@pytest.fixture
def core() -> Core:
    made = Core(Catalogue(), {}, FakeClock(), 5.0)
    made.configure(view_of(service(budgets=(budget(),))))
    return made


def test_a_proxy_reads_the_configuration_that_the_ledger_writes(core: Core) -> None:
    config = core.configuration.config("shop", ["bot", "gone"])
    read = decode_config(bytes(answers.as_json(config).body))
    assert read == config
    assert read.services["gone"].state == "Released"
    assert read.budgets[DAILY].action == "Block"


class Wire:
    """In place of the proxy's connection to the ledger: hands over what it is given, and answers as the ledger would."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.received: list[wire.Report] = []

    async def request(self, *_: Any, body: bytes = b"", **__: Any) -> Answer:
        report = app._report(body)
        self.received.append(report)
        spend(self.core, "bot", 5)
        answer = wire.ReportAnswer(1, report.sequence, "abc", self.core.standings.budget_updates(["shop/bot"]))
        return Answer(200, bytes(answers.as_json(answer).body))


async def test_the_ledger_reads_the_report_that_a_proxy_writes_and_the_proxy_its_answer(
    core: Core, tmp_path: Path
) -> None:
    metered = metered_service(tmp_path)
    metered.shared.gate.configure(core.configuration.config("shop", ["bot"]))
    call, _ = begin(metered, b'{"model":"gpt","messages":[]}')
    call.answered(200, JSON)
    call.feed(b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}')
    call.end()
    written = rows(metered)
    (tmp_path / "token").write_text("token")
    reporter = Reporter(
        sidecar.Ledger("http://127.0.0.1:1", str(tmp_path / "token")), ["bot"], metered.shared, tmp_path
    )
    told = Wire(core)
    reporter._report_client = cast("Any", told)
    await reporter._send(final=False)
    [report] = told.received
    assert report.rows == written
    assert report.rows[0].tokens == wire.Tokens(7, output=2)
    assert report.pod == wire.PodRef("shop", "bot-1", "uid")
    assert not rows(metered)  # the answer was read: nothing is to be reported again


def test_another_version_is_told_so_before_its_shape_is_looked_at() -> None:
    with pytest.raises(Refusal, match="contract"):
        app._report(b'{"contract": 2, "another": "shape"}')


async def test_the_ledger_reads_the_gpus_that_the_operator_writes(tmp_path: Path) -> None:
    report = cast("wire.GpuReport", EXAMPLES["ledger-gpus"])
    read: list[wire.GpuReport] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/gpus")
        read.append(gpu_api._report(request.content))
        return httpx.Response(200, content=msgspec.json.encode(wire.GpuAnswer(1, 2)))

    (tmp_path / "token").write_text("token")
    operator = DirectClient("https://ledger.test", tmp_path / "token")
    operator._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    await operator.report_gpus(report.pods)
    await operator.close()
    assert read == [report]


async def test_the_operator_reads_the_usage_that_the_ledger_writes(core: Core, tmp_path: Path) -> None:
    spend(core, "bot", 5)
    usage = await core.usage.usage()
    (tmp_path / "token").write_text("token")

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/usage"
        return httpx.Response(200, content=bytes(answers.as_json(usage).body))

    ledger = DirectClient("https://ledger.test", tmp_path / "token")
    ledger._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    assert await ledger.usage() == usage
    await ledger.close()
    assert usage.services["shop/bot"].total.picodollars == 5
