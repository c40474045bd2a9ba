"""What people ask of the ledger, over real HTTP; answers match the description that it serves."""

import csv
import io
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
from openapi_spec_validator import validate

from tests.ledger.test_http import Ledger, code, row, running
from tests.unit.ledger.objects import BUCKET, model_price, service, view_of

BOT_AND_WEB = (service(), service("bot", "web"))
MINI = 1_000_000 * 150_000 + 100_000 * 600_000  # what `row` costs by the public price


@pytest_asyncio.fixture
async def ledger(tmp_path: Path) -> Any:
    async with running(tmp_path) as made:
        made.core.configure(view_of(*BOT_AND_WEB))
        yield made


async def spend(ledger: Ledger, token: str = "operator", **query: str) -> dict[str, Any]:  # noqa: S107 - no secret
    response = await ledger.get("/v1/spend", token=token, **query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    schema = (await ledger.get("/openapi.json", token=None)).json()
    validate(schema)
    jsonschema.validate(answer, {"$ref": "#/components/schemas/Spend", "components": schema["components"]})
    return answer


async def test_spend_by_service_and_model_is_dearest_first_and_sums_to_the_total(ledger: Ledger) -> None:
    await ledger.report(row(), row(model="gpt-4o", requests=2), row(model="weird"))
    pod = {"namespace": "web", "name": "bot-0", "uid": "w"}
    await ledger.report(row(), token="web-pod", pod=pod, journal="w")
    answer = await spend(ledger, by="service,model")
    assert [(*found["by"].values(), found["requests"]) for found in answer["rows"]] == [
        ("shop/bot", "gpt-4o", 2),
        ("shop/bot", "gpt-4o-mini", 1),
        ("web/bot", "gpt-4o-mini", 1),
        ("shop/bot", "weird", 1),
    ]
    assert answer["rows"][1]["picodollars"] == MINI
    assert answer["rows"][1]["usd"] == "0.21"
    assert answer["rows"][3]["uncostedTokens"] == 1_100_000
    assert answer["total"]["picodollars"] == sum(found["picodollars"] for found in answer["rows"])
    usage = (await ledger.get("/v1/usage", token="operator")).json()
    assert answer["total"]["picodollars"] == sum(one["total"]["picodollars"] for one in usage["services"].values())


async def test_kinds_sum_to_the_whole(ledger: Ledger) -> None:
    tokens = {
        "input": 1000,
        "cached_input": 300,
        "cache_write": 200,
        "cache_write_1h": 50,
        "output": 70,
        "reasoning": 20,
    }
    await ledger.report(row(tokens=tokens))
    by_kind = await spend(ledger, by="kind")
    whole = await spend(ledger, by="service")
    assert by_kind["total"] == whole["total"]
    assert {found["by"]["kind"] for found in by_kind["rows"]} == {
        "input", "cached_input", "cache_write", "cache_write_1h", "output", "reasoning", "request",
    }  # fmt: skip


async def test_labels_and_pods_and_hours(ledger: Ledger) -> None:
    await ledger.report(
        row(labels={"team": "red", "feature": "chat"}), row(labels={"team": "blue"}, bucket=BUCKET - 3600)
    )
    by_team = await spend(ledger, by="label.team,hour", **{"from": "4h"})
    assert [tuple(found["by"].values()) for found in by_team["rows"]] == [
        ("blue", "2026-11-20T15:00:00Z"),
        ("red", "2026-11-20T16:00:00Z"),
    ]
    by_pod = await spend(ledger, by="pod")
    assert [found["by"]["pod"] for found in by_pod["rows"]] == ["shop/bot-0"]
    assert by_pod["total"] == (await spend(ledger, by="day"))["total"]


async def test_more_labels_than_are_shown_are_other(ledger: Ledger) -> None:
    await ledger.report(*(row(labels={"team": f"t{number}"}, requests=1) for number in range(205)))
    answer = await spend(ledger, by="label.team")
    assert len(answer["rows"]) == 201
    (other,) = [found for found in answer["rows"] if found["by"]["label.team"] == "other"]
    assert other["requests"] == 5
    assert answer["total"]["requests"] == 205


async def test_history_without_a_price_is_rated_at_its_time_when_one_arrives(ledger: Ledger) -> None:
    await ledger.report(row(model="m"), row(model="m", bucket=BUCKET - 900))
    assert (await spend(ledger, by="model"))["total"]["uncostedTokens"] == 2_200_000
    priced = model_price("own", ["m"], ("2026-11-20T16:00:00Z", "1", "1"), ("2026-11-20T16:15:00Z", "2", "2"))
    ledger.core.configure(view_of(*BOT_AND_WEB, priced))
    total = (await spend(ledger, by="model"))["total"]
    assert (total["usd"], total["uncostedTokens"]) == ("3.30", 0)
    usage = (await ledger.get("/v1/usage", token="operator")).json()["services"]["shop/bot"]
    assert usage["rerated"]["picodollars"] == total["picodollars"]
    assert usage["rerated"]["tokens"] == 2_200_000
    assert ledger.metric("llmwarden_ledger_rerated_usd_total") == pytest.approx(3.3)


async def test_csv_is_one_line_a_row_and_no_formula(ledger: Ledger) -> None:
    await ledger.report(row(model="=cmd()"), row())
    response = await ledger.get("/v1/spend", token="operator", by="model", format="csv")
    assert response.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(response.text)))
    assert [line["model"] for line in lines] == ["gpt-4o-mini", "'=cmd()"]
    assert lines[0]["usd"] == "0.21"
    assert lines[0]["input"] == "1000000"


