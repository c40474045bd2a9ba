from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from llmwarden import names
from llmwarden.control.observe.prometheus import BOUNDS, OBJECTIVES, QUESTIONS, Prometheus
from llmwarden.domain.engines import ENGINES
from llmwarden.errors import UnavailableError

SHOP = {"namespace": "shop", "llmservice": "bot"}


def success(*series: tuple[dict[str, str], str], **more: Any) -> httpx.Response:
    result = [{"metric": labels, "value": [0, value]} for labels, value in series]
    return httpx.Response(200, json={"status": "success", "data": {"resultType": "vector", "result": result}, **more})


def prometheus(answer: Any) -> Prometheus:
    return Prometheus("http://prometheus", 1.0, httpx.MockTransport(answer))


def asked(request: httpx.Request) -> str:
    return parse_qs(request.content.decode())["query"][0]


async def test_the_number_of_questions_does_not_grow_with_the_services() -> None:
    count = 0

    def answer(_request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        return success(*(({"namespace": "shop", "llmservice": f"bot-{number}"}, "1") for number in range(500)))

    figures = await prometheus(answer).figures()
    assert len(figures) == 500
    assert count == len(QUESTIONS) + 2


async def test_answers_become_figures_and_nan_is_unknown() -> None:
    by_query = {question.query: question.name for question in QUESTIONS}

    def answer(request: httpx.Request) -> httpx.Response:
        query = asked(request)
        if query == BOUNDS.query:
            return success(*(({**SHOP, "le": bound}, "1") for bound in ("2.5", "0.5", "+Inf")))
        if query == OBJECTIVES.query:
            return success(({**SHOP, "objective": "latency"}, "0.97"), ({**SHOP, "objective": "errors"}, "NaN"))
        match by_query[query]:
            case "ttft.p95":
                return success((SHOP, "0.25"))
            case "duration.p95":
                return success((SHOP, "NaN"))
            case "scraped":
                return success((SHOP, "2"))
            case _:
                return success()

    found = (await prometheus(answer).figures())["shop", "bot"]
    assert found.scraped
    assert found.queue_bounds == (0.5, 2.5)
    assert found.ttft.p95 == 0.25
    assert found.duration.p95 is None
    assert found.requests_per_second is None
    assert {name: str(share) for name, share in found.good.items()} == {"latency": "0.97"}


@pytest.mark.parametrize(
    "response",
    [
        success(warnings=["a store did not answer"]),
        httpx.Response(503, text="starting"),
        httpx.Response(200, text="<html>"),
        httpx.Response(422, json={"status": "error", "error": "too many samples"}),
        httpx.Response(200, json={"status": "success", "data": {}}),
    ],
)
async def test_half_an_answer_is_none(response: httpx.Response) -> None:
    with pytest.raises(UnavailableError):
        await prometheus(lambda _request: response).figures()


async def test_no_answer_is_unavailable() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        message = "slow"
        raise httpx.ReadTimeout(message, request=request)

    with pytest.raises(UnavailableError, match="did not answer"):
        await prometheus(answer).figures()


def test_every_question_is_summed_by_service() -> None:
    for question in QUESTIONS:
        assert f"by (namespace, {names.LABEL_M_SERVICE}" in question.query


def test_engines_gauges_are_asked_by_every_name_that_the_table_has() -> None:
    by_name = {question.name: question.query for question in QUESTIONS}
    for key, question in (
        ("running", "engine.running"),
        ("waiting", "engine.waiting"),
        ("cache_used", "engine.cache_used"),
    ):
        for engine in ENGINES:
            for name in engine.metrics[key].names if key in engine.metrics else ():
                assert name.replace(":", "[:_]") in by_name[question], (engine.type, name)
    assert "sglang[:_]cached_tokens_total" in by_name["engine.prefix_hits"]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("15d", 15 * 86400),
        ("6h or 10GiB", 6 * 3600),
        ("10GiB", None),
        ("", None),
        ("2w", 14 * 86400),
        ("1y", 365 * 86400),
    ],
)
async def test_how_long_it_keeps_data_is_read_off_its_runtime_information(said: str, seconds: int | None) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/v1/status/runtimeinfo"
        data = {"startTime": "2026-11-21T10:00:00Z", "CWD": "/", "reloadConfigSuccess": True, "storageRetention": said}
        return httpx.Response(200, json={"status": "success", "data": data})

    assert await prometheus(answer).retention() == seconds


async def test_a_store_without_that_page_does_not_say() -> None:
    for response in (httpx.Response(404, text="404 page not found"), httpx.Response(200, json={"status": "success"})):
        assert await prometheus(lambda _request, response=response: response).retention() is None


async def test_a_password_in_its_url_is_told_to_nobody() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"].startswith("Basic ")
        message = "refused"
        raise httpx.ConnectError(message)

    asker = Prometheus("http://user:geheim@prometheus:9090", 1.0, httpx.MockTransport(refuse))
    for question in (asker.figures(), asker.retention()):
        with pytest.raises(UnavailableError) as caught:
            await question
        assert "geheim" not in str(caught.value)
        assert "http://prometheus:9090/" in str(caught.value)
