"""What `GET /v1/reconciliation` answers: what the ledger writes is what operator and `kubectl llm reconcile` read."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest

from llmwarden import kube
from llmwarden.clients.ledger import ApiServerClient, DirectClient
from llmwarden.contracts.reconciliation import Account, Day, Fault, Reconciliation, Side
from llmwarden.ledger.providers.reconciliation import Reconciler
from llmwarden.ledger.rating.rater import Rater
from llmwarden.ledger.store import Store
from llmwarden.ledger.store.accounts import Accounts, DayRow
from llmwarden.serving import answers
from tests.golden.contracts import promise
from tests.unit.ledger.objects import NOW

YESTERDAY = int(NOW.timestamp()) // 86_400 * 86_400 - 86_400
EXAMPLE = Reconciliation(
    1,
    NOW,
    {
        "main": Account(
            "OpenAI",
            (Day("2026-11-19", Side(1000, 100, 5), Side(900, 90, 4), "ProviderHasMore", 7, 3),),
            NOW,
            NOW + dt.timedelta(hours=1),
            Fault("Unauthorized", "a sentence"),
        )
    },
)


def account(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": {"provider": "OpenAI", "adminKey": "openai", **spec},
    }


async def written(directory: Path) -> Reconciliation:
    """The ledger's answer about an account whose provider told of a day, and about one that cannot be read."""

    async def alone(work: Callable[[], Any]) -> Any:
        return work()

    store = Store(str(directory / "ledger.sqlite3"))
    accounts = Accounts(store.database)
    reconciler = Reconciler(
        accounts, alone, cast("Any", None), cast("Any", None), clock=lambda: NOW,
        rater=Rater(lambda _: None, lambda *_: None), namespaces=lambda: {"shop": {}},
    )  # fmt: skip
    reconciler.take("main", account("main"))
    reconciler.take("wrong", account("wrong", provider="Nobody"))
    scope = reconciler._accounts["main"].scope
    now = int(NOW.timestamp())
    accounts.take(scope, 0, now)
    accounts.record(scope, {YESTERDAY: DayRow(1000, 100, 5, 7)}, now, now + 3600)
    try:
        return await reconciler.answer()
    finally:
        store.close()


async def test_operator_and_kubectl_llm_read_what_the_ledger_writes(tmp_path: Path) -> None:
    told = await written(tmp_path)
    body = bytes(answers.as_json(told).body)
    (tmp_path / "token").write_text("token")
    operator = DirectClient("https://ledger.test", tmp_path / "token")
    operator._http = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=body)))
    assert await operator.reconciliation() == told
    await operator.close()

    class ApiServer:
        async def request_bytes(self, *_: Any, **__: Any) -> bytes:
            return body

    people = ApiServerClient(cast("kube.Client", ApiServer()), "llmwarden-system", "token")
    assert await people.reconciliation(7) == told
    [day] = told.accounts["main"].days
    assert (day.day, day.provider, day.other_picodollars) == ("2026-11-19", Side(1000, 100, 5), 7)
    assert told.accounts["wrong"].fault is not None


def test_every_version_is_written_as_it_was(golden: Callable[[Path, str], None]) -> None:
    assert promise.unsaid(EXAMPLE) == []
    promise.check(golden, "reconciliation", msgspec.json.encode(EXAMPLE).decode())


@pytest.mark.parametrize("path", promise.versions("reconciliation"), ids=lambda path: path.parent.name)
def test_every_version_is_read(path: Path) -> None:
    promise.read(path, msgspec.json.decode(path.read_bytes(), type=Reconciliation), EXAMPLE)
