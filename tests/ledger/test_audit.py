"""`GET /v1/audit` of a running ledger, and `kubectl llm audit` in front of it: who is shown what."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.ledger.test_http import Ledger, code, row, running
from tests.ledger.test_kubectl_llm import kubectl_llm
from tests.unit.ledger.objects import service, view_of


@pytest_asyncio.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger that has refused a pod that reports for another namespace, and two callers without a good token."""
    async with running(tmp_path) as made:
        made.core.configure(view_of(service()))
        foreign = {"namespace": "web", "name": "bot-0", "uid": "w"}
        assert code(await made.report(row(), pod=foreign))[0] == 403
        for _ in range(2):
            assert code(await made.report(row(), token="nobody"))[0] == 401
        made.trail.record(
            "Changed", "limit.amount: 1 → 2", namespace="web", about="LLMBudget/web/day", by="argocd (Apply)"
        )
        yield made


async def test_refused_callers_are_recorded_with_who_they_are(ledger: Ledger) -> None:
    answer = await ledger.get("/v1/audit", token="operator", kind="Refused")
    assert answer.status_code == 200
    entries = {
        entry["text"].partition(":")[0] + str(entry.get("count", 1)): entry for entry in answer.json()["entries"]
    }
    assert entries.keys() == {"/v1/report1", "/v1/report2"}
    pod = entries["/v1/report1"]
    assert (pod["namespace"], pod["object"], pod["by"]) == ("shop", "Pod/shop/bot-0", "shop:default")
    assert "namespace" not in entries["/v1/report2"]


async def test_a_namespace_s_entries_are_its_own(ledger: Ledger) -> None:
    answer = await ledger.get("/v1/audit", token="operator", namespace="web")
    assert [entry["object"] for entry in answer.json()["entries"]] == ["LLMBudget/web/day"]


async def test_only_who_may_list_the_audit_sees_it(ledger: Ledger) -> None:
    """To list LLMServices is not enough."""
    assert (await ledger.get("/v1/audit", token="all-viewer")).status_code == 403
    refused = await ledger.get("/v1/audit", token="shop-viewer", namespace="shop")
    assert code(refused) == (403, "forbidden")
    assert "llmwarden-audit" in refused.json()["error"]["message"]
    assert (await ledger.get("/v1/audit", token="auditor")).status_code == 200
    assert (await ledger.get("/v1/audit", token=None)).status_code == 401


@pytest.mark.parametrize(
    "query", [{"namespace": "a/b"}, {"kind": "X"}, {"limit": "0"}, {"limit": "10001"}, {"from": "x"}]
)
async def test_a_malformed_question_is_refused(ledger: Ledger, query: dict[str, str]) -> None:
    assert code(await ledger.get("/v1/audit", token="operator", **query)) == (400, "malformed")


async def test_a_limit_says_that_there_is_more(ledger: Ledger) -> None:
    answer = (await ledger.get("/v1/audit", token="operator", limit="1")).json()
    assert (len(answer["entries"]), answer["more"]) == (1, True)


async def test_the_command_shows_a_table_or_json_lines(ledger: Ledger, tmp_path: Path) -> None:
    mine = {"llmwarden-system/llmwarden-viewer": "auditor"}
    status, out, err = await kubectl_llm(ledger, tmp_path, mintable=mine, command="audit")
    assert (status, err) == (0, "")
    assert "LLMBudget/web/day" in out
    assert "argocd (Apply)" in out
    assert "(2 times)" in out
    status, out, _ = await kubectl_llm(ledger, tmp_path, "-n", "web", "-o", "json", mintable=mine, command="audit")
    assert status == 0
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["limit.amount: 1 → 2"]
    status, _, err = await kubectl_llm(ledger, tmp_path, mintable={"llmwarden-system/llmwarden-viewer": "all-viewer"}, command="audit")  # fmt: skip
    assert status == 1
    assert "may not list audit.llmwarden.io" in err