@pytest.mark.parametrize(
    ("token", "query", "status"),
    [
        ("operator", {}, 200),
        ("all-viewer", {}, 200),
        ("shop-viewer", {"namespace": "shop"}, 200),
        ("shop-viewer", {"service": "shop/bot"}, 200),
        ("shop-viewer", {}, 403),
        ("shop-viewer", {"namespace": "web"}, 403),
        ("shop-viewer", {"service": "web/bot", "namespace": ""}, 403),
        ("pod", {"namespace": "shop"}, 403),
        (None, {}, 401),
        ("nonsense", {}, 401),
    ],
)
async def test_who_may_see_what(ledger: Ledger, token: str | None, query: dict[str, str], status: int) -> None:
    assert (await ledger.get("/v1/spend", token=token, **query)).status_code == status


async def test_a_namespaced_viewer_sees_its_own_only_and_others_are_told_what_to_do(ledger: Ledger) -> None:
    await ledger.report(row())
    pod = {"namespace": "web", "name": "bot-0", "uid": "w"}
    await ledger.report(row(), token="web-pod", pod=pod, journal="w")
    answer = await spend(ledger, token="shop-viewer", namespace="shop")
    assert [found["by"]["service"] for found in answer["rows"]] == ["shop/bot"]
    refused = await ledger.get("/v1/spend", token="pod", namespace="shop")
    assert code(refused) == (403, "forbidden")
    assert "kubectl create rolebinding" in refused.json()["error"]["message"]


async def test_the_token_may_come_in_a_header_of_our_own(ledger: Ledger) -> None:
    response = await ledger.client.get(f"{ledger.url}/v1/spend", headers={"X-LLMWarden-Token": "all-viewer"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        {"by": "colour"},
        {"by": ""},
        {"by": "model,model"},
        {"from": "yesterday"},
        {"from": "1h", "to": "2h"},
        {"from": "999d"},
        {"format": "xml"},
        {"namespace": "No"},
        {"service": "shop/bot", "namespace": "web"},
    ],
)
async def test_a_malformed_question_is_told_what_is_known(ledger: Ledger, query: dict[str, str]) -> None:
    assert code(await ledger.get("/v1/spend", token="operator", **query)) == (400, "malformed")
